"""Texts and images as a sample, the same for every source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lucida.core.errors import DataError, shorten, suggestion
from lucida.data.sample import ImagePart, ImageSource, Part, Role, Sample, Turn
from lucida.data.spoken import UNSAID, refuse_unsaid

PLACEHOLDER = "<image>"
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


SYSTEM = ("system", "system_prompt", "system_message")
"""Keys of a record whose text is the first turn of its conversation."""
ASIDE = dict.fromkeys((*SYSTEM, *UNSAID))


def one_conversation(
    origin: str,
    images: tuple[ImageSource, ...],
    turns: tuple[Turn, ...],
    beside: Mapping[str, Any] | None = None,
) -> Sample:
    """The turns as a sample of one branch; images that open a user's first turn become the stem,
    which is never cut off when the sample is too long. `beside` is the record that they stand in:
    its system text becomes the first turn (`SYSTEM`)."""
    if beside is not None and (told := system_of(beside, turns[0], origin)):
        turns = (Turn("system", (told,)), *turns)
    first = turns[0]
    # Images at the very start go to the stem: `chat.encode` cuts long samples at the end of
    # branches.
    opening = 0
    while opening < len(first.parts) and isinstance(first.parts[opening], ImagePart):
        opening += 1
    if first.role != "user" or not opening:
        return Sample(origin, images, (), (turns,))
    stem = (Turn("user", first.parts[:opening]),)
    rest = (Turn("user", first.parts[opening:]), *turns[1:])
    return Sample(origin, images, stem, (rest if rest[0].parts else rest[1:],))


def system_of(record: Mapping[str, Any], first: Turn, origin: str) -> str:
    """The system text that a record has beside its conversation; none where the first turn says
    it already. DataError: two different ones, no text, keys that nothing here can say."""
    refuse_unsaid(record, origin)
    texts = {text_of(record[name], name, origin) for name in SYSTEM if record.get(name)}
    own = "".join(map(str, first.parts)) if first.role == "system" else None
    if len(texts | {own} - {None}) > 1:
        remedy = "leave the right one in the record"
        given = shorten(sorted(texts | {own} - {None}))
        message = "a conversation with two system texts"
        raise DataError(message, expected="one", given=given, origin=origin, remedy=remedy)
    return "" if own is not None else next(iter(texts), "")


def place_images(
    origin: str,
    images: tuple[ImageSource, ...],
    written: list[tuple[Role, str]],
    beside: Mapping[str, Any],
) -> Sample:
    """A conversation with its images where `<image>` stands in the user's turns; `beside` as in
    `one_conversation`.

    DataError when there are more or fewer images than places.
    """
    check_places(origin, len(images), written)
    number = 0
    spoken = []
    for role, text in written:
        pieces = text.split(PLACEHOLDER) if role == "user" else [text]
        parts: list[Part] = [pieces[0]]
        for piece in pieces[1:]:
            parts += [ImagePart(number), piece]
            number += 1
        spoken.append(Turn(role, tuple(part for part in parts if part != "")))
    return one_conversation(origin, images, tuple(spoken), beside)


def check_places(origin: str, images: int, written: list[tuple[Role, str]]) -> None:
    """DataError unless the user's turns show as many images as there are."""
    shown = sum(text.count(PLACEHOLDER) for role, text in written if role == "user")
    if shown != images:
        raise DataError(
            f"the human turns show another number of images ({PLACEHOLDER}) than there are",
            expected=images,
            given=shown,
            origin=origin,
            remedy="correct the record",
        )


def make_captioned(
    origin: str, image: ImageSource, text: object, prompts: list[str], number: int
) -> Sample:
    """A picture and its text: an answer to one of the prompts, or a document without any."""
    words = text_of(text, "text", origin)
    if not words.strip():
        remedy = "fill it in, or remove the record"
        raise DataError("the text of the picture is empty", origin=origin, remedy=remedy)
    if not prompts:
        return Sample(origin, (image,), (), ((Turn("text", (ImagePart(0), words)),),))
    prompt = prompts[number % len(prompts)]
    asked = (Turn("user", (ImagePart(0), prompt) if prompt else (ImagePart(0),)),)
    return one_conversation(origin, (image,), (*asked, Turn("assistant", (words,))))


def role_of(speaker: object, origin: str) -> Role:
    """What a data set calls a speaker, in our words."""
    if not isinstance(speaker, str) or speaker not in ROLES:
        remedy = suggestion(str(speaker), ROLES)
        raise DataError("unknown speaker", given=speaker, origin=origin, remedy=remedy)
    return ROLES[speaker]


def text_of(value: object, name: str, origin: str) -> str:
    """A text that a tokenizer can read. DataError: another type, or half of a surrogate pair."""
    if not isinstance(value, str):
        raise DataError(f"bad `{name}`", expected="a text", given=shorten(value), origin=origin)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        remedy = "the text was cut within a character; correct the record or drop it"
        raise DataError(f"bad `{name}`: {error}", origin=origin, remedy=remedy) from error
    return value


def one_of(record: Mapping[str, Any], names: tuple[str, ...], origin: str) -> Any:
    """The value of the one of these keys that holds something; None where none does. DataError:
    two of them do, of which one would be lost."""
    there = [name for name in names if _holds(record.get(name))]
    if len(there) > 1 and any(record[name] != record[there[0]] for name in there):
        expected, given = f"one of {', '.join(names)}", " and ".join(there)
        message = "two keys that mean the same"
        raise DataError(message, expected=expected, given=given, origin=origin)
    return record[there[0]] if there else None


def _holds(value: Any) -> bool:
    """Whether a value says something; zero and false do, and no bytes are a damaged picture."""
    return isinstance(value, int | float | bytes) or bool(value)


def list_pictures(values: list[Any], origin: str) -> list[Any]:
    """The pictures of a list; none where every place of it is empty. DataError where some are: the
    others would be taken for them."""
    held = [each for each in values if each not in (None, "")]
    if held and len(held) < len(values):
        raise DataError(
            "a list of pictures with empty places",
            expected=f"{len(values)} pictures",
            given=len(held),
            origin=origin,
            remedy="fill them in, or take the places out of the list",
        )
    return held


SPOKEN = dict.fromkeys(("from", "value", *UNSAID))
"""Keys of a turn that `read_turns` reads."""


def read_turns(turns: Any, origin: str) -> list[tuple[Role, str]]:
    """Speaker and text of each turn of `conversations`, as LLaVA and ShareGPT write them."""
    if not isinstance(turns, list) or not turns:
        remedy = "each record is an object with a list `conversations`"
        raise DataError("no conversation in this record", origin=origin, remedy=remedy)
    found = []
    for turn in turns:
        role = role_of(turn.get("from") if isinstance(turn, dict) else None, origin)
        refuse_unsaid(turn, origin)
        found.append((role, text_of(turn.get("value"), "value", origin)))
    return found


def most_given(answers: list[str]) -> str:
    """The most frequent answer; the first of those that tie. TypeError: one text, whose letters
    would be counted."""
    if isinstance(answers, str):
        raise TypeError(f"expected a list of answers, got {shorten(answers)}")
    return Counter(answers).most_common(1)[0][0]
