"""MMBench, English and Chinese: every question once for each rotation of its options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, embedded_picture, read_table, unique
from lucida.eval.benchmarks.choice import LetterChoice, places
from lucida.eval.benchmarks.published import Split, percent
from lucida.eval.metrics.choice import LETTERS, circular_scores, rotations

_PAGE = "https://github.com/open-compass/MMBench"
_FILES = "https://download.openmmlab.com/mmclassification/datasets/mmbench"
_ROTATIONS = 1_000_000
"""A question's rotations have its index plus a multiple of this."""


class MMBench(LetterChoice):
    """MMBench, development part: 1,164 questions, 4,377 with their rotations.

    mmbench_dev_20230712.tsv (Chinese: mmbench_dev_cn_20231003.tsv): index, question, hint, A, B, C,
    D, answer, category, image (base64), source, l2-category. Every column with a capital letter for
    its name has an option; an empty one, or "nan" as pandas writes it, has none, and the options
    behind it keep their letters ("None" and "NA" are options). Other columns are not used. The
    rotations are rows of the file; a file that has none (as other publishers of the questions offer
    it) gets them here, over the letters that have an option. A question
    counts only when all of its rows are right (`circular`, the headline); `vanilla` looks at the
    first row alone. A row may hold, in place of its picture, the index of the row that has it.

    Worked example: row 252 with the options ant, bee, elephant, fly and the answer C becomes the
    rows 252; 1000252: bee, elephant, fly, ant with B; 2000252: elephant, fly, ant, bee with A; and
    3000252: fly, ant, bee, elephant with D.

    Reference: Liu et al., MMBench, 2023, arXiv 2307.06281.
    """

    folder, metric = "mmbench", "accuracy of rotations"
    twin = "attribute, relation, counting"
    licence = "Apache-2.0"
    source = _PAGE
    headline = "circular"
    count = 4_377

    def __init__(
        self, language: str = "en", *, prompts: str | None = None, data: str | None = None
    ) -> None:
        super().__init__(prompts=prompts, data=data)
        file = {"en": "mmbench_dev_20230712.tsv", "cn": "mmbench_dev_cn_20231003.tsv"}[language]
        self.name = "mmbench" if language == "en" else f"mmbench-{language}"
        self.family = self.name
        self.files = (File(f"mmbench/{file}", f"{_FILES}/{file}", "40 MB"),)

    @property
    def prefix(self) -> str:
        """Each language apart."""
        return self.name

    def records(self, split: Split) -> list[Record]:
        """Every row, with its picture in place of a reference to another row."""
        path = self.path(self.files[0])
        rows = {row.text("index"): row for row in read_table(path, "\t")}
        records = []
        for name, row in rows.items():
            image = row.text("image")
            if image in rows:  # base64 of a picture is never that short
                image = rows[image].text("image")
            records.append(Record(name, {**row.value, "image": image}, row.origin))
        if all(record.whole("index") < _ROTATIONS for record in records):
            records = [each for record in records for each in rotate_options(record)]
        return unique(records, path)

    def unit(self, record: Record) -> str:
        """The question that a row is a rotation of."""
        return str(record.whole("index") % _ROTATIONS)

    def example(self, record: Record) -> Example:
        """A row with the letter of its answer; the kind is the fine category."""
        choices, right = options_of(record)
        hint = record.value.get("hint", "")
        question = self.unit(record)
        return self.choose(
            record,
            [embedded_picture(record.text("image"), record)],
            record.text("question"),
            choices,
            right,
            hint="" if hint == "nan" else hint,
            kind=record.text("category"),
            cluster=question,
            details={
                "question": question,
                "first": record.whole("index") < _ROTATIONS,
                "l2-category": record.value.get("l2-category", ""),
            },
        )

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: circular (all rotations right), vanilla, circular by coarse category."""
        hits = circular_scores([str(e.details["question"]) for e in examples], scores)
        coarse = {str(e.details["question"]): str(e.details["l2-category"]) for e in examples}
        first = [s for e, s in zip(examples, scores, strict=True) if e.details["first"]]
        groups: dict[str, list[float]] = defaultdict(list)
        for name, hit in hits.items():
            groups[coarse[name]].append(hit)
        totals = {"circular": percent(list(hits.values())), "vanilla": percent(first)}
        return totals | {name: percent(groups[name]) for name in sorted(groups) if name}


def options_of(record: Record) -> tuple[list[str | None], int]:
    """The options in the places of their columns, None where a column has none, and the place of
    the right one."""
    texts = [record.value.get(name) for name in LETTERS]
    choices = [None if text in (None, "", "nan") else text for text in texts]
    while choices and choices[-1] is None:
        choices.pop()
    answer = record.text("answer")
    if answer not in {LETTERS[place] for place in places(choices)}:
        raise record.wrong("answer", "the letter of an option", answer)
    return choices, LETTERS.index(answer)


def rotate_options(record: Record) -> list[Record]:
    """A row and its rotations, which a file without them gets: each option comes first once."""
    choices, right = options_of(record)
    taken = places(choices)
    rows = []
    for turn, order in enumerate(rotations([choices[place] for place in taken])):
        index = str(record.whole("index") + turn * _ROTATIONS)
        changed = {LETTERS[place]: text for place, text in zip(taken, order, strict=True)}
        # Turn 1 puts the second option first, so what is right stands one place earlier.
        changed["answer"] = LETTERS[taken[(taken.index(right) - turn) % len(taken)]]
        rows.append(Record(index, {**record.value, **changed, "index": index}, record.origin))
    return rows


mmbench = partial(MMBench, "en")
mmbench_cn = partial(MMBench, "cn")
