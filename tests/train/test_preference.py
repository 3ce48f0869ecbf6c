"""Preference: losses by their formulas, pairs behind one prefix, training that prefers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import tiny_recipe
from trl_losses import LOSSES, make_pairs, trl_loss

from lucida.core.errors import DataError
from lucida.core.runs import RunFolder
from lucida.core.spec import PreferenceSpec, Recipe
from lucida.data.collate import collate
from lucida.data.sample import Sample
from lucida.data.sources.preferences import PreferencesSource, WorldPreferences, hallucinate
from lucida.model.checkpoint import build, load
from lucida.training.loop import train_alone
from lucida.training.objective import supervised_loss, token_losses
from lucida.training.observe import Observer
from lucida.training.preference import Pairs, Sums, preference_losses, sum_answers


def recipe_with(parts, loss="dpo", steps=6, **changes):
    """One stage on pairs of the miniature world."""
    values = tiny_recipe(parts, "language-plain").model_dump(mode="json")
    values["model"]["language"]["max_length"] = 512
    stage = values["stages"][-1] | {
        "mixture": {"sources": {"pairs": {"kind": "world-preferences", "count": 64}}},
        "objective": {"preference": {"loss": loss, "beta": 0.5}},
        "budget": {"steps": steps},
        "validate_every": None,
    }
    stage["optim"] = {"schedule": "constant", "warmup": 0}
    values["stages"] = [stage | changes]
    return Recipe.model_validate(values)


def sums(chosen, rejected, chosen_tokens=(4, 2), rejected_tokens=(5, 2)):
    values = (chosen, rejected, chosen_tokens, rejected_tokens)
    return Sums(*(torch.tensor(each, dtype=torch.float32) for each in values))


POLICY = ([-4.0, -2.0], [-6.0, -1.5])
REFERENCE = ([-5.0, -2.5], [-5.5, -1.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("loss", ["dpo", "ipo", "mpo"])
def test_losses_are_the_published_formulas(loss):
    """Written out in NumPy, as the papers and TRL (sigmoid, ipo, bco_pair, sft) have them."""
    beta, shift = 0.5, 0.2
    (pc, pr), (rc, rr) = (np.array(POLICY), np.array(REFERENCE))
    nc, nr = np.array([4, 2]), np.array([5, 2])
    dpo = -np.log(sigmoid(beta * ((pc - pr) - (rc - rr))))
    if loss == "dpo":
        expected = dpo
    elif loss == "ipo":
        expected = (((pc / nc - pr / nr) - (rc / nc - rr / nr)) - 1 / (2 * beta)) ** 2
    else:
        quality = -np.log(sigmoid(beta * (pc - rc) - shift))
        quality -= np.log(sigmoid(-(beta * (pr - rr) - shift)))
        expected = 0.8 * dpo + 0.2 * quality + 1.0 * (-pc / nc)
    spec = PreferenceSpec(loss=loss, beta=beta)
    found = preference_losses(sums(*POLICY), sums(*REFERENCE), spec, shift)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


GOLDEN = Path(__file__).parent.parent / "golden" / "preference_trl.json"


def ours(policy, reference, loss, beta):
    """Our loss of a pair, from the log-probabilities of its answers' tokens, as TRL's takes it."""
    lengths = [[len(answer)] for answer in policy]
    counted = [sums(*([sum(answer)] for answer in each), *lengths) for each in (policy, reference)]
    return preference_losses(*counted, PreferenceSpec(loss=loss, beta=beta), 0.0).item()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_trls(loss):
    """Its `bco_pair` knows no shift, so MPO's is 0 here, as in a run's first step."""
    rows = json.loads(GOLDEN.read_text())["pairs"]
    assert len(rows) == 16
    for row in rows:
        found = ours(row["policy"], row["reference"], loss, row["beta"])
        assert found == pytest.approx(row[loss], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_the_trl_that_is_installed(loss):
    pytest.importorskip("trl", reason="TRL's own code is compared where it is: pip install trl")
    for policy, reference in make_pairs():
        expected = trl_loss(policy, reference, loss, 0.3)
        assert ours(policy, reference, loss, 0.3) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.fixture(scope="module")
def model(parts):
    built, processor = build(recipe_with(parts).model)
    return built.float(), processor


def encoded(processor, samples):
    tokens = [processor.encode(sample) for sample in samples]
    return collate(tokens, True, processor.tokenizer.pad_token_id, processor.pixels)


def alone(sample, number):
    return Sample(sample.origin, sample.images, sample.stem, (sample.branches[number],))


def test_an_answer_has_the_probability_that_it_has_alone(model):
    """Behind a shared prefix, packed with others, as by itself."""
    built, processor = model
    source = WorldPreferences(count=3)
    batch = encoded(processor, [source[n] for n in range(3)])
    with torch.no_grad():
        found = sum_answers(token_losses(built, batch)[1], batch)
        for number in range(3):
            for place, both in enumerate((found.chosen, found.rejected)):
                single = encoded(processor, [alone(source[number], place)])
                expected = -supervised_loss(built, single)[0]
                torch.testing.assert_close(both[number], expected, rtol=1e-5, atol=1e-4)


def test_the_gradient_is_that_of_two_passes(model):
    built, processor = model
    sample, spec = WorldPreferences(count=1)[0], PreferenceSpec(beta=0.5)
    weights = list(built.projector.parameters())
    batch = encoded(processor, [sample])
    with torch.no_grad():
        batch.pairs = Pairs(spec, token_losses(built, batch)[1])
    loss, _ = token_losses(built, batch)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    shared = torch.autograd.grad(loss, weights)
    chosen, rejected = (
        -supervised_loss(built, encoded(processor, [alone(sample, n)]))[0] for n in (0, 1)
    )
    margin = chosen - rejected
    apart = -torch.nn.functional.logsigmoid(spec.beta * (margin - margin.detach()))
    for mine, expected in zip(shared, torch.autograd.grad(apart, weights), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-5)


def rows_of(folder):
    return [row for row in RunFolder(folder).logged if row.get("loss") is not None]


@pytest.mark.parametrize("loss", ["dpo", "ipo", "mpo"])
def test_training_prefers_what_was_chosen(parts, tmp_path, loss):
    rows = rows_of(train_alone(recipe_with(parts, loss, 8), tmp_path / "run"))
    if loss == "dpo":  # nothing differs from the reference yet
        assert rows[0]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert rows[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["reward_margin"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_passes_do_not_change_the_step(parts, tmp_path):
    for passes in (1, 2):
        batch = {"samples": 4, "accumulate": passes}
        train_alone(recipe_with(parts, "mpo", 3, batch=batch), tmp_path / str(passes))
    first, second = (rows_of(tmp_path / each) for each in ("1", "2"))
    for one, two in zip(first, second, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
        assert one["reward_margin"] == pytest.approx(two["reward_margin"], rel=1e-2, abs=1e-3)


class Stop(Exception):
    pass


class Stopping(Observer):
    def look(self, model, processor, step, earlier=()):
        raise Stop


@pytest.mark.parametrize("adapted", [False, True])
def test_a_stopped_run_keeps_its_reference(parts, tmp_path, adapted):
    """Bit for bit: the reference and the mean reward are those of the beginning."""
    changes = {"checkpoint_every": 2}
    if adapted:
        pytest.importorskip("peft")
        changes |= {"train": {}, "lora": {"rate": 1e-2, "rank": 2}}
    whole = recipe_with(parts, "mpo", 5, evaluate_every=3, **changes)
    train_alone(whole, tmp_path / "whole")
    with pytest.raises(Stop):
        train_alone(whole, tmp_path / "half", observers=[Stopping()])
    train_alone(whole, tmp_path / "half")
    first, second = (load(tmp_path / each)[0].state_dict() for each in ("whole", "half"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_hallucinated_thing_is_not_there():
    from lucida.world.phrases import short_name
    from lucida.world.scenes import make_scene, scene_rng

    for index in range(40):
        scene = make_scene(0, "train", index)
        other = hallucinate(scene, scene_rng(index))
        differing = [a for a, b in zip(other.things, scene.things, strict=True) if a != b]
        assert len(differing) == 1
        assert short_name(differing[0]) not in {short_name(thing) for thing in scene.things}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"rejected": " a kite "}, "are the same"),
        ({"image": ""}, "lacks its picture"),
        ({"rejected": ""}, "the rejected answer of a pair is empty"),
    ],
)
def test_what_is_no_pair_is_refused(parts, tmp_path, row, told):
    values = {"image": "0.png", "question": "what?", "chosen": "a kite", "rejected": "a boat"}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(values | row))
    with pytest.raises(DataError, match=told):
        PreferencesSource(file, parts / "pictures")[0]


def test_a_stage_reads_pairs_only(parts, tmp_path):
    plain = tiny_recipe(parts).model_dump(mode="json")["stages"][-1]["mixture"]
    with pytest.raises(DataError, match="two answers to one question"):
        train_alone(recipe_with(parts, mixture=plain), tmp_path / "run")


def test_the_record_that_is_no_pair_is_named(model):
    _, processor = model
    pair, other = WorldPreferences(count=2)[0], WorldPreferences(count=2)[1]
    three = Sample("three answers", other.images, other.stem, (*other.branches, other.branches[0]))
    batch = encoded(processor, [pair, three])
    with pytest.raises(DataError, match=r"three answers: .*got 1, 2, 3"):
        sum_answers(torch.zeros(batch.supervised), batch)


@pytest.mark.slow
def test_a_high_loss_of_pairs_is_no_divergence(parts, tmp_path):
    """IPO's begins at 1 / (2 beta)², here 100, whatever the vocabulary."""
    changes = {
        "objective": {"preference": {"loss": "ipo", "beta": 0.05}},
        "train": {"projector": 1e-12},
    }
    folder = train_alone(recipe_with(parts, steps=20, **changes), tmp_path / "run")
    assert RunFolder(folder).diverged is None


def test_a_file_of_pairs_is_read(parts, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("image,question,chosen,rejected\n0.png,what?,a kite,a boat\n")
    sample = PreferencesSource(file, parts / "pictures")[0]
    assert [branch[0].parts for branch in sample.branches] == [("a kite",), ("a boat",)]
    assert [turn.role for turn in sample.stem] == ["user", "user"]
