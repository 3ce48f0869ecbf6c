"""What the user asks: named sets of wordings, and how one of them takes in a question or a box.

A source's `prompts` is a list of wordings or the name of a set. In a wording for questions `{}` is
where the question (the phrase, the box) stands; captions have nothing to take in.

Reference: Dai et al., InstructBLIP, 2023, arXiv 2305.06500, appendix (wordings of captions and
short answers; VILA's visual instructions follow them); Liu et al., Improved Baselines with Visual
Instruction Tuning, 2023, arXiv 2310.03744, appendix.
"""

from __future__ import annotations

from collections.abc import Sequence

from lucida.core.errors import DataError, suggestion
from lucida.data.sample import BoxPart, Part

PLACE = "{}"
SETS: dict[str, tuple[str, ...]] = {
    "instructblip-captions": (
        "A short image caption:",
        "A short image description:",
        "A photo of",
        "An image that shows",
        "Write a short description for the image.",
        "Write a description for the photo.",
        "Provide a description of what is presented in the photo.",
        "Briefly describe the content of the image.",
        "Can you briefly explain what you see in the image?",
        "Could you use a few words to describe what you perceive in the photo?",
        "Please provide a short depiction of the picture.",
        "Using language, provide a short account of the image.",
        "Use a few words to illustrate what is happening in the picture.",
    ),
    "instructblip-questions": (
        "{}",
        "Question: {}",
        "{} A short answer to the question is",
        "Q: {} A:",
        "Question: {} Short answer:",
        "Given the image, answer the following question with no more than three words. {}",
        "Based on the image, respond to this question with a short answer: {}. Answer:",
        "Use the provided image to answer the question: {} Provide your answer as short as "
        "possible:",
        'What is the answer to the following question? "{}"',
        'The question "{}" can be answered using the image. A short answer is',
    ),
    "llava-questions": ("{}\nAnswer the question using a single word or phrase.",),
    "llava-boxes": (
        "Please provide the bounding box coordinate of the region this sentence describes: {}",
    ),
    "llava-regions": ("Please provide a short description for this region: {}",),
}
"""`core.spec.data.PromptSet` names the same sets (a test compares them)."""


def prompts_of(prompts: Sequence[str] | str | None) -> list[str]:
    """The wordings of a set by its name, or those given. DataError for an unknown name."""
    if not isinstance(prompts, str):
        return list(prompts or ())
    if prompts not in SETS:
        remedy = suggestion(prompts, SETS)
        raise DataError("no such set of prompts", given=prompts, remedy=remedy)
    return list(SETS[prompts])


def asking(prompts: Sequence[str], origin: str) -> list[str]:
    """The wordings, each with a place for what is asked. DataError for one without."""
    for prompt in prompts:
        if prompt.count(PLACE) != 1:
            raise DataError(
                "a prompt for questions has one place for the question",
                expected=f"one {PLACE}",
                given=prompt,
                origin=origin,
            )
    return list(prompts)


def asked(about: str | BoxPart, prompts: Sequence[str], number: int) -> tuple[Part, ...]:
    """What the user says: a question, phrase or box inside the wording that record `number` takes.

    Worked example: of the prompts "{}" and "Q: {} A:", record 3 takes the second.
    """
    if not prompts:
        return (about,)
    before, _, after = prompts[number % len(prompts)].partition(PLACE)
    if isinstance(about, str):
        return (before + about + after,)
    return tuple(part for part in (before, about, after) if part != "")
