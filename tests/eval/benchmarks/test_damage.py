"""Annotation files with one value exchanged: understood, or a DataError that names the file."""

import copy
import json
import pickle

import pytest

from lucida.core.errors import DataError
from lucida.eval.benchmarks import BENCHMARKS, PUBLISHED

ODD = [None, True, 5, -1.5, "", "odd \u2028 text", [], [None], {}, {"a": 1}]
ENDINGS = (".json", ".jsonl", ".p", ".pkl")
FLAT = ("mmbench", "mmbench-cn", "mme", "mmmu", "mmlu", "perplexity", "mmstar", "realworldqa",
        "cv-bench", "blink", "mmvp", "naturalbench", "mmmu-pro", "mmmu-pro-vision")  # fmt: skip
"""Benchmarks whose questions stand in tables, texts or parquet files: no values to exchange."""
NAMES = [name for name in PUBLISHED if name not in FLAT]


def never(text, width, height):
    return None


def places(value, path=()):
    """Where values stand in nested lists and objects; of a list only the first."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def exchanged(value, path, new):
    """A copy with another value at a place; at the root the new value itself."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def files_with_values(name, root):
    """Where the questions of a benchmark stand, of a folder the first file."""
    for each in (file for file in BENCHMARKS[name]().files if file.needed == "questions"):
        path = root / each.path.rstrip("/")
        for file in sorted(path.rglob("*.json"))[:1] if path.is_dir() else [path]:
            if file.suffix in ENDINGS:
                yield file


def readings(file):
    """What a file holds and how it is written again, when it is JSON, lines of it, or a pickle."""
    if file.suffix in (".p", ".pkl"):
        return pickle.loads(file.read_bytes()), pickle.dumps
    text = file.read_text()
    if file.suffix == ".jsonl" or file.name.startswith("coco_pope"):
        values = [json.loads(line) for line in text.splitlines()]
        return values, lambda v: "".join(
            json.dumps(each) + "\n" for each in (v if isinstance(v, list) else [v])
        ).encode()
    return json.loads(text), lambda v: json.dumps(v).encode()


@pytest.mark.parametrize("name", FLAT)
def test_what_is_left_out_has_no_values(name, published):
    assert not list(files_with_values(name, published))


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_value_is_understood_or_explained(name, fresh):
    try_all(name, fresh, lambda number: [ODD[number % len(ODD)]])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_odd_value_is_understood_or_explained(name, fresh):
    try_all(name, fresh, lambda number: ODD)


def try_all(name, fresh, chosen):
    root = fresh(BENCHMARKS[name]())
    tried = 0
    for file in files_with_values(name, root):
        whole = file.read_bytes()
        value, written = readings(file)
        for place in list(places(value)):
            for odd in chosen(tried):
                file.write_bytes(written(exchanged(value, place, odd)))
                tried += 1
                try_it(name, root, place, odd)
        file.write_bytes(whole)
    assert tried


def try_it(name, root, place, odd):
    task = BENCHMARKS[name](data=str(root))
    try:
        examples = task.examples()
        if not task.judged:
            parsed = [task.parse(e, "yes", never) for e in examples]
            task.summary(examples, parsed, task.scores(examples, parsed))
    except DataError as error:
        assert str(root) in str(error), (place, odd, error)
    except Exception as error:
        raise AssertionError(f"{place} = {odd!r}: {type(error).__name__} {error}") from error
