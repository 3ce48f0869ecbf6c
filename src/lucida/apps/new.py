"""`lucida new DIR`: a recipe to start from, with pictures, questions and answers that it reads.

DIR/recipe.yaml      commented; trains as it stands
DIR/pictures/*.png   twenty scenes of the miniature world
DIR/train.csv        image, question, answer: sixteen of the pictures
DIR/held-out.csv     the other four, which the evaluation asks about
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lucida.core.files import atomic_folder, check_free
from lucida.world.drawing import draw
from lucida.world.tasks import TASKS

PICTURES, HELD_OUT = 20, 4
QUESTIONS = 6
"""Questions of each family about a picture."""
FAMILIES = ("attribute", "counting", "presence")
SEED = 20
RECIPE = Path(__file__).with_name("starter.yaml")


def write_starter(folder: Path) -> None:
    """Write the folder, whole or not at all; RunError where something stands there already."""
    check_free(folder)
    with atomic_folder(folder) as aside:
        (aside / "pictures").mkdir()
        rows = []
        for number in range(PICTURES):
            name = f"pictures/{number:02}.png"
            rows.append(ask_about(number, name, aside))
        write_rows(aside / "train.csv", rows[:-HELD_OUT])
        write_rows(aside / "held-out.csv", rows[-HELD_OUT:])
        text = RECIPE.read_text(encoding="utf-8")
        (aside / "recipe.yaml").write_text(text, encoding="utf-8")


def ask_about(number: int, name: str, folder: Path) -> list[tuple[str, str, str]]:
    """Draw picture `number` to `folder`/`name`; gives its questions and answers as rows."""
    rows: dict[tuple[str, str], str] = {}
    for family in FAMILIES:
        item = TASKS[family].item(SEED, "train", number, QUESTIONS, 64)
        if family == FAMILIES[0]:
            scene = item.scenes[0]
            draw(scene).save(folder / name)
        elif item.scenes[0] != scene:  # another family may draw scenes of its own
            continue
        rows |= {(name, each.question): each.answer for each in item.exchanges}
    return [(*key, answer) for key, answer in rows.items()]


def write_rows(path: Path, rows: list[list[tuple[str, str, str]]]) -> None:
    """A CSV with a header line, the rows of one picture after the other."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "question", "answer"])
    for each in rows:
        writer.writerows(each)
    path.write_text(text.getvalue(), encoding="utf-8")
