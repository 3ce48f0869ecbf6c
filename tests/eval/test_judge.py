"""A judge reads what the rule cannot, beside the official score."""

import json
from types import SimpleNamespace

import pytest
import test_endpoint
from PIL import Image
from test_endpoint import QUICK, words
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.core.errors import ModelError, RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.eval.answerers.endpoint import EndpointAnswerer
from lucida.eval.asking import Response
from lucida.eval.judge import PROMPT, read_verdict
from lucida.eval.plan import Options
from lucida.eval.run import evaluate_target

server = test_endpoint.server

REPLIES = {
    "0": "A",  # the rule reads it: right
    "1": "B",  # and this: wrong
    "2": "The reddish one, of course.",
    "3": "Either would do.",
    "4": "<think>A or B?</think> I mean the first one.",
    "5": "It is what it is.",
    "6": "",
    "7": "Perhaps, perhaps not.",
}
"""What the model says to each of eight questions, all of which the answer A is right to."""


class Says:
    protocols = ("generate",)
    identity = {"says": 1}  # noqa: RUF012

    def stream(self, examples, protocol, most):
        for number, example in enumerate(examples):
            yield number, Response(REPLIES[example.question.split()[1]])

    def read_box(self, text, width, height):
        return None


@pytest.fixture
def task(tmp_path):
    rows = []
    for number in REPLIES:
        Image.new("RGB", (8, 8), (int(number), 0, 0)).save(tmp_path / f"{number}.png")
        asked = f"question {number} which?\nA. crimson\nB. azure"
        rows.append({"image": f"{number}.png", "question": asked, "answer": "A"})
    path = tmp_path / "held.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "questions", "path": str(path)}
    return OwnTaskSpec.model_validate({"source": source, "metric": "letter"})


def verdict(body):
    text = words(body)
    assert "Write exactly one of these: A, B, or NONE" in text
    if "reddish one" in text or "the first one" in text:
        assert "A or B?" not in text, "thoughts are not judged"
        return " a. "
    return "NONE" if "Either" in text else "It is surely A, because"


def evaluate(task, folder, judge, limit=None):
    spec = EvaluationSpec(baselines=[], samples=100)
    options = Options(judge=judge)
    found = evaluate_target("x", lambda _: Says(), folder, spec, [task], limit, options)
    return found["tasks"]["held"]


def judge_at(server, name="big"):
    return EndpointAnswerer(server.address, name, 2, QUICK)


def test_only_the_unread_is_judged_and_the_score_stays(server, task, tmp_path):
    server.answer = verdict
    alone = evaluate(task, tmp_path / "alone", None)
    assert "judge" not in alone and (alone["score"], alone["malformed"]) == (1 / 8, 6)
    found = evaluate(task, tmp_path / "out", judge_at(server))
    judge = found.pop("judge")
    assert found == alone, "nothing of the official score depends on the judge"
    assert len(server.bodies) == 5 and {body["model"] for body in server.bodies} == {"big"}
    assert all("image_url" not in json.dumps(body) for body in server.bodies)
    counts = {name: judge[name] for name in ("asked", "read", "unreadable", "nonsense", "failed")}
    assert counts == {"asked": 6, "read": 2, "unreadable": 2, "nonsense": 2, "failed": 0}
    assert judge["score"] == 3 / 8 and judge["interval"][0] <= 3 / 8 <= judge["interval"][1]
    assert (judge["model"], judge["endpoint"]) == ("big", server.address)
    assert judge["prompt"] == PROMPT
    told = "37.5 as judge big read 2 of 6 outputs that the rule could not read"
    assert told in (tmp_path / "out" / "report.html").read_text()


def test_verdicts_are_kept_and_those_of_another_judge_are_not_used(server, task, tmp_path):
    server.answer = verdict
    first = evaluate(task, tmp_path, judge_at(server), 5)
    before = len(server.bodies)
    assert evaluate(task, tmp_path, judge_at(server), 5) == first
    assert len(server.bodies) == before, "nothing is asked twice"
    assert evaluate(task, tmp_path, None, 5)["judge"] == first["judge"], "it stays in the results"
    server.answer = lambda body: "B"
    other = evaluate(task, tmp_path, judge_at(server, "other"), 5)["judge"]
    assert len(server.bodies) == 2 * before and other["model"] == "other"
    assert other["score"] < first["judge"]["score"]


@pytest.mark.parametrize(
    ("said", "read"),
    [("U.S.", "U.S."), ("**u.s.**", "U.S."), ("(UK).", "UK"), ("**UK**.", "UK"), ("f(x)", "f(x)"),
     ("None.", None), ("U", None), ("", None)],
)  # fmt: skip
def test_a_verdict_is_a_choice_as_it_is_written_or_without_marks(said, read):
    example = SimpleNamespace(candidates=("U.S.", "UK", "f(x)"), options=())
    task = SimpleNamespace(
        parse=lambda example, output, read_box: output, is_read=lambda example, parsed: bool(parsed)
    )
    assert read_verdict(task, example, Response(said), None)[1] == read


def test_what_is_refused_or_late_is_counted_and_asked_again(server, task, tmp_path):
    server.answer = verdict
    server.troubles = [400, 400]
    told = evaluate(task, tmp_path, judge_at(server))["judge"]
    assert told["failed"] == 2 and told["read"] + told["unreadable"] + told["nonsense"] == 4
    assert evaluate(task, tmp_path, judge_at(server))["judge"]["failed"] == 0


@pytest.mark.parametrize(
    ("troubles", "error", "message"),
    [([401] * 50, ModelError, "HTTP 401"),
     (["slow"] * 50, RunError, r"answered none of 5 replies to held.*no answer in time"),
     (["page"] * 50, RunError, r"answered none of 5 replies to held.*damaged")],
)  # fmt: skip
def test_a_judge_that_never_answers_leaves_the_official_score(
    server,
    task,
    tmp_path,
    troubles,
    error,
    message,
):
    server.troubles = troubles
    with pytest.raises(error, match=message):
        evaluate(task, tmp_path, judge_at(server))
    found = RunFolder(tmp_path).results.tasks["held"]
    assert found.score == 1 / 8 and found.judge is None
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--judge", "http://x/v1"], "add --judge-model NAME"),
     (["--judge-model", "big"], "add --judge URL"),
     (["--judge", "big", "--judge-model", "big"], "address of an OpenAI-compatible endpoint")],
)  # fmt: skip
def test_half_a_judge_is_refused(words, message, tmp_path):
    done = CliRunner().invoke(
        app, ["eval", "hf:x", "--task", "pope", "--out", str(tmp_path), *words]
    )
    assert done.exit_code == 1 and message in " ".join(done.output.split())
