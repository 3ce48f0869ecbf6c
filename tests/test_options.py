"""Which options of a recipe nobody uses: neither a recipe or study that ships, nor README, docs or
a benchmark. The list in golden/unused_options.txt may only shrink: a new option comes with a use.
"""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel

from lucida.core.spec import Recipe

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).parent / "golden" / "unused_options.txt"
PLACES = ("src/lucida/**/*.yaml", "docs/**/*.md", "README.md", "benchmarks/*.py")


def specs_below(annotation):
    """Every spec class in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from specs_below(part)


def all_specs():
    found, waiting = [], [Recipe]
    while waiting:
        spec = waiting.pop()
        if spec not in found:
            found.append(spec)
            for info in spec.model_fields.values():
                waiting.extend(specs_below(info.annotation))
    return found


def options():
    """`field`, and `field=value` for every choice of one, beside the word to look for."""
    for spec in all_specs():
        for name, info in spec.model_fields.items():
            if name == "kind":
                continue
            yield name, name
            choices = [word for word in words_of(info.annotation) if isinstance(word, str)]
            yield from ((f"{name}={word}", word) for word in choices)


def words_of(annotation):
    """Every literal value in a type."""

    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return [word for part in get_args(annotation) for word in words_of(part)]


def test_what_nobody_uses_may_only_shrink():
    text = "\n".join(
        file.read_text(encoding="utf-8") for place in PLACES for file in ROOT.glob(place)
    )
    used = set(re.findall(r"[\w-]+", text))
    unused = {option for option, word in options() if word not in used}
    known = set(LIST.read_text(encoding="utf-8").split())
    assert not unused - known, "used by nobody: write a recipe, study or document that uses them"
    assert known <= {option for option, _ in options()}, f"take off {LIST.name} what is gone"
