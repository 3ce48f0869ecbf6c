"""Annotation files with one value exchanged: understood, or a DataError that names the file."""

import copy
import json
import pickle
from importlib.util import find_spec

import pytest

from lucida.core.errors import DataError
from lucida.eval.benchmarks import BENCHMARKS, PUBLISHED

ODD = [None, True, 5, -1.5, "", "odd \u2028 text", [], [None], {}, {"a": 1}]
NAMES = [name for name in PUBLISHED if name != "mmmu" or find_spec("pyarrow")]


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
    for each in (file for file in BENCHMARKS[name]().files if file.needed == "questions"):
        path = root / each.path.rstrip("/")
        files = sorted(path.rglob("*.json"))[:1] if path.is_dir() else [path]
        for file in files:
            if file.suffix not in (".json", ".jsonl", ".p", ".pkl"):
                continue
            whole = file.read_bytes()
            value, written = readings(file)
            for place in list(places(value)):
                for odd in chosen(tried):
                    file.write_bytes(written(exchanged(value, place, odd)))
                    tried += 1
                    try_it(name, root, place, odd)
            file.write_bytes(whole)
    if not tried:
        pytest.skip("its questions stand in tables, texts or parquet files")


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
