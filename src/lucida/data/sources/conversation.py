"""An ordinary conversation as a sample, the same for every source."""

from __future__ import annotations

from lucida.data.sample import ImagePart, ImageSource, Sample, Turn


def one_conversation(
    origin: str, images: tuple[ImageSource, ...], turns: tuple[Turn, ...]
) -> Sample:
    """The turns as a sample of one branch; images that open a user's first turn become the stem,
    which is never cut off when the sample is too long."""
    first = turns[0]
    opening = 0
    while opening < len(first.parts) and isinstance(first.parts[opening], ImagePart):
        opening += 1
    if first.role != "user" or not opening:
        return Sample(origin, images, (), (turns,))
    stem = (Turn("user", first.parts[:opening]),)
    rest = (Turn("user", first.parts[opening:]), *turns[1:])
    return Sample(origin, images, stem, (rest if rest[0].parts else rest[1:],))
