"""Projectors against transformers' own modules, or a slow obvious version.

What all of them promise: tests/contract/test_projectors.py.
"""

from __future__ import annotations

import pytest
import torch
from tiny import picture, tiny_model
from torch import nn
from transformers import Blip2QFormerConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from transformers.models.idefics.configuration_idefics import IdeficsConfig
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from closeness import close
from lucida.core.errors import ModelError
from lucida.core.spec import (
    AbstractorProjectorSpec,
    DownsampleProjectorSpec,
    ExpandProjectorSpec,
    FusedMlpProjectorSpec,
    LinearProjectorSpec,
    MlpProjectorSpec,
    PerceiverProjectorSpec,
    PixelShuffleProjectorSpec,
    PoolProjectorSpec,
    QFormerProjectorSpec,
    TransformerProjectorSpec,
)
from lucida.data.collate import collate
from lucida.model.checkpoint import load, save
from lucida.model.messages import sample_of
from lucida.model.projectors import PROJECTORS, make_projector, visual_tokens
from lucida.model.projectors.mlp import sinusoids

VISION, LANGUAGE, PATCHES = 6, 10, 4


def renamed(theirs: nn.Module, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Their weights under our names; every weight of theirs must be named."""
    state = {}
    for name, weight in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = weight
    return state


def shaken(module: nn.Module) -> nn.Module:
    """Random norms and biases too, so that nothing is equal because it is 0 or 1."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_mlp_equals_llava(activation):
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=VISION, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=LANGUAGE, num_attention_heads=1, num_key_value_heads=1),
        projector_hidden_act=activation,
    )
    theirs = shaken(LlavaMultiModalProjector(config))
    ours = make_projector(MlpProjectorSpec(activation=activation), VISION, LANGUAGE, PATCHES)
    ours.load_state_dict(renamed(theirs, {"linear_1": "layers.0", "linear_2": "layers.2"}))
    features = torch.randn(2, PATCHES, VISION)
    close(ours(features), theirs(features))


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_equals_idefics3(factor):
    class Text:
        hidden_size = LANGUAGE

    class Config:
        vision_config = CLIPVisionConfig(hidden_size=VISION, num_attention_heads=2)
        text_config = Text
        scale_factor = factor

    theirs = Idefics3Connector(Config)
    ours = make_projector(PixelShuffleProjectorSpec(factor=factor), VISION, LANGUAGE, 36)
    ours.load_state_dict(renamed(theirs, {"modality_projection.proj": "linear"}))
    features = torch.randn(2, 36, VISION)
    close(ours(features), theirs(features))


@torch.no_grad()
def test_perceiver_equals_idefics():
    config = IdeficsConfig(vision_config={"embed_dim": 16}, use_resampler=True)
    config.perceiver_config.qk_layer_norms_perceiver = False
    theirs = shaken(IdeficsPerceiverResampler(config, 16, 2, 4, 4, 5))
    ours = make_projector(PerceiverProjectorSpec(queries=5, layers=2, heads=4), 16, LANGUAGE, 9)
    names = {
        "latents_layer_norm": "norm_queries",
        "context_layer_norm": "norm_patches",
        "latents": "queries",
        "layer_norm": "norm",
        ".0.q_proj": ".reading.query",
        ".0.k_proj": ".reading.key",
        ".0.v_proj": ".reading.value",
        ".0.output_proj": ".reading.out",
        ".0.norm": ".norm",
        ".1.ln": ".mlp.0",
        ".1.fc": ".mlp.1",
        ".1.c_proj": ".mlp.3",
    }
    missing = ours.load_state_dict(renamed(theirs, names), strict=False)
    assert missing.missing_keys == ["linear.weight", "linear.bias"]
    assert not missing.unexpected_keys
    features = torch.randn(2, 9, 16)
    close(ours.resample(features), theirs(features))


@torch.no_grad()
@pytest.mark.parametrize("cross_every", [1, 2])
def test_qformer_equals_blip2(cross_every):
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        encoder_hidden_size=16,
        cross_attention_frequency=cross_every,
        use_qformer_text_input=False,
    )
    theirs = shaken(Blip2QFormerModel(config))
    spec = QFormerProjectorSpec(queries=5, layers=3, heads=4, cross_every=cross_every)
    ours = make_projector(spec, 16, LANGUAGE, 9)
    names = {
        "encoder.layer": "blocks",
        "layernorm": "norm",
        ".crossattention.attention": ".patches",
        ".crossattention.output.dense": ".patches.out",
        ".crossattention.output.LayerNorm": ".after_patches",
        ".attention.attention": ".each_other",
        ".attention.output.dense": ".each_other.out",
        ".attention.output.LayerNorm": ".after_each_other",
        ".intermediate_query.dense": ".mlp.0",
        ".output_query.dense": ".mlp.2",
        ".output_query.LayerNorm": ".after_mlp",
    }
    missing = ours.load_state_dict(renamed(theirs, names), strict=False)
    assert missing.missing_keys == ["queries", "linear.weight", "linear.bias"]
    assert not missing.unexpected_keys
    features = torch.randn(2, 9, 16)
    queries = ours.queries.expand(2, -1, -1)
    expected = theirs(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
    close(ours.query(features), expected)


@torch.no_grad()
def test_transformer_equals_torch():
    theirs = shaken(
        nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    )
    ours = shaken(make_projector(TransformerProjectorSpec(heads=4), 16, LANGUAGE, 9))
    block, state = ours.blocks[0], theirs.state_dict()
    for kind in ("weight", "bias"):
        together = state[f"self_attn.in_proj_{kind}"].chunk(3)
        for part, values in zip(("query", "key", "value"), together, strict=True):
            getattr(getattr(block.reading, part), kind).copy_(values)
        pairs = {
            "self_attn.out_proj": block.reading.out,
            "linear1": block.mlp[0],
            "linear2": block.mlp[2],
            "norm1": block.before_reading,
            "norm2": block.before_mlp,
        }
        for name, module in pairs.items():
            getattr(module, kind).copy_(state[f"{name}.{kind}"])
    features = torch.randn(2, 9, 16)
    expected = ours.linear(ours.norm(theirs(features)))
    close(ours(features), expected)


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("grid", [(4, 4), (5, 5), (3, 7)])
def test_downsample_joins_neighbours_row_by_row(factor, grid):
    """Slow version: every block by itself, patch by patch, zeros beyond the edge."""
    height, width = grid
    projector = make_projector(DownsampleProjectorSpec(factor=factor), VISION, LANGUAGE, grid)
    features = torch.randn(1, height * width, VISION)
    expected = []
    for top in range(0, height, factor):
        for left in range(0, width, factor):
            block = []
            for row in range(top, top + factor):
                for column in range(left, left + factor):
                    inside = row < height and column < width
                    block.append(features[0, row * width + column] if inside else torch.zeros(6))
            expected.append(projector.layers(torch.cat(block)))
    close(projector(features)[0], torch.stack(expected))


def shapes(module: nn.Module) -> list[str]:
    """Linear layers and norms in their order, as `in>out` and `norm width`."""
    found = []
    for part in module.modules():
        if isinstance(part, nn.Linear):
            found.append(f"{part.in_features}>{part.out_features}")
        elif isinstance(part, nn.LayerNorm):
            found.append(f"norm {part.normalized_shape[0]}")
        elif isinstance(part, nn.GELU):
            found.append("gelu")
    return found


def test_layers_are_those_of_the_published_tables():
    """VILA's and NVILA's code, VILA's table 7, Prismatic's code."""
    two = make_projector(DownsampleProjectorSpec(), VISION, LANGUAGE, 36)
    assert shapes(two) == ["norm 24", "24>10", "gelu", "10>10"]
    three = make_projector(DownsampleProjectorSpec(factor=3), VISION, LANGUAGE, 36)
    assert shapes(three) == ["norm 54", "54>18", "gelu", "norm 18", "18>10", "gelu", "10>10"]
    assert shapes(make_projector(DownsampleProjectorSpec(linear=True), 6, 10, 36)) == ["24>10"]
    fused = make_projector(FusedMlpProjectorSpec(), VISION, LANGUAGE, 36)
    assert shapes(fused) == ["6>24", "gelu", "24>10", "gelu", "10>10"]


def parameters(spec: object, vision: int, language: int) -> float:
    """Millions of parameters, without memory for them."""
    with torch.device("meta"):
        projector = make_projector(spec, vision, language, 729)
    return sum(weight.numel() for weight in projector.parameters()) / 1e6


def test_sizes_are_the_published_ones():
    """Prismatic's on Llama-2 7B: CLIP 1024 and DINOv2+SigLIP 2176 wide, language model 4096."""
    assert parameters(LinearProjectorSpec(), 1024, 4096) == pytest.approx(4.2, abs=0.05)
    assert parameters(MlpProjectorSpec(), 1024, 4096) == pytest.approx(21.0, abs=0.05)
    assert parameters(FusedMlpProjectorSpec(), 2176, 4096) == pytest.approx(71.4, abs=0.05)
    assert parameters(MlpProjectorSpec(), 2176, 4096) == pytest.approx(25.7, abs=0.05)


@torch.no_grad()
def test_pool_is_the_mean_of_what_a_block_has():
    projector = make_projector(PoolProjectorSpec(depth=1), VISION, LANGUAGE, (2, 3))
    features = torch.randn(1, 6, VISION)
    left, right = features[0, [0, 1, 3, 4]].mean(0), features[0, [2, 5]].mean(0)
    expected = projector.mlp(torch.stack([left, right])[None])
    close(projector(features), expected)


@torch.no_grad()
def test_expand_cuts_one_long_vector():
    projector = make_projector(ExpandProjectorSpec(tokens=3), VISION, LANGUAGE, 1)
    features = torch.randn(2, 1, VISION)
    long = projector.linear(features[1, 0])
    close(projector(features)[1].flatten(), long)


def normed(norm: nn.LayerNorm, rows: torch.Tensor) -> torch.Tensor:
    """LayerNorm over the last axis."""
    return nn.functional.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


@torch.no_grad()
def test_an_abstractor_block_place_by_place():
    """The block of RegNet written out for each place: 1 x 1, 3 x 3 per channel, squeeze, 1 x 1."""
    projector = make_projector(AbstractorProjectorSpec(side=2, depth=1), VISION, LANGUAGE, 16)
    block = shaken(projector).before[0]
    picture = torch.randn(1, VISION, 4, 4)
    silu = nn.functional.silu
    grid = picture[0].permute(1, 2, 0)
    inner = silu(normed(block.first_norm, grid @ block.first.weight[:, :, 0, 0].T))
    padded = nn.functional.pad(inner, (0, 0, 1, 1, 1, 1))
    near = torch.zeros_like(inner)
    for row in range(3):
        for column in range(3):
            weight = block.within.weight[:, 0, row, column]
            near += padded[row : row + 4, column : column + 4] * weight
    inner = silu(normed(block.within_norm, near))
    mean = inner.mean((0, 1))
    squeezed = silu(block.squeeze.weight[:, :, 0, 0] @ mean + block.squeeze.bias)
    inner = inner * (block.excite.weight[:, :, 0, 0] @ squeezed + block.excite.bias).sigmoid()
    last = normed(block.last_norm, inner @ block.last.weight[:, :, 0, 0].T)
    close(block(picture)[0].permute(1, 2, 0), silu(grid + last))
    # and the whole: the mean of each quarter of a grid of four by four goes on
    features = torch.randn(1, 16, VISION)
    seen = projector.before(features.transpose(1, 2).unflatten(2, (4, 4)))
    quarters = [seen[0, :, r : r + 2, c : c + 2].mean((1, 2)) for r in (0, 2) for c in (0, 2)]
    pooled = torch.stack(quarters, dim=1).view(1, VISION, 2, 2)
    expected = projector.layers(projector.behind(pooled).flatten(2).transpose(1, 2))
    close(projector(features), expected)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "downsample"},
        {"kind": "pixel_shuffle"},
        {"kind": "perceiver", "queries": 3, "heads": 2},
        {"kind": "qformer", "queries": 6, "heads": 2},
        {"kind": "c_abstractor", "side": 1},
        {"kind": "identity"},
    ],
    ids=lambda values: values["kind"],
)
def test_a_model_keeps_as_many_places_as_its_projector_makes_tokens(values, tmp_path):
    model, processor = tiny_model(projector=values, mask="image_block")
    expected = visual_tokens(model.config.model_spec.projector, model.config.patches)
    assert processor.visual_tokens == model.config.visual_tokens == expected
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}
    given = processor.apply_chat_template(
        [message],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"images": [picture(1)]},
    )
    assert int((given["input_ids"] == processor.image_token_id).sum()) == expected
    written = model.generate(**given, max_new_tokens=3, do_sample=False)
    save(model, processor, tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(again.generate(**given, max_new_tokens=3, do_sample=False), written)
    model.train()
    texts = [processor.encode(sample_of([{"role": "user", "content": "a"},
                                         {"role": "assistant", "content": "b"}]))]  # fmt: skip
    model.hidden(collate(texts, True, 0)).sum().backward()
    assert all((weight.grad == 0).all() for weight in model.projector.parameters())


def test_mlp_follows_its_spec():
    spec = MlpProjectorSpec(depth=3, hidden=8, activation="relu", norm=True, position=True)
    projector = make_projector(spec, VISION, LANGUAGE, PATCHES)
    kinds = [type(layer) for layer in projector.layers]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.out_features for layer in projector.layers[::2]] == [8, 8, LANGUAGE]
    features = torch.randn(1, PATCHES, VISION)
    moved = features[:, [1, 0, 2, 3]]
    assert (projector(moved)[:, 0] - projector(features)[:, 1]).abs().max() > 0.01
    with torch.no_grad():
        projector.position.zero_()
    close(projector(moved)[:, 0], projector(features)[:, 1])
    with pytest.raises(ModelError, match="another grid"):
        projector(torch.randn(1, PATCHES + 1, VISION))
    single = make_projector(MlpProjectorSpec(depth=1), VISION, LANGUAGE, PATCHES)
    assert len(single.layers) == 1


def test_places_start_apart_and_neighbours_nearest():
    places = sinusoids(64, 160).view(8, 8, 160)
    assert torch.pdist(places.flatten(0, 1)).min() > 1.0
    along = [(places[3, 0] - places[3, column]).norm() for column in range(8)]
    assert along[0] == 0
    assert along[1] < min(along[2:])
    step = torch.stack([places[row, 5] - places[row, 1] for row in (2, 6)])
    close(step[0], step[1])  # rows and columns are apart
    with pytest.raises(ModelError, match="square grid"):
        sinusoids(60, 160)


def test_an_unknown_projector_suggests_the_nearest():
    with pytest.raises(ModelError, match="did you mean `linear`"):
        PROJECTORS["lineer"]
