"""Prompts read as trees: who stands where, each stem once, small passes equal to one; and a last
layer that is computed at few positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import greedy_tokens, picture, tiny_model

from closeness import close
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, ImagePart, Sample, Tokens, Turn
from lucida.model import prefill as module
from lucida.model.last_layer import SPARED, only_at
from lucida.model.messages import image_source
from lucida.model.prefill import Request, length, places, segment, trees_of

torch.set_num_threads(1)


def request(index: int, ids: str, cut: int) -> Request:
    """A prompt without pictures whose ids are letters."""
    count = len(ids)
    nothing = np.zeros(count, np.int64)
    tokens = Tokens(
        f"prompt {index}", (), np.array([ord(c) for c in ids]), nothing, np.arange(count), nothing,
        np.full(count, IGNORED),
    )  # fmt: skip
    return Request(index, tokens, cut)


ROWS = [[request(0, "AAAab", 3), request(1, "AAAc", 3)], [request(2, "AAAde", 3)]]


def test_worked_example_of_a_tree():
    assert trees_of(ROWS, joined=True) == [[0, 1]]
    assert trees_of(ROWS, joined=False) == [[0], [1]]
    tokens = segment([asked for row in ROWS for asked in row])
    assert bytes(tokens.input_ids.tolist()).decode() == "AAAabcde"
    assert tokens.branch.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert tokens.position.tolist() == [0, 1, 2, 3, 4, 3, 3, 4]
    place, owner, last = places(ROWS, [[0, 1]], np.array([10]), max(map(length, ROWS)), 2)
    assert place.tolist() == [[10, 11, 12, 13, 14, 15], [10, 11, 12, 16, 17, 0]]
    assert owner.tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, -1]]
    assert last.tolist() == [[14, 15], [17, 17]]


def test_too_many_questions_are_not_one_tree():
    rows = [[request(n, "A" + chr(97 + n) * 40, 1)] for n in range(3)]
    assert trees_of(rows, joined=True) == [[0], [1], [2]]  # 80 behind a stem of 1 are more than 66
    whole = [[request(0, "AB", 2)], [request(1, "AB", 2)]]
    assert trees_of(whole, joined=True) == [[0], [1]]


def asked(text: str, seed: int | None) -> Sample:
    images = () if seed is None else (image_source(picture(seed), 1),)
    stem = (Turn("user", (ImagePart(0),)),) if images else ()
    return Sample("test", images, stem, ((Turn("user", (text,)),),))


@pytest.mark.parametrize("size", [1, 30, 10_000])
def test_small_passes_write_what_one_writes(size, monkeypatch):
    model, processor = tiny_model()
    samples = [asked("what colour?", 0), asked("is it red", 1), asked("no picture", None),
               asked("one", 0), asked("which of them, the left or the right?", 2)]  # fmt: skip
    prompts = [processor.prompt(sample) for sample in samples]
    alone = [greedy_tokens(model, processor, [prompt], 5)[0] for prompt in prompts]
    passes = []
    hidden = model.hidden
    monkeypatch.setattr(module, "PASS_TOKENS", size)
    monkeypatch.setattr(model, "hidden", lambda *a, **k: passes.append(1) or hidden(*a, **k))
    assert greedy_tokens(model, processor, prompts, 5) == alone
    assert len(passes) == {1: 4, 10_000: 1}.get(size, len(passes))


def test_wanted_positions_are_as_if_all_were_computed():
    model, processor = tiny_model()
    model.eval()
    rows = [processor.prompt(asked(text, None)) for text in ("what colour?", "one", "a b c d")]
    batch = collate(rows, pack=True, pad_id=processor.tokenizer.pad_token_id)
    wanted = torch.tensor([2, 5, 11])
    seen = []
    with torch.no_grad():
        whole = model.hidden(batch)[0]
        last = model.language.model.layers[-1]
        hook = last.mlp.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
        few = model.hidden(batch, wanted=wanted)[0]
        hook.remove()
        again = model.hidden(batch)[0]
    close(few[wanted], whole[wanted])
    assert torch.isfinite(few).all()
    assert seen == [3], "the MLP saw the wanted positions only"
    assert torch.equal(again, whole), "nothing stays behind"


def test_hooks_leave_also_after_an_error():
    model, _ = tiny_model()
    modules = dict(model.language.model.layers[-1].named_modules())
    with pytest.raises(ZeroDivisionError), only_at(model.language, torch.tensor([0])):
        1 / 0  # noqa: B018
    for name in SPARED:
        assert not modules[name]._forward_hooks and not modules[name]._forward_pre_hooks
