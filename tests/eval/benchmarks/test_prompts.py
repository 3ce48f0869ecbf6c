"""The wording of every set, string by string, as the published systems have it."""

import re
from typing import get_args

import pytest

from lucida.core.errors import RecipeError
from lucida.core.spec.evaluation import PromptSetName
from lucida.eval.benchmarks import BENCHMARKS
from lucida.eval.prompts import FAMILIES, PROMPTS, form, prompt_set, write

SHORT = "\nAnswer the question using a single word or phrase."
UNSURE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
LETTER = "\nAnswer with the option's letter from the given choices directly."
BOX = "Please provide the bounding box coordinate of the region this sentence describes: "
CORNERS = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
    "bottom-right y). All values are floating point numbers bounded between 0 and 1. "
)
TRUE = 'Based on the image, is this statement "True" or "False"? Q?\nRespond with "True" or '
CAPTION = "Provide a one-sentence caption for the provided image."
MANY = "Q?\nA. ear\nB. eye"

EXPECTED = {
    "llava": {
        "vqa": "Q?" + SHORT,
        "vizwiz": "Q?" + UNSURE + SHORT,
        "okvqa": "Q?" + SHORT,
        "textvqa": "Q?" + SHORT,
        "textvqa-ocr": "Q?\nReference OCR token: STOP, go" + SHORT,
        "yes-no": "Q?" + SHORT,
        "mme": "Q?" + SHORT,
        "statement": TRUE + '"False" directly.',
        "counting": "Q?" + SHORT,
        "choice": MANY + LETTER,
        "science": MANY + LETTER,
        "mmbench": MANY + LETTER,
        "mmbench-cn": MANY + "\n请直接回答选项字母。",
        "mmmu-choice": MANY + "\n" + LETTER,
        "mmmu-open": "Q?\n" + SHORT,
        "box": BOX + '"Q?"',
        "caption": CAPTION,
        "karpathy": CAPTION,
        "conversation": "Q?",
        "text": "Q?",
    },
    "prismatic": {
        "vqa": "Q?" + SHORT,
        "vizwiz": "Q?" + UNSURE + SHORT,
        "textvqa": "Q?" + SHORT,
        "textvqa-ocr": "Q?\nReference OCR token: STOP, go" + SHORT,
        "yes-no": "Q?" + SHORT,
        "statement": TRUE + '"False" directly.',
        "counting": MANY + LETTER,
        "choice": MANY + LETTER,
        "box": BOX + '"Q?"',
        "caption": "Provide a short image description.",
    },
    "openflamingo": {
        "vqa": "Question:Q? Short answer:",
        "okvqa": "Question:Q? Short answer:",
        "textvqa": "Question:Q? Short answer:",
        "textvqa-ocr": "OCR tokens: STOP, go. Question: Q? Short answer:",
        "statement": 'Based on the image, is this statement true or false? "Q?" Answer:',
        "choice": "Question: Q? Options: (A) ear (B) eye. Answer:",
        "box": BOX + '"Q?":',
        "caption": "Output:",
        "karpathy": "Output:",
    },
    "lmms": {
        "vqa": "Q?" + SHORT,
        "vizwiz": "Q?" + UNSURE + SHORT,
        "okvqa": "Q?" + UNSURE + SHORT,
        "textvqa": "Q?" + SHORT,
        "mme": "Q?" + SHORT,
        "choice": MANY + LETTER,
        "mmbench": "Q? There are several options:\nA. ear\nB. eye\n" + LETTER,
        "mmbench-cn": "Q? There are several options:\nA. ear\nB. eye\n\n"
        "请直接使用所提供的选项字母作为答案回答。",
        "mmmu-choice": MANY + "\n" + LETTER,
        "box": CORNERS + BOX + "Q?",
        "caption": CAPTION,
        "karpathy": "Describe the image briefly.",
    },
    "plain": {
        "vqa": "Q?",
        "textvqa-ocr": "Q?\nWords in the picture: STOP, go",
        "statement": "true or false: Q?",
        "choice": MANY,
        "box": "where is Q??",
        "caption": "describe the picture.",
        "text": "Q?",
    },
}
STRINGS = [(name, family, text) for name, row in EXPECTED.items() for family, text in row.items()]


@pytest.mark.parametrize(("name", "family", "text"), STRINGS)
def test_the_very_words(name, family, text):
    said = write(name, family, question="Q?", options=("ear", "eye"), tokens=("STOP", "go"))
    assert said == text


def test_hints_are_written_where_there_is_one():
    rest = {"question": "Q?", "options": ("ear", "eye"), "hint": "Look."}
    assert write("llava", "science", **rest) == "Context: Look.\n" + MANY + LETTER
    assert write("lmms", "science", **rest) == "Context: Look.\n" + MANY + LETTER
    assert write("llava", "mmbench", **rest) == "Look.\n" + MANY + LETTER
    assert write("lmms", "mmbench", **rest).startswith("Look. Q? There are several options:\nA.")
    flamingo = "Context: Look. Question: Q? Options: (A) ear (B) eye. Answer:"
    assert write("openflamingo", "science", **rest) == flamingo


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PROMPTS)
def test_every_set_can_ask_every_family(name, family):
    places = set(re.findall(r"{(\w+)}", form(name, family)))
    assert places <= {"question", "Question", "options", "context", "tokens"}
    said = write(name, family, question="{braces} and 100%", options=("{a}", "b"), tokens=("{t}",))
    if places & {"question"}:
        assert "{braces} and 100%" in said


def test_the_recipe_knows_the_same_sets():
    assert set(get_args(PromptSetName)) == set(PROMPTS)


def test_an_unknown_set_is_explained():
    with pytest.raises(RecipeError, match="did you mean `llava`"):
        prompt_set("lava")
    with pytest.raises(RecipeError, match="unknown prompts"):
        BENCHMARKS["gqa"](prompts="nothing")
    with pytest.raises(RecipeError, match="unknown prompts"):
        BENCHMARKS["boxes"](prompts="nothing")


def test_families_are_those_that_benchmarks_ask_for():
    used = {BENCHMARKS[name]().family for name in BENCHMARKS}
    assert used <= set(FAMILIES)
    # These are chosen inside a benchmark.
    assert set(FAMILIES) - used == {"mmmu-open"}


def test_the_world_is_asked_in_other_words_too():
    boxes = BENCHMARKS["boxes"](prompts="prismatic").examples(1)[0]
    plain = BENCHMARKS["boxes"]().examples(1)[0]
    thing = plain.question.removeprefix("where is ").removesuffix("?")
    assert boxes.question == f'{BOX}"{thing}"'
    assert (boxes.id, boxes.box) == (plain.id, plain.box)
    spatial = BENCHMARKS["spatial"](prompts="llava").examples(1)[0]
    assert "true or false:" not in spatial.question
    assert spatial.question.endswith('Respond with "True" or "False" directly.')
    presence = BENCHMARKS["presence"](prompts="openflamingo").examples(1)[0]
    assert re.fullmatch(r"Question:is there .*\? Short answer:", presence.question)
