"""A file split into train, validation and test that share no picture and no near-duplicate.

    file ─Printed─▶ groups of records ─seed, shares─▶ parts ─as they stand─▶ DIR/train.csv, …

What is measured on records that resemble each other is measured once: the interval that a part can
resolve follows from its groups, not from its records.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucida.apps.data.duplicates import Groups, Printed, group, read_prints
from lucida.apps.data.guess import Opened, open_sources
from lucida.core.errors import DataError, LucidaError, RecipeError
from lucida.core.files import atomic_folder, atomic_write, check_free
from lucida.core.progress import Progress
from lucida.data.sources import open_source
from lucida.data.sources.tables import Rows, TextRows

PARTS = ("train", "validation", "test")
Z = 1.96
"""Standard deviations on either side of a 95% interval."""
TOLD = 1000
"""Pairs of near-duplicates that are written down."""


@dataclass(frozen=True)
class Part:
    """One part: the file, and how many records, different pictures and groups it has."""

    name: str
    path: Path
    records: int
    pictures: int
    groups: int


@dataclass(frozen=True)
class Split:
    """What came of a file. lost: number and reason of the records that cannot be used and that no
    part has."""

    parts: list[Part]
    found: Groups
    lost: list[tuple[int, str]]
    fields: dict[str, Any]


def resolve(groups: int) -> float:
    """Half of the 95% interval of a share near one half, measured on so many independent groups.

    Worked example: 97 groups resolve 0.0995, so a score of 50% is between 40% and 60%.
    """
    return Z * math.sqrt(0.25 / groups) if groups else math.inf


def read_shares(written: str) -> list[float]:
    """The shares of train, validation and test, `80/10/10`, as parts of one."""
    try:
        shares = [float(each) for each in written.split("/")]
    except ValueError:
        shares = []
    finite = all(math.isfinite(each) and each >= 0 for each in shares)
    if len(shares) != len(PARTS) or not finite or not sum(shares) or not shares[0]:
        expected = "three numbers, such as 80/10/10, of train, validation (may be 0) and test"
        raise RecipeError("these are no shares", expected=expected, given=written)
    return [each / sum(shares) for each in shares]


def split_file(
    what: str,
    fields: list[str],
    out: Path,
    shares: Sequence[float],
    seed: int = 0,
    widest: float = 0.1,
    skip: bool = False,
    processes: int = 1,
) -> Split:
    """Writes the parts of a file into the folder `out`. RunError: something stands there.

    DataError: a format that is not written, records that cannot be used (unless `skip`: then no
    part has them), validation or test with fewer groups than resolve `widest`.
    """
    each = open_sources(what, fields)[0]
    rows = _rows_of(each, what)
    check_free(out)
    printed: list[Printed] = []
    lost: list[tuple[int, str]] = []
    with Progress("compare", len(each.source), "record") as progress:
        for found, unusable in read_prints(each.source, processes):
            printed += found
            lost += [(number, str(reason)) for number, reason in unusable]
            progress.advance(len(found) + len(unusable))
    if lost and not skip:
        raise DataError(
            f"{len(lost):,} of {len(each.source):,} records cannot be used",
            given=f"the first: {lost[0][1]}",
            origin=what,
            remedy="`lucida data check` names all of them; correct them, or leave them out of "
            "every part with --skip",
        )
    groups = group(printed)
    chosen = divide(groups.members, shares, seed)
    _refuse_small({n: len(g) for n, g in chosen.items()}, shares, widest, what)
    with atomic_folder(out) as folder:
        parts = [
            _write(rows, name, members, printed, folder, out) for name, members in chosen.items()
        ]
        done = Split(parts, groups, lost, _fields_of(each))
        _note(done, what, seed, shares, printed, folder)
    for part in parts:
        _refuse_other(each, part)
    return done


def divide(
    groups: Sequence[Sequence[int]], shares: Sequence[float], seed: int
) -> dict[str, list[Sequence[int]]]:
    """Groups of each part whose share is not zero, so that its records come near that share.

    Groups too large for the smallest part come first and the others in random order, each to the
    part that lacks most.
    """
    records = sum(map(len, groups))
    names = [name for name, share in zip(PARTS, shares, strict=True) if share]
    wanted = {name: share * records for name, share in zip(PARTS, shares, strict=True) if share}
    # Behind the others a large group would find no part with room for it. The sort keeps the random
    # order of all small ones.
    large = min(wanted.values()) / 2
    order = list(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda members: -len(members) if len(members) > large else 0)
    chosen: dict[str, list[Sequence[int]]] = {name: [] for name in names}
    for members in order:
        name = max(names, key=lambda each: wanted[each])
        wanted[name] -= len(members)
        chosen[name].append(members)
    return chosen


def _refuse_small(
    groups: Mapping[str, int], shares: Sequence[float], widest: float, what: str
) -> None:
    """DataError where validation or test cannot resolve what was asked for."""
    small = {n: many for n, many in groups.items() if n != "train" and resolve(many) > widest}
    if not small and groups["train"]:
        return
    told = "; ".join(
        f"{name}: {many:,} groups resolve {_points(resolve(many))}" for name, many in small.items()
    )
    # `resolve` turned around: Z * sqrt(0.25 / groups) <= widest.
    least = math.ceil((Z / (2 * widest)) ** 2)
    smallest = min(s for n, s in zip(PARTS, shares, strict=True) if s and n != "train")
    raise DataError(
        "the parts are too small to measure with (a group is all records of nearly one picture)",
        expected=f"{_points(widest)} or less (95% interval), which takes {least:,} groups in each "
        f"of validation and test, so {math.ceil(least / smallest):,} in all",
        given=told or "no group for train",
        origin=what,
        remedy="take larger shares for them, bring more pictures, or accept a wider interval with "
        "--widest POINTS",
    )


def _points(half: float) -> str:
    return "nothing" if math.isinf(half) else f"±{100 * half:.1f} points"


def _rows_of(each: Opened, what: str) -> Rows:
    """The rows of a source, which can be written again. DataError: it has none."""
    spec = each.spec
    for name in ("at_least", "captions"):
        if getattr(spec, name, None):
            remedy = "split the whole file, and name it in the recipe for the parts"
            raise DataError(f"`{name}` is not split", origin=what, remedy=remedy)
    rows = getattr(each.source, "rows", None)
    if rows is None and getattr(each.source, "json", False):
        rows = TextRows(each.source.files)
    if each.recipe is not None or not hasattr(rows, "write"):
        raise DataError(
            "this cannot be split into files",
            expected="CSV, TSV, JSON, JSONL, parquet or Arrow",
            given="a recipe" if each.recipe is not None else f"kind {spec.kind}",
            origin=what,
        )
    return rows


def _write(
    rows: Rows,
    name: str,
    members: Sequence[Sequence[int]],
    printed: Sequence[Printed],
    folder: Path,
    out: Path,
) -> Part:
    """Writes a part, its records in the order of the file."""
    places = sorted(place for each in members for place in each)
    path = rows.write([printed[place].number for place in places], folder / name)
    pictures = {each.key for place in places for each in printed[place].pictures}
    return Part(name, out / path.name, len(places), len(pictures), len(members))


def _fields_of(each: Opened) -> dict[str, Any]:
    """How a recipe reads the parts: the fields of the file's source, its pictures in place."""
    fields = each.spec.model_dump(exclude_defaults=True, exclude={"path", "weight"})
    fields = {"kind": each.spec.kind, **fields}
    if (pictures := getattr(each.source, "pictures", None)) is not None:
        fields["images"] = str(pictures.root)
    return fields


def _note(
    done: Split, what: str, seed: int, shares: Sequence[float], printed: Sequence[Printed],
    folder: Path,
) -> None:  # fmt: skip
    """split.json: where the parts come from, what they hold and which pictures were near."""
    pairs = [
        [printed[one].origin, printed[other].origin]
        for one, other in (*done.found.near, *done.found.texts)[:TOLD]
    ]
    value = {
        "file": what,
        "seed": seed,
        "shares": [round(share, 6) for share in shares],
        "source": done.fields,
        "parts": {
            part.name: {
                "file": part.path.name,
                "records": part.records,
                "pictures": part.pictures,
                "groups": part.groups,
                "half_interval": round(resolve(part.groups), 4),
            }
            for part in done.parts
        },
        "near_pictures": len(done.found.near),
        "near_texts": len(done.found.texts),
        "near": pairs,
        "unusable": done.lost,
    }
    atomic_write(folder / "split.json", json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _refuse_other(each: Opened, part: Part) -> None:
    """DataError unless a part is read again as it was meant."""
    changed = {"path": str(part.path), **{k: v for k, v in _fields_of(each).items() if k != "kind"}}
    try:
        many = len(open_source(each.spec.model_copy(update=changed)))
    except LucidaError as error:
        raise DataError(f"a part cannot be read again: {error}", origin=part.path) from error
    if many != part.records:
        raise DataError(
            "a part holds another number of records than was written",
            expected=part.records,
            given=many,
            origin=part.path,
        )


def describe(done: Split) -> list[str]:
    """What came of a file, in lines."""
    sizes = np.array([len(members) for members in done.found.members])
    lines = [
        f"{part.name:10} {part.records:,} records, {part.pictures:,} pictures, "
        + f"{part.groups:,} groups"
        + ("" if part.name == "train" else f", resolves {_points(resolve(part.groups))} (95%)")
        + f"  {part.path}"
        for part in done.parts
    ]
    lines.append(
        f"{sizes.sum():,} records, {done.found.pictures:,} different pictures, {len(sizes):,} "
        f"groups (the largest has {sizes.max():,} records); nearly the same: "
        f"{len(done.found.near):,} pairs of pictures, {len(done.found.texts):,} of texts"
    )
    if done.lost:
        lines.append(
            f"{len(done.lost):,} records cannot be used and are in no part: see split.json"
        )
    fields = ", ".join(f"{name}: {json.dumps(value)}" for name, value in done.fields.items())
    lines.append(f"in a recipe: {{{fields}, path: {json.dumps(str(done.parts[0].path))}}}")
    return lines
