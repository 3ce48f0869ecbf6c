"""A hole among options never moves a letter: the truth stays what stands in its column."""

import base64
import itertools
import json

import pytest
from asking import make, measured
from layouts import png

from lucida.core.errors import DataError
from lucida.eval.benchmarks import BENCHMARKS
from lucida.eval.metrics.choice import LETTERS

WORDS = ("Three", "Two", "One", "Four")


def table(root, *options, answer="B", columns="ABCD"):
    """An MMBench file of one row."""
    head = ["index", "question", "hint", *columns, "answer", "category", "image", "source"]
    picture = base64.b64encode(png()).decode()
    row = ["7", "How many?", "", *options, answer, "counting", picture, "x"]
    file = root / "mmbench/mmbench_dev_20230712.tsv"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\t".join(head) + "\n" + "\t".join(row) + "\n")
    return make("mmbench", root)


@pytest.mark.parametrize("hole", ["", "nan"])
@pytest.mark.parametrize("holes", [s for n in (1, 2) for s in itertools.combinations(range(4), n)])
def test_the_truth_stays_in_its_column(tmp_path, hole, holes):
    options = [hole if n in holes else word for n, word in enumerate(WORDS)]
    there = [n for n in range(4) if n not in holes]
    for right in there:
        task = table(tmp_path, *options, answer=LETTERS[right])
        examples = {e.id: e for e in task.examples()}
        assert len(examples) == len(there)
        for turn in range(len(there)):
            example = examples["mmbench/7" if not turn else f"mmbench/{turn}000007"]
            choices = example.details["choices"]
            assert choices[LETTERS.index(example.answers[0])] == WORDS[right]
            assert example.options == example.candidates == tuple(LETTERS[n] for n in there)
            for n in there:
                assert f"{LETTERS[n]}. {choices[n]}\n" in example.question
            assert not any(f"{LETTERS[n]}. " in example.question for n in holes)
            assert not any(task.parse(example, LETTERS[n], None) for n in holes)
        first = [examples["mmbench/7"].details["choices"][n] for n in there]
        assert first == [WORDS[n] for n in there]
        firsts = {e.details["choices"][there[0]] for e in examples.values()}
        assert firsts == {WORDS[n] for n in there}, "each option comes first once"
        assert task.guesses(task.examples()).chance == [1 / len(there)] * len(there)
        answers = {e.id: e.answers[0] for e in examples.values()}
        assert measured(task, answers)[1]["circular"] == 100


@pytest.mark.parametrize("word", ["None", "none", "NA", "N/A", "NaN", "null", " ", "0"])
def test_a_word_that_looks_like_a_hole_is_an_option(tmp_path, word):
    example = table(tmp_path, word, *WORDS[:3]).examples()[0]
    assert example.details["choices"] == (word, *WORDS[:3]) and example.answers == ("B",)
    assert example.options == tuple("ABCD")


def test_the_truth_may_not_be_a_hole(tmp_path):
    for options, answer in ((("a", "", "c", ""), "B"), (("a", "b", "", ""), "D"), (WORDS, "E")):
        with pytest.raises(DataError, match=r"record 0 \(line 2\): `answer`.*the letter"):
            table(tmp_path, *options, answer=answer).examples()
    with pytest.raises(DataError, match="got 1 options"):
        table(tmp_path, "", "b", "", "").examples()


def test_columns_that_are_missing_or_more(tmp_path):
    example = table(tmp_path, "a", "b", "d", columns="ABD", answer="D").examples()[0]
    assert example.details["choices"] == ("a", "b", "", "d") and example.options == tuple("ABD")
    wide = table(tmp_path, *"abcdef", columns="ABCDEF", answer="F").examples()
    assert len(wide) == 6 and wide[0].details["choices"][5] == "f"


def seed(root, **changes):
    path = root / "seed-bench/SEED-Bench.json"
    content = json.loads(path.read_text())
    for question in content["questions"]:
        question |= changes
    path.write_text(json.dumps(content))


def test_seed_benchs_choices(fresh):
    root = fresh(BENCHMARKS["seed-bench"]())
    seed(root, choice_a=None)
    (example,) = make("seed-bench", root).examples()
    assert example.details["choices"] == ("", "two", "three", "four")
    assert (example.options, example.answers) == (tuple("BCD"), ("B",))
    with pytest.raises(DataError, match="compared by their texts"):
        make("seed-bench-ranking", root).examples()
    seed(root, choice_a="None", choice_c=3)
    (example,) = make("seed-bench", root).examples()
    assert example.details["choices"] == ("None", "two", "3", "four")
    seed(root, choice_a=float("nan"))
    with pytest.raises(DataError, match="`choice_a` is of the wrong kind"):
        make("seed-bench", root).examples()
    seed(root, choice_a="one", choice_b=None)
    with pytest.raises(DataError, match="the right answer is none of the options"):
        make("seed-bench", root).examples()


@pytest.mark.parametrize(
    ("name", "file", "field"),
    [
        ("scienceqa-img", "scienceqa/problems.json", "choices"),
        ("ai2d", "ai2d/questions/0.png.json", "answerTexts"),
    ],
)
def test_lists_of_options_keep_their_places_or_are_refused(fresh, name, file, field):
    task = BENCHMARKS[name]()
    root = fresh(task)
    path = root / file
    original = path.read_text()

    def changed(first):
        content = json.loads(original)
        for each in content.get("questions", content).values():
            each[field][0] = first
        path.write_text(json.dumps(content))
        return make(name, root).examples()

    truths = {e.id: e.answers for e in make(name, root).examples()}
    for word in ("None", "nan", ""):
        examples = changed(word)
        assert word in {e.details["choices"][0] for e in examples}
        assert {e.id: e.answers for e in examples} == truths
    for hole in (None, float("nan"), 3):
        with pytest.raises(DataError, match="a list of texts"):
            changed(hole)


def test_mmmus_options_are_texts(fresh):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    root = fresh(BENCHMARKS["mmmu"]())
    path = root / "mmmu/Art/validation-00000-of-00001.parquet"
    rows = parquet.read_table(path).to_pylist()

    def art(options, answer="C"):
        changed = [row | {"options": options, "answer": answer} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(changed), path)
        return {e.id: e for e in make("mmmu", root).examples()}["mmmu/validation_Art_1"]

    example = art("['None', 'nan', 'c']")
    assert example.details["choices"] == ("None", "nan", "c") and example.answers == ("C",)
    ten = art(str([f"option {n}" for n in range(10)]), "J")
    assert ten.answers == ("J",) and ten.details["choices"][9] == "option 9"
    for options in ("[None, 'b', 'c']", "['a', ['b'], 'c']", "{'A': 'a'}"):
        with pytest.raises(DataError, match="`options` is of the wrong kind"):
            art(options)


def test_mmlus_columns(fresh):
    root = fresh(BENCHMARKS["mmlu"]())
    path = next((root / "mmlu/test").glob("*.csv"))
    path.write_text("Which?,None,nan,,d,D\n")
    example = next(e for e in make("mmlu", root).examples() if "Which?" in e.question)
    assert example.details["choices"] == ("None", "nan", "", "d") and example.answers == ("D",)
