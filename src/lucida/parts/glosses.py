"""What WordNet says of things, and questions for one of four names.

`lucida fetch wordnet` writes it as text; `parts/reading.py` lets a language model read it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lucida.core.errors import DataError, shorten
from lucida.core.files import atomic_write

FILES = ("05", "06", "13", "17", "20", "25")
"""Lexicographer files that are read: animals, artifacts, food, objects, plants, shapes."""
LONGEST, LONGEST_NAME = 24, 3
"""Words of a gloss and of a name."""
TOO_WIDE = {
    "entity",
    "physical entity",
    "object",
    "whole",
    "matter",
    "living thing",
    "causal agent",
}
"""Kinds that say nothing of a thing."""
NAME, KIND = "What is this?", "What kind of thing is this?"


@dataclass(frozen=True, slots=True)
class Gloss:
    """A thing: its name, what is said of it, and the kinds it is of, the nearest first."""

    name: str
    text: str
    kinds: tuple[str, ...]


def read_glosses(file: Path) -> list[Gloss]:
    """The things among the nouns of WordNet 3.0 (data.noun; format: `man 5 wndb`).

    Left out: names with capitals (places, people, Latin orders), of more than three words, and what
    is abstract. DataError: not such a file.
    """
    if not file.is_file():
        raise DataError("there is no WordNet here", expected="data.noun", origin=file)
    said: dict[str, tuple[str, str, str, str]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("  "):
            continue
        head, _, text = line.partition(" | ")
        try:
            # "00000003 05 n 01 duck 0 001 @ 00000002 n 0000 | small wading bird; ...": place, file,
            # noun, number of words, the first of them with its sense, then pointers; behind `@` (or
            # `@i`, of what there is once) stands the place of the kind.
            place, lexicon, _, _, name, *more = head.split(" ")
        except ValueError as problem:
            raise DataError(
                "this is no line of data.noun", given=shorten(line), origin=f"{file}: line {number}"
            ) from problem
        above = next((more[k + 1] for k, each in enumerate(more) if each in ("@", "@i")), "")
        said[place] = (lexicon, name.replace("_", " "), text.partition(";")[0].strip(), above)
    found = []
    for lexicon, name, text, above in said.values():
        kinds: list[str] = []
        while above in said:  # up to `entity`, which has none above it
            kinds += [said[above][1]] if said[above][1] not in TOO_WIDE else []
            above = said[above][3]
        short = len(name.split()) <= LONGEST_NAME and len(text.split()) <= LONGEST
        group = "biological group" in kinds  # families and genera are no things to be seen
        if lexicon in FILES and kinds and short and name == name.lower() and not group:
            found.append(Gloss(name, text, tuple(kinds)))
    if not found:
        raise DataError("nothing in it is a noun of WordNet", origin=file)
    return found


def write_glosses(file: Path, folder: Path) -> list[str]:
    """What `read_glosses` finds as glosses.jsonl in `folder`, which sources of kind `text` read:
    {"text": "duck: small wild ...", "name", "kinds"} a line."""
    found = read_glosses(file)
    lines = [
        {"text": f"{each.name}: {each.text}", "name": each.name, "kinds": each.kinds}
        for each in found
    ]
    atomic_write(folder / "glosses.jsonl", "".join(json.dumps(each) + "\n" for each in lines))
    return [f"{len(found):,} things"]


def ask_choice(rng: random.Random, name: str, others: Sequence[str], what: str = "it") -> str:
    """A question for one of four names, the right one at a place drawn by lot.

    DataError where the others hold fewer than three other names. Worked example: "Which of these is
    it: bus, duck, moon or rose?"
    """
    known, wrong = {name.lower()}, list[str]()
    for other in rng.choices(others, k=200):
        if other.lower() not in known:
            known.add(other.lower())
            wrong.append(other)
        if len(wrong) == 3:
            break
    else:
        raise DataError("too few names to choose among", given=sorted(known)[:4])
    names = [*wrong, name]
    rng.shuffle(names)
    return f"Which of these is {what}: {', '.join(names[:-1])} or {names[-1]}?"
