"""The equalities that packing, branching and caching rest on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import picture, tiny_model

from lucida.data.sample import Batch, Sample, Tokens, Turn
from lucida.model.masks import dense_mask, fields_of
from lucida.model.messages import image_source

torch.set_num_threads(1)
MASKS = ("causal", "image_block")


def question(*asked: str, images: int = 1, seed: int = 0) -> Sample:
    """A sample with images on the stem and one branch for each question."""
    from lucida.data.sample import ImagePart

    sources = tuple(image_source(picture(seed + n), n) for n in range(images))
    stem = (Turn("user", tuple(ImagePart(n) for n in range(images))),) if images else ()
    branches = tuple((Turn("user", (text,)), Turn("assistant", ("red",))) for text in asked)
    return Sample("test", sources, stem, branches)


def batch_of(rows: list[list[Tokens]], processor, length: int | None = None) -> Batch:
    """Tokens laid side by side by hand: each inner list is one packed row."""
    length = length or max(sum(len(t) for t in row) for row in rows)
    names = ("input_ids", "branch", "position", "image", "target")
    arrays = {name: np.zeros((len(rows), length), dtype=np.int64) for name in (*names, "segment")}
    arrays["target"][:] = -100
    for row, parts in enumerate(rows):
        start = 0
        for number, tokens in enumerate(parts, start=1):
            stop = start + len(tokens)
            for name in names:
                arrays[name][row, start:stop] = getattr(tokens, name)
            arrays["segment"][row, start:stop] = number
            start = stop
    sources = [source for row in rows for tokens in row for source in tokens.images]
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return Batch(**tensors, pixel_values=processor.pixels(sources))


@pytest.fixture(scope="module", params=MASKS)
def parts(request):
    return tiny_model(mask=request.param)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_packed_equals_separate_and_padded(parts):
    model, processor = parts
    samples = [
        question("what colour?"),
        question("is it red? or", images=2, seed=5),
        question("no image here", images=0),
    ]
    tokens = [processor.encode(sample) for sample in samples]
    packed = model.hidden(batch_of([tokens], processor))[0]
    padded = model.hidden(batch_of([[t] for t in tokens], processor, length=90))
    start = 0
    for row, sample in enumerate(tokens):
        alone = model.hidden(batch_of([[sample]], processor))[0]
        close(packed[start : start + len(sample)], alone)
        close(padded[row, : len(sample)], alone)
        start += len(sample)
    assert torch.isfinite(padded).all()


@torch.no_grad()
def test_branched_equals_asked_alone(parts):
    model, processor = parts
    asked = ("what colour?", "one", "is there a circle in it")
    together = processor.encode(question(*asked, images=2))
    hidden = model.hidden(batch_of([[together]], processor))[0]
    for number, text in enumerate(asked, start=1):
        alone = processor.encode(question(text, images=2))
        mine = (together.branch == 0) | (together.branch == number)
        assert (together.input_ids[mine] == alone.input_ids).all()
        close(hidden[torch.from_numpy(mine)], model.hidden(batch_of([[alone]], processor))[0])


@torch.no_grad()
def test_features_equal_pixels(parts):
    model, processor = parts
    batch = batch_of([[processor.encode(question("what", images=2))]], processor)
    live = model.hidden(batch)
    batch.features, batch.pixel_values = model.encode_images(batch.pixel_values), None
    assert torch.equal(model.hidden(batch), live)


@torch.no_grad()
def test_forward_equals_hidden(parts):
    """The way in for transformers and the way in for training give the same logits."""
    model, processor = parts
    prompts = [
        processor.prompt(question("what colour?", images=2)),
        processor.prompt(question("a")),
    ]
    given = processor.batch(prompts)
    logits = model(**given).logits
    for row, prompt in enumerate(prompts):
        alone = model.logits(model.hidden(batch_of([[prompt]], processor)))[0]
        close(logits[row, -len(prompt) :], alone)


@torch.no_grad()
def test_cached_decoding_equals_full_forward(parts):
    model, processor = parts
    given = processor.batch([processor.prompt(question("what", images=2))])
    written = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    ones = torch.ones_like(written)
    whole = model(input_ids=written, attention_mask=ones, pixel_values=given["pixel_values"])
    whole.logits[..., processor.image_token_id] = -torch.inf
    prompt = given["input_ids"].shape[1]
    assert torch.equal(whole.logits[:, prompt - 1 : -1].argmax(-1), written[:, prompt:])
    first = model(**given, use_cache=True)
    following = written[:, prompt:]
    rest = model(input_ids=following, attention_mask=ones, past_key_values=first.past_key_values)
    rest.logits[..., processor.image_token_id] = -torch.inf
    close(rest.logits, whole.logits[:, prompt:])


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "static"])
def test_left_padded_generation_equals_one_at_a_time(parts, cache):
    model, processor = parts
    prompts = [
        processor.prompt(question("what colour is it?", images=2)),
        processor.prompt(question("a", images=0)),
        processor.prompt(question("red", images=1, seed=3)),
    ]
    options = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    options["disable_compile"] = True
    together = model.generate(**processor.batch(prompts), **options)
    for row, prompt in enumerate(prompts):
        alone = model.generate(**processor.batch([prompt]), max_new_tokens=5, do_sample=False)
        answer = alone[0, len(prompt) :]
        assert torch.equal(
            together[row, -together.shape[1] + max(map(len, prompts)) :][: len(answer)], answer
        )


@torch.no_grad()
def test_layout_equals_dense_mask(parts):
    """The reference: a dense mask of rank 4 in transformers' own eager attention."""
    model, processor = parts
    tokens = [processor.encode(question("what", "one", images=2)), processor.encode(question("a"))]
    batch = batch_of([tokens, tokens[::-1]], processor, length=140)
    hidden = model.hidden(batch)
    allowed = dense_mask(fields_of(batch), model.mask)
    embedded = model.embed(batch.input_ids, batch.image > 0, model.visual(batch.pixel_values, None))
    model.language.set_attn_implementation("eager")
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    dense = model.language.base_model(
        inputs_embeds=embedded, attention_mask=bias, position_ids=batch.position, use_cache=False
    ).last_hidden_state
    model.language.set_attn_implementation("lucida")
    real = batch.segment > 0
    close(hidden[real], dense[real])
