"""The chat template that comes with a tokenizer, followed as structure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from lucida.core.errors import DataError
from lucida.data.frames import Frame, Layout
from lucida.data.rendering import bounded
from lucida.data.sample import Role
from lucida.data.vocabulary import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], prompt: bool
) -> str:
    write = partial(tokenizer.apply_chat_template, messages, tokenize=False)
    try:
        return bounded(partial(write, add_generation_prompt=prompt))
    except DataError as error:
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
