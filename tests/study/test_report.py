"""What a report shows beside verdicts: effects, how soon, pictures; all studies on one page."""

import json
import math
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from lucida.apps.command import app
from lucida.apps.verbs import study as verbs  # noqa: F401 - puts the verbs there
from lucida.core.errors import RecipeError, RunError
from lucida.study import charts
from lucida.study.analysis import compare
from lucida.study.design import BASELINE, Study, make_design
from lucida.study.effects import factor_effects, sooner
from lucida.study.measure import Measured, Scores
from lucida.study.pictures import disagreements
from lucida.study.report import sentence, show_points
from lucida.study.summary import AGREES, DISAGREES, OPEN, PARTLY, judge, load_claims, write_summary

ASKED = {"tasks": ["attribute"], "limit": 8}
FACTORS = {"a": {"model.projector.norm": False}, "b": {"model.projector.position": False}}


def run_with(score, curve=()):
    """A run whose only answer scores `score` points."""
    return Measured(
        None,
        {"attribute": Scores({"x": ("p", score, "?")}, "accuracy", True, 0.0)},
        list(curve),
        {},
    )


def design(**values):
    given = {"name": "probe", "baseline": "mini", "evaluation": ASKED, "primary": {"margin": 3}}
    return make_design(Study.model_validate(given | {"seeds": [0, 1]} | values))


def test_effects_of_a_full_factorial_as_worked_out_by_hand():
    probe = design(factors=FACTORS)
    scores = {BASELINE: (10, 12), "a": (20, 22), "b": (14, 16), "a+b": (40, 42)}
    runs = {arm: {k: run_with(v) for k, v in enumerate(both)} for arm, both in scores.items()}
    found = {each.name: each for each in factor_effects(probe, runs)}
    assert found["a"].mean == pytest.approx((10 + 26) / 2)
    assert found["b"].mean == pytest.approx((4 + 20) / 2)
    assert found["a x b"].mean == pytest.approx((10 + 40) / 2 - (20 + 14) / 2)
    assert found["a"].low == pytest.approx(found["a"].mean)  # seeds differ alike in all arms
    del runs["a+b"]
    assert factor_effects(probe, runs) == []
    assert factor_effects(design(changes=FACTORS), runs) == []


def test_effects_have_the_noise_of_all_arms():
    import numpy as np
    from scipy import stats

    probe = design(factors=FACTORS, seeds=list(range(5)))
    values = np.random.default_rng(0).normal(50, 3, (4, 5))
    runs = {
        arm: {k: run_with(v) for k, v in enumerate(row)}
        for arm, row in zip([BASELINE, "b", "a", "a+b"], values, strict=True)
    }
    effect = next(each for each in factor_effects(probe, runs) if each.name == "a")
    left = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    error = np.sqrt((left**2).sum() / 12 / 5)  # 4 σ² / (4 arms x 5 seeds)
    assert effect.high - effect.mean == pytest.approx(stats.t.ppf(0.975, 12) * error)


def test_pairs_of_arms_are_compared_with_each_other():
    changes = FACTORS | {"c": {"model.projector.depth": 3}}
    plain, probe = design(changes=changes), design(changes=changes, pairs=[["b", "a"], ["c", "a"]])
    assert plain.hash == probe.hash, "exploratory: nothing else was declared"
    scores = {BASELINE: (10, 12), "a": (20, 23), "b": (24, 28), "c": (20, 23)}
    runs = {arm: {k: run_with(v) for k, v in enumerate(both)} for arm, both in scores.items()}
    found = compare(probe, runs)
    assert [each.mean for each in found.findings] == [10.5, 15, 10.5]
    first, second = found.pairs
    assert (first.arm, first.against, first.primary) == ("b", "a", False)
    assert (first.mean, first.differences, second.mean) == (4.5, [4, 5], 0)
    assert found.findings == compare(plain, runs).findings and compare(plain, runs).pairs == []
    assert sentence(first, 3).startswith("b is better than a on the mean over tasks: +4.5 points (")
    del runs["c"]
    assert len(compare(probe, runs).pairs) == 1, "an arm without a run has no pair"


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([["a", "x"]], "pairs names no arm `x`"),
        ([["a", "a"]], r"the pair \['a', 'a'\] has to name two arms"),
        ([["a", BASELINE]], r"the pair \['a', 'baseline'\] has to name two arms"),
        ([["a"]], "pairs.0"),
    ],
)
def test_a_pair_is_two_arms(pairs, told):
    with pytest.raises((RecipeError, ValidationError), match=told):
        design(changes=FACTORS, pairs=pairs)


def test_points_have_one_digit_and_a_zero_no_sign_of_its_own():
    shown = [show_points(value, True) for value in (-0.04, 0.04, -0.06, 12.34, None, -math.inf)]
    assert shown == ["+0.0", "+0.0", "-0.1", "+12.3", "–", "−∞"]
    assert (show_points(-0.04), show_points(3)) == ("0.0", "3.0")


def test_how_soon_is_compared_by_seed():
    probe = design(changes={"a": FACTORS["a"]})

    def curve(pace):
        return [(int(100 * k * pace), {"attribute": 10.0 * k}) for k in range(1, 6)]

    runs = {
        BASELINE: {k: run_with(50, curve(1)) for k in (0, 1)},
        "a": {k: run_with(50, curve(2)) for k in (0, 1)},
    }
    found = {each.outcome: each for each in sooner(probe, runs)}
    assert found["half"].mean == pytest.approx(100) and found["half"].percent
    assert found["ninety"].mean == pytest.approx(100)
    assert found["area"].mean == pytest.approx(0) and found["area"].seeds == 2
    runs["a"] = {0: run_with(50)}
    assert sooner(probe, runs) == []


def test_only_what_was_declared_is_called_so():
    tasks = ["attribute", "counting"]
    primary = {"outcome": "attribute", "margin": 3}
    probe = design(changes={"a": FACTORS["a"]}, evaluation={"tasks": tasks}, primary=primary)
    one = run_with(50.0).tasks["attribute"]
    runs = {arm: {k: Measured(None, dict.fromkeys(tasks, one), [], {}) for k in (0, 1)}
            for arm in (BASELINE, "a")}  # fmt: skip
    found = compare(probe, runs)
    assert [each.primary for each in found.findings] == [True]
    assert [each.outcome for each in found.tasks] == tasks  # exploratory and not corrected
    assert not any(each.primary for each in found.tasks)


def test_pictures_shown_are_those_that_seeds_agree_on(monkeypatch):
    gains = {"up": 100.0, "down": -100.0, "same": 0.0, "again": 100.0}
    rows = [
        {name: (name.replace("again", "up"), first and gain, "?") for name, gain in gains.items()}
        for first in (False, True)
    ]
    tasks = [{"attribute": Scores(each, "accuracy", True, 0.0)} for each in rows]
    runs = {
        arm: {0: Measured(arm, t, [], {})} for arm, t in zip((BASELINE, "a"), tasks, strict=True)
    }
    found = SimpleNamespace(design=design(changes={"a": FACTORS["a"]}), runs=runs)

    def answered(folder, task):
        for name in gains:
            example = SimpleNamespace(
                id=name, box=None, answers=("yes", "yes"), question=name,
                sample=SimpleNamespace(images=()),
            )  # fmt: skip
            yield example, {"output": f"{folder} {name}", "truth": None}

    monkeypatch.setattr("lucida.study.pictures.find_answered", answered)
    cards = disagreements(found, "a")
    assert [(card.question, card.gain) for card in cards] == [("up", 100.0), ("down", -100.0)]
    assert cards[0].answers == ("baseline up", "a up") and cards[0].truth == "yes"


def test_charts_fit_wide_and_narrow_pages():
    both = charts.draw_both(charts.differences, [("arm", 1.0, -2.0, 4.0, "cannot tell")], 3.0)
    assert 'class="wide" viewBox="0 0 640' in both and 'class="narrow" viewBox="0 0 320' in both
    assert charts.draw_both(charts.radar, ["a", "b"], {}) == ""
    steps = charts.profile({"arm": [0.0, 50.0]})
    assert "L52.0,26.0 L52.0,141.0 L339.0,141.0 L339.0,256.0" in steps  # half reach 50 of 100
    for reach in (0.3, 1.0, 7.0, 55.0, 4000.0):
        for count in (5, 9):
            ticks = charts._ticks(reach, count)
            assert 3 <= len(ticks) <= count and 0 in ticks


def finding(arm, verdict, primary=True):
    return {"arm": arm, "verdict": verdict, "primary": primary, "mean": 1.0, "low": -1, "high": 3}


@pytest.mark.parametrize(
    ("verdicts", "judged"),
    [
        ({"a": "worse", "b": "better"}, AGREES),
        ({"a": "worse"}, OPEN),
        ({"a": "worse", "b": "cannot tell"}, OPEN),
        ({"a": "cannot tell", "b": "equivalent"}, DISAGREES),
        ({"a": "worse", "b": "equivalent"}, PARTLY),
    ],
)
def test_a_claim_is_judged_by_all_its_arms(verdicts, judged):
    claim = {"expects": {"a": ["worse"], "b": ["better"]}}
    assert judge(claim, [finding(*each) for each in verdicts.items()]) == judged
    assert judge(claim, [finding(*each, primary=False) for each in verdicts.items()]) == OPEN


def test_all_studies_on_a_page(tmp_path):
    with pytest.raises(RunError, match="no study here has a report"):
        write_summary(tmp_path)
    result = {
        "name": "two-stages", "findings": [finding("one-stage", "equivalent")], "hash": "1234",
        "ends": [{"state": "done"}] * 6, "waiting": 2, "sentences": ["one-stage does as well"],
        "machine": {"cpu": "a CPU", "python": "3.11", "packages": {"torch": "2"}},
    }  # fmt: skip
    (tmp_path / "two-stages").mkdir()
    (tmp_path / "two-stages" / "results.json").write_text(json.dumps(result))
    said = CliRunner().invoke(app, ["study", "report", "--all", "--out", str(tmp_path)])
    assert said.exit_code == 0, said.output
    page = (tmp_path / "RESULTS.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| [single-stage]"))
    assert "+1.0 (-1.0 to +3.0), equivalent; 4 of 6 runs so far | agrees |" in row
    assert "p = 0.0056" in row and "one seed" in row
    for claim in load_claims():
        if claim["study"] != "two-stages":
            assert (claim["why"] if not claim["study"] else f"study run {claim['study']}") in page
    figure = (tmp_path / "summary.svg").read_text()
    assert "one-stage (two-stages)" in figure and 'class="dot agrees"' in figure
    assert CliRunner().invoke(app, ["study", "report"]).exit_code != 0
