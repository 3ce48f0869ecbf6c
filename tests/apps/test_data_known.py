"""`lucida data hardest` and `blind`: the loss of each record, as it is alone, and who knows it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import picture, tiny_model

from lucida.apps.cli import app
from lucida.apps.data.known import chosen, find_blind, find_hardest, measure, open_run
from lucida.core.errors import DataError, RunError
from lucida.core.recipe import dump_recipe, load_recipe
from lucida.data.collate import collate
from lucida.model.checkpoint import load, save


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that was not trained, in the folder of a run over ten rows."""
    folder = tmp_path_factory.mktemp("known")
    rows = []
    for number in range(10):
        picture(number).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "question": "what is it?", "answer": "red " * (number + 1)}
        rows.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    source = {"kind": "questions", "path": str(folder / "rows.jsonl")}
    changes = [f"stages.sft.mixture.sources={json.dumps({'mine': source})}"]
    for number, name in enumerate(("run", "run/blind", "other")):
        model, processor = tiny_model()
        with torch.no_grad():  # three different ones
            model.get_input_embeddings().weight.mul_(1 + number)
        save(model, processor, folder / name)
    for name in ("run", "other"):
        text = dump_recipe(load_recipe("mini", changes))
        (folder / name / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder / "run"


@torch.no_grad()
def alone(folder, each, number):
    """Nats and rightness of a record by itself, straight from the logits."""
    model, processor = load(folder, "cpu")
    stage = each.recipe.resolve(each.stage)
    own = processor.for_stage(stage)
    tokens = own.encode(each.source[number], stage.loss)
    batch = collate([tokens], True, processor.tokenizer.pad_token_id, processor.pixels)
    logits = model.logits(model.hidden(batch, stage.attention_mask))[0].float().log_softmax(-1)
    places = [place for place, wanted in enumerate(batch.target[0].tolist()) if wanted >= 0]
    wanted = [int(batch.target[0, place]) for place in places]
    nats = -sum(float(logits[place, word]) for place, word in zip(places, wanted, strict=True))
    best = [int(logits[place].argmax()) for place in places]
    return nats, len(places), best == wanted


def test_the_loss_of_a_record_is_that_of_the_record_alone(run):
    sources, found = find_hardest(run, None, 100)
    assert len(found.rows) == 10
    assert [value for value, _ in found.rows] == sorted((v for v, _ in found.rows), reverse=True)
    for value, one in (found.rows[0], found.rows[-1]):
        nats, tokens, right = alone(run, sources[0], one.number)
        assert one.tokens == tokens and one.right == (right,)
        assert one.nats == pytest.approx(nats, rel=1e-4)
        assert value == pytest.approx(nats / tokens, rel=1e-4)


def test_against_another_run_it_is_the_difference(run):
    other = run.parent / "other"
    sources, found = find_hardest(run, other, 4)
    assert len(found.rows) == 4
    assert found.rows[0][0] != found.rows[-1][0]
    value, one = found.rows[0]
    mine, theirs = alone(run, sources[0], one.number), alone(other, sources[0], one.number)
    assert value == pytest.approx(mine[0] / mine[1] - theirs[0] / theirs[1], rel=1e-3, abs=1e-5)


def test_records_are_spread_over_the_source(run):
    sources = open_run(run)
    assert [number for _, number in chosen(sources, 4)] == [0, 3, 6, 9]
    assert len(chosen(sources, 100)) == 10


def test_what_cannot_be_read_is_told(run, capsys):
    class Damaged(list):
        def __getitem__(self, number):
            if number == 1:
                raise DataError("damaged", origin="rows.jsonl: record 1")
            return super().__getitem__(number)

    (each,) = open_run(run)
    damaged = replace(each, source=Damaged(each.source[number] for number in range(3)))
    found = measure(run, [damaged], [(0, 0), (0, 1), (0, 2)])
    assert [one.number for one in found] == [0, 2]
    assert "1 records cannot be read, and are left out; rows.jsonl" in capsys.readouterr().err


def test_pages_have_the_pictures(run, tmp_path):
    page = tmp_path / "page.html"
    words = ["data", "hardest", str(run), "--show", "3", "--html", str(page)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8").count("<img") == 3
    lines = page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 10
    done = CliRunner().invoke(app, ["data", "blind", str(run), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "of 10 questions are answered word for word without the picture" in done.output


def test_the_share_is_of_the_blind_model(run):
    sources, (share,), solved = find_blind(run, 100)
    blind = [alone(run / "blind", sources[0], number)[2] for number in range(10)]
    seeing = [alone(run, sources[0], number)[2] for number in range(10)]
    assert (share.blind, share.seeing) == (sum(blind) / 10, sum(seeing) / 10)
    assert len(solved) == sum(blind)


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        find_hardest(tmp_path, None, 5)
    with pytest.raises(RunError, match="not a run folder"):
        find_hardest(run, tmp_path, 5)
    with pytest.raises(RunError, match="no blind model"):
        find_blind(run.parent / "other", 5)
