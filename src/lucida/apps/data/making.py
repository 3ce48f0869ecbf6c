"""Data that a model writes: captions, questions or ratings of the records of a file or folder.

    FILE or DIR ─▶ record ─prompt, pictures─▶ answerer ─▶ OUT.asked.jsonl ─▶ OUT, OUT.report.json

What was asked once is kept beside the results by what was asked of whom, so that a stopped run goes
on, records of one picture share an answer, and another prompt or model asks anew. Answers that
cannot be read, refusals and requests that failed are counted, and their records are left out (a
rating becomes null, which no `at_least` reaches).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucida.apps.data.guess import open_sources
from lucida.apps.data.writing import WISHES, Wish, is_refusal, picture_parts, record_words
from lucida.core.errors import DataError, RecipeError
from lucida.core.files import atomic_write, make_folder
from lucida.core.progress import Progress
from lucida.core.runs import JsonLines
from lucida.data.sample import Sample, Turn
from lucida.data.source import RecordSource
from lucida.data.sources.conversation import one_conversation
from lucida.data.sources.pictures import ENDINGS, PictureFolder
from lucida.data.sources.questions import IMAGES, NUMBERED
from lucida.eval.benchmark import Example

if TYPE_CHECKING:
    from lucida.eval.asking import Answerer

CHUNK = 256
"""Records that are asked between two looks at the file."""
MILLION = 1e6


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost that are read, and that are written."""

    read: float
    written: float


@dataclass
class Made:
    """What came of it. records: of the file. asked: requests of this time; kept: answers of
    earlier ones. usable: requests whose answer could be read. trouble: the others, by reason.
    tokens: that a server says it took this time. written: records in `out`. fields: how a recipe
    reads them."""

    out: Path
    records: int = 0
    asked: int = 0
    kept: int = 0
    usable: int = 0
    written: int = 0
    seconds: float = 0.0
    cost: float | None = None
    trouble: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A record, and the request that it needs."""

    record: dict[str, Any]
    sample: Sample
    prompt: str
    key: str


def make_data(
    wish: Wish,
    what: str,
    fields: list[str],
    answerer: Answerer,
    out: Path,
    most: int | None = None,
    max_new_tokens: int = 128,
    prices: Prices | None = None,
) -> Made:
    """Writes the records that a model makes of those of a file, or of a folder of pictures.

    DataError: records that are no objects; nothing that could be read came back, why and how often.
    """
    opened = open_records(what, fields)
    done = Made(out, fields=opened.recipe_fields(wish))
    make_folder(out.parent)
    store = JsonLines(out.with_name(f"{out.name}.asked.jsonl"))
    answers = {row["key"]: row for row in store.read() if row.get("failed") is None}
    number = min(len(opened), most or len(opened))
    started, before = time.monotonic(), Counter(getattr(answerer, "used", {}))
    results: list[dict[str, Any]] = []
    seen: set[str] = set()
    with Progress(wish.name, number, "record") as progress:
        for start in range(0, number, CHUNK):
            asked = []
            for place in range(start, min(start + CHUNK, number)):
                done.records += 1
                try:
                    asked.append(prepare(opened, place, wish, answerer.identity, max_new_tokens))
                except DataError as problem:
                    done.trouble[f"record that cannot be asked about: {short(problem)}"] += 1
            for row in ask_missing(asked, answers, answerer, max_new_tokens, store, done):
                answers[row["key"]] = row
            for each in asked:
                first = each.key not in seen
                seen.add(each.key)
                results += read_answer(each, answers[each.key], wish, done, first)
            progress.advance(min(CHUNK, number - start))
    done.seconds = time.monotonic() - started
    done.tokens = Counter(getattr(answerer, "used", {})) - before
    if prices is not None and done.tokens:
        read, written = done.tokens["prompt_tokens"], done.tokens["completion_tokens"]
        done.cost = (read * prices.read + written * prices.written) / MILLION
    if not done.usable:
        told = "; ".join(f"{many} x {why}" for why, many in done.trouble.most_common(3))
        raise DataError("nothing that can be used came back", given=told or "nothing", origin=what)
    done.written = len(results)
    lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in results)
    atomic_write(out, "".join(lines))
    write_report(done, what, wish, answerer.identity)
    return done


class OpenedRecords:
    """Records of a file by number, each with its pictures; or the pictures of a folder."""

    def __init__(self, source: RecordSource, spec: Any) -> None:
        self.source, self.spec = source, spec

    def __len__(self) -> int:
        return len(self.source)

    def read(self, number: int) -> tuple[dict[str, Any], Sample]:
        """A record as it stands and as a sample. DataError: it cannot be used, or not be written
        as JSON."""
        record, origin = self.source.record(number)
        if not isinstance(record, dict):
            raise DataError("this record has no fields", origin=origin)
        try:
            record = json.loads(json.dumps(record))
        except TypeError:
            remedy = "write its pictures to files that it names"
            raise DataError("holds more than text", origin=origin, remedy=remedy) from None
        return record, self.source.sample(number)

    @property
    def root(self) -> str | None:
        """Folder of the pictures that records name."""
        pictures = getattr(self.source, "pictures", None)
        return None if pictures is None else os.fspath(pictures.root)

    def recipe_fields(self, wish: Wish) -> dict[str, Any]:
        """How a recipe reads what is made."""
        if wish.kind:
            found: dict[str, Any] = {"kind": wish.kind, **wish.fields}
        else:
            left = {"path", "weight", "columns"}  # JSON lines name their fields
            found = self.spec.model_dump(exclude_defaults=True, exclude=left)
            found = {"kind": self.spec.kind, **found, "at_least": {"rating": 4}}
        return found | ({} if self.root is None else {"images": self.root})

    def pictures_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a record that name its pictures; the column that the source was told, as
        `image`."""
        own = getattr(self.spec, "image", None)
        if own and record.get(own):
            return {"image": record[own]}
        names = [name for name in record if name in IMAGES or NUMBERED.fullmatch(name)]
        return {name: record[name] for name in names if record[name] not in (None, "", [])}


class OpenedFolder(OpenedRecords):
    """The pictures below a folder, by the order of their names."""

    def __init__(self, folder: Path) -> None:
        paths = (each for each in folder.rglob("*") if each.suffix.lower() in ENDINGS)
        self.names = sorted(each.relative_to(folder).as_posix() for each in paths)
        self.folder = PictureFolder(folder)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> tuple[dict[str, Any], Sample]:
        name = self.names[number]
        picture = self.folder.picture(name, name)
        return {"image": name}, Sample(name, (picture,))

    @property
    def root(self) -> str:
        return os.fspath(self.folder.root)

    def recipe_fields(self, wish: Wish) -> dict[str, Any]:
        if not wish.kind:
            raise RecipeError("pictures alone cannot be rated", remedy="caption them first")
        return super().recipe_fields(wish)

    def pictures_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return dict(record)


def open_records(what: str, fields: list[str]) -> OpenedRecords:
    """The records of a file, or the pictures of a folder. DataError: other kinds of source."""
    folder = Path(what)
    if folder.is_dir() and not fields and not (folder / "recipe.yaml").exists():
        pictures = OpenedFolder(folder)
        if len(pictures):
            return pictures
    each = open_sources(what, fields)[0]
    if each.recipe is not None or not hasattr(each.source, "record"):
        raise DataError(
            "a model writes about the records of a file, or about a folder of pictures",
            given="a recipe" if each.recipe is not None else f"kind {each.spec.kind}",
            origin=what,
        )
    return OpenedRecords(each.source, each.spec)


def prepare(
    opened: OpenedRecords,
    number: int,
    wish: Wish,
    identity: Mapping[str, object],
    max_new_tokens: int,
) -> Asked:
    """A record with its request. DataError: it cannot be read or shows no picture."""
    record, sample = opened.read(number)
    if not sample.images:
        raise DataError("it shows no picture")
    pictures = opened.pictures_of(record)
    if wish.kind and not pictures:
        raise DataError("it names no picture in a field of its own")
    if wish.name == "caption" and len(sample.images) > 1:
        raise DataError("it shows several pictures, and captions are of one")
    words = record_words(sample) if wish.shown else ""
    if wish.shown and not words:
        raise DataError("it says nothing")
    prompt = wish.prompt.replace("{record}", words)
    # All that the answer depends on. The record is not part of it: who shows the same picture
    # shares the request.
    told = [identity, prompt, [each.key for each in sample.images], max_new_tokens]
    key = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()
    if wish.name == "ask":
        record = pictures
    elif wish.name == "caption":
        named = next(iter(pictures.values()))
        record = record | {"image": named[0] if isinstance(named, list) else named}
    return Asked(record, sample, prompt, key)


def ask_missing(
    asked: Sequence[Asked],
    answers: Mapping[str, dict],
    answerer: Answerer,
    max_new_tokens: int,
    store: JsonLines,
    done: Made,
) -> list[dict]:
    """Answers to the requests that have none yet, each kept as it comes."""
    missing = {each.key: each for each in asked if each.key not in answers}
    done.kept += len({each.key for each in asked}) - len(missing)
    done.asked += len(missing)
    examples = []
    for key, each in missing.items():
        turn = Turn("user", (*picture_parts(each.sample), each.prompt))
        sample = one_conversation(each.sample.origin, each.sample.images, (turn,))
        examples.append(Example(id=key, sample=sample, question=each.prompt, answers=()))
    rows = []
    for place, said in answerer.stream(examples, "generate", max_new_tokens):
        row = {"key": examples[place].id, "output": said.output, "failed": said.failed}
        store.append(row)
        rows.append(row)
    return rows


def read_answer(
    each: Asked, answer: Mapping[str, Any], wish: Wish, done: Made, first: bool
) -> list[dict[str, Any]]:
    """The records that an answer gives; `first`: no record before had the same answer."""
    found: list[dict[str, Any]] = []
    if answer.get("failed") is not None:
        trouble = f"request that failed: {answer['failed']}"
    elif is_refusal(answer["output"]):
        trouble = "refusal"
    elif not answer["output"].strip():
        trouble = "empty answer"
    else:
        found = wish.read(answer["output"])
        trouble = "" if found else f"answer that is no {wish.name}"
    if first:
        done.usable += bool(found)
        done.trouble.update([trouble] if trouble else [])
    if wish.name == "ask" and not first:
        return []
    if wish.name == "rate":
        found = found or [{"rating": None}]
    return [each.record | new for new in found]


def short(problem: DataError) -> str:
    """The first words of an error, the same for every record."""
    return re.sub(r"record \d+( \(line \d+\))?", "a record", str(problem))[:120]


def write_report(done: Made, what: str, wish: Wish, identity: Mapping[str, object]) -> None:
    """OUT.report.json: what was asked of whom, and what came back."""
    value = {
        "of": what,
        "by": dict(identity),
        "prompt": wish.prompt,
        "records": done.records,
        "asked": done.asked,
        "kept": done.kept,
        "usable": done.usable,
        "trouble": dict(done.trouble),
        "tokens": dict(done.tokens),
        "cost": done.cost,
        "seconds": round(done.seconds, 1),
        "written": done.written,
        "source": done.fields,
    }
    path = done.out.with_name(f"{done.out.name}.report.json")
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def describe(done: Made) -> list[str]:
    """What came of it, in lines."""
    lines = [
        f"{done.records:,} records, {done.asked:,} requests ({done.kept:,} answers kept from "
        f"before) in {done.seconds:.0f} s; {done.usable:,} answers could be used"
    ]
    lines += [f"  {many:,} x {why}" for why, many in done.trouble.most_common()]
    if done.tokens:
        read, written = done.tokens["prompt_tokens"], done.tokens["completion_tokens"]
        cost = "" if done.cost is None else f", which cost {done.cost:.4f}"
        lines.append(f"{read:,} tokens read and {written:,} written{cost}")
    if any(why.startswith("request that failed") for why in done.trouble):
        lines.append("the same command asks the failed ones again, and only them")
    given = ", ".join(f"{name}: {json.dumps(value)}" for name, value in done.fields.items())
    lines.append(f"wrote {done.written:,} records; in a recipe: {{{given}, path: {done.out}}}")
    return lines


def make_wish(name: str, prompt: str | None, many: int = 3) -> Wish:
    """A wish with its own words or others. RecipeError: words for a rating that leave the record
    out."""
    wish = WISHES[name]
    text = wish.prompt if prompt is None else prompt
    if wish.shown and "{record}" not in text:
        raise RecipeError(
            "the prompt of a rating has to show what is rated",
            expected="{record} where the record's words stand",
            given=text,
        )
    return dataclasses.replace(wish, prompt=text.replace("{many}", str(many)))


def read_prices(written: str | None) -> Prices | None:
    """Two prices, `0.15,0.60`. RecipeError: something else."""
    if written is None:
        return None
    try:
        prices = Prices(*map(float, written.split(",")))
    except (ValueError, TypeError):
        prices = None
    if prices is None or not (0 <= prices.read < 1e6 and 0 <= prices.written < 1e6):
        raise RecipeError(
            "these are no prices", expected="two numbers, as 0.15,0.60", given=written
        )
    return prices
