"""Shared stems give the answers that asking one at a time gives."""

from __future__ import annotations

import pytest
import torch
from tiny import greedy_tokens, picture, tiny_model

from lucida.data.sample import ImagePart, Sample, Turn
from lucida.model.decode import greedy, length, request, row_batches, write
from lucida.model.masks import MASKS
from lucida.model.messages import image_source, sample_of

torch.set_num_threads(1)


def asked(text: str, seed: int | None) -> Sample:
    images = () if seed is None else (image_source(picture(seed), 1), image_source(picture(9), 2))
    stem = (Turn("user", tuple(ImagePart(n) for n in range(len(images)))),) if images else ()
    return Sample("test", images, stem, ((Turn("user", (text,)),),))


SAMPLES = [
    asked("what colour?", 0),
    asked("a", None),
    asked("is it red", 1),
    asked("one", 0),
    asked("what is in it, yes or no?", 0),
    asked("no image at all", None),
    sample_of([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b"}]}],
              [picture(4)]),
]  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("vision", ["siglip", None])
@pytest.mark.parametrize("batch_tokens", [16_384, 100])
def test_equal_to_generate_one_at_a_time(mask, vision, batch_tokens):
    model, processor = tiny_model(vision, mask=mask)
    # Some rows end early, others never: the most common first tokens are made end tokens.
    model.generation_config.eos_token_id = [2, *range(40, 110)]
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    written = greedy_tokens(model, processor, prompts, 7, batch_tokens)
    lengths = set()
    for prompt, ids in zip(prompts, written, strict=True):
        alone = model.generate(**processor.batch([prompt]), max_new_tokens=7, do_sample=False)
        expected = alone[0, len(prompt) :].tolist()
        if expected[-1] in model.generation_config.eos_token_id:
            expected = expected[:-1]
        assert ids == expected
        lengths.add(len(ids))
    assert len(lengths) > 1, "the test needs answers of different lengths"


def test_each_stem_runs_once_and_texts_come_back_in_order(monkeypatch):
    model, processor = tiny_model()
    encoded = []
    encode = model.encode_images
    monkeypatch.setattr(
        model, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    texts = greedy(model, processor, SAMPLES, 3)
    assert sum(encoded) == 4  # pictures 0, 1, 4 and 9: four questions share the first and the last
    assert texts == [greedy(model, processor, [sample], 3)[0] for sample in SAMPLES]


def test_batches_hold_rows_of_one_stem_each_within_the_limit():
    _, processor = tiny_model()
    requests = [request(n, processor.prompt(sample)) for n, sample in enumerate(SAMPLES)]
    met = []
    for batch in row_batches(requests, new=5, budget=150):
        size = len(batch) * (max(map(length, batch)) + 5 * max(map(len, batch)))
        assert len(batch) == 1 or size <= 150
        for row in batch:
            assert len({asked.stem for asked in row}) == 1
        met += [asked.index for row in batch for asked in row]
    assert sorted(met) == list(range(len(SAMPLES)))


def test_prompts_with_different_numbers_of_images_share_a_batch():
    model, processor = tiny_model()
    shown = [tuple(range(k)) for k in (3, 4, 3, 4)]
    samples = []
    for number, seeds in enumerate(shown):
        images = tuple(image_source(picture(10 * number + s), s + 1) for s in seeds)
        parts = tuple(part for s in seeds for part in (ImagePart(s), f"picture {s}. "))
        samples.append(Sample("shots", images, (), ((Turn("user", (*parts, "what?")),),)))
    prompts = [processor.prompt(sample) for sample in samples]
    requests = [request(n, prompt) for n, prompt in enumerate(prompts)]
    assert len({asked.cut for asked in requests}) == 2
    assert len(list(row_batches(requests, 5, 10_000))) == 1
    written = greedy_tokens(model, processor, prompts, 5)
    for prompt, ids in zip(prompts, written, strict=True):
        assert ids == greedy_tokens(model, processor, [prompt], 5)[0]


def test_log_probabilities_are_those_of_the_words_that_were_written():
    model, processor = tiny_model()
    model.generation_config.eos_token_id = [2, *range(40, 110)]  # some answers end, others do not
    model.eval()
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    found = dict(write(model, processor, prompts, 7))
    assert {each.ended for each in found.values()} == {True, False}
    for number, prompt in enumerate(prompts):
        one = found[number]
        assert len(one.log_probabilities) == len(one.ids) + one.ended
        given = processor.batch([prompt])
        text = torch.cat([given["input_ids"], torch.tensor([one.ids], dtype=torch.long)], dim=1)
        given |= {"input_ids": text, "attention_mask": torch.ones_like(text)}
        with torch.no_grad():
            logits = model(**given).logits[0, len(prompt) - 1 :].float()
        scores = logits.log_softmax(-1)[: len(one.log_probabilities)]
        allowed = scores.clone()
        allowed[:, model.generation_config.suppress_tokens] = -torch.inf
        expected = scores.gather(1, allowed.argmax(-1, keepdim=True))[:, 0]
        assert one.log_probabilities == pytest.approx(expected.tolist(), abs=1e-4)
