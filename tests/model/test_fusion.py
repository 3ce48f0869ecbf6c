"""Several encoders over one picture: fused as described, saved, generated with, cached."""

from __future__ import annotations

import pytest
import torch
from tiny import SIDE, encoder_folder, picture, tiny_model
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from closeness import close
from lucida.core.errors import ModelError
from lucida.core.spec import EncoderSpec
from lucida.data.collate import collate
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.model.checkpoint import load, save
from lucida.model.decode import greedy
from lucida.model.encoders import load_encoder
from lucida.model.messages import image_source
from lucida.model.registration import register

torch.set_num_threads(1)
register()


def eyes(*names: str, fusion: str = "channels", **first: object) -> dict:
    """The vision of a spec; `NAME@SIDE` gives an encoder a size of its own."""
    specs = []
    for name in names:
        kind, _, side = name.partition("@")
        specs.append({"path": encoder_folder(kind), "size": int(side) if side else None})
    return {**specs[0], **first, "more": specs[1:], "fusion": fusion}


def sample(seed: int = 0, text: str = "what?") -> Sample:
    sources = (image_source(picture(seed), 1), image_source(picture(seed + 1, 30, 9), 2))
    turns = (Turn("user", (ImagePart(0), ImagePart(1), text)), Turn("assistant", ("yes",)))
    return Sample("test", sources, (), (turns,))


def alone(name: str, pixels: torch.Tensor) -> torch.Tensor:
    return load_encoder(EncoderSpec(path=encoder_folder(name))).eval()(pixels)


@torch.no_grad()
def test_channels_stand_side_by_side_each_from_its_own_pixels():
    model, processor = tiny_model(eyes("dinov2", "siglip"))
    given = processor.pixels(sample().images)
    assert len(given) == 2 and len(given.shapes) == 2
    stacks = [torch.cat(images) for images in given.encoders()]
    expected = torch.cat([alone("dinov2", stacks[0]), alone("siglip", stacks[1])], dim=-1)
    assert torch.equal(torch.cat(model.encode_images(given).images()), expected)
    assert model.config.vision_width == 32 and model.config.visual_tokens == 4


@torch.no_grad()
def test_smaller_grids_are_resampled_to_the_firsts():
    model, processor = tiny_model(eyes("dinov2@32", "siglip"))
    given = processor.pixels(sample().images)
    assert [images[0].shape[-1] for images in given.encoders()] == [32, SIDE]
    small = alone("siglip", torch.cat(given.encoders()[1]))
    maps = small.transpose(1, 2).unflatten(2, (2, 2))
    larger = functional.interpolate(maps, size=(4, 4), mode="bilinear").flatten(2).transpose(1, 2)
    features = torch.cat(model.encode_images(given).images())
    assert features.shape == (2, 16, 32)
    assert torch.equal(features[..., 16:], larger)


@torch.no_grad()
def test_tokens_one_after_the_other_or_in_turn():
    pixels = None
    for fusion in ("tokens", "interleaved"):
        model, processor = tiny_model(eyes("dinov2", "siglip", fusion=fusion))
        pixels = processor.pixels(sample().images)
        stacks = [torch.cat(images) for images in pixels.encoders()]
        parts = [alone("dinov2", stacks[0]), alone("siglip", stacks[1])]
        features = torch.cat(model.encode_images(pixels).images())
        assert model.config.visual_tokens == 8
        if fusion == "tokens":
            assert torch.equal(features, torch.cat(parts, dim=1))
        else:
            assert torch.equal(features[:, 0::2], parts[0])
            assert torch.equal(features[:, 1::2], parts[1])
    unequal, _ = tiny_model(eyes("dinov2@32", "siglip", fusion="tokens"))
    assert unequal.config.visual_tokens == 16 + 4


@pytest.mark.parametrize(
    ("vision", "more", "words"),
    [
        (eyes("siglip", "dinov2@32"), {}, "expected at most 2 x 2 patches, got 4 x 4"),
        (eyes("siglip", "dinov2@32", fusion="interleaved"), {}, r"got \[4, 16\]"),
        (eyes("siglip@64", "resnet@64", fusion="tokens"), {}, r"got \[16, 20\]"),
        (eyes("siglip@32", "clip", take="mean"), {}, r"got \[1, 4\]"),
        (eyes("siglip", "clip", fusion="tokens"), {"projector": {"kind": "pool"}}, "neighbours"),
    ],
)  # fmt: skip
def test_what_cannot_be_fused_is_refused_before_training(vision, more, words):
    with pytest.raises(ModelError, match=words):
        tiny_model(vision, **more)


@torch.no_grad()
@pytest.mark.parametrize("policy", ["letterbox", "anyres", "split", "native"])
def test_saved_and_loaded_with_identical_logits(policy, tmp_path):
    vision = eyes("dinov2", "clip", "siglip", feature_layer=[-1, -2], normed=True)
    model, processor = tiny_model(vision, image={"policy": policy, "max_tiles": 2, "size": 16})
    long = processor.encode(sample())
    save(model, processor, tmp_path)
    again, reader = load(tmp_path)
    assert len(again.vision.encoders) == 3
    assert reader.image_policy == processor.image_policy
    assert reader.more_policies == processor.more_policies
    given, same = processor.batch([long]), reader.batch([reader.encode(sample())])
    assert torch.equal(given["input_ids"], same["input_ids"])
    assert torch.equal(model(**given).logits, again(**same).logits)
    packed = model.hidden(collate([long, long], True, 0, processor.pixels))[0]
    close(model.logits(packed[: len(long)]), model(**given).logits[0])
    auto = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    reader = AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(auto(**reader.batch([long])).logits, model(**given).logits)
    names = {name.split(".")[2] for name in model.state_dict() if name.startswith("vision.")}
    assert names == {"0", "1", "2"}


@torch.no_grad()
def test_generation_and_shared_stems():
    model, processor = tiny_model(eyes("dinov2", "siglip"), mask="image_block")
    samples = [sample(0), sample(0, "where is it?"), sample(5)]
    prompts = [processor.prompt(each) for each in samples]
    given = processor.batch(prompts)
    options = {"max_new_tokens": 4, "do_sample": False}
    written = model.generate(**given, **options)[:, -4:]
    texts = processor.tokenizer.batch_decode(written, skip_special_tokens=True)
    assert [a.strip() for a in greedy(model, processor, samples, 4)] == [t.strip() for t in texts]
    beams = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    together = model.generate(**given, **beams)[:, -3:]
    for row, prompt in enumerate(prompts):
        assert torch.equal(
            together[row], model.generate(**processor.batch([prompt]), **beams)[0, -3:]
        )


@torch.no_grad()
def test_cached_features_of_all_encoders_are_those_of_one(tmp_path, monkeypatch):
    from lucida.training.feed import FrozenFeatures
    from lucida.training.precision import choose_precision

    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path))
    model, processor = tiny_model(eyes("dinov2", "siglip"))
    precision = choose_precision("fp32", torch.device("cpu"))
    images = list(sample().images)
    cached = FrozenFeatures(model, processor, precision)
    features = cached(images)
    live = model.encode_images(processor.pixels(images))
    torch.testing.assert_close(features.values.float(), live.values, atol=2e-2, rtol=2e-3)
    paths = {cached.cache.path}
    for vision in (
        eyes("dinov2", "siglip", fusion="tokens"),
        eyes("siglip", "dinov2"),
        eyes("dinov2@32", "siglip@32"),
    ):
        other = FrozenFeatures(*tiny_model(vision), precision)
        other(images)
        paths.add(other.cache.path)
    assert len(paths) == 4, "whatever decides a feature decides where it is kept"


def test_gradients_reach_every_encoder_and_stop_at_frozen_ones():
    model, processor = tiny_model(eyes("dinov2", "siglip"))
    batch = collate([processor.encode(sample())], True, 0, processor.pixels)
    model.vision.encoders[0].requires_grad_(False)
    model.train()
    model.hidden(batch).sum().backward()
    frozen, trained = model.vision.encoders
    assert all(weight.grad is None for weight in frozen.parameters())
    assert all(weight.grad is not None for weight in trained.parameters())


def test_transformers_gets_one_tensor_for_one_encoder_and_one_square():
    _, processor = tiny_model()
    given = processor.pixel_values(sample().images)
    assert torch.equal(given, torch.cat(processor.pixels(sample().images).images()))
    with pytest.raises(ModelError, match="Views"):
        fused, other = tiny_model(eyes("dinov2", "siglip"))
        ids = other.batch([other.prompt(sample())])["input_ids"]
        fused(input_ids=ids, pixel_values=given)
