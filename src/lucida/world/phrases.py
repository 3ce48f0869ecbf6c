"""Words for what a scene holds: noun phrases, places and captions of several lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lucida.world.scenes import Scene, Sign, Thing

PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def place(box: tuple[int, int, int, int], width: int, height: int) -> str:
    """Which ninth of the picture the middle of a box lies in."""
    column = min(2, int((box[0] + box[2]) / 2 * 3 / width))
    row = min(2, int((box[1] + box[3]) / 2 * 3 / height))
    return PLACES[row][column]


def full_name(thing: Thing) -> str:
    """Every attribute: "large red striped star"; plain texture is not said."""
    texture = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"{thing.size} {thing.colour} {texture}{thing.shape}"


def short_name(thing: Thing) -> str:
    """Colour and shape, which name one thing of a scene: "red star"."""
    return f"{thing.colour} {thing.shape}"


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption_phrases(scene: Scene) -> list[str]:
    """One phrase for each thing, for each sign and for the background, places included."""
    size = (scene.width, scene.height)
    phrases = [f"{article(full_name(t))} at the {place(t.box, *size)}" for t in scene.things]
    phrases += [f"{sign_name(s)} at the {place(s.box, *size)}" for s in scene.signs]
    phrases.append(f"a {scene.background} background")
    return phrases


def sign_name(sign: Sign) -> str:
    """How a caption speaks of the sign."""
    return f"a sign that says {sign.word}"


def join_with_and(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"


def long_caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Everything in the scene, in the order of its things or, with `rng`, in any order."""
    phrases = caption_phrases(scene)
    things = phrases[:-1]
    if rng is not None:
        rng.shuffle(things)
    return f"{join_with_and(things)} on {phrases[-1]}."


def short_caption(scene: Scene, variant: int = 0) -> str:
    """A COCO-like sentence; `variant` 0 to 4 gives five ways to say the same."""
    # The widest first; of equally wide ones the one that begins furthest right.
    ordered = sorted(scene.things, key=lambda t: -(t.box[2] - t.box[0]) * 64 - t.box[0])
    names = [article(short_name(t)) for t in ordered]
    if variant in (1, 3):
        names.reverse()
    text = join_with_and([*names, *map(sign_name, scene.signs)])
    ground = f"{article(scene.background)} background"
    return (
        f"{text} on {ground}.",
        f"a picture of {text}.",
        f"there is {text}.",
        f"{ground} with {text}.",
        f"{text}.",
    )[variant % 5]
