"""What the user points at: a recipe's sources, or a path whose kind is told from its first record.

recipe ─▶ {stage/source: Source}        file, folder or pattern ─▶ kind ─▶ Source
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from lucida.core.errors import DataError, LucidaError, RecipeError, shorten, suggestion
from lucida.core.recipe import load_recipe
from lucida.core.spec import Recipe, SourceSpec, StageSpec
from lucida.data.encoded import looks_encoded
from lucida.data.mixture import Source
from lucida.data.sources import open_source
from lucida.data.sources.arrow import TABLES, TableRows
from lucida.data.sources.pictures import ENDINGS
from lucida.data.sources.questions import ANSWERS, IMAGES, NUMBERED, QUESTIONS
from lucida.data.sources.records import Records, files_of
from lucida.data.sources.remote import is_remote
from lucida.data.sources.tables import DELIMITERS, rows_of


@dataclass(frozen=True)
class Opened:
    """A source with its name, its spec and how it was found; of a recipe, with its stage."""

    name: str
    spec: Any
    source: Source
    found: str
    recipe: Recipe | None = None
    stage: StageSpec | None = None


FILES = (*DELIMITERS, *TABLES, ".json", ".jsonl", ".tar", ".txt", ".zip")
"""Endings that no preset's name has."""


def open_sources(what: str, overrides: list[str], every: bool = False) -> list[Opened]:
    """The sources of a path or of a recipe, of each stage; the same one once, unless `every`.

    For a path the overrides are fields of its source, such as `kind=pairs text=caption`.
    """
    path = Path(what)
    recipe = path.suffix in (".yaml", ".yml") or (path.is_dir() and (path / "recipe.yaml").exists())
    data = any(sign in what for sign in "*?[/") or path.suffix.lower() in FILES
    # What is not there and has no sign of a path is the name of a preset.
    if recipe or not (path.exists() or data):
        return _of_recipe(what, overrides, every)
    spec, found = find_source(what, overrides)
    # What is damaged shows as a record, beside those that are not.
    return [Opened(path.name, spec, open_source(spec, skip=True), found)]


def find_source(what: str, overrides: list[str]) -> tuple[Any, str]:
    """The spec of the source that a path means, and how it was found; overrides are its fields."""
    fields = dict(_field(word) for word in overrides)
    if "kind" in fields:
        found = f"kind {fields['kind']}, as it was given"
    elif (part := _of_split(Path(what))) is not None:
        fields = part | fields
        found = f"kind {fields['kind']}, as {SPLIT} beside it says"
    else:
        remote = {"kind": "webdataset"}, "it is an address"
        guessed, why = remote if is_remote(what) else guess(Path(what))
        fields = guessed | fields
        found = f"kind {fields['kind']}, because {why}"
    try:
        return TypeAdapter(SourceSpec).validate_python({"path": what, **fields}), found
    except ValidationError as error:
        raise _refusal(error, fields, what) from error


SPLIT = "split.json"
"""What `lucida data split` writes beside the parts of a file."""


def _of_split(path: Path) -> dict[str, Any] | None:
    """The fields under which a part that `lucida data split` wrote is read: its pictures stand
    where they stood. None of other files, and where the folder of the pictures is not found from
    here."""
    try:
        told = json.loads((path.parent / SPLIT).read_text(encoding="utf-8"))
        written = path.name in {part["file"] for part in told["parts"].values()}
        fields = dict(told["source"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    there = "images" not in fields or Path(fields["images"]).is_dir()
    return fields if written and there else None


def _refusal(error: ValidationError, fields: dict[str, Any], what: str) -> RecipeError:
    """What is wrong with the fields of a source, and the nearest kind or field that there is."""
    specs = {spec.model_fields["kind"].default: spec for spec in get_args(get_args(SourceSpec)[0])}
    kind = fields["kind"]
    if kind not in specs:
        return RecipeError(f"no kind `{kind}`", origin=what, remedy=suggestion(str(kind), specs))
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:]))
    if first["type"] == "extra_forbidden" and place not in specs[kind].model_fields:
        known = [name for name in specs[kind].model_fields if name not in ("kind", "weight")]
        message = f"a source of kind {kind} has no field `{place}`"
        return RecipeError(message, origin=what, remedy=suggestion(place, known))
    given = shorten(first["input"])
    return RecipeError(f"`{place}`: {first['msg']}", given=given, origin=what)


def guess(path: Path) -> tuple[dict[str, Any], str]:
    """Kind (and what follows from the first record) of a path, and why."""
    if path.is_dir():
        names = {p.suffix.lower() for p in path.iterdir() if p.is_file()}
        if names & set(TABLES):
            return _by_column(path)
        if ".tar" in names:
            return {"kind": "webdataset"}, "the folder holds .tar files"
        if names & set(ENDINGS):
            return {"kind": "folder"}, "the folder holds pictures"
        remedy = "give kind=… and the fields of the source"
        raise DataError("the folder holds nothing that is known", origin=path, remedy=remedy)
    ending = path.suffix.lower()
    if ending in TABLES:
        return _by_column(path)
    known = {".tar": "webdataset", ".txt": "text"}
    if ending in known:
        return {"kind": known[ending]}, f"the name ends in {ending}"
    if ending in DELIMITERS:
        row, _ = rows_of(path)[0]
        if (asked := _find_question(row)) is not None:
            return asked
        return _find_pair(row) or ({"kind": "pairs"}, f"the name ends in {ending}")
    return _by_record(path)


SIGNS = (
    ("conversations", {"kind": "llava"}),
    ("messages", {"kind": "messages"}),
    ("text_list", {"kind": "interleaved", "layout": "mmc4"}),
    ("texts", {"kind": "interleaved", "layout": "obelics"}),
)
"""Keys that tell a kind, the first that is met."""
ANNOTATIONS = (
    "a published annotation file (COCO, VQAv2, GQA, …) is read with kind=annotations layout=… "
    "images=FOLDER"
)


def _find_question(row: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Whether a row has a picture, a question and an answer, by columns that `questions` knows."""
    pictures = [name for name in row if name in IMAGES or NUMBERED.fullmatch(name)]
    asked = [name for name in QUESTIONS if name in row]
    answers = [name for name in ANSWERS if name in row]
    if not (pictures and asked and answers):
        return None
    why = f"the first record has `{pictures[0]}`, `{asked[0]}` and `{answers[0]}`"
    return {"kind": "questions"}, why


def _find_pair(row: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Whether a row has a picture and a text, and in which columns."""
    for image in (*IMAGES, "path"):
        for text in ("text", "caption", "title"):
            if image in row and text in row:
                why = f"the first record has `{image}` and `{text}`"
                return {"kind": "pairs", "image": image, "text": text}, why
    return None


def _by_column(path: Path) -> tuple[dict[str, Any], str]:
    """OBELICS has texts and nulls where the Cauldron has questions with answers."""
    rows = TableRows(files_of(path, TABLES))
    if not len(rows):
        raise DataError("the table has no rows", origin=path)
    row, _ = rows[0]
    pages, why = row.get("texts"), "it is parquet or Arrow"
    if (
        isinstance(pages, list)
        and "images" in row
        and all(text is None or isinstance(text, str) for text in pages)
    ):
        return {"kind": "interleaved", "layout": "obelics"}, f"{why} with `texts` and `images`"
    named = row.get("image", row.get("images"))
    first = named[0] if isinstance(named, list) and named else named
    if isinstance(first, str) and not looks_encoded(first):
        return _find_question(row) or _find_pair(row) or ({"kind": "parquet"}, why)
    return {"kind": "parquet"}, why


def _by_record(path: Path) -> tuple[dict[str, Any], str]:
    records = Records(files_of(path))
    try:
        record, _ = records.value(0)
    except DataError as error:
        # A first line that ends in the midst of a value: one object, laid out over many lines.
        if not records[0][0].rstrip().endswith(("{", "[", ",")):
            raise
        message = "the file is one JSON object over many lines, not a record in each"
        remedy = f"{ANNOTATIONS}; of other data write one record in each line, or a JSON array"
        raise DataError(message, origin=path, remedy=remedy) from error
    keys = record if isinstance(record, dict) else {}
    for key, fields in SIGNS:
        if key in keys:
            return dict(fields), f"the first record has `{key}`"
    if isinstance(keys.get("prompt"), list):
        return {"kind": "messages"}, "the first record has a list `prompt`"
    if found := _find_question(keys) or _find_pair(keys):
        return found
    if {"text", "instruction", "inputs", "prompt"} & set(keys):
        return {"kind": "text"}, "the first record is text alone"
    published = {"annotations", "questions", "images"} & set(keys)
    within = [key for key, value in keys.items() if isinstance(value, list) and len(records) == 1]
    remedy = "give kind=… and the fields of the source"
    if within:
        remedy = f"if the records are those of `{within[0]}`, write that array alone; else {remedy}"
    raise DataError(
        "the first record tells no kind",
        given=", ".join(list(map(str, keys))[:12]) or type(record).__name__,
        origin=path,
        remedy=ANNOTATIONS if published else remedy,
    )


def _field(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise RecipeError("this is no field", expected="key=value", given=word)
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _of_recipe(what: str, overrides: list[str], every: bool) -> list[Opened]:
    recipe = load_recipe(what, overrides)
    found: list[Opened] = []
    for stage in recipe.stages:
        for name, spec in stage.mixture.sources.items():
            same = next((other for other in found if other.spec == spec), None)
            if same is not None and not every:
                continue
            place = f"{stage.name}/{name}"
            try:
                source = open_source(spec, skip=True) if same is None else same.source
            except LucidaError as error:
                raise DataError(str(error), origin=f"{recipe.name}: {place}") from error
            found.append(Opened(place, spec, source, f"kind {spec.kind}", recipe, stage))
    return found
