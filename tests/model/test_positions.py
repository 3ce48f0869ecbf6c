"""Where visual tokens stand among the positions (`language.positions`), beside transformers."""

from __future__ import annotations

from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from test_equalities import (  # noqa: F401  the same equalities under each kind of positions
    batch_of,
    question,
    test_branched_equals_asked_alone,
    test_features_equal_pixels,
    test_forward_equals_hidden,
    test_left_padded_generation_equals_one_at_a_time,
    test_packed_equals_separate_and_padded,
)
from tiny import encoder_folder, greedy_tokens, language_folder, picture, spec, tiny_model
from transformers import LlamaConfig, Qwen2VLConfig, Qwen3VLConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VLModel,
    Qwen2VLRotaryEmbedding,
    Qwen2VLTextModel,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel, Qwen3VLTextRotaryEmbedding

from closeness import close
from lucida.core.errors import ModelError
from lucida.data.collate import collate
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.eval.likelihood import append_candidate, likelihoods
from lucida.interpretability.inside import look
from lucida.model.arrangement import parts_of, steps_in
from lucida.model.blueprint import make_blueprint, skeleton
from lucida.model.checkpoint import load, save
from lucida.model.conversion.fits import gguf_obstacles, llava_obstacles, vllm_obstacles
from lucida.model.messages import image_source
from lucida.model.rotary import mix_tables, part_of_frequencies

torch.set_num_threads(1)
POSITIONS = ("reset", "mrope", "mrope_interleaved")
SHAPES = [(20, 16), (70, 20), (16, 50)]


def placed(positions: str, name: str = "wide", **more: object):
    language = {"path": language_folder(name), "max_length": 400, "positions": positions}
    return tiny_model(language=language, **more)


@pytest.fixture(scope="module", params=POSITIONS)
def parts(request):
    return placed(request.param)


def shown(*shapes: tuple[int, int], asked: str = "what?") -> Sample:
    """Pictures of these shapes among words."""
    sources = tuple(image_source(picture(n, *shape), n) for n, shape in enumerate(shapes))
    said = tuple(part for n in range(len(shapes)) for part in ("see", ImagePart(n)))
    turns = (Turn("user", (*said, asked)), Turn("assistant", ("red",)))
    return Sample("test", sources, (), (turns,))


def three_parts(model, tokens) -> np.ndarray:
    """The three parts of every position of a sample: [3, length]."""
    sizes = [source.load().size for source in tokens.images]
    position = np.repeat(tokens.position[:, None], 3, 1)
    position[tokens.image > 0] += model.arrangement.parts(sizes)
    return position.T


@pytest.mark.parametrize(("family", "config"), [(Qwen2VLModel, Qwen2VLConfig),
                                                (Qwen3VLModel, Qwen3VLConfig)])  # fmt: skip
@pytest.mark.parametrize("merge", [1, 2])
def test_parts_are_those_of_qwen(family, config, merge):
    """get_rope_index over the same ids: pictures of their own shape, merged by 1 and by 2."""
    projector = {"kind": "pixel_shuffle", "factor": 2} if merge == 2 else {"kind": "linear"}
    image = {"policy": "native", "size": 64 * merge}
    model, processor = placed("mrope", image=image, projector=projector)
    shapes = [(merge * width, merge * height) for width, height in SHAPES]
    tokens = processor.encode(shown(*shapes))
    grids = [(1, *model.arrangement.patches(*shape)) for shape in shapes]
    owner = SimpleNamespace(config=config(vision_config={"spatial_merge_size": merge}))
    owner.get_vision_position_ids = MethodType(family.get_vision_position_ids, owner)
    expected, delta = family.get_rope_index(
        owner,
        torch.from_numpy(tokens.input_ids)[None],
        torch.from_numpy((tokens.image > 0).astype(int))[None],
        torch.tensor(grids),
    )
    assert np.array_equal(three_parts(model, tokens), expected[:, 0].numpy())
    assert tokens.behind(len(tokens)) == len(tokens) + int(delta)
    assert int(delta) < 0, "the test needs pictures that take fewer positions than tokens"


@pytest.mark.parametrize(
    ("rotary", "positions", "sections"),
    [(Qwen2VLRotaryEmbedding, "mrope", [16, 24, 24]),
     (Qwen3VLTextRotaryEmbedding, "mrope_interleaved", [24, 20, 20])],
)  # fmt: skip
def test_tables_are_those_of_qwen(rotary, positions, sections):
    """To the bit, with their shares of 64 frequencies, and of text Llama's own."""
    assert part_of_frequencies(64, positions).bincount().tolist() == sections
    shape = {"hidden_size": 256, "num_attention_heads": 2, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}}  # fmt: skip
    theirs, ours = rotary(LlamaConfig(**shape)), LlamaRotaryEmbedding(LlamaConfig(**shape))
    position = torch.randint(0, 500, (2, 9, 3), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(2, 9, 256)
    found = mix_tables(ours.forward, position, positions, x)
    for mixed, expected in zip(found, theirs(x, position.permute(2, 0, 1)), strict=True):
        assert torch.equal(mixed, expected)
    for mixed, expected in zip(
        mix_tables(ours.forward, position[..., :1].expand(-1, -1, 3), positions, x),
        ours(x, position[..., 0]),
        strict=True,
    ):
        assert torch.equal(mixed, expected)


@torch.no_grad()
def test_states_are_those_of_qwens_language_model():
    """Qwen2-VL's own decoder with the same weights, a packed row beside each sample alone."""
    model, processor = placed("mrope", "qwen2")
    ours = model.language.base_model
    sections = part_of_frequencies(2, "mrope").bincount(minlength=3).tolist()
    values = ours.config.to_dict()
    values["rope_parameters"] = values["rope_parameters"] | {"mrope_section": sections}
    values.pop("model_type")
    config = Qwen2VLConfig(text_config=values).text_config
    theirs = Qwen2VLTextModel(config).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens = [processor.encode(shown(*SHAPES[:n])) for n in (1, 2)]
    packed = model.hidden(batch_of([tokens], processor))[0]
    for each, part in zip(tokens, packed.split([len(each) for each in tokens]), strict=True):
        batch = batch_of([[each]], processor)
        visual = model.visual(batch.pixel_values, None)
        expected = theirs(
            inputs_embeds=model.embed(batch.input_ids, batch.image > 0, visual),
            position_ids=torch.from_numpy(three_parts(model, each))[:, None],
            attention_mask=torch.ones_like(batch.input_ids),
        ).last_hidden_state[0]
        close(part, expected)
        usual = ours(
            inputs_embeds=model.embed(batch.input_ids, batch.image > 0, visual),
            attention_mask=torch.ones_like(batch.input_ids),
        ).last_hidden_state[0]
        assert (usual - expected).abs().max() > 1e-2, "the test needs positions that matter"


def test_what_each_kind_counts():
    """The worked examples: a row of two rows and three columns, two squares, and names of tiles."""
    assert steps_in((2, 3)) == (1, 1, 1, -1, 0, 1)
    assert (np.array([0, 1, 2, 1, 1, 2])[:, None] + parts_of((2, 3))).T.tolist() == [
        [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2],
    ]  # fmt: skip
    counted = {}
    for positions in ("1d", *POSITIONS):
        _, processor = placed(positions)
        tokens = processor.encode(question("a", "b", images=2))  # 4 visual tokens each
        counted[positions] = tokens
    usual = counted["1d"]
    starts = np.flatnonzero(usual.image == 1)[0]
    assert np.array_equal(usual.position[usual.branch < 2], np.arange((usual.branch < 2).sum()))
    for positions, saved in (("reset", 6), ("mrope", 4), ("mrope_interleaved", 4)):
        found = counted[positions]
        assert np.array_equal(found.input_ids, usual.input_ids)
        where = found.position[found.image > 0] - starts
        assert where.tolist() == (
            [0, 0, 0, 0, 1, 1, 1, 1] if positions == "reset" else [0, 1, 1, 1, 2, 3, 3, 3]
        )
        words = (found.image == 0) & (np.arange(len(found)) > starts)
        assert np.array_equal(found.position[words], usual.position[words] - saved)


@torch.no_grad()
@pytest.mark.parametrize("policy", ["anyres", "split", "native"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_tiles_and_own_shapes(policy, positions):
    """Every placeholder gets a position: as many parts as visual tokens, blocks behind one another,
    and generation, which counts from the ids, counts as training does."""
    model, processor = placed(
        positions, image={"policy": policy, "size": 16 * (1 + (policy == "native"))}
    )
    tokens = processor.encode(shown(*SHAPES))
    arrangement = model.arrangement
    assert sum(len(arrangement.parts([shape])) for shape in SHAPES) == (tokens.image > 0).sum()
    jumps = np.diff(tokens.position)
    assert jumps.max() == 1 and tokens.position[0] == 0
    assert len(tokens) > tokens.behind(len(tokens))
    prompt = processor.prompt(shown(*SHAPES))
    given = processor.batch([prompt])
    close(
        model(**given).logits[0],
        model.logits(model.hidden(batch_of([[prompt]], processor)))[0],
    )
    written = greedy_tokens(model, processor, [prompt], 4)[0]
    alone = model.generate(**given, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert alone[0, len(prompt) :].tolist()[: len(written)] == written


def test_many_questions_are_answered_as_one_at_a_time(parts):
    """Shared beginnings, likelihoods of candidates, and the cache of an answer."""
    model, processor = parts
    model.generation_config.eos_token_id = [2, *range(40, 110)]
    samples = [
        question(text, images=images, seed=seed)
        for text, images, seed in
        [("what colour?", 2, 0), ("a", 0, 0), ("is it red", 2, 0), ("one", 1, 4)]
    ]  # fmt: skip
    prompts = [processor.prompt(sample) for sample in samples]
    written = greedy_tokens(model, processor, prompts, 6)
    for prompt, ids in zip(prompts, written, strict=True):
        alone = model.generate(**processor.batch([prompt]), max_new_tokens=6, do_sample=False)
        assert alone[0, len(prompt) :].tolist()[: len(ids)] == ids
    asked = [Sample("t", s.images, s.stem, ((s.branches[0][0],),)) for s in samples]
    words = ["red", "light blue", "no"]
    found = likelihoods(model, processor, asked, [words] * len(asked))
    for sample, scored in zip(asked, found, strict=True):
        for text, each in zip(words, scored, strict=True):
            tokens = append_candidate(processor, sample, text)
            batch = collate([tokens], pack=False, pad_id=0, pixels=processor.pixels)
            with torch.no_grad():
                logs = model.logits(model.hidden(batch))[0].double().log_softmax(-1)
            where = (batch.target[0] != -100).nonzero().squeeze(1)
            expected = logs[where, batch.target[0, where]].sum()
            assert each.whole == pytest.approx(float(expected), abs=1e-4)


def test_a_prompt_that_ends_with_its_picture(parts):
    """A caption is written right behind the visual tokens: what follows the last of them."""
    model, processor = parts
    source = image_source(picture(2), 0)
    page = Sample("p", (source,), (), ((Turn("text", (ImagePart(0),)),),))
    prompt = processor.prompt(page)
    assert prompt.image[-1] == 1
    alone = model.generate(
        **processor.batch([prompt]), max_new_tokens=5, do_sample=False, eos_token_id=None
    )
    model.generation_config.eos_token_id = [2]
    assert greedy_tokens(model, processor, [prompt], 5)[0] == alone[0, len(prompt) :].tolist()


def test_saved_loaded_and_looked_into(parts, tmp_path):
    model, processor = parts
    save(model, processor, tmp_path)
    again, reads = load(tmp_path)
    assert reads.positions == processor.positions == again.arrangement.positions
    prompt = processor.prompt(question("what", images=2))
    batch = batch_of([[prompt]], processor)
    with torch.no_grad():
        assert torch.equal(again.hidden(batch), model.hidden(batch))
    seen = look((again, reads), picture(0), "what?", show=["attention", "heads"])
    assert np.isfinite(seen.attention).all() and np.isfinite(seen.heads).all()
    reads.positions = "1d"
    with pytest.raises(ModelError, match="do not agree about the positions of visual tokens"):
        save(again, reads, tmp_path / "other")


def test_gradients_reach_all_parts(parts):
    model, processor = parts
    tokens = [processor.encode(question("what", "a", images=2)), processor.encode(question("b"))]
    model.train()
    batch = batch_of([tokens], processor)
    model.hidden(batch).square().mean().backward()
    assert all(p.grad is not None for p in model.language.base_model.parameters())
    assert not model.language.base_model.rotary_emb._forward_hooks
    model.eval().zero_grad()


def test_what_cannot_have_them_is_refused():
    def language(name: str, positions: str = "mrope") -> dict:
        return {"path": language_folder(name), "positions": positions}

    with pytest.raises(ModelError, match="OPTForCausalLM has no rotary table"):
        placed("mrope", "opt")
    with pytest.raises(ModelError, match="has no rotary table"):
        skeleton(spec(language=language("opt")))
    assert placed("reset", "opt")[0].arrangement.positions == "reset"
    eyes = {"path": encoder_folder("siglip")}
    wrong = (
        ({"projector": {"kind": "perceiver", "queries": 4, "heads": 2, "layers": 1}}, "perceiver"),
        ({"vision": {"path": encoder_folder("clip"), "take": "cls_patches"}}, "take=cls_patches"),
        ({"vision": {**eyes, "more": [eyes], "fusion": "tokens"}}, "fusion=tokens"),
    )
    for more, named in wrong:
        with pytest.raises(ModelError, match=f"counts rows and columns.*{named}"):
            make_blueprint(spec(language=language("wide"), **more))
        make_blueprint(spec(language=language("wide", "reset"), **more))
    with pytest.raises(ValueError, match="under cross_attention there are none"):
        spec(language=language("wide"), cross_attention={"every": 1, "heads": 2})


@pytest.mark.parametrize("positions", POSITIONS)
def test_formats_that_count_one_by_one_refuse(positions):
    design = spec(language={"path": language_folder("wide"), "positions": positions})
    for found in (
        llava_obstacles(design, None, None),
        gguf_obstacles(design, None, None),
        vllm_obstacles(design, "remote-code", None),
    ):
        assert any(f"model.language.positions is {positions}" in why for why in found)


def test_a_cache_without_positions_is_refused(parts):
    model, processor = parts
    given = processor.batch([processor.prompt(question("what", images=2))])
    with torch.no_grad():
        first = model(**given, use_cache=True)
        with pytest.raises(ModelError, match=r"expected position_ids.*got a cache of"):
            model(input_ids=given["input_ids"][:, -1:], past_key_values=first.past_key_values)
