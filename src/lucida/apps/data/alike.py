"""Records that are nearly the same, inside a source and between the sources of a recipe.

sources ─Printed─▶ different pictures ─near─▶ groups of them ─▶ Alike, with who shows them
                   texts without pictures ─near─▶ groups ──┘

That several records ask about one and the same picture is no repetition, and records that are equal
to the letter and the pixel are counted by `data check`; here a group has different pictures, or
different words, that are hard to tell apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lucida.apps.data.duplicates import Joined, Pictures, Printed, read_prints
from lucida.apps.data.guess import Opened
from lucida.apps.data.near import near_pictures, near_texts
from lucida.apps.data.show import lay_out, write_groups
from lucida.core.files import atomic_write
from lucida.core.progress import Progress

KINDS = {
    "both": "nearly the same picture, and nearly the same question about it",
    "picture": "nearly the same picture",
    "text": "no picture, and nearly the same words",
}
"""What a group is, the worst first."""
MOST = 6
"""Records of a group that are drawn."""


@dataclass(frozen=True)
class Alike:
    """A group. what: a key of `KINDS`; members: a record for each of its pictures or texts;
    records: how many show or say one of them."""

    what: str
    members: list[Printed]
    records: int


@dataclass
class Found:
    """What was compared, and the groups, the worst and largest first. unusable: records that could
    not be compared."""

    records: int = 0
    pictures: int = 0
    groups: list[Alike] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)

    def count(self, what: str) -> int:
        """Groups of a kind."""
        return sum(each.what == what for each in self.groups)


def find_alike(sources: Sequence[Opened], processes: int = 1) -> Found:
    """Compares every record of the sources with every other."""
    found, printed = Found(), []
    for number, each in enumerate(sources):
        with Progress(f"read {each.name}", len(each.source), "record") as progress:
            for some, unusable in read_prints(each.source, processes):
                printed += [replace(record, source=number) for record in some]
                found.unusable += [str(reason) for _, reason in unusable]
                progress.advance(len(some) + len(unusable))
    pictures = Pictures(printed)
    found.records, found.pictures = len(printed), len(pictures.prints)
    joined = Joined(len(pictures.prints), near_pictures(pictures.prints))
    found.groups = [_group_pictures(printed, pictures, of) for of in joined.groups(2)]
    bare = [record for record in printed if not record.pictures]
    for of in Joined(len(bare), near_texts([record.said for record in bare])).groups(2):
        members = list({bare[place].said: bare[place] for place in reversed(of)}.values())[::-1]
        if len(members) > 1:
            found.groups.append(Alike("text", members, len(of)))
    order = list(KINDS)
    found.groups.sort(key=lambda each: (order.index(each.what), -each.records))
    return found


def _group_pictures(printed: Sequence[Printed], pictures: Pictures, numbers: list[int]) -> Alike:
    """The group of these different pictures; its members are alike in their questions too where
    there are such."""
    shown = [(number, place) for number in numbers for place in pictures.shown[number]]
    records = len({place for _, place in shown})
    asked = near_texts([printed[place].asked for _, place in shown])
    same = [pair for pair in asked if shown[pair[0]][0] != shown[pair[1]][0]]
    # Of each picture the record whose question is near one about another picture, else its first.
    members = dict(reversed(shown)) | {shown[n][0]: shown[n][1] for pair in same for n in pair}
    what = "both" if same else "picture"
    return Alike(what, [printed[members[number]] for number in numbers], records)


def describe(found: Found, shown: int = 10) -> list[str]:
    """What was found, in lines, the worst first."""
    lines = [
        f"{found.records:,} records, {found.pictures:,} different pictures: "
        f"{len(found.groups):,} groups are nearly the same"
    ]
    lines += [f"{found.count(what):8,}  {told}" for what, told in KINDS.items()]
    if found.unusable:
        lines.append(
            f"{len(found.unusable):8,}  records could not be compared, the first: "
            f"{found.unusable[0]}"
        )
    for each in found.groups[:shown]:
        first, second, *rest = each.members
        more = f", and {len(rest):,} more" if rest else ""
        lines.append(f"{each.what}: {first.origin}  ~  {second.origin}{more}")
    if len(found.groups) > shown:
        lines.append(f"… and {len(found.groups) - shown:,} more: all are in the report")
    return lines


def write_alike(found: Found, sources: Sequence[Opened], shown: int, page: Path) -> None:
    """A page with the first `shown` groups and their pictures, and beside it all as JSON."""
    value = {
        "records": found.records,
        "pictures": found.pictures,
        "counts": {what: found.count(what) for what in KINDS},
        "unusable": found.unusable,
        "groups": [
            {
                "what": each.what,
                "records": each.records,
                "members": [
                    {"source": sources[one.source].name, "record": one.number, "origin": one.origin}
                    for one in each.members
                ],
            }
            for each in found.groups
        ],
    }
    written = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    atomic_write(page.with_suffix(".json"), written)
    groups = [_lay_group(each, sources) for each in found.groups[:shown]]
    write_groups(groups or [("Nothing is nearly the same", describe(found), [])], page)


def _lay_group(each: Alike, sources: Sequence[Opened]) -> tuple[str, list[str], list]:
    of = {number: source.name if len(sources) > 1 else "" for number, source in enumerate(sources)}
    laid = [lay_out(sources[one.source], one.number, of[one.source]) for one in each.members[:MOST]]
    told = f"{len(each.members):,} {'texts' if each.what == 'text' else 'pictures'}"
    notes = [f"{told} in {each.records:,} records"]
    if len(each.members) > MOST:
        notes.append(f"the first {MOST} of them are shown")
    return KINDS[each.what].capitalize(), notes, laid
