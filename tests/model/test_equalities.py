"""The equalities that packing, branching and caching rest on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import picture, tiny_model

from closeness import close
from lucida.core.errors import ModelError
from lucida.data.sample import Batch, ImagePart, Sample, Tokens, Turn
from lucida.model.attention import Layout
from lucida.model.masks import ASK_WHOLE, MASKS, dense_mask, fields_of
from lucida.model.messages import image_source

torch.set_num_threads(1)


def question(*asked: str, images: int = 1, seed: int = 0) -> Sample:
    """A sample with images on the stem and one branch for each question."""
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
    if model.mask in ASK_WHOLE:
        with pytest.raises(ModelError, match=r"expected samples of one branch.*got 3 branches"):
            model.hidden(batch_of([[together]], processor))
        return
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


def answered(prompt: Tokens, answer: torch.Tensor) -> Tokens:
    """A prompt and the answer that was written behind it, as training would see them."""
    new = len(answer)
    target = np.concatenate([prompt.target[:-1], answer.numpy(), [-100]])
    fields = {name: np.pad(getattr(prompt, name), (0, new)) for name in ("branch", "image")}
    fields["branch"][-new:] = 1
    ids = np.concatenate([prompt.input_ids, answer.numpy()])
    return replace(prompt, input_ids=ids, position=np.arange(len(ids)), target=target, **fields)


@torch.no_grad()
def test_no_answer_is_seen_before_it_is_written(parts):
    """Another token at an answer's place t: every logit of its sample before t stays as it was, in
    a packed row of one sample with images and one with several questions or turns."""
    model, processor = parts
    chat = question("what colour?", images=2)
    turns = (Turn("user", ("and", ImagePart(2), "then?")), Turn("assistant", ("blue and red",)))
    chat = replace(
        chat,
        images=(*chat.images, image_source(picture(8), 3)),
        branches=((*chat.branches[0], *turns),),
    )
    asked = ("what", "one") if model.mask not in ASK_WHOLE else ("what",)
    tokens = [processor.encode(chat), processor.encode(question(*asked))]
    batch = batch_of([tokens], processor)
    before = model.logits(model.hidden(batch))[0]
    answers = (batch.target[0] != -100).nonzero().squeeze(1) + 1
    met = 0
    for place in answers.tolist():
        kept = batch.input_ids.clone()
        batch.input_ids[0, place] = 7
        changed = (model.logits(model.hidden(batch))[0] - before).abs().amax(1)
        batch.input_ids = kept
        assert changed[:place].max() < 1e-5
        met += bool(changed[place] > 1e-3)
    assert met > 0.8 * len(answers), "the test needs tokens that matter"


@torch.no_grad()
def test_who_is_seen(parts):
    """The states of the first image of two, in front of a question, when something changes."""
    model, processor = parts
    batch = batch_of([[processor.encode(question("what colour?", images=2))]], processor)
    visual = model.visual(batch.pixel_values, None)
    places = (batch.image[0] == 1).nonzero().squeeze(1)
    asking = int((batch.target[0] != -100).nonzero()[0])

    def states(change: torch.Tensor) -> torch.Tensor:
        embedded = model.embed(batch.input_ids, batch.image > 0, visual)
        embedded[0, change] += 1.0
        return run(embedded)

    def run(embedded: torch.Tensor) -> torch.Tensor:
        layout = Layout(fields_of(batch), model.mask)
        return model.language.base_model(
            inputs_embeds=embedded,
            position_ids=batch.position,
            attention_mask=embedded.new_zeros(1, 1, 1, 1),
            use_cache=False,
            layout=layout,
        ).last_hidden_state[0, places[0]]

    still = states(torch.zeros(0, dtype=torch.long))
    seen = {
        "start": places[0] - 1,
        "own": places[-1],
        "next image": (batch.image[0] == 2).nonzero()[0, 0],
        "question": torch.tensor(asking),
    }
    found = {name for name, place in seen.items() if (states(place) - still).abs().max() > 1e-4}
    assert (
        found
        == {
            "causal": {"start"},
            "image_block": {"start", "own"},
            "all_images": {"start", "own", "next image"},
            "prefix": {"start", "own", "next image", "question"},
            "mutual": {"start", "own", "next image", "question"},
            "diagonal": set(),
        }[model.mask]
    )


@torch.no_grad()
def test_an_image_of_one_visual_token_makes_image_block_causal():
    for mask in ("image_block", "all_images"):
        model, processor = tiny_model(mask=mask, projector={"kind": "c_abstractor", "side": 1})
        batch = batch_of([[processor.encode(question("what", "one"))]], processor)
        hidden = model.hidden(batch)
        assert torch.equal(model.hidden(batch, "causal"), hidden)


@torch.no_grad()
def test_cached_decoding_equals_full_forward(parts):
    model, processor = parts
    given = processor.batch([processor.prompt(question("what", images=2))])
    written = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    ones = torch.ones_like(written)
    prompt = given["input_ids"].shape[1]
    tokens = answered(processor.prompt(question("what", images=2)), written[0, prompt:])
    whole = model.logits(model.hidden(batch_of([[tokens]], processor)))
    whole[..., processor.image_token_id] = -torch.inf
    assert torch.equal(whole[:, prompt - 1 : -1].argmax(-1), written[:, prompt:])
    first = model(**given, use_cache=True)
    following = written[:, prompt:]
    rest = model(input_ids=following, attention_mask=ones, past_key_values=first.past_key_values)
    rest.logits[..., processor.image_token_id] = -torch.inf
    close(rest.logits, whole[:, prompt:])


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
    asked = ("what", "one") if model.mask not in ASK_WHOLE else ("what",)
    tokens = [processor.encode(question(*asked, images=2)), processor.encode(question("a"))]
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
