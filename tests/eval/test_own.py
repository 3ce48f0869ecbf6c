"""Your own records as a benchmark: what is asked, how each metric compares, what is refused."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from lucida.apps.ahead import check_evaluation, following
from lucida.apps.cli import app
from lucida.core.errors import DataError, LucidaError, RunError
from lucida.core.recipe import load_recipe
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.eval import benchmarks
from lucida.eval.asking import Job, Response, explain_errors
from lucida.eval.benchmarks import load_task
from lucida.eval.benchmarks.own import OwnTask
from lucida.eval.difference import differences
from lucida.eval.gallery import gallery
from lucida.eval.plan import Options
from lucida.eval.run import evaluate_run

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}


def turns(*texts):
    speakers = ("human", "gpt") * len(texts)
    return [{"from": who, "value": text} for who, text in zip(speakers, texts, strict=False)]


def write_llava(path, records):
    """A LLaVA file with a picture of one colour for each record that names one."""
    for number, record in enumerate(records):
        colour = record.get("colour")
        if colour is not None:
            record["image"] = f"{number}.png"
            Image.new("RGB", (20, 10), COLOURS[colour]).save(path.parent / record["image"])
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def colours(tmp_path):
    """24 pictures with the same question, in a file that is sorted by its answer."""
    records = [
        {
            "colour": name,
            "shape": "ab"[n % 2],
            "conversations": turns("<image>\nwhich colour?", name),
        }
        for name in COLOURS
        for n in range(8)
    ]
    return write_llava(tmp_path / "held out.json", records)


def own(path, metric="exact", kind="llava", **rest):
    source = {"kind": kind, "path": str(path)} | rest.pop("source", {})
    return OwnTaskSpec.model_validate({"source": source, "metric": metric, **rest})


def one(tmp_path, question, answer, metric, **rest):
    """The task of a single record without picture."""
    record = {"conversations": turns(question, answer), **rest.pop("fields", {})}
    return OwnTask(own(write_llava(tmp_path / "one.json", [record]), metric, **rest))


def scored(task, *outputs):
    """Scores of outputs for the task's first example."""
    (example, *_) = task.examples()
    read = lambda text, width, height: None  # noqa: E731
    return [task.scores([example], [task.parse(example, each, read)])[0] for each in outputs]


def test_every_answer_is_an_example_in_a_fixed_shuffled_order(colours):
    task = load_task(own(colours, by="shape"))
    examples = task.examples()
    assert (task.name, task.count, len(examples)) == ("held-out", 24, 24)
    assert {e.question for e in examples} == {"which colour?"}
    assert len({e.answer for e in examples[:6]}) > 1, "a sorted file is not asked in its order"
    assert task.examples(6) == examples[:6]
    assert sorted(e.kind for e in examples) == ["a"] * 12 + ["b"] * 12
    for example in examples:
        pixel = example.sample.images[0].load().getpixel((0, 0))
        assert pixel == COLOURS[example.answer]
        assert [turn.role for turn in example.sample.branches[0]] == ["user"]
    assert task.protocols == ("generate", "likelihood")
    assert examples[0].candidates == ("blue", "green", "red")
    assert OwnTask(own(colours)).examples()[3].id == examples[3].id


def test_a_conversation_is_asked_turn_by_turn_behind_its_own_answers(tmp_path):
    talk = turns("what is it?", "a kite", "of which colour?", "red")
    task = OwnTask(own(write_llava(tmp_path / "talk.json", [{"conversations": talk}])))
    second, first = sorted(task.examples(), key=lambda e: -len(e.question))
    assert (first.id, first.question, first.answers) == ("talk/0.0", "what is it?", ("a kite",))
    assert second.question == "user: what is it?\nassistant: a kite\nuser: of which colour?"
    assert [turn.role for turn in second.sample.branches[0]] == ["user", "assistant", "user"]
    assert second.answers == ("red",)


def test_pictures_that_come_later_are_not_shown_earlier(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    talk = turns("<image>\nwhat is it?", "a kite", "and <image>?", "a hat")
    file = tmp_path / "two.json"
    file.write_text(json.dumps([{"image": ["a.png", "b.png"], "conversations": talk}]))
    first, second = sorted(OwnTask(own(file)).examples(), key=lambda e: e.id)
    assert [len(e.sample.images) for e in (first, second)] == [1, 2]


def test_records_that_ask_the_same_of_a_picture_are_one_example_with_several_answers(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text"])
        writer.writerows([["a.png", "a black square"], ["b.png", "a red square"]])
        writer.writerow(["a.png", "all black"])
    spec = own(tmp_path / "captions.csv", "cider", "pairs", source={"prompts": ["describe it"]})
    task = OwnTask(spec)
    answers = sorted(example.answers for example in task.examples())
    assert answers == [("a black square", "all black"), ("a red square",)]
    best, none = task.scores(task.examples(), [e.answers[0] for e in task.examples()]), ["", ""]
    assert min(best) > 0 and task.scores(task.examples(), none) == [0.0, 0.0]
    assert task.summary(task.examples(), none, [0.0, 0.0])["CIDEr-D"] == 0.0


@pytest.mark.parametrize(
    ("metric", "answer", "outputs", "scores"),
    [
        ("exact", "red", ["Red.", "the red", "red star", ""], [1, 1, 0, 0]),
        ("contains", "red star", ["it is a red star!", "a red, big star", "starred"], [1, 0, 0]),
        ("anls", "kitten", ["kitten", "kittin", "dog"], [1, 5 / 6, 0]),
        ("relaxed", "10", ["10.5", "10.6", "9.5", "ten"], [1, 0, 1, 0]),
        ("vqa", "two", ["2", "Two.", "three"], [1, 1, 0]),
        ("regex", r"\b(two|2)\b", ["about 2 kites", "TWO", "twofold"], [1, 1, 0]),
    ],
)  # fmt: skip
def test_metrics_of_text(tmp_path, metric, answer, outputs, scores):
    task = one(tmp_path, "how many?", answer, metric)
    assert scored(task, *outputs) == pytest.approx(scores)


def test_letters_are_read_from_the_options_in_the_question(tmp_path):
    question = "Which one?\nA. an ear\nB. an eye"
    for answer in ("B", "(B)", "B. an eye", "an eye"):
        task = one(tmp_path, question, answer, "letter")
        assert task.examples()[0].answers == ("B",)
        assert scored(task, "The answer is (B)", "an eye", "A", "A or B") == [1, 1, 0, 0]
    assert task.protocols == ("generate", "likelihood")


def test_either_of_two_right_letters_counts(tmp_path):
    question = "Which ones?\nA. an ear\nB. an eye\nC. a nose"
    records = [{"conversations": turns(question, each)} for each in "AC"]
    task = OwnTask(own(write_llava(tmp_path / "two.json", records), "letter"))
    assert [example.answers for example in task.examples()] == [("A", "C")]
    assert scored(task, "A", "B", "C") == [1, 0, 1]


def test_all_right_answers_may_stand_in_a_field(tmp_path):
    fields = {"all": ["red", "crimson"]}
    task = one(tmp_path, "colour?", "red", "exact", answers="all", fields=fields)
    assert scored(task, "crimson", "blue") == [1, 0]
    fields = {"all": [{"answer": "red"}] * 3 + [{"answer": "maroon"}] * 7}
    task = one(tmp_path, "colour?", "red", "vqa", answers="all", fields=fields)
    assert scored(task, "red", "maroon", "blue") == pytest.approx([0.9, 1, 0])


def test_boxes_come_from_sources_that_have_them(tmp_path):
    spec = {"source": {"kind": "world", "tasks": ["boxes"], "count": 3, "split": "test"}}
    task = OwnTask(OwnTaskSpec.model_validate(spec | {"metric": "iou"}))
    assert task.name == "world"
    examples = task.examples()
    assert all(e.box is not None and e.size == (64, 64) for e in examples)
    assert task.scores(examples, [e.box for e in examples]) == [1.0] * len(examples)
    with pytest.raises(DataError, match="exact does not fit") as caught:
        OwnTask(OwnTaskSpec.model_validate(spec | {"metric": "exact"})).examples()
    assert "a box" in str(caught.value)


@pytest.mark.parametrize(
    ("question", "answer", "metric", "rest", "expected"),
    [
        ("how many?", "two", "iou", {}, "one box"),
        ("how many?", "two", "letter", {}, "options"),
        ("Which?\nA. ear\nB. eye", "C", "letter", {}, "A or B"),
        ("how many?", "(two", "regex", {}, "a pattern"),
        ("describe it", "a kite", "cider", {}, "two pictures"),
        ("colour?", "red", "vqa", {"answers": "all"}, "one answer"),
    ],
)
def test_a_metric_refuses_an_answer_of_another_kind(
    tmp_path, question, answer, metric, rest, expected
):
    fields = {"all": ["red", "blue"]}
    with pytest.raises(DataError, match=f"the metric {metric} does not fit") as caught:
        one(tmp_path, question, answer, metric, fields=fields, **rest).examples()
    assert expected in str(caught.value)
    assert "one.json" in str(caught.value)


def test_what_is_not_there_is_named_with_its_record(tmp_path):
    def refused(records, **rest):
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(records))
        with pytest.raises(DataError) as caught:
            OwnTask(own(path, **rest)).examples()
        return caught.value

    good = {"conversations": turns("colour?", "red"), "shape": "a"}
    silent = refused([good, {"conversations": turns("colour?")}])
    assert "without an answer" in str(silent) and "record 1" in str(silent)
    empty = refused([good, {"conversations": turns("colour?", " ")}])
    assert "without an answer" in str(empty) and "record 1" in str(empty)
    assert "no field `shap`" in str(refused([good], by="shap"))
    assert "names no group" in str(refused([good | {"shape": None}], by="shape"))
    assert "without an answer" in str(refused([good | {"all": []}], answers="all"))
    several = {"conversations": turns("a?", "b", "c?", "d"), "all": ["b"]}
    assert "several questions" in str(refused([several], answers="all"))
    world = {"source": {"kind": "world", "tasks": ["attribute"], "count": 1}, "metric": "exact"}
    with pytest.raises(DataError, match="have no fields"):
        OwnTask(OwnTaskSpec.model_validate(world | {"by": "shape"})).examples()


@pytest.fixture
def faults(tmp_path):
    """Eight records; the picture of one is cut off, that of another is not there, and one has no
    answer."""
    names = ["red", "blue", "green", "red"] * 2
    records = [{"colour": c, "conversations": turns("<image>\nwhich colour?", c)} for c in names]
    path = write_llava(tmp_path / "faults.json", records)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    records[4]["image"] = "gone.png"
    records[6]["conversations"][1]["value"] = ""
    path.write_text(json.dumps(records))
    return path


def test_records_that_cannot_be_asked_are_left_out_and_counted(faults):
    task = OwnTask(own(faults, on_error="skip"))
    asked = {example.id for example in task.examples()}
    assert asked == {f"faults/{number}" for number in (0, 2, 3, 5, 7)}
    assert task.left_out["records"] == 3
    assert "record 1 " in task.left_out["first"] and "damaged" in task.left_out["first"]
    first = OwnTask(own(faults, on_error="skip"))
    assert [e.id for e in first.examples(3)] == [e.id for e in task.examples()][:3]


def test_rows_of_one_question_are_counted_each_where_their_picture_is_gone(tmp_path):
    write_llava(tmp_path / "a.json", [{"colour": "red", "conversations": turns("<image>?", "x")}])
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    rows = ["image,question,answer", "0.png,what?,red", "cut.png,what?,red", "cut.png,what?,blue"]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(rows))
    task = OwnTask(own(path, kind="questions", on_error="skip"))
    assert [example.answers for example in task.examples()] == [("red",)]
    assert task.left_out["records"] == 2


def test_a_file_in_which_nothing_can_be_asked_is_an_error(faults):
    records = [record | {"image": "gone.png"} for record in json.loads(faults.read_text())]
    faults.write_text(json.dumps(records))
    with pytest.raises(DataError, match=r"none of 8 records can be asked; the first: .*record 0 "):
        OwnTask(own(faults, on_error="skip")).examples()


def test_what_leaves_records_out_is_told_where_one_cannot_be_asked(faults):
    with pytest.raises(DataError, match=r"record 4 .*gone\.png.*--skip"):
        OwnTask(own(faults)).examples()
    records = json.loads(faults.read_text())
    faults.write_text(json.dumps([records[0], records[1]]))
    task = OwnTask(own(faults))
    broken = next(e for e in task.examples() if e.id == "faults/1")

    def stream():
        yield 0, Response("red")
        broken.sample.images[0].load()

    job = Job("faults", task, "generate", task.examples())
    found = []
    with pytest.raises(DataError, match=r"record 1 .*1\.png.*damaged.*on_error: skip.*--skip"):
        found.extend(explain_errors(stream(), [(job, broken)]))

    def other():
        yield 0, Response("red")
        raise DataError("a prompt is too long", origin=broken.sample.origin)

    with pytest.raises(DataError, match=r"too long$"):
        list(explain_errors(other(), [(job, broken)]))


def test_a_run_tells_what_was_left_out(run, faults):
    words = ["--data", str(faults), "--metric", "exact"]
    refused = CliRunner().invoke(app, ["eval", str(run.path), *words])
    assert refused.exit_code == 1 and "--skip" in refused.output
    done = CliRunner().invoke(app, ["eval", str(run.path), *words, "--skip"])
    assert done.exit_code == 0, done.output
    task = json.loads(run.results_file.read_text())["tasks"]["faults"]
    assert task["n"] == 5 and task["left_out"]["records"] == 3
    told = "3 records cannot be asked and were left out; the first: "
    assert f"faults: {told}" in " ".join(done.output.split())
    assert told in run.report_file.read_text()
    found = evaluate_run(run.path, [own(faults, on_error="skip")])
    assert len(run.asked["run"][-1]) == 0, "nothing is asked twice"
    assert found["tasks"]["faults"]["left_out"]["records"] == 3


def test_documents_ask_nothing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a black square")
    with pytest.raises(DataError, match=r"nobody asks anything.*prompts"):
        OwnTask(own(tmp_path, "exact", "folder")).examples()


def test_two_sources_for_one_name_are_refused(colours, tmp_path, run):
    first, second = own(colours), own(colours, "contains")
    with pytest.raises(ValidationError, match="two different tasks are called `held-out`"):
        EvaluationSpec(tasks=[first, second])
    EvaluationSpec(tasks=[first, second.model_copy(update={"name": "other"})])
    with pytest.raises(LucidaError, match="`gqa` is a benchmark already"):
        load_task(own(colours, name="gqa"))
    evaluate_run(run.path, [first], 3)
    with pytest.raises(RunError, match="another metric"):
        evaluate_run(run.path, [second], 3)
    other = tmp_path / "elsewhere" / "held out.json"
    shutil.copytree(tmp_path, other.parent, ignore=shutil.ignore_patterns("run", "elsewhere"))
    evaluate_run(run.path, [own(other)], 3)
    assert len(run.asked["run"][-1]) == 0, "a copy holds the same records"
    evaluate_run(run.path, [first], 3)
    records = json.loads(other.read_text())
    other.write_text(json.dumps(records[4:]))
    benchmarks._own.cache_clear()
    with pytest.raises(RunError, match=r"another source.*elsewhere"):
        evaluate_run(run.path, [own(other)], 3)


def test_a_recipe_names_mistakes_with_their_place(tmp_path):
    def load(text):
        file = tmp_path / "mine.yaml"
        file.write_text(f"base: mini\nname: mine\nchanges:\n  evaluation.tasks: {text}\n")
        return load_recipe(str(file))

    recipe = load("[attribute, {source: {kind: llava, path: a.json}, metric: anls, by: page}]")
    assert recipe.evaluation.names == ["attribute", "a"]
    assert load_recipe(str(tmp_path / "mine.yaml")) == recipe
    with pytest.raises(LucidaError, match=r"metric.*accuracy"):
        load("[{source: {kind: llava, path: a.json}, metric: accuracy}]")
    with pytest.raises(LucidaError, match="lava"):
        load("[{source: {kind: lava, path: a.json}, metric: exact}]")
    with pytest.raises(LucidaError, match="metric"):
        load("[{source: {kind: llava, path: a.json}}]")


def test_a_training_stops_before_its_first_step_where_the_file_is_wrong(tmp_path):
    """As the files of its sources do: not after hours."""
    file = write_llava(tmp_path / "held.json", [{"conversations": turns("colour?", "red")}])
    task = {"source": {"kind": "llava", "path": str(file)}, "metric": "exact"}
    recipe = load_recipe("mini", [f"evaluation.tasks={json.dumps([task])}"])
    check_evaluation(recipe)
    assert following(recipe, tmp_path / "run") == (["eval", str(tmp_path / "run")], [])
    file.write_text(json.dumps([{"conversations": turns("colour?")}]))
    other = load_recipe("mini", [f"evaluation.tasks={json.dumps([task | {'name': 'b'}])}"])
    with pytest.raises(DataError, match=r"held\.json: record 0.*without an answer"):
        check_evaluation(other)


def test_a_run_is_measured_on_own_records_with_all_that_stands_beside_a_score(run, colours):
    results = evaluate_run(
        run.path, [own(colours, by="shape")], options=Options(("generate", "likelihood"))
    )
    task = results["tasks"]["held-out"]
    assert (task["n"], task["of"], task["metric"]) == (24, 24, "exact match")
    assert task["prompts"] == "as written"
    assert task["interval"][0] <= task["score"] <= task["interval"][1]
    assert task["majority"] == pytest.approx(1 / 3) == task["chance"]
    assert set(task["kinds"]) == {"a", "b"}
    assert task["blind"] == task["blind_solved"] < task["score"]
    assert task["ways"]["likelihood"]["n"] == 24
    assert 0.2 < task["resolves"] < 0.6
    assert task["own"]["by"] == "shape"
    shots = gallery(run.path, "held-out")
    assert len(shots) == 8 and all(shot.images for shot in shots)
    page = run.report_file.read_text()
    assert "the blind model answers" in page and "can be told from chance" in page
    evaluate_run(run.path, [own(colours, by="shape")])
    assert len(run.asked["run"][-1]) == 0, "nothing is asked twice"


def test_records_that_change_are_asked_again(run, colours, capsys):
    evaluate_run(run.path, [own(colours)])
    records = json.loads(colours.read_text())
    records[0]["conversations"][1]["value"] = "crimson"
    colours.write_text(json.dumps(records[:20]))
    benchmarks._own.cache_clear()
    results = evaluate_run(run.path, [own(colours)])
    assert len(run.asked["run"][-1]) == 20
    assert results["tasks"]["held-out"]["n"] == 20
    assert "records have changed" in capsys.readouterr().err


def test_a_judge_gets_a_file(run, colours):
    results = evaluate_run(run.path, [own(colours, "judge-export", name="talk")], 5)
    assert results["answers"] == {"talk": "answers/talk.jsonl"}
    rows = [json.loads(line) for line in (run.path / "answers/talk.jsonl").open()]
    assert len(rows) == 5
    assert set(rows[0]) == {"id", "record", "pictures", "question", "answers", "output", "model"}


def test_two_runs_are_compared_on_the_same_questions_only(run, colours, tmp_path):
    evaluate_run(run.path, [own(colours)])
    blind = run.path / "blind"
    evaluate_run(blind, [own(colours)])
    (found,) = differences(run.path, blind)
    assert found.gain.n == 24 and found.gain.mean < 0
    file = blind / "predictions" / "held-out.jsonl"
    rows = [json.loads(line) for line in file.open()]
    rows[0]["prompt"] = "which one?"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = differences(run.path, blind)
    assert (found.gain.n, found.only) == (23, (1, 1))


def test_the_command_measures_a_file(run, colours):
    def asked(*words):
        return CliRunner().invoke(app, ["eval", str(run.path), *words])

    done = asked("--data", str(colours), "--metric", "exact", "--by", "shape", "--name", "mine")
    assert done.exit_code == 0, done.output
    assert "mine" in json.loads(run.results_file.read_text())["tasks"]
    said = " ".join(done.output.split())
    assert "mine: by shape: a " in said and said.count(" (12)") == 2
    assert "mine: the most usual answer is right in 33.3" in said
    assert f"wrote {run.report_file}" in said
    for words, message in [
        (["--metric", "exakt", "--data", str(colours)], "exact"),
        (["--metric", "exact"], "--data"),
        (["--by", "shape"], "--metric"),
        (["kind=llava"], "--metric"),
        (["--skip"], "--metric"),
        (["--data", str(colours)], "--metric exact"),
        (["--data", str(colours), "--metric", "exact", "--task", "gqa"], "--name"),
        (["--data", str(colours), "--metric", "exact", "--prompts", "llava"], "as written"),
        (["--data", str(colours), "--metric", "exact", "kind=pears"], "pairs"),
    ]:
        refused = asked(*words)
        assert refused.exit_code == 1, words
        assert message in " ".join(refused.output.split()), refused.output


DOCUMENT = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_document_does_what_it_says(run, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other"):
        shutil.copytree(run.path, tmp_path / "runs" / name)
    records = [record | {"category": record["shape"]} for record in json.loads(colours.read_text())]
    Path("held-out.json").write_text(json.dumps(records))
    names = {}
    for block in blocks("python"):
        exec(compile(block, "measuring.md", "exec"), names)
    assert set(names["scores"]["kinds"]) == {"a", "b"}
    evaluate_run("runs/other", [names["task"]])
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)[1:]
        if not {"hf:path/to/model", "held-out.csv", "held-out.tar", "runs/large"}.intersection(
            words
        ):
            if words[0] == "data":  # they need the model itself: tests/apps/test_data_known.py
                words = [*words[:2], "--help"]
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
    changes = ["evaluation.tasks=" + re.search(r"tasks:\n(.*)", blocks("yaml")[0], re.DOTALL)[1]]
    assert load_recipe("mini", changes).evaluation.names == ["held-out", "attribute"]


def test_a_comparison_names_recipes_and_validation_losses(run, colours):
    for folder, loss in ((run.path, 2.5), (run.path / "blind", 3.0)):
        evaluate_run(folder, [own(colours)])
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"stage": "sft", "step": 20, "validation_loss": loss}) + "\n")
    recipe = (run.path / "recipe.yaml").read_text()
    (run.path / "blind" / "recipe.yaml").write_text(recipe.replace("limit: 40", "limit: 30"))
    done = CliRunner().invoke(app, ["eval", "diff", str(run.path), str(run.path / "blind")])
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "+0.5000" in shown and "evaluation.limit: 40 -> 30" in shown
    page = (run.path / "blind" / "diff.html").read_text()
    assert "+0.5000" in page and "evaluation.limit" in page
