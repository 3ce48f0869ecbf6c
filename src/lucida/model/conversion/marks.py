"""Marks that llama.cpp writes around a picture, in the place of tokens that stand there anyway.

Some of its forms put text around every picture, `<|image_start|>` and `<|image_end|>`, whatever the
chat template says. A model that was trained without them would see two tokens more. So the marks
become the two tokens next to the picture: two rows of the vocabulary that no text uses get their
names and the embeddings of these neighbours, and the template of the file leaves the neighbours
out.

    trained with     <|im_start|>user ⏎ [picture] ⏎ What is it?
    written there    <|im_start|>user   [picture]   What is it?
    read there       <|im_start|>user <|image_start|> [picture] <|image_end|> What is it?
                                      ^ row of ⏎                ^ row of ⏎

That is exact where the neighbours are known beforehand: one picture that opens the words of a turn.
The template refuses other conversations. The output matrix keeps the old rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lucida.core.errors import ModelError
from lucida.data.jinja import START, Turns, body, literal, turns_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

WORDS = ("What is it?", "a", "7 of them", "?", '"It" is', "éa", "(a) no")
"""Beginnings of questions, which must not change how the text in front of them is cut."""
RESERVE = re.compile("reserved|unused")
ONE_PICTURE = "this file takes one picture, in front of the words of a turn"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture stands in a turn. front, back: the text next to it. neighbours: the tokens
    next to it. cut: how many characters of front's end and back's start they are."""

    front: str
    back: str
    neighbours: tuple[int, int]
    cut: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Marks:
    """texts: of the marks. rows: of the vocabulary that carry them. places: where a picture may
    stand, all with the same neighbours."""

    texts: tuple[str, str]
    rows: tuple[int, ...]
    places: list[Place]


def find_marks(
    texts: tuple[str, str], model: LucidaModel, processor: LucidaProcessor
) -> Marks | str:
    """How the marks of a form take the place of neighbours, or why they cannot."""
    why = f"llama.cpp writes {' and '.join(texts)} around pictures, "
    known = processor.tokenizer.get_vocab()
    if found := [text for text in texts if text in known]:
        return f"{why}and {found[0]} is a token of this vocabulary already"
    rows = free_rows(model, processor)
    if len(rows) < 2:
        return f"{why}and the vocabulary has no two rows for them that no text uses"
    try:
        first, *others = turns_with_pictures(processor)
    except ModelError as problem:
        return str(problem)
    place = find_place(processor.tokenizer, *first)
    if place is None:
        return (
            f"{why}and next to a picture the template `{processor.template}` has no two tokens of "
            "its own whose place they could take"
        )
    places = [place]
    for front, back in others:
        other = find_place(processor.tokenizer, front, back)
        if other and (other.neighbours, other.cut) == (place.neighbours, place.cut):
            places.append(other)
    return Marks(texts, rows[:2], places)


def turns_with_pictures(processor: LucidaProcessor) -> Iterator[tuple[str, str]]:
    """What is written in front of a picture that opens a question, and behind it up to the words:
    of the first turn of a conversation, then of later ones."""
    at_start = processor.image_places == "at_start"
    turns = turns_of(processor.template, processor.tokenizer, at_start)
    keys = [key for key in {**turns.inside, **turns.last} if key[0] == "user"]
    keys.sort(key=lambda key: key[1] != START)
    for key in keys[:1] if at_start else keys:
        yield write_around(turns, key, at_start)


def write_around(turns: Turns, key: tuple[str, str], at_start: bool) -> tuple[str, str]:
    """The text of one kind of turn in front of its picture and behind it, as `Frame` orders it."""
    frame = body(turns, key)
    start = turns.start if key[1] == START else ""
    opens = frame.before + frame.generated
    if at_start:
        return start, opens + frame.opening + frame.lead
    if frame.glue:
        return start + opens + frame.lead, frame.opening + frame.glue
    return start + opens, frame.opening + frame.lead


def find_place(tokenizer: PreTrainedTokenizerBase, front: str, back: str) -> Place | None:
    """The tokens on both sides of a picture; None where they depend on what else is written."""
    ids = cut_text(tokenizer, front)
    # The last token is the last n characters where all others are the same without these. Several n
    # may do so (a run of blanks); the template leaves out as few as it can.
    ends = [n for n in range(1, len(front) + 1) if cut_text(tokenizer, front[:-n]) == ids[:-1]]
    # The first token behind may have eaten into the words of the question, so it counts only where
    # it is the same, and as long, in front of all of them.
    behind = {words: cut_text(tokenizer, back + words) for words in WORDS}
    starts = [
        n
        for n in range(1, len(back) + 1)
        if all(found[1:] == cut_text(tokenizer, back[n:] + each) for each, found in behind.items())
    ]
    firsts = {found[0] for found in behind.values()}
    if not ends or not starts or len(firsts) > 1:
        return None
    return Place(front, back, (ids[-1], *firsts), (ends[0], starts[0]))


def free_rows(model: LucidaModel, processor: LucidaProcessor) -> tuple[int, ...]:
    """Rows of the vocabulary that no text uses: the placeholder of images, those without a token or
    with one that is kept in reserve, and the padding, if it is nothing else."""
    tokenizer = processor.tokenizer
    rows = len(model.language.get_input_embeddings().weight)
    used = set(tokenizer.get_vocab().values())
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special and RESERVE.search(token.content):
            used.discard(number)  # for others to use, as Llama's <|reserved_special_token_0|>
    spare = [number for number in range(rows) if number not in used]
    found = [processor.image_token_id, *spare]
    pad, ends = tokenizer.pad_token_id, model.generation_config.eos_token_id
    others = [tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id]
    if pad not in [*others, *(ends if isinstance(ends, list) else [ends])]:
        found.append(pad)
    return tuple(n for n in dict.fromkeys(found) if n is not None and n < rows)


def cut_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text, tokens that it names included."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def embed_marks(embedding: Tensor, marks: Marks) -> Tensor:
    """The input embedding [rows, width] with the neighbours' rows under the marks."""
    changed = embedding.clone()
    changed[list(marks.rows)] = embedding[list(marks.places[0].neighbours)]
    return changed


def leave_out(jinja: str, marks: Marks) -> str:
    """A chat template that leaves the neighbours of its picture out; `<__media…__>` stands for it.
    Conversations without a picture are written as they are."""
    known = " or ".join(
        f"front.endswith({literal(place.front)}) and behind.startswith({literal(place.back)})"
        for place in marks.places
    )
    end, start = marks.places[0].cut
    refuse = f"{{{{- raise_exception({literal(ONE_PICTURE)}) -}}}}"
    return (
        f"{{%- set text -%}}{jinja}{{%- endset -%}}"
        "{%- set pieces = text.split('<__media') -%}"
        "{%- if pieces | length == 1 -%}{{- text -}}{%- elif pieces | length == 2 -%}"
        "{%- set mark = '<__media' + pieces[1].split('__>')[0] + '__>' -%}"
        "{%- set front = pieces[0] -%}{%- set behind = text.split(mark)[1] -%}"
        f"{{%- if {known} -%}}{{{{- front[:-{end}] + mark + behind[{start}:] -}}}}"
        f"{{%- else -%}}{refuse}{{%- endif -%}}{{%- else -%}}{refuse}{{%- endif -%}}"
    )
