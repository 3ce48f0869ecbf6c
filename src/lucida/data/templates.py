"""Chat templates as structure: what stands around each turn, never a string to be searched.

A template turns a sequence of roles into one `Frame` per turn. The frame says which literal text is
written before, between and after what the data say; `lucida.data.chat` fills in the data. So the
supervised tokens are known by construction, and text of the data can never be taken for a marker.

    plain      {images}\\n{caption}<eos>                 LLaVA stage 1: the question is not shown
    qa         {images}\\nQuestion: {user}\\nAnswer: {assistant}<eos>     for base language models
    chatml     <|im_start|>user\\n{images}\\n{user}<|im_end|>\\n<|im_start|>assistant\\n...
    vicuna     {system} USER: {images}\\n{user} ASSISTANT: {assistant}</s>USER: ...
    tokenizer  whatever the tokenizer's own `chat_template` writes

Consecutive turns of one role are one turn, and images that open a turn stand before its text.
Role `text` is a document: no template writes anything around it but the end token after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2

from lucida.core.errors import DataError
from lucida.data.sample import Role
from lucida.data.vocabulary import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


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


Template = Callable[["PreTrainedTokenizerBase", Sequence[Role]], Layout]


def document_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What stands around a document in every template: the end token after it."""
    return Frame(end=_end_token(tokenizer, "documents"))


def plain(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Images, a line break, the caption. What user and system say is left out, as in LLaVA."""
    if roles.count("assistant") > 1:
        raise DataError(
            "the template `plain` shows one caption behind its images",
            expected="one assistant turn",
            given=roles.count("assistant"),
            remedy="use `qa` or another template for conversations",
        )
    caption = Frame(before="\n", end=_end_token(tokenizer, "plain"))
    silent = Frame(shows_text=False)
    return Layout(tuple(caption if role == "assistant" else silent for role in roles))


def qa(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Question and Answer, for base language models; every answer ends with the end token."""
    frames = {
        "system": Frame(),
        "user": Frame(opening="\nQuestion:", lead=" "),
        "assistant": Frame(before="\nAnswer:", lead=" ", end=_end_token(tokenizer, "qa")),
    }
    return Layout(tuple(frames[role] for role in roles))


def chatml(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """`<|im_start|>role ... <|im_end|>`, as Qwen's; no system text is added that the data lack."""
    for token in ("<|im_start|>", "<|im_end|>"):
        if token not in tokenizer.get_vocab():
            raise DataError(
                "the template `chatml` needs a token that this tokenizer lacks",
                expected=token,
                origin=tokenizer.name_or_path or None,
                remedy="use `qa`, or a tokenizer with the ChatML tokens",
            )
    return Layout(
        tuple(
            Frame(before=f"<|im_start|>{role}\n", glue="\n", end="<|im_end|>", after="\n")
            for role in roles
        )
    )


def vicuna(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Vicuna v1: `SYSTEM USER: ... ASSISTANT: ...</s>`; the usual system text if there is none."""
    end = _end_token(tokenizer, "vicuna")
    frames = []
    for number, role in enumerate(roles):
        if role == "system":
            frames.append(Frame())
            continue
        opens = VICUNA_SYSTEM if number == 0 else ""
        # After an answer's end token the next turn follows without a space.
        space = "" if number and roles[number - 1] == "assistant" else " "
        name = f"{opens}{space}{role.upper()}:"
        closing = end if role == "assistant" else ""
        frames.append(Frame(before=name, lead=" ", glue="\n", end=closing))
    return Layout(tuple(frames))


def tokenizer_template(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Follows the tokenizer's own chat template by rendering marks instead of text.

    The conversation is rendered with one unmistakable mark per turn, so that all literal text lies
    between marks. It can be followed when every mark comes out once and in order, and when each
    rendering up to a question, generation prompt included, begins the rendering of what follows:
    otherwise the model would be trained behind another context than it is asked in. Anything else
    is a `DataError`, never a sample with loss 0.
    """
    if not tokenizer.chat_template:
        raise _cannot_follow(tokenizer, "it has no chat template")
    marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
    messages = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
    whole = _render(tokenizer, messages, prompt=False)
    literals = _between(tokenizer, whole, marks)
    frames = []
    for number, role in enumerate(roles):
        before, lead, generated, end = literals[number], "", "", ""
        if role == "assistant":
            before, generated = _asked(tokenizer, whole, messages, number, before)
            end, literals[number + 1] = _split_end(tokenizer, literals[number + 1])
            if not generated.strip():
                lead, generated = generated, ""
        else:
            # A space before the text belongs to its first word.
            before, lead = before.rstrip(" "), before[len(before.rstrip(" ")) :]
        after = literals[-1] if number == len(roles) - 1 else ""
        frames.append(
            Frame(before=before, lead=lead, glue="\n", end=end, after=after, generated=generated)
        )
    return Layout(tuple(frames), begins_itself=True)


TEMPLATES: dict[str, Template] = {
    "plain": plain,
    "qa": qa,
    "chatml": chatml,
    "vicuna": vicuna,
    "tokenizer": tokenizer_template,
}


def _end_token(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    if tokenizer.eos_token is None:
        raise DataError(
            f"`{template}` ends an answer with the end token, and this tokenizer has none",
            origin=tokenizer.name_or_path or None,
            remedy="set tokenizer.eos_token",
        )
    return tokenizer.eos_token


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], prompt: bool
) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except (jinja2.TemplateError, TypeError, ValueError, IndexError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise _cannot_follow(tokenizer, f"it refuses the turns {roles}: {error}") from error


def _between(tokenizer: PreTrainedTokenizerBase, whole: str, marks: Sequence[str]) -> list[str]:
    """The literal text before each mark, and after the last."""
    literals, rest = [], whole
    for number, mark in enumerate(marks):
        times = whole.count(mark)
        if times != 1:
            reason = f"the text of turn {number + 1} is written {times} times"
            raise _cannot_follow(tokenizer, reason)
        if mark not in rest:
            raise _cannot_follow(tokenizer, "it changes the order of the turns")
        literal, _, rest = rest.partition(mark)
        literals.append(literal)
    return [*literals, rest]


def _asked(
    tokenizer: PreTrainedTokenizerBase,
    whole: str,
    messages: list[dict[str, str]],
    number: int,
    before: str,
) -> tuple[str, str]:
    """Divides the text before answer `number` into its prompt's and what must be generated.

    Refuses a template under which that answer stands behind another text than when it is asked for,
    or under which a conversation that ends here is written otherwise than one that goes on.
    """
    prompt = _render(tokenizer, messages[:number], prompt=True)
    context = whole[: whole.index(messages[number]["content"])]
    ended = _render(tokenizer, messages[: number + 1], prompt=False)
    if not context.startswith(prompt) or len(context) - len(prompt) > len(before):
        reason = f"answer {number + 1} stands behind another text than its generation prompt"
        raise _cannot_follow(tokenizer, reason)
    if not whole.startswith(ended):
        reason = f"turn {number + 1} is written otherwise when the conversation goes on behind it"
        raise _cannot_follow(tokenizer, reason)
    generated = context[len(prompt) :]
    return before[: len(before) - len(generated)], generated


def _split_end(tokenizer: PreTrainedTokenizerBase, literal: str) -> tuple[str, str]:
    """Cuts the text after an answer behind its first special token: (`<|im_end|>`, `\\n`)."""
    specials = [token for token in special_tokens(tokenizer) if token in literal]
    if not specials:
        reason = f"no special token ends an answer, so generation would never stop ({literal!r})"
        raise _cannot_follow(tokenizer, reason)
    # The earliest; of two that begin at one place, the longer.
    first = min(specials, key=lambda token: (literal.index(token), -len(token)))
    cut = literal.index(first) + len(first)
    return literal[:cut], literal[cut:]


def _cannot_follow(tokenizer: PreTrainedTokenizerBase, reason: str) -> DataError:
    return DataError(
        f"the tokenizer's own chat template cannot be followed: {reason}",
        origin=tokenizer.name_or_path or None,
        remedy="choose another model.language.template (chatml, vicuna, qa)",
    )
