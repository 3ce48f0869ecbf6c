"""Tiles and pictures of their own shape, from the text's places to the same logits."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import SIDE, encoder_folder, language_folder, picture, tiny_model
from transformers import (
    AutoModel,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from closeness import close
from lucida.core.errors import ModelError
from lucida.data.collate import collate
from lucida.data.sample import BoxPart, ImagePart, Sample, Turn, Views
from lucida.model.checkpoint import load, save
from lucida.model.decode import greedy
from lucida.model.encoders.encoder import vision_config
from lucida.model.messages import image_source

torch.set_num_threads(1)
NEXT = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
SHAPES = [(20, 16), (70, 20), (16, 50), (33, 34)]


def design(policy: str, mask: str = "causal", vision: str = "siglip", **image: object):
    language = {"path": language_folder("llama", True), "max_length": 600}
    eyes = {"path": encoder_folder(vision)}
    return tiny_model(eyes, language, mask, image={"policy": policy, **image})


def sample(*shapes: tuple[int, int], answer: str = "yes") -> Sample:
    sources = tuple(image_source(picture(n, *shape), n) for n, shape in enumerate(shapes))
    shown = tuple(ImagePart(n) for n in range(len(shapes)))
    return Sample(
        "test", sources, (), ((Turn("user", (*shown, "what?")), Turn("assistant", (answer,))),)
    )


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_anyres_is_llava_next(shape):
    """Same parts, same picture: the same number of visual tokens and the same logits."""
    model, processor = tiny_model(
        {"path": encoder_folder("clip"), "feature_layer": -2},
        {"path": language_folder("llama", True), "max_length": 600},
        image={"policy": "anyres", "grids": NEXT},
        projector={"kind": "mlp"},
    )
    text = model.language.config
    config = LlavaNextConfig(
        vision_config=vision_config(encoder_folder("clip")).to_dict(),
        text_config=text.to_dict(),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=[[rows * SIDE, columns * SIDE] for rows, columns in NEXT],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
    )
    theirs = LlavaNextForConditionalGeneration(config).eval()
    tower = AutoModel.from_pretrained(
        encoder_folder("clip"), config=vision_config(encoder_folder("clip"))
    )
    theirs.model.vision_tower.load_state_dict(tower.state_dict())
    theirs.model.language_model.load_state_dict(model.language.model.state_dict())
    theirs.lm_head.load_state_dict(model.language.lm_head.state_dict())
    projector = theirs.model.multi_modal_projector
    projector.linear_1.load_state_dict(model.projector.layers[0].state_dict())
    projector.linear_2.load_state_dict(model.projector.layers[2].state_dict())
    theirs.model.image_newline.copy_(model.projector.newline)

    given = processor.batch([processor.prompt(sample(shape))])
    views = given["pixel_values"]
    assert isinstance(views, Views)
    expected = theirs(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        pixel_values=views.images()[0][None],
        image_sizes=torch.tensor([[shape[1], shape[0]]]),
    ).logits
    close(model(**given).logits, expected)


def test_split_names_its_tiles():
    _, processor = design("split")
    tokens = processor.encode(sample((33, 20)), loss="all")
    assert processor.runs(tokens.images[0])[::2] == tuple(
        [f"<row_1_col_{c}>" for c in (1, 2)]
        + [("\n" * (c == 1)) + f"<row_2_col_{c}>" for c in (1, 2)]
        + ["\n\n<global-img>"]
    )
    text = processor.tokenizer.decode(tokens.input_ids)
    four = "<image>" * 4
    assert (
        f"<row_1_col_1>{four}<row_1_col_2>{four}\n<row_2_col_1>{four}<row_2_col_2>{four}"
        f"\n\n<global-img>{four}"
    ) in text
    assert (tokens.image > 0).sum() == 20 and tokens.image.max() == 1
    names = processor.tokenizer.convert_tokens_to_ids(["<row_1_col_1>", "<global-img>"])
    assert not set(names) & set(tokens.target.tolist()), "names of tiles are never learnt"
    one = processor.encode(sample((12, 10)))
    assert processor.tokenizer.decode(one.input_ids).count("<global-img>") == 1
    assert "row" not in processor.tokenizer.decode(one.input_ids)


WORDS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>")
SPLIT = {"layout": "idefics3", "resample": "lanczos", "enlarge": True, "max_tiles": 16}


@pytest.mark.parametrize("shape", [(20, 16), (70, 20), (16, 50), (33, 34), (16, 16)])
@pytest.mark.parametrize("most", [16, 4, 1])
def test_split_is_idefics3_token_for_token_and_pixel_for_pixel(shape, most):
    """The same text and picture through transformers' processor, with the same tokenizer."""
    language = {"path": language_folder("llama", True, WORDS), "max_length": 900}
    image = {"policy": "split", **SPLIT, "max_tiles": most}
    _, processor = tiny_model({"path": encoder_folder("siglip")}, language, image=image)
    policy = processor.image_policy
    theirs = Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": int(most**0.5) * policy.size},
            max_image_size={"longest_edge": policy.size},
            image_mean=list(policy.mean),
            image_std=list(policy.std),
        ),
        copy.deepcopy(processor.tokenizer),
        image_seq_len=processor.visual_tokens,
    )
    text = "<bos>one<image>two<image>what?"
    pictures = [picture(1, *shape), picture(2, 48, 40)]
    expected = theirs(images=pictures, text=text, return_tensors="pt", add_special_tokens=False)
    given = processor(images=pictures, text=text)
    assert given["input_ids"].tolist() == expected["input_ids"].tolist()
    ours = torch.cat(given["pixel_values"].images())
    counts = [len(views) for views in given["pixel_values"].images()]
    assert len(ours) == sum(counts)
    torch.testing.assert_close(ours, expected["pixel_values"][0][: len(ours)], atol=2e-6, rtol=0)
    samples = processor.encode(sample(shape))
    assert int((samples.image > 0).sum()) == processor.arrangement.count(*shape)


def test_nanovlms_overview_stands_first_and_its_tiles_need_no_lines():
    _, processor = design("split", layout="nanovlm", max_tiles=9)
    text = processor.tokenizer.decode(processor.encode(sample((33, 20))).input_ids)
    four = "<image>" * 4
    names = "".join(f"<row_{r}_col_{c}>{four}" for r in (1, 2) for c in (1, 2, 3))
    assert f"<|global_image|>{four}{names}" in text
    one = processor.tokenizer.decode(processor.encode(sample((12, 10))).input_ids)
    assert f"<|global_image|>{four}" in one and "row" not in one


def test_nanovlm_numbers_several_pictures():
    _, processor = design("split", layout="nanovlm", max_tiles=9)
    pictures = tuple(image_source(picture(n, 12, 10), n) for n in (1, 2))
    parts = (ImagePart(1), ImagePart(0), "which?")
    both = Sample("test", pictures, (), ((Turn("user", parts), Turn("assistant", ("one",))),))
    tokens = processor.encode(both, loss="all")
    view = "<|global_image|>" + "<image>" * 4
    text = processor.tokenizer.decode(tokens.input_ids).replace(" ", "")
    assert f"<image:1>{view}<image:0>{view}" in text
    one = processor.tokenizer.decode(processor.encode(sample((12, 10))).input_ids)
    assert "<image:" not in one.replace(" ", "")


def test_text_of_the_data_never_names_a_tile():
    _, processor = design("split")
    asked = Sample("test", (), (), ((Turn("user", ("a <row_1_col_1> b",)),),))
    name = processor.tokenizer.convert_tokens_to_ids("<row_1_col_1>")
    assert name not in processor.prompt(asked).input_ids


@torch.no_grad()
@pytest.mark.parametrize(
    ("policy", "layout"),
    [("anyres", "plain"), ("native", "plain")]
    + [("split", layout) for layout in ("plain", "idefics3", "nanovlm")],
)
@pytest.mark.parametrize("mask", ["causal", "image_block"])
def test_every_way_in_gives_the_same_logits(policy, layout, mask, tmp_path):
    """Packed, alone, padded by the processor, generated, decoded with shared stems, reloaded."""
    size = 32 if policy == "native" else None
    model, processor = design(policy, mask, size=size, layout=layout)
    samples = [sample(SHAPES[0], SHAPES[1]), sample(SHAPES[2]), sample(), sample(SHAPES[3])]
    tokens = [processor.encode(each) for each in samples]
    counts = [processor.arrangement.count(*shape) for shape in SHAPES]
    assert len(set(counts)) > 1 or policy == "split"
    assert [int((each.image > 0).sum()) for each in tokens] == [
        counts[0] + counts[1], counts[2], 0, counts[3]
    ]  # fmt: skip
    packed = collate(tokens, True, 0, processor.pixels)
    together = model.hidden(packed)[0]
    start = 0
    for each in tokens:
        alone = model.hidden(collate([each], False, 0, processor.pixels))[0]
        close(together[start : start + len(each)], alone)
        given = processor.batch([each])
        logits = model(**given).logits[0]
        close(logits, model.logits(alone))
        start += len(each)

    prompts = [processor.prompt(each) for each in samples]
    written = model.generate(**processor.batch(prompts), max_new_tokens=4, do_sample=False)
    texts = processor.tokenizer.batch_decode(written[:, -4:], skip_special_tokens=True)
    ours = greedy(model, processor, samples, 4)
    assert [a.strip() for a in ours] == [b.strip() for b in texts]
    beams = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    joint = model.generate(**processor.batch(prompts[:2]), **beams)[:, -3:]
    for row, prompt in enumerate(prompts[:2]):
        assert torch.equal(joint[row], model.generate(**processor.batch([prompt]), **beams)[0, -3:])

    save(model, processor, tmp_path)
    again, reader = load(tmp_path)
    given, same = processor.batch(prompts), reader.batch([reader.prompt(each) for each in samples])
    assert torch.equal(given["input_ids"], same["input_ids"])
    assert torch.equal(model(**given).logits, again(**same).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("policy", "layout"),
    [("anyres", "plain"), ("native", "plain")]
    + [("split", layout) for layout in ("plain", "idefics3", "nanovlm")],
)
def test_written_out_text_becomes_the_same_tokens(policy, layout):
    _, processor = design(policy, layout=layout)
    conversation = [
        {"role": "user", "content": [{"type": "image", "image": picture(1, 70, 20)},
                                     {"type": "image", "image": picture(2, 20, 40)},
                                     {"type": "text", "text": "what?"}]}
    ]  # fmt: skip
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert text.count("<image>") == 2 and "row" not in text and "global" not in text
    expected = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    given = processor(images=[picture(1, 70, 20), picture(2, 20, 40)], text=text)
    assert torch.equal(given["input_ids"], expected["input_ids"])
    one, other = given["pixel_values"], expected["pixel_values"]
    assert one.shapes == other.shapes and torch.equal(one.values, other.values)


def test_every_part_learns_and_a_batch_without_images_gives_zero():
    model, processor = design("anyres")
    model.train()
    batch = collate([processor.encode(sample((70, 20)))], True, 0, processor.pixels)
    model.hidden(batch).sum().backward()
    assert (model.projector.newline.grad != 0).any()
    assert all(weight.grad is not None for weight in model.vision.parameters())
    model.zero_grad()
    model.hidden(collate([processor.encode(sample())], True, 0)).sum().backward()
    assert (model.projector.newline.grad == 0).all()


@torch.no_grad()
def test_native_shows_the_encoder_the_picture_in_its_own_grid():
    model, processor = design("native", size=64)
    views = processor.pixels([image_source(picture(0, 40, 24), 1)])
    (pixels,) = views.images()
    assert pixels.shape == (1, 3, 24, 40)
    (features,) = model.encode_images(views).images()
    tower = AutoModel.from_pretrained(
        encoder_folder("siglip"), config=vision_config(encoder_folder("siglip"))
    ).eval()
    expected = tower(
        pixels, output_hidden_states=True, interpolate_pos_encoding=True
    ).hidden_states[-1]
    assert torch.equal(features, expected) and features.shape[1] == 3 * 5
    assert processor.runs(image_source(picture(0, 40, 24), 1)) == (15,)


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["pixel_shuffle", "downsample", "pool", "perceiver", "c_abstractor"]
)
def test_native_with_projectors_that_change_the_number(kind):
    model, processor = tiny_model(projector={"kind": kind}, image={"policy": "native", "size": 64})
    source = image_source(picture(0, 56, 40), 1)
    views = processor.pixels([source])
    visual = model.visual(views, None)
    assert [len(visual[0])] == list(processor.runs(source))


def test_boxes_are_written_in_the_frame_of_the_whole_picture():
    for policy in ("anyres", "split", "native"):
        _, processor = design(policy)
        source = image_source(picture(0, 64, 32), 1)
        turns = (
            Turn("user", (ImagePart(0), "where?")),
            Turn("assistant", (BoxPart(0, 0, 0, 32, 32),)),
        )
        tokens = processor.encode(Sample("test", (source,), (), (turns,)))
        written = processor.tokenizer.decode(tokens.target[tokens.target != -100])
        assert written.strip() == "<b00><b00><b04><b07><eos>"
        frame = processor.image_policy.to_frame((0, 0, 32, 32), 64, 32)
        assert frame == (0, 0, 0.5, 1.0)


def test_what_cannot_be_arranged_is_refused():
    with pytest.raises(ModelError, match="anyres"):
        design_with({"kind": "perceiver", "queries": 4}, "anyres")
    with pytest.raises(ModelError, match="learned positions"):
        design_with({"kind": "mlp", "position": True}, "native")
    with pytest.raises(ModelError, match=r"take=cls, fusion"):
        tiny_model({"path": encoder_folder("clip"), "take": "cls"}, image={"policy": "native"})
    with pytest.raises(ModelError, match=r"at least 8 pixels.*got 5"):
        design("native", size=5)
    with pytest.raises(ValueError, match="anyres"):
        design("split", grids=[[1, 2]])
    with pytest.raises(ValueError, match="square number"):
        design("split", max_tiles=8, enlarge=True)
    with pytest.raises(ValueError, match="square number"):
        design("split", max_tiles=8, layout="nanovlm")
    model, processor = design("split")
    given = processor.batch([processor.prompt(sample((70, 20)))])
    given["pixel_values"] = given["pixel_values"].images()[0]
    with pytest.raises(ModelError, match="Views"):
        model(**given)
    given["pixel_values"] = processor.pixels([image_source(picture(0, 12, 12), 1)])
    with pytest.raises(ModelError, match="differ in number"):
        model(**given)


def design_with(projector: dict, policy: str):
    return tiny_model(projector=projector, image={"policy": policy})
