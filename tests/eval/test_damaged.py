"""Run files that are damaged or of another shape: told before the asking, or told on the page."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import LucidaError, RunError
from lucida.core.results import check_logged, check_whole, read_results
from lucida.core.runs import RunFolder, list_runs
from lucida.eval.curve import loss_curve, score_curves, source_curves
from lucida.eval.difference import differences
from lucida.eval.report import write_report
from lucida.eval.run import evaluate_run

NO_JSON = [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"9" * 5_000]
OTHER = [b"null", b"[]", b"3", b'"x"', b"[1]"]


def edited(change):
    """What writes a JSON file anew after a change of its content."""

    def edit(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def each_task(**changes):
    return edited(lambda content: [task.update(changes) for task in content["tasks"].values()])


def without(*fields):
    return edited(lambda c: [task.pop(f) for task in c["tasks"].values() for f in fields])


RESULTS = {
    "no JSON": [lambda path, b=b: path.write_bytes(b) for b in (*NO_JSON, *OTHER)],
    "a task lacks something": [without(f) for f in ("n", "metric", "interval", "chance", "score")],
    "another kind": [
        each_task(**{field: wrong})
        for field, wrong in {
            "score": "x", "n": 1.5, "interval": [1], "metric": 3, "chance": None, "blind": "0.1",
            "gain": [1], "kinds": [], "failed": "no", "way": 7, "predictions": ["a"], "of": {},
            "totals": {"a": "b"}, "shots": {"2": 3}, "ways": {"x": {}}, "baselines": {"x": 1},
        }.items()
    ],
    "no number": [each_task(score=float("nan")), each_task(interval=[0, float("inf")])],
    "tasks is no object": [edited(lambda c, w=w: c.update(tasks=w)) for w in ([1], None, "x", 3)],
    "the rest": [
        edited(lambda c, k=k, w=w: c.update({k: w}))
        for k, w in (("seconds", [1]), ("seconds", {"train": "long"}), ("others", {"a": {}}),
                     ("retention", 3), ("answers", []), ("failed", {"a": "b"}))
    ],
}  # fmt: skip


@pytest.fixture
def evaluated(run):
    evaluate_run(run.path, limit=5)
    run.asked.clear()
    return run


@pytest.mark.parametrize("kind", RESULTS)
def test_damaged_results_are_told_before_anything_is_asked(evaluated, kind):
    whole = evaluated.results_file.read_bytes()
    for damage in RESULTS[kind]:
        evaluated.results_file.write_bytes(whole)
        damage(evaluated.results_file)
        for use in (
            lambda: evaluate_run(evaluated.path, ["attribute"], 7),
            lambda: write_report(evaluated.path),
        ):
            with pytest.raises(RunError, match=r"results\.json"):
                use()
        listed = [each for each in list_runs(evaluated.path.parent) if each.path == evaluated.path]
        assert [each.state for each in listed] in (["evaluated"], ["unreadable"])
    assert evaluated.asked == {}
    evaluated.results_file.unlink()  # what the message says helps, without asking again
    evaluate_run(evaluated.path, limit=5)
    assert [len(asked) for asked in evaluated.asked["run"]] == [0]


LOG = {
    "metrics.jsonl": [
        *(b + b"\n" for b in (*NO_JSON[1:], *OTHER)),
        b'{"step": 1, "stage": "a", "loss": []}\n',
        b'{"step": "1", "loss": 2.0}\n',
        b'{"step": 1, "stage": 3, "loss": 2.0}\n',
        b'{"step": 1, "loss": NaN}\n',
        b'{"step": 1, "loss": 1.0, "source_loss": {"a": 1.0}}\n',
        b'{"step": 1, "loss": 1.0, "source_loss": {"a": 1.0}, "source_supervised": {"a": "b"}}\n',
        b'{"step": 1, "evaluation": {"tasks": {"a": {"score": 1.0}}}}\n',
        b'{"step": 1, "evaluation": 3}\n',
        b'{"step": 1, "seconds": "long"}\n',
    ],
    "environment.json": [*NO_JSON, *OTHER],
}


@pytest.mark.parametrize("file", LOG)
def test_other_damaged_files_cost_their_part_of_the_page(evaluated, file):
    for content in LOG[file]:
        (evaluated.path / file).write_bytes(content)
        evaluate_run(evaluated.path, limit=5)
        html = evaluated.report_file.read_text()
        assert "Not shown: " in html and file in html
        assert "Scores on held-out pictures" in html
    (evaluated.path / file).unlink()
    assert "Not shown: " not in write_report(evaluated.path).read_text()


def test_odd_but_whole_logs_are_drawn(evaluated):
    odd = "a $x^ {name} \ud83d <b>"
    rows = [
        {"step": s, "stage": odd, "loss": None, "source_loss": {odd: 1.0, "b": None},
         "source_supervised": {odd: 0, "b": 0},
         "evaluation": {"step": s, "tasks": {odd: {"score": 0.1, "interval": [0, 1]},
                                             "b": {"score": None, "interval": [None, None]}}}}
        for s in (0, 1, 10**12)
    ]  # fmt: skip
    evaluated.metrics.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = write_report(evaluated.path).read_text()
    assert "Not shown: " not in html
    assert "{name} \ufffd &lt;b&gt;" in html and "{name} \ufffd <b>" not in html


ROWS = [
    b'{"a": 1}', b"[1]", b"null", b"{", b"\xff", b'{"id": 1, "score": 1.0, "output": "x"}',
    b'{"id": "x", "score": "1", "output": "x"}', b'{"id": "x", "score": NaN, "output": "x"}',
    b'{"id": "x", "score": 1.0}', b'{"id": "x", "score": 1.0, "output": "y", "cluster": []}',
    b'{"id": "x", "score": 1' + b"0" * 400 + b', "output": "y"}',
]  # fmt: skip


@pytest.mark.parametrize("place", ["predictions", "blind/predictions"])
def test_damaged_predictions(evaluated, place):
    file = evaluated.path / place / "attribute.jsonl"
    whole = file.read_bytes()
    for row in ROWS:
        file.write_bytes(whole + row + b"\n")
        try:  # a row without score is one that was never answered
            html = write_report(evaluated.path).read_text()
            differences(evaluated.path, evaluated.path)
        except LucidaError as problem:
            assert "attribute.jsonl" in str(problem)
        else:
            assert "Not shown: " in html or b"score" not in row
        with pytest.raises(RunError, match=r"attribute\.jsonl"):
            evaluate_run(evaluated.path, limit=5)
    assert sum(map(len, evaluated.asked.get("run", []))) == 0, "told before anything is asked"


def test_a_box_that_is_none_is_shown_as_what_was_written(evaluated):
    file = evaluated.path / "predictions" / "boxes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, parsed in zip(rows, ("abcd", [1, 2, 3], ["a"] * 4, {"x": 1}, 7), strict=True):
        row["parsed"] = parsed
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert write_report(evaluated.path).read_text().count("no box: ") >= 1


def test_a_folder_that_is_neither(tmp_path):
    with pytest.raises(RunError, match=r"neither a run \(recipe\.yaml\) nor"):
        write_report(tmp_path)
    for text in (
        "{",
        "[]",
        "{}",
        '{"target": "x"}',
        '{"target": "x", "evaluation": {"limit": -1}}',
    ):
        (tmp_path / "target.json").write_text(text)
        with pytest.raises(RunError, match=r"target\.json"):
            write_report(tmp_path)


def test_a_damaged_blind_run_is_told_before_anything_is_asked(run):
    (run.path / "blind" / "recipe.yaml").write_text("{")
    with pytest.raises(LucidaError, match=r"recipe\.yaml"):
        evaluate_run(run.path, limit=5)
    (run.path / "blind" / "recipe.yaml").write_bytes(run.recipe_file.read_bytes())
    (run.path / "blind" / "predictions").mkdir()
    (run.path / "blind" / "predictions" / "settings.json").write_text("{")
    with pytest.raises(RunError, match=r"settings\.json"):
        evaluate_run(run.path, limit=5)
    assert run.asked == {}


def test_text_of_any_kind_can_stand_in_the_files(evaluated):
    for name in ("predictions", "blind/predictions"):
        file = evaluated.path / name / "attribute.jsonl"
        rows = [
            json.loads(line) | {"output": "\ud83d\x00"} for line in file.read_text().splitlines()
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "\ufffd" in write_report(evaluated.path).read_text(encoding="utf-8")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["tasks", "others", "score", "interval", "n", "a", "gain", "stages"])
            | st.text(max_size=2),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(["tasks", "others", "seconds", "retention"]), json_values))
def test_only_told_errors_come_out_of_results(content):
    try:
        check_whole(read_results(content, "results.json"), "results.json")
    except RunError as problem:
        assert "results.json" in str(problem)


FIELDS = ["step", "stage", "loss", "source_loss", "source_supervised", "evaluation", "seconds",
          "validation_loss", "retention"]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values), max_size=3))
def test_only_told_errors_come_out_of_logs(rows):
    try:
        check_logged(rows, "metrics.jsonl")
    except RunError:
        return
    for curve in (loss_curve, score_curves, source_curves):
        assert isinstance(curve(rows), str)


def test_runs_are_listed_whatever_they_hold(tmp_path, run):
    for number, content in enumerate([*NO_JSON, *OTHER]):
        for file in ("results.json", "metrics.jsonl", "dropped.jsonl", "recipe.yaml"):
            made = RunFolder(tmp_path / "many" / f"{file}-{number}").prepare()
            made.recipe_file.write_bytes(run.recipe_file.read_bytes())
            (made.path / file).write_bytes(content + b"\n")
    (tmp_path / "many" / "odd" / "results.json").mkdir(parents=True)
    (tmp_path / "many" / "odd" / "recipe.yaml").write_bytes(run.recipe_file.read_bytes())
    found = list_runs(tmp_path / "many")
    assert len(found) == 4 * len([*NO_JSON, *OTHER]) + 1
    assert all(each.problem for each in found if each.state == "unreadable")
