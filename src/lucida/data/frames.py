"""What a chat template writes around the turns of a conversation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """The literal text around one turn, in the order in which it is written.

    before     opens the turn; for an assistant it is the prompt that generation starts from
    lead       white space that belongs to the data's first word (tokens of " red", not "red")
    opening    after the images that open the turn, before its text; only if there is text
    glue       the same, but only if there are images and text
    end        ends the turn; supervised for an assistant, so that generation learns to stop
    after      the rest, never supervised in the `answers` loss mode
    generated  written before the answer by the template but not by its generation prompt, so the
               model has to write it: supervised
    shows_text whether the turn's text is shown at all
    """

    before: str = ""
    lead: str = ""
    opening: str = ""
    glue: str = ""
    end: str = ""
    after: str = ""
    generated: str = ""
    shows_text: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """Frames of a conversation, and whether the template itself decides about the first token."""

    frames: tuple[Frame, ...]
    begins_itself: bool = False
