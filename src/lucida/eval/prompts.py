"""The wording of questions: named sets, a version each, one form for every family of question.

    >>> write("llava", "vqa", question="What is this?")
    'What is this?\\nAnswer the question using a single word or phrase.'

The same benchmark under another wording is another measurement, so the name and version of the set
stand beside every score. A set that never had a form for a family takes LLaVA's, except `plain`,
which has all. Where an image stands and what roles are called is the model's template, not this.

Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023, arXiv 2310.03744,
appendix; Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865, and their vlm-evaluation; Dai
et al., InstructBLIP, 2023, arXiv 2305.06500, appendix; Awadalla et al., OpenFlamingo, 2023, arXiv
2308.01390; Zhang et al., LMMs-Eval, 2024, arXiv 2407.12772.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lucida.core.errors import RecipeError, suggestion

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_SHORT = "\nAnswer the question using a single word or phrase."
_UNSURE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_LETTER = "\nAnswer with the option's letter from the given choices directly."
_BOX = "Please provide the bounding box coordinate of the region this sentence describes: "
_TRUE = 'Based on the image, is this statement "True" or "False"? {question}'
_CORNERS = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
    "bottom-right y). All values are floating point numbers bounded between 0 and 1. "
)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """One wording. `forms` take {question}, {options}, {tokens} (OCR) and {context}; {Question} is
    the question with one capital. `contexts` is how a hint is written where there is one, `choice`
    how an option is, `between` what stands between two."""

    name: str
    version: int
    forms: Mapping[str, str]
    contexts: Mapping[str, str] = field(default_factory=dict)
    choice: str = "{letter}. {text}"
    between: str = "\n"


_PLAIN = PromptSet(
    "plain",
    1,
    {
        "vqa": "{question}",
        "vizwiz": "{question}",
        "okvqa": "{question}",
        "textvqa": "{question}",
        "textvqa-ocr": "{question}\nWords in the picture: {tokens}",
        "yes-no": "{question}",
        "mme": "{question}",
        "statement": "true or false: {question}",
        "counting": "{question}",
        "choice": "{context}{question}\n{options}",
        "science": "{context}{question}\n{options}",
        "mmbench": "{context}{question}\n{options}",
        "mmbench-cn": "{context}{question}\n{options}",
        "mmmu-choice": "{question}\n{options}",
        "mmmu-open": "{question}",
        "written-choice": "{question}",
        "box": "where is {question}?",
        "caption": "describe the picture.",
        "karpathy": "describe the picture.",
        "conversation": "{question}",
        "text": "{question}",
    },
)

_LLAVA = PromptSet(
    "llava",
    1,
    {
        "vqa": "{question}" + _SHORT,
        "vizwiz": "{question}" + _UNSURE + _SHORT,
        "okvqa": "{question}" + _SHORT,
        "textvqa": "{question}" + _SHORT,
        "textvqa-ocr": "{question}\nReference OCR token: {tokens}" + _SHORT,
        "yes-no": "{question}" + _SHORT,
        "mme": "{question}" + _SHORT,
        "statement": _TRUE + '\nRespond with "True" or "False" directly.',
        "counting": "{question}" + _SHORT,
        "choice": "{context}{question}\n{options}" + _LETTER,
        "science": "{context}{question}\n{options}" + _LETTER,
        "mmbench": "{context}{question}\n{options}" + _LETTER,
        "mmbench-cn": "{context}{question}\n{options}\n请直接回答选项字母。",
        "mmmu-choice": "{question}\n{options}\n" + _LETTER,
        "mmmu-open": "{question}\n" + _SHORT,
        "written-choice": "{question}" + _LETTER,
        "box": _BOX + '"{question}"',
        "caption": "Provide a one-sentence caption for the provided image.",
        "karpathy": "Provide a one-sentence caption for the provided image.",
        "conversation": "{question}",
        "text": "{question}",
    },
    contexts={"science": "Context: {hint}\n"},
)

_PRISMATIC = PromptSet(
    "prismatic",
    1,
    {
        "counting": "{question}\n{options}" + _LETTER,
        "caption": "Provide a short image description.",
        "karpathy": "Provide a short image description.",
    },
)

_OPENFLAMINGO = PromptSet(
    "openflamingo",
    1,
    {
        **dict.fromkeys(
            ("vqa", "vizwiz", "okvqa", "textvqa", "yes-no", "mme", "counting", "mmmu-open"),
            "Question:{question} Short answer:",
        ),
        "textvqa-ocr": "OCR tokens: {tokens}. Question: {question} Short answer:",
        "statement": 'Based on the image, is this statement true or false? "{question}" Answer:',
        "choice": "{context}Question: {question} Options: {options}. Answer:",
        "science": "{context}Question: {question} Options: {options}. Answer:",
        "mmbench": "{context}Question: {question} Options: {options}. Answer:",
        "mmbench-cn": "{context}Question: {question} Options: {options}. Answer:",
        "mmmu-choice": "Question: {question} Options: {options}. Answer:",
        "box": _BOX + '"{question}":',
        "caption": "Output:",
        "karpathy": "Output:",
    },
    contexts=dict.fromkeys(("choice", "science", "mmbench", "mmbench-cn"), "Context: {hint} "),
    choice="({letter}) {text}",
    between=" ",
)

_LMMS = PromptSet(
    "lmms",
    1,
    {
        "okvqa": "{question}" + _UNSURE + _SHORT,
        "textvqa": "{Question}" + _SHORT,
        "textvqa-ocr": "{Question}\nReference OCR token: {tokens}" + _SHORT,
        "mmbench": "{context}{question} There are several options:\n{options}\n" + _LETTER,
        "mmbench-cn": (
            "{context}{question} There are several options:\n{options}\n\n"
            "请直接使用所提供的选项字母作为答案回答。"
        ),
        "box": _CORNERS + _BOX + "{question}",
        "karpathy": "Describe the image briefly.",
    },
    contexts={"mmbench": "{hint} ", "mmbench-cn": "{hint} "},
)

PROMPTS: dict[str, PromptSet] = {
    each.name: each for each in (_PLAIN, _PRISMATIC, _LLAVA, _OPENFLAMINGO, _LMMS)
}
"""Every set by its name."""

FAMILIES: tuple[str, ...] = tuple(_PLAIN.forms)
"""Every family of question."""


def prompt_set(name: str) -> PromptSet:
    """The set of that name; RecipeError for an unknown one."""
    if name not in PROMPTS:
        raise RecipeError(f"unknown prompts `{name}`", remedy=suggestion(name, PROMPTS))
    return PROMPTS[name]


def form(name: str, family: str) -> str:
    """The text with places that a set has for a family: its own or LLaVA's."""
    return prompt_set(name).forms.get(family) or _LLAVA.forms[family]


def write(
    name: str,
    family: str,
    *,
    question: str = "",
    options: Sequence[str | None] = (),
    hint: str = "",
    tokens: Sequence[str] = (),
) -> str:
    """A question in the words of a set. A place without an option (None) is not listed; the letters
    behind it stay.

    Worked example: `write("llava", "choice", question="Which?", options=("ear", "eye"))` is
    "Which?", "A. ear", "B. eye" and the request for a letter, on a line each.
    """
    wording = prompt_set(name)
    own = family in wording.forms
    contexts = wording.contexts if own else _LLAVA.contexts
    choice, between = (wording.choice, wording.between) if own else (_LLAVA.choice, "\n")
    listed = (
        choice.format(letter=letter, text=text)
        for letter, text in zip(LETTERS, options, strict=False)
        if text is not None
    )
    # `capitalize` also lowers what follows, as lmms-eval has it for TextVQA.
    return form(name, family).format(
        question=question,
        Question=question.capitalize(),
        options=between.join(listed),
        context=contexts.get(family, "{hint}\n").format(hint=hint) if hint else "",
        tokens=", ".join(tokens),
    )
