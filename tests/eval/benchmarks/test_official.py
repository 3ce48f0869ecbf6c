"""Details of the publishers' own scores: consistency, ranking by likelihood, rotations."""

import pytest
from test_values import make, measured, never

from lucida.core.errors import DataError
from lucida.eval.benchmarks import BENCHMARKS
from lucida.eval.store import ScoredResponses
from lucida.eval.summary import summarise


def test_gqa_consistency_is_of_what_follows_from_right_answers(published, fresh):
    task = make("gqa-consistency", published)
    assert {e.id for e in task.examples(1)} == {f"gqa/{n}" for n in (1, 2, 3, 5, 6)}  # one picture
    said = {"gqa/1": "yes", "gqa/2": "Yes.", "gqa/3": "yes", "gqa/5": "yes", "gqa/6": "no"}
    scores, totals = measured(task, said)
    assert sum(scores.values()) == 3
    # 1 entails 2 (right) and 3 (wrong); 6 the same; 5 is wrong and does not count.
    assert totals == {
        "consistency": 50,
        "consistency official": 0,  # "Yes." is not "yes"
        "questions answered rightly that entail others": 2,
    }
    root = fresh(BENCHMARKS["gqa-consistency"]())
    path = root / "gqa/testdev_all_questions.json"
    path.write_text(path.read_text().replace('["1", "2", "3"]', '["77"]'))
    with pytest.raises(DataError, match=r"question 1.*`entailed`.*77|entailed.*77"):
        make("gqa-consistency", root).examples()
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(DataError, match="no balanced question"):
        make("gqa-consistency", root).examples()


def test_vsr_and_pope_rank_by_likelihood(published):
    task = make("vsr", published)
    examples = sorted(task.examples(), key=lambda e: (e.answers[0], e.details["relation"]))
    assert [e.answers[0] for e in examples] == ["false", "true", "true"]
    # Differences 0.1 (false), 1.9 and -1.8 (true): one pair of two is in order; precision is 1 at
    # the first and 2/3 at the last.
    numbers = [(-1.0, -1.1), (-0.1, -2.0), (-2.0, -0.2)]
    assert task.ranked(examples, numbers) == pytest.approx({"AUC": 50, "AP": 100 * (1 + 2 / 3) / 2})
    pope = make("pope-random", published)
    numbers = [(-1.0, -2.0) if e.answers[0] == "yes" else (-2.0, -1.0) for e in pope.examples()]
    assert pope.ranked(pope.examples(), numbers) == {"AUC": 100, "AP": 100}


def test_totals_of_likelihoods_are_of_all_examples_or_not_at_all(published):
    task = make("vsr", published)
    examples = task.examples()
    whole = {"likelihoods": {"whole": [-1.0, -2.0]}}
    for details, there in (([whole] * 3, True), ([whole, whole, {}], False), ([{}] * 3, False)):
        answered = ScoredResponses(["True"] * 3, ["true"] * 3, [1.0, 0.0, 1.0], details, [None] * 3)
        totals = summarise(task, examples, answered, None, 100, 0)["totals"]
        assert ("AUC" in totals) == there


def test_seed_ranking_compares_the_options_texts(published, fresh):
    task = make("seed-bench-ranking", published)
    (example,) = task.examples()
    assert example.candidates == ("one", "two", "three", "four")
    assert example.question.startswith("How many towels?") and "A. one" not in example.question
    assert measured(task, "two") == ({"seed-bench/101669": 1}, {"Instances Counting": 100})
    assert measured(task, "three")[0] == {"seed-bench/101669": 0}
    assert task.parse(example, "B", never) is None
    root = fresh(BENCHMARKS["seed-bench-ranking"]())
    path = root / "seed-bench/SEED-Bench.json"
    path.write_text(path.read_text().replace('"one"', '"two"'))
    with pytest.raises(DataError, match="compared by their texts"):
        make("seed-bench-ranking", root).examples()


def test_mmbench_rotates_what_its_file_does_not(fresh):
    root = fresh(BENCHMARKS["mmbench"]())
    path = root / "mmbench/mmbench_dev_20230712.tsv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("1000241")]
    path.write_text("\n".join(lines) + "\n")
    task = make("mmbench", root)
    rows = {e.id.removeprefix("mmbench/"): e for e in task.examples()}
    assert len(rows) == 2 + 4
    # The second row of the question of two options is what the published file has for it.
    assert rows["1000241"].details["choices"] == ("dog", "cat")
    assert rows["1000241"].answers == ("B",)
    turned = [rows[f"{n or ''}000252" if n else "252"] for n in range(4)]
    assert [(e.details["choices"][0], e.answers[0]) for e in turned] == [
        ("ant", "C"), ("bee", "B"), ("elephant", "A"), ("fly", "D"),
    ]  # fmt: skip
    right = {e.id: e.answers[0] for e in task.examples()}
    assert measured(task, right)[1]["circular"] == 100
    always = measured(task, "A")[1]  # a constant letter is right in one rotation of each
    assert always["circular"] == 0 and always["vanilla"] == 50
