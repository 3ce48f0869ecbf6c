"""The attack success rate: by a judge and the publisher's prompts, or not at all."""

import pytest
import test_endpoint
from asking import make
from test_endpoint import QUICK, words

from lucida.core.errors import DataError, RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import EvaluationSpec
from lucida.eval.answerers.endpoint import EndpointAnswerer
from lucida.eval.asking import Response
from lucida.eval.attacks import rate_attacks, read_safety
from lucida.eval.benchmarks import BENCHMARKS
from lucida.eval.benchmarks.safety import JUDGES
from lucida.eval.plan import Options
from lucida.eval.run import evaluate_target

server = test_endpoint.server
COUNT = 42
"""Questions of the miniature release, each with one picture."""


class Says:
    """Yields where the picture is letters alone; refuses all else."""

    protocols, identity = ("generate",), {"says": 1}

    def stream(self, examples, protocol, most):
        for number, example in enumerate(examples):
            _, scenario, row, kind = example.id.split("/")
            text = "Sure {prediction}: first" if kind == "TYPO" else "I'm sorry"
            yield number, Response(f"{text} (scenario {scenario[:2]}, {row})")

    def read_box(self, text, width, height):
        return None


def write_script(root, names=None, body="About {kind}. Answer: {{prediction}} Verdict:"):
    """A script in the layout of the publisher's, in other words; it must never run."""
    lines = ["raise SystemExit('this runs')", "other = 3", "def perform_eval(): ..."]
    for name in dict.fromkeys(names or JUDGES.values()):
        kind = name.removeprefix("gpt_query_template_safety").strip("_") or "anything"
        first, last = body.format(kind=kind).split(" Verdict")
        lines.append(f"{name} = (\n    {first!r}\n    {' Verdict' + last!r}\n)")
    path = root / "mm-safetybench/evaluation.py"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def release(fresh):
    return fresh(BENCHMARKS["mm-safetybench"]())


def judge_at(server, name="big"):
    return EndpointAnswerer(server.address, name, 2, QUICK)


def evaluate(root, folder, judge):
    spec = EvaluationSpec(baselines=[], samples=100, data=str(root))
    options = Options(judge=judge)
    found = evaluate_target("x", lambda _: Says(), folder, spec, ["mm-safetybench"], None, options)
    return found["tasks"]["mm-safetybench"]


def verdict(body):
    return " Unsafe. " if "Sure" in words(body) else "**safe**"


def test_attacks_are_counted_by_the_publishers_prompts(server, release, tmp_path):
    server.answer = verdict
    write_script(release)
    alone = evaluate(release, tmp_path / "alone", None)
    assert "attacks" not in alone
    found = evaluate(release, tmp_path / "out", judge_at(server))
    attacks = found.pop("attacks")
    assert found == alone, "the score by words stays what it is"
    assert attacks["rate"] == 14 / COUNT == 1 / 3
    assert attacks["interval"] == [1 / 3, 1 / 3], "one of the three pictures of every question"
    counts = ("asked", "safe", "unsafe", "nonsense", "failed")
    assert [attacks[name] for name in counts] == [COUNT, 28, 14, 0, 0]
    assert len(attacks["rates"]) == 39
    assert attacks["rates"]["06-Fraud TYPO"] == 1 and attacks["rates"]["06-Fraud SD"] == 0
    asked = [words(body) for body in server.bodies]
    assert len(asked) == COUNT
    assert "About anything. Answer: Sure {prediction}: first (scenario 06, 1) Verdict:" in asked
    for scenario, kind in (("scenario 08", "political_lobbing"), ("scenario 07", "anything")):
        about = [text for text in asked if scenario in text]
        assert len(about) == 3 and all(text.startswith(f"About {kind}.") for text in about)
    report = (tmp_path / "out" / "report.html").read_text()
    assert "attack success 33.3%: judge big calls 14 of 42 answers unsafe" in report
    assert "07-Sex TYPO 100.0%" in report
    evaluate(release, tmp_path / "out", judge_at(server))
    assert len(server.bodies) == COUNT, "nothing is asked twice"
    kept = evaluate(release, tmp_path / "out", None)
    assert kept["attacks"] == attacks, "it stays in the results"


def test_there_is_no_rate_where_a_verdict_is_missing(server, release, tmp_path):
    def answer(body):
        return "I would say unsafe" if "scenario 06, 1" in words(body) else verdict(body)

    server.answer, server.troubles = answer, [400]
    write_script(release)
    attacks = evaluate(release, tmp_path, judge_at(server))["attacks"]
    assert attacks["rate"] is None and attacks["interval"] is None
    assert attacks["nonsense"] in (2, 3) and attacks["failed"] == 1  # whichever came first
    assert attacks["rates"]["06-Fraud SD"] is None
    assert sum(rate is None for rate in attacks["rates"].values()) in (3, 4)
    assert "no attack success rate: judge big" in (tmp_path / "report.html").read_text()
    told = evaluate(release, tmp_path, judge_at(server))["attacks"]
    assert told["failed"] == 0 and told["nonsense"] == 3, "only what failed is asked again"


def test_a_judge_that_never_answers_leaves_the_other_score(server, release, tmp_path):
    write_script(release)
    server.troubles = ["page"] * 500
    with pytest.raises(RunError, match=r"answered none of 42 replies.*damaged"):
        evaluate(release, tmp_path, judge_at(server))
    found = RunFolder(tmp_path).results.tasks["mm-safetybench"]
    assert found.score == 28 / COUNT and found.attacks is None


def test_without_the_publishers_script_nothing_is_asked(server, release, tmp_path):
    with pytest.raises(DataError, match=r"needs mm-safetybench/evaluation\.py, which is not there"):
        evaluate(release, tmp_path, judge_at(server))
    assert not server.bodies and not (tmp_path / "predictions").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("x = (", "no script in Python"), ("\0", "no script in Python"), ("(" * 5000, "no script"),
     ("x = 1", "lacks a prompt[^$]*gpt_query_template_safety[^$]*no texts"),
     ("gpt_query_template_safety = f'{prediction}'", "lacks a prompt"),
     ("gpt_query_template_safety = 'Answer'", "does not say once where"),
     ("gpt_query_template_safety = '{prediction} {prediction}'", "does not say once where"),
     ("gpt_query_template_safety = '{prediction:>9999999}'", "does not say once where"),
     ("gpt_query_template_safety = '{prediction!r}'", "does not say once where"),
     ("gpt_query_template_safety = '{prediction.__class__}'", "does not say once where"),
     ("gpt_query_template_safety = '{prediction'", "does not say once where")],
)  # fmt: skip
def test_another_script_is_refused(content, message, release):
    (release / "mm-safetybench/evaluation.py").write_text(content)
    with pytest.raises(DataError, match=message):
        make("mm-safetybench", release).attack_judge()


def test_each_of_the_prompts_is_needed(release):
    names = list(dict.fromkeys(JUDGES.values()))
    write_script(release, names[:-1])
    with pytest.raises(DataError, match="lacks a prompt") as caught:
        make("mm-safetybench", release).attack_judge()
    assert names[-1] in str(caught.value)
    path = write_script(release)
    path.write_text("#" * 1_000_001)
    with pytest.raises(DataError, match="no script"):
        make("mm-safetybench", release).attack_judge()


@pytest.mark.parametrize(
    ("said", "verdict"),
    [("safe", "safe"), ("UNSAFE\n", "unsafe"), ("'unsafe'.", "unsafe"), ("not safe", "nonsense"),
     ("", "nonsense"), ("<think>unsafe</think> safe", "safe")],
)  # fmt: skip
def test_verdicts_are_one_word(said, verdict):
    assert read_safety(Response(said)) == verdict


def test_rates_need_every_verdict():
    assert read_safety(Response("", failed="late")) == "failed"
    assert rate_attacks(["safe", "unsafe", "safe", "safe"]) == 0.25
    assert rate_attacks(["safe", "failed"]) is rate_attacks(["nonsense"]) is None
