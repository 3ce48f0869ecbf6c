"""What holds of every published benchmark: files, ids, order, samples, guesses, errors."""

import json
import shutil
from importlib.util import find_spec

import pytest
from asking import make, never

from lucida.core.errors import DataError, RunError
from lucida.data.sample import ImagePart
from lucida.eval.benchmark import Benchmark
from lucida.eval.benchmarks import BENCHMARKS, WORLD, benchmark
from lucida.eval.benchmarks import PUBLISHED as EVERY
from lucida.eval.prompts import FAMILIES, PROMPTS
from lucida.world.tasks import TASKS

# Releases that are parquet files need an optional package (MMVP's miniature is written with them).
TABLES = ("mmmu", "mmmu-pro", "mmmu-pro-vision", "mmstar", "realworldqa", "cv-bench", "blink",
          "mmvp", "naturalbench")  # fmt: skip
PUBLISHED = [name for name in EVERY if name not in TABLES or find_spec("pyarrow")]
SCORED = [name for name in PUBLISHED if name not in ("mm-vet", "llava-bench", "perplexity")]


def read(text, width, height):
    return tuple(json.loads(text)) if text.startswith("[") else None


def right(example):
    """An output that says the truth."""
    if example.box is not None:
        return json.dumps(example.box)
    if example.candidates and example.options:
        return example.candidates[example.options.index(example.answer)]
    return f"so the answer is {example.answer}." if example.id.startswith("bbh") else example.answer


def told(examples):
    """What makes examples the same: ids, questions, answers and pictures."""
    keys = [[source.key for source in e.sample.images] for e in examples]
    return [(e.id, e.question, e.answers, e.box, k) for e, k in zip(examples, keys, strict=True)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_says_what_it_is(name):
    task = BENCHMARKS[name]()
    assert isinstance(task, Benchmark)
    assert task.name == name
    assert task.family in FAMILIES
    assert task.licence and task.source and task.metric and task.files
    assert task.prompts == "llava"
    for twin in task.twin.split(", "):
        assert not twin or twin in WORLD
    for file in task.files:
        assert file.needed in ("questions", "images", "train")
        assert file.size and file.source
        assert not file.path.startswith("/")


@pytest.mark.parametrize("name", PUBLISHED)
def test_examples_are_complete_and_in_one_order(name, published):
    task = make(name, published)
    examples = task.examples()
    assert examples
    assert len({e.id for e in examples}) == len(examples)
    assert [e.id for e in make(name, published).examples()] == [e.id for e in examples]
    for limit in range(1, len(examples) + 2):
        first = task.examples(limit)
        assert told(first) == told(examples[: len(first)])
        assert first and (len(first) <= limit or len({e.cluster for e in first}) == 1)
    for example in examples:
        (branch,) = example.sample.branches
        places = [
            part.index
            for turn in (*example.sample.stem, *branch)
            for part in turn.parts
            if isinstance(part, ImagePart)
        ]
        assert places == list(range(len(example.sample.images)))
        for source in example.sample.images:
            assert source.load().mode == "RGB"
        if task.protocols[0] != "loss":
            assert [turn.role for turn in branch] == ["user"]
            assert example.question
        assert example.cluster
        assert set(example.answers) <= set(example.options) or not example.options


@pytest.mark.parametrize("name", SCORED)
def test_the_truth_scores_best_and_nonsense_worst(name, published):
    task = make(name, published)
    examples = task.examples()
    parsed = [task.parse(e, right(e), read) for e in examples]
    best = task.scores(examples, parsed)
    assert len(best) == len(examples)
    worst = task.scores(examples, [task.parse(e, "no box, zzz", read) for e in examples])
    assert sum(worst) < sum(best)
    if task.metric != "CIDEr-D":
        assert all(0 <= score <= 1 for score in [*best, *worst])
        assert min(best) >= 0.9
    empty = task.scores(examples, [task.parse(e, "", read) for e in examples])
    assert len(empty) == len(examples)
    totals = task.summary(examples, parsed, best)
    assert all(isinstance(value, float) for value in totals.values())
    assert not task.headline or task.headline in totals
    guesses = task.guesses(examples)
    assert len(guesses.chance) == len(guesses.majority) == len(examples)
    for example, chance in zip(examples, guesses.chance, strict=True):
        assert not example.options or chance == pytest.approx(1 / len(example.options))


@pytest.mark.parametrize("name", SCORED)
def test_a_chosen_candidate_is_read_like_an_output(name, published):
    task = make(name, published)
    assert set(task.protocols) <= {"generate", "likelihood"}
    for example in task.examples():
        assert bool(example.candidates) == ("likelihood" in task.protocols) or not example.options
        parsed = [task.parse(example, text, never) for text in example.candidates]
        scores = [task.scores([example], [one])[0] for one in parsed]
        assert not scores or sorted(scores)[-2:] == [0.0, 1.0]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("prompts", PROMPTS)
def test_every_set_of_prompts_asks_every_benchmark(name, prompts, published):
    task = make(name, published, prompts=prompts)
    example = task.examples(1)[0]
    assert task.prompts == prompts
    assert "{" not in example.question
    if task.protocols[0] != "loss":
        said = [p for p in example.sample.branches[0][0].parts if isinstance(p, str)]
        assert "".join(said).strip()


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_examples_are_others(name, published):
    task = make(name, published)
    demonstrations = task.train_examples(2)
    if any(file.needed == "train" for file in task.files) or task.has_train:
        assert demonstrations
        assert told(demonstrations) == told(task.train_examples()[: len(demonstrations)])
    for example in demonstrations:
        assert example.box is not None or example.answer


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_is_named_with_its_publisher(name, fresh):
    root = fresh(BENCHMARKS[name]())
    task = make(name, root)
    for file in task.files:
        if file.needed == "questions":
            path = root / file.path.rstrip("/")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError) as caught:
        task.examples(1)
    message = str(caught.value)
    assert str(root) in message
    wanted = [file for file in task.files if file.needed == "questions"]
    assert any(file.path.rstrip("/") in message and file.source in message for file in wanted)


def has_picture_folders(name):
    return any(file.needed == "images" for file in BENCHMARKS[name]().files)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if has_picture_folders(name)])
def test_missing_pictures_are_named_with_their_publisher(name, fresh):
    root = fresh(BENCHMARKS[name]())
    task = make(name, root)
    folders = [file for file in task.files if file.needed == "images"]
    for file in folders:
        for picture in (root / file.path).rglob("*"):
            if picture.suffix in (".jpg", ".jpeg", ".png", "") and picture.is_file():
                picture.unlink()
    with pytest.raises(DataError) as caught:
        task.examples(1)
    assert any(file.source in str(caught.value) for file in folders)


@pytest.mark.parametrize("name", PUBLISHED)
def test_damaged_annotations_are_explained(name, fresh):
    root = fresh(BENCHMARKS[name]())
    folders = [file for file in BENCHMARKS[name]().files if file.needed == "questions"]
    found = [path for file in folders for path in inside(root / file.path.rstrip("/"))]
    damages = [b"", b"\xff\xfe\x00"]
    if name != "perplexity":  # any text is a text
        damages += [b"[1, 2", b"[]", b"{}", b"null", b"[7]", b'{"a": 1}\n']
    for damage in damages:
        for path in found:
            path.write_bytes(damage)
        with pytest.raises(DataError) as caught:
            make(name, root).examples(1)
        assert str(root) in str(caught.value)


def inside(path):
    """The annotation files that a path of `files` stands for."""
    every = path.rglob("*") if path.is_dir() else [path]
    return [each for each in every if each.is_file() and each.suffix not in (".jpg", ".png")]


def test_no_data_root_is_explained(monkeypatch):
    monkeypatch.delenv("LUCIDA_DATA", raising=False)
    with pytest.raises(DataError, match="LUCIDA_DATA"):
        BENCHMARKS["gqa"]().examples(1)


def test_the_environment_names_the_data_root(published, monkeypatch):
    monkeypatch.setenv("LUCIDA_DATA", str(published))
    assert len(benchmark("gqa").examples()) == 2
    monkeypatch.setenv("LUCIDA_DATA", str(published / "nothing"))
    with pytest.raises(DataError, match="nothing"):
        benchmark("gqa").examples()


@pytest.mark.parametrize("name", ["mm-vet", "llava-bench"])
def test_what_a_judge_scores_is_not_scored_here(name, published):
    task = make(name, published)
    assert task.judged
    examples = task.examples()
    with pytest.raises(RunError, match="judge"):
        task.scores(examples, ["an answer"] * len(examples))
    with pytest.raises(RunError, match="judge"):
        task.guesses(examples)


def test_every_task_of_the_world_with_one_answer_is_a_benchmark_with_its_twin():
    for name, task in TASKS.items():
        if task.metric != "none":
            made = benchmark(name)
            assert made.twin == task.twin
            assert made.files == ()
            assert made.root is None
