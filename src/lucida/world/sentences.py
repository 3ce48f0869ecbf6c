"""Short answers as whole sentences, for a speaker who was asked to answer so."""

from __future__ import annotations

import re

from lucida.world.phrases import article
from lucida.world.questions import Exchange

_FORMS: dict[str, tuple[str, str]] = {
    "colour": (r"what colour is (.+)\?", "{0} is {answer}."),
    "shape": (r"what shape is (.+)\?", "{0} is {one}."),
    "size": (r"is (.+) small or large\?", "{0} is {answer}."),
    "texture": (r"is (.+) plain, striped or dotted\?", "{0} is {answer}."),
    "reading": (r".*", "the sign says {answer}."),
    "counting": (r"how many (.+) are there\?", "the number of {0} is {answer}."),
    "presence": (r"is there (.+)\?", "{answer}, there is {not}{0}."),
    "side": (r"is (.+) on the .+ side\?", "{0} is on the {answer} side."),
    "relation": (
        r"is (.+) (?:left or right of|above or below) (.+)\?",
        "{0} is {answer}{of} {1}.",
    ),
    "spatial": (r"true or false: (.+)\.", "it is {answer} that {0}."),
}
"""How a question is put and its sentence, by its kind or else by its task."""


def sentence(exchange: Exchange) -> str | None:
    """The answer as a sentence; None for questions whose answer is one already, or a box.

    Worked example: "what colour is the star?", "red" gives "the star is red."
    """
    form = _FORMS.get(exchange.kind) or _FORMS.get(exchange.task)
    found = None if form is None else re.fullmatch(form[0], exchange.question)
    if found is None or not exchange.answer:
        return None
    answer = exchange.answer
    return form[1].format(
        *found.groups(),
        answer=answer,
        one=article(answer),
        of=" of" if answer in ("left", "right") else "",
        **{"not": "not " if answer == "no" else ""},
    )
