"""Rows of text for the language model: right targets, isolated questions."""

import pytest
import torch
from transformers import LlamaForCausalLM

from lucida.data.sample import IGNORED
from lucida.parts import language, probe
from lucida.parts.corpus import Reader
from lucida.parts.language import (
    hidden_states,
    question_scores,
    small_llama,
    text_loss,
    text_perplexity,
)
from lucida.parts.tokenizer import make_tokenizer
from lucida.world.text import exercise


@pytest.fixture(scope="module")
def reader():
    return Reader(make_tokenizer(0, 400))


def test_tokenizer_says_every_text_again(reader):
    for text in ("a red star.", "Grüße 漢字 \x00", " <b03><b31>", "what does the sign say?"):
        assert reader.tokenizer.decode(reader.ids(text)) == text
    assert len(reader.ids("<b07>")) == 1


def test_targets_are_the_answers_and_every_question_stands_alone(reader):
    told = exercise(0, "train", 4)
    rows = reader.row(told)
    for branch, exchange in enumerate(told.exchanges, start=1):
        cells = [cell for cell in rows if cell[1] == branch]
        answer = [cell[3] for cell in cells if cell[3] != IGNORED]
        expected = reader.tokenizer.decode(reader.answer(told.scene, exchange))
        assert reader.tokenizer.decode(answer) == f"{expected}<eos>"
        if exchange.box is None and not exchange.told:
            assert expected == f" {exchange.answer}"
        stem = sum(cell[1] == 0 for cell in rows)
        assert [cell[2] for cell in cells] == list(range(stem, stem + len(cells)))


def test_a_question_behind_others_scores_as_if_asked_alone(reader):
    torch.manual_seed(0)
    model = LlamaForCausalLM(small_llama(reader.tokenizer)).eval()
    told = exercise(0, "train", 4)
    rows = reader.row(told)
    alone = [cell for cell in rows if cell[1] in (0, 3)]
    with torch.no_grad():
        both = [hidden_states(model, reader.stack([r]).batch) for r in (rows, alone)]
    where = [k for k, cell in enumerate(rows) if cell[1] == 3]
    inside = [k for k, cell in enumerate(alone) if cell[1] == 3]
    torch.testing.assert_close(both[0][0, where], both[1][0, inside], atol=1e-4, rtol=1e-4)


def test_batches_train_and_score(reader):
    torch.manual_seed(0)
    model = LlamaForCausalLM(small_llama(reader.tokenizer))
    batch = reader.batch(0, "train", 0, 6, progress=0.5)
    loss = text_loss(model, batch, "cpu")
    loss.backward()
    assert torch.isfinite(loss)
    scores = question_scores(model.eval(), reader, 30, "cpu")
    assert all(0 <= value <= 100 for value in scores.values())


def test_as_many_are_measured_as_were_asked_for(reader, monkeypatch):
    drawn = []

    def note(make):
        def noted(seed, split, index, **options):
            drawn.append(index)
            return make(seed, split, index, **options)

        return noted

    for module, name in [(language, "exercise"), (language, "document"), (probe, "make_scene")]:
        monkeypatch.setattr(module, name, note(getattr(module, name)))
    torch.manual_seed(0)
    model = LlamaForCausalLM(small_llama(reader.tokenizer)).eval()
    measures = {
        32: lambda: question_scores(model, reader, 32, "cpu"),
        3: lambda: question_scores(model, reader, 3, "cpu"),
        53: lambda: text_perplexity(model, reader, 53, "cpu"),
        2: lambda: text_perplexity(model, reader, 2, "cpu"),
        101: lambda: probe._collect(lambda pixels: torch.zeros(len(pixels), 64, 4), "train", 101),
    }
    for count, measure in measures.items():
        drawn.clear()
        measure()
        assert drawn == list(range(count))
