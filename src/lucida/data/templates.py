"""Chat templates as structure: what stands around each turn, never a string to be searched.

A template turns a sequence of roles into one `Frame` per turn. The frame says which literal text is
written before, between and after what the data say; `lucida.data.chat` fills in the data. So the
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
    tokenizer  whatever the tokenizer's own `chat_template` writes (own_template.py)

Consecutive turns of one role are one turn, and images that open a turn stand before its text (all
of them in front of everything, where `language.images` is `at_start`).
Role `text` is a document: no template writes anything around it but the end token after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lucida.core.errors import DataError
from lucida.data.frames import Frame, Layout
from lucida.data.own_template import tokenizer_template
from lucida.data.sample import Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def llama2(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Llama-2-chat: `<s>[INST] <<SYS>>...<</SYS>>` and user, ` [/INST]`, answer, ` </s>`.

    The letter of the tokenizer's own template: each question begins with a start token, and no
    system text is added that the data lack.
    """
    start, end = _start_token(tokenizer, "llama2"), _end_token(tokenizer, "llama2")
    told = Frame(before=f"{start}[INST] <<SYS>>\n", end="\n<</SYS>>\n\n")
    return _instructed("llama2", roles, f"{start}[INST]", told, f" {end}")


def mistral(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Mistral-7B-Instruct v0.1 and v0.2: `[INST] user [/INST] answer</s>`, one start token.

    Its own template knows no system text; one in the data opens the first question, above a blank
    line, as Mistral's later templates have it.
    """
    told = Frame(before="[INST]", lead=" ", end="\n\n")
    return _instructed("mistral", roles, "[INST]", told, _end_token(tokenizer, "mistral"))


def phi(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Prismatic's for Phi-2: `Input: user\\nOutput: answer\\n<|endoftext|>`."""
    end = f"\n{_end_token(tokenizer, 'phi')}"
    frames = {
        "system": Frame(after="\n"),
        "user": Frame(before="Input:", lead=" ", glue="\n"),
        "assistant": Frame(before="\nOutput:", lead=" ", end=end),
    }
    return Layout(tuple(frames[role] for role in roles))


def prismatic(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Prismatic's for base language models: images, then `In: user\\nOut: answer</s>`.

    Images that open a turn stand before `In:`, the first right behind the start token, as there.
    """
    frames = {
        "system": Frame(after="\n"),
        "user": Frame(opening="In:", lead=" "),
        "assistant": Frame(before="\nOut:", lead=" ", end=_end_token(tokenizer, "prismatic")),
    }
    return Layout(tuple(frames[role] for role in roles))


def prismatic_llama2(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> Layout:
    """Prismatic's for Llama-2-chat: one start token, no space in front of the end, its own system
    text if there is none, and its tag as the models were trained with it (`<<SYS>`)."""
    told = Frame(before="[INST] <<SYS>\n", end="\n<</SYS>>\n\n")
    opens = told.before + PRISMATIC_SYSTEM + told.end
    first = Frame(before=opens, glue="\n", end=" [/INST]")
    end = _end_token(tokenizer, "prismatic_llama2")
    return _instructed("prismatic_llama2", roles, "[INST]", told, end, first)


def _instructed(
    template: str,
    roles: Sequence[Role],
    opens: str,
    told: Frame,
    end: str,
    first: Frame | None = None,
) -> Layout:
    """Questions between `opens` and ` [/INST]`; a system text stands inside the first of them.
    first: the first question's frame where there is no system text, if it has one of its own."""
    frames = []
    for number, role in enumerate(roles):
        if role == "assistant":
            frames.append(Frame(lead=" ", end=end))
        elif role == "system":
            if number or roles[1:2] != ("user",):
                raise DataError(
                    f"the template `{template}` shows a system text inside the first question",
                    expected="system, user, assistant, …",
                    given=", ".join(roles),
                    remedy="choose another model.language.template (chatml, vicuna, qa)",
                )
            frames.append(told)
        elif roles[:number] == ("system",):
            frames.append(Frame(glue="\n", end=" [/INST]"))
        elif number == 0 and first is not None:
            frames.append(first)
        else:
            frames.append(Frame(before=opens, lead=" ", glue="\n", end=" [/INST]"))
    return Layout(tuple(frames))


TEMPLATES: dict[str, Template] = {
    "plain": plain,
    "qa": qa,
    "chatml": chatml,
    "vicuna": vicuna,
    "llama2": llama2,
    "mistral": mistral,
    "phi": phi,
    "prismatic": prismatic,
    "prismatic_llama2": prismatic_llama2,
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


def _start_token(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    if tokenizer.bos_token is None:
        raise DataError(
            f"`{template}` begins a question with the start token, and this tokenizer has none",
            origin=tokenizer.name_or_path or None,
            remedy="choose another model.language.template (chatml, vicuna, qa)",
        )
    return tokenizer.bos_token
