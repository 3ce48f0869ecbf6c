"""Chat templates as structure: what stands around each turn, never a string to be searched.

A template turns a sequence of roles into one `Frame` per turn. The frame says which literal text is
written before, between and after what the data say; `lucida.data.pieces` fills in the data. So the
supervised tokens are known by construction, and text of the data can never be taken for a marker.

    plain      {images}\\n{caption}<eos>                 LLaVA stage 1: the question is not shown
    qa         {images}\\nQuestion: {user}\\nAnswer: {assistant}<eos>     for base language models
    chatml     <|im_start|>user\\n{images}\\n{user}<|im_end|>\\n<|im_start|>assistant\\n...
    vicuna     {system} USER: {images}\\n{user} ASSISTANT: {assistant}</s>USER: ...
    llama2     <s>[INST] <<SYS>>\\n{system}\\n<</SYS>>\\n\\n{user} [/INST] {assistant} </s><s>...
    mistral    <s>[INST] {images}\\n{user} [/INST] {assistant}</s>[INST] ...
    phi        Input: {images}\\n{user}\\nOutput: {assistant}\\n<|endoftext|>  Prismatic's for Phi-2
    prismatic  {images}In: {user}\\nOut: {assistant}</s>In: ...       Prismatic's for base models
    prismatic_llama2   Prismatic's for Llama-2-chat: one start token, its own system text
    tokenizer  whatever the tokenizer's own `chat_template` writes, followed by rendering marks

Frames are the one representation: the named templates are tables of them, a tokenizer's Jinja text
is read into them (below), and `lucida.data.jinja` writes them as Jinja for other programs.

Consecutive turns of one role are one turn, and images that open a turn stand before its text (all
of them in front of everything, where `language.images` is `at_start`).
Role `text` is a document: no template writes anything around it but the end token after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from lucida.core.errors import DataError
from lucida.data.rendering import render_bounded
from lucida.data.sample import Role
from lucida.data.vocabulary import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "\ue002", "\ue003"
"""Stand in the tables below for the tokenizer's start and end token."""


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

    vicuna, with an image    before    lead  (image)  glue  (text)   end
                             "… USER:" " "   I I      "\\n"  What?    ""
    qa, with an image        before  (image)  opening         lead  (text)   end
                             ""      I I      "\\nQuestion:"  " "   What?    ""
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


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)

PRISMATIC_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)

Template = Callable[["PreTrainedTokenizerBase", Sequence[Role]], Layout]


@dataclass(frozen=True, slots=True)
class Named:
    """A template of this module, which may be called as a `Template`.

    frames: what stands around a turn of a role, or, where `ROLE after ROLE` or `ROLE first` is
    there, around one behind that role or at the start. needs: tokens that the tokenizer must have.
    one_answer: it writes one answer only. system_in_question: a system text comes first, and the
    question behind it closes what it opened.
    """

    name: str
    frames: Mapping[str, Frame]
    needs: tuple[str, ...] = ()
    one_answer: bool = False
    system_in_question: bool = False

    def __call__(self, tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
        """The frames of a conversation; DataError for one that this template does not write, or a
        tokenizer that lacks a token of it."""
        self._check(tokenizer, roles)
        tokens = self._tokens(tokenizer)
        frames = []
        for before, role in zip((None, *roles), roles, strict=False):
            key = f"{role} after {before}" if before else f"{role} first"
            frame = self.frames.get(key) or self.frames[role]
            opens, closes = frame.before, frame.end
            for mark, token in tokens.items():
                opens, closes = opens.replace(mark, token), closes.replace(mark, token)
            frames.append(replace(frame, before=opens, end=closes))
        return Layout(tuple(frames))

    def _tokens(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
        """The tokens that marks stand for, of those that the table has."""
        text = "".join(frame.before + frame.end for frame in self.frames.values())
        tokens = {}
        if END in text:
            tokens[END] = _end_token(tokenizer, self.name)
        if START in text:
            if tokenizer.bos_token is None:
                raise DataError(
                    f"`{self.name}` begins a question with the start token, and this tokenizer has"
                    " none",
                    origin=tokenizer.name_or_path or None,
                    remedy="choose another model.language.template (chatml, vicuna, qa)",
                )
            tokens[START] = tokenizer.bos_token
        return tokens

    def _check(self, tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> None:
        if self.one_answer and roles.count("assistant") > 1:
            raise DataError(
                f"the template `{self.name}` shows one caption behind its images",
                expected="one assistant turn",
                given=roles.count("assistant"),
                remedy="use `qa` or another template for conversations",
            )
        known = tokenizer.get_vocab() if self.needs else ()
        for token in self.needs:
            if token not in known:
                raise DataError(
                    f"the template `{self.name}` needs a token that this tokenizer lacks",
                    expected=token,
                    origin=tokenizer.name_or_path or None,
                    remedy="use `qa`, or a tokenizer with the ChatML tokens",
                )
        if self.system_in_question and any(
            role == "system" and (number or roles[1:2] != ("user",))
            for number, role in enumerate(roles)
        ):
            raise DataError(
                f"the template `{self.name}` shows a system text inside the first question",
                expected="system, user, assistant, …",
                given=", ".join(roles),
                remedy="choose another model.language.template (chatml, vicuna, qa)",
            )


def document_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What stands around a document in every template: the end token after it."""
    return Frame(end=_end_token(tokenizer, "documents"))


def _end_token(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    if tokenizer.eos_token is None:
        raise DataError(
            f"`{template}` ends an answer with the end token, and this tokenizer has none",
            origin=tokenizer.name_or_path or None,
            remedy="set tokenizer.eos_token",
        )
    return tokenizer.eos_token


def _turns_of_vicuna(role: str, end: str = "") -> dict[str, Frame]:
    """After an answer's end token the next turn follows without a space; the usual system text
    opens a conversation that has none."""
    name = f"{role.upper()}:"
    around = Frame(before=f" {name}", lead=" ", glue="\n", end=end)
    return {
        role: around,
        f"{role} first": replace(around, before=f"{VICUNA_SYSTEM} {name}"),
        f"{role} after assistant": replace(around, before=name),
    }


def _make_instructed(
    name: str, opens: str, system: Frame, end: str, first: Frame | None = None
) -> Named:
    """Questions between `opens` and ` [/INST]`; a system text stands inside the first of them.
    first: the first question's frame where there is no system text, if it has one of its own."""
    question = Frame(before=opens, lead=" ", glue="\n", end=" [/INST]")
    frames = {
        "system": system,
        "user": question,
        "user first": first or question,
        "user after system": Frame(glue="\n", end=" [/INST]"),
        "assistant": Frame(lead=" ", end=end),
    }
    return Named(name, frames, system_in_question=True)


_SILENT = Frame(shows_text=False)
_PRISMATIC_TAG = Frame(before="[INST] <<SYS>\n", end="\n<</SYS>>\n\n")
"""Its tag as the models were trained with it, a bracket short."""

NAMED = (
    # Images, a line break, the caption. What user and system say is left out, as in LLaVA.
    Named(
        "plain",
        {"system": _SILENT, "user": _SILENT, "assistant": Frame(before="\n", end=END)},
        one_answer=True,
    ),
    Named(
        "qa",
        {
            "system": Frame(),
            "user": Frame(opening="\nQuestion:", lead=" "),
            "assistant": Frame(before="\nAnswer:", lead=" ", end=END),
        },
    ),
    # As Qwen's; no system text is added that the data lack.
    Named(
        "chatml",
        {
            role: Frame(before=f"<|im_start|>{role}\n", glue="\n", end="<|im_end|>", after="\n")
            for role in ("system", "user", "assistant")
        },
        needs=("<|im_start|>", "<|im_end|>"),
    ),
    Named(
        "vicuna",
        {"system": Frame(), **_turns_of_vicuna("user"), **_turns_of_vicuna("assistant", END)},
    ),
    # To the letter of Llama-2-chat's own template: each question begins with a start token, and no
    # system text is added that the data lack.
    _make_instructed(
        "llama2",
        f"{START}[INST]",
        Frame(before=f"{START}[INST] <<SYS>>\n", end="\n<</SYS>>\n\n"),
        f" {END}",
    ),
    # Mistral-7B-Instruct v0.1 and v0.2 know no system text; one in the data opens the first
    # question, above a blank line, as Mistral's later templates have it.
    _make_instructed("mistral", "[INST]", Frame(before="[INST]", lead=" ", end="\n\n"), END),
    Named(
        "phi",
        {
            "system": Frame(after="\n"),
            "user": Frame(before="Input:", lead=" ", glue="\n"),
            "assistant": Frame(before="\nOutput:", lead=" ", end=f"\n{END}"),
        },
    ),
    # Images that open a turn stand before `In:`, the first right behind the start token, as there.
    Named(
        "prismatic",
        {
            "system": Frame(after="\n"),
            "user": Frame(opening="In:", lead=" "),
            "assistant": Frame(before="\nOut:", lead=" ", end=END),
        },
    ),
    # One start token, no space in front of the end, its own system text if there is none.
    _make_instructed(
        "prismatic_llama2",
        "[INST]",
        _PRISMATIC_TAG,
        END,
        first=Frame(
            before=_PRISMATIC_TAG.before + PRISMATIC_SYSTEM + _PRISMATIC_TAG.end,
            glue="\n",
            end=" [/INST]",
        ),
    ),
)


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
            before, generated = _divide_question(tokenizer, whole, messages, number, before)
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
        return render_bounded(partial(write, add_generation_prompt=prompt))
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


def _divide_question(
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


TEMPLATES: dict[str, Template] = {each.name: each for each in NAMED} | {
    "tokenizer": tokenizer_template
}
