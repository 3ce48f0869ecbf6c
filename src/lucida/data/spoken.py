"""Turns as they are written: those of one role joined, texts joined, images told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lucida.core.errors import DataError, shorten
from lucida.data.sample import ImagePart, Part, Turn

UNSAID = ("tools", "functions", "tool_calls", "function_call", "history")
"""Keys that change what a conversation means and that nothing here can say: it is refused."""


def refuse_unsaid(record: Mapping[str, Any], origin: str) -> None:
    """DataError for a record, or a turn, with a key that changes its meaning and is not read."""
    for name in UNSAID:
        if record.get(name):
            remedy = "leave it empty or out of the record"
            given = shorten(record[name])
            message = f"`{name}` is not read, and the conversation means something else without"
            raise DataError(message, expected="none", given=given, origin=origin, remedy=remedy)


@dataclass(slots=True)
class Spoken:
    """One turn after consecutive turns of a role were joined.

    `stem` and `branch` are the parts that each side says of it; `shared`: the stem begins it (and
    may be left without parts of it when images go to the start); `open`: the stem ends inside this
    turn, so each branch goes on with it or closes it.
    """

    role: str
    stem: list[Part] = field(default_factory=list)
    branch: list[Part] = field(default_factory=list)
    shared: bool = False
    open: bool = False


def join_turns(stem: list[tuple[str, list[Part]]], branch: Sequence[Turn]) -> list[Spoken]:
    """The turns of a stem, already joined, and one branch, consecutive turns of one role joined.

    The stem's last turn stays open for the branch when a user or a document speaks. Images alone at
    the end of the stem belong to whoever speaks first in the branch, document or user.
    """
    later = same_roles(branch)
    joined = [Spoken(role, stem=parts, shared=True) for role, parts in stem if parts]
    if joined and joined[-1].role in ("user", "text"):
        end = joined[-1]
        end.open = True
        only_images = all(isinstance(part, ImagePart) for part in end.stem)
        speaker = later[0][0] if later else end.role
        if speaker == end.role or (only_images and speaker in ("user", "text")):
            end.role = speaker
            end.branch = later.pop(0)[1] if later else []
    return joined + [Spoken(role, branch=parts) for role, parts in later]


def same_roles(turns: Sequence[Turn]) -> list[tuple[str, list[Part]]]:
    """(role, parts) with consecutive turns of a role joined, texts joined, their ends stripped."""
    joined: list[tuple[str, list[Part]]] = []
    for turn in turns:
        parts = list(turn.parts)
        if joined and joined[-1][0] == turn.role:
            earlier = joined[-1][1]
            if earlier and parts and isinstance(earlier[-1], str) and isinstance(parts[0], str):
                earlier.append("\n")
            earlier.extend(parts)
        else:
            joined.append((turn.role, parts))
    return [(role, _tidy(parts, strip=role != "text")) for role, parts in joined]


def _tidy(parts: list[Part], strip: bool) -> list[Part]:
    """Texts joined. In a document (nothing to strip) the first string, and the first behind each
    image, may be the sentence of an image and stays apart."""
    if len(parts) == 1:  # nearly always
        part = parts[0].strip() if strip and isinstance(parts[0], str) else parts[0]
        return [part] if part != "" else []
    tidy: list[Part] = []
    first = not strip  # the stem may have ended with an image
    for part in parts:
        if isinstance(part, ImagePart):
            first = not strip
        if part == "":
            continue
        if isinstance(part, str) and tidy and isinstance(tidy[-1], str):
            if not (first and tidy[-1].strip()):
                tidy[-1] += part
                continue
            first = False
        tidy.append(part)
    if strip and tidy and isinstance(tidy[0], str):
        tidy[0] = tidy[0].lstrip()
    if strip and tidy and isinstance(tidy[-1], str):
        tidy[-1] = tidy[-1].rstrip()
    return [part for part in tidy if part != ""]


def without_images(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """The parts of a turn as if they had never shown an image, and the images."""
    images: list[Part] = [part for part in parts if isinstance(part, ImagePart)]
    if not images:
        return parts, images
    said = [part for part in parts if not isinstance(part, ImagePart)]
    return _tidy(said, strip=True), images


def opening_images(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """The images that open a turn, and the rest; white space between them is left out."""
    images = []
    for number, part in enumerate(parts):
        if isinstance(part, ImagePart):
            images.append(part)
        elif not (isinstance(part, str) and not part.strip()):
            rest = parts[number:]
            if images and isinstance(rest[0], str):
                rest = [rest[0].lstrip(), *rest[1:]]
            return images, rest
    return images, []


def put_lead(lead: str, parts: list[Part]) -> list[Part]:
    """The parts with white space in front that is tokenised together with the first word."""
    if not lead or not parts:
        return parts
    if isinstance(parts[0], str):
        return [lead + parts[0], *parts[1:]]
    return [lead, *parts]
