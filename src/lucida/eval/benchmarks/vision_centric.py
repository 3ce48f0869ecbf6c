"""Choices that need the picture: MMStar, RealWorldQA, CV-Bench, MMVP, NaturalBench."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_picture, read_table, unique
from lucida.eval.benchmarks.choice import LetterChoice, find_place
from lucida.eval.benchmarks.published import ParquetBenchmark, Split, by_kind, percent
from lucida.eval.metrics.choice import LETTERS, circular_scores, letter, mmstar_letter
from lucida.eval.metrics.exact import exact_match
from lucida.eval.metrics.groups import PLACES, WORDS, naturalbench_label, naturalbench_scores

_WRITTEN = re.compile(r"(?:^|[\s,])\(?([A-Z])[:.)]\s", re.MULTILINE)
"""How an option begins in a question that lists its own."""


def find_letters(question: str) -> tuple[str, ...]:
    """The letters of the options that a question lists itself: from A on, without a gap.

    Worked example: "Which? A. ear\\nB. eye" and "Options: A: ear, B: eye" give A and B.
    """
    found = set(_WRITTEN.findall(question))
    # Up to the first letter that is missing; behind Z the space always is.
    count = next(n for n, name in enumerate(f"{LETTERS} ") if name not in found)
    return tuple(LETTERS[:count])


def _letters(example: Example) -> dict[str, str]:
    """The letters of an example's options, whose texts stand in its question only."""
    return dict.fromkeys(example.options, "")


class MMStar(ParquetBenchmark):
    """MMStar: 1,500 questions that cannot be answered without the picture, of six abilities.

    mmstar.parquet: index, question (with its options), image, answer (a letter), category,
    l2_category. An output's letter is read by the publisher's rule (`metrics.choice.mmstar_letter`:
    only where it begins with the letter); `robust` in the summary is the accuracy as `letter`
    reads it, which finds a letter that is declared anywhere.

    Reference: Chen et al., Are We on the Right Way for Evaluating Large Vision-Language Models?,
    2024, arXiv 2403.20330.
    """

    name, folder, family, metric = "mmstar", "mmstar", "written-choice", "accuracy"
    twin = "attribute, relation, counting"
    licence = "see its page"
    source = "https://huggingface.co/datasets/Lin-Chen/MMStar"
    count = 1_500
    protocols = ("generate", "likelihood")
    max_new_tokens = 16
    files = (File("mmstar/mmstar.parquet", source, "42 MB"),)

    def records(self, split: Split) -> list[Record]:
        """Every question, by its index."""
        return self.rows(self.files[0], "index")

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is the category."""
        question, answer = record.text("question"), record.text("answer").strip().upper()
        letters = find_letters(question)
        if len(letters) < 2 or answer not in letters:
            raise record.wrong("answer", f"one of the options {', '.join(letters)}", answer)
        return self.asked(
            record,
            [read_picture(record, "image")],
            question,
            answers=(answer,),
            options=letters,
            candidates=letters,
            kind=record.text("category"),
            details={"ability": record.text("l2_category")},
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The output without space around it: what is read depends on the rule."""
        return output.strip()

    def is_read(self, example: Example, parsed: Parsed) -> bool:
        """Whether the publisher's rule finds a letter."""
        return mmstar_letter(parsed, _letters(example)) is not None

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where the output begins with the right letter, by the publisher's rule."""
        return float(mmstar_letter(parsed, _letters(example)) == example.answers[0])

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by category and by ability, and of letters read robustly."""
        pairs = zip(examples, parsed, strict=True)
        robust = [float(letter(p, _letters(e)) == e.answers[0]) for e, p in pairs]
        totals = by_kind(examples, scores) | by_kind(examples, scores, "ability")
        return totals | {"robust": percent(robust)}


class RealWorldQA(ParquetBenchmark):
    """RealWorldQA: 765 questions about pictures from vehicles and of the world.

    data/*.parquet: image, question (which says how to answer, and lists its options where it has
    any), answer (a letter, a word or a number). The publisher gives no scorer; as in lmms-eval an
    output must equal the answer in lower case, without a period at the end (for letters its version
    0.7.3 has an extractor in place of that). `robust` in the summary reads the letter that is
    declared anywhere, and numbers in words.

    Reference: xAI, Grok-1.5 Vision Preview, 2024, https://x.ai/blog/grok-1.5v.
    """

    name, folder, family, metric = "realworldqa", "realworldqa", "conversation", "exact match"
    twin = "spatial, counting"
    licence = "CC BY-ND 4.0"
    source = "https://huggingface.co/datasets/xai-org/RealworldQA"
    count = 765
    max_new_tokens = 16
    files = (File("realworldqa/data/", source, "0.7 GB"),)

    def records(self, split: Split) -> list[Record]:
        """Every question, named by its number."""
        return self.rows(self.files[0])

    def example(self, record: Record) -> Example:
        """A question with its answer; the kind is choice or open."""
        question, answer = record.text("question"), record.text("answer").strip()
        letters = find_letters(question)
        choice = len(letters) > 1 and answer in letters
        return self.asked(
            record,
            [read_picture(record, "image")],
            question.strip(),
            answers=(answer,),
            options=letters if choice else (),
            kind="choice" if choice else "open",
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The output without space around it."""
        return output.strip()

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where it is the answer in lower case, without a period at its end."""
        return float((parsed or "").lower().rstrip(".") == example.answer.lower())

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent of choices and of open questions, and of answers read robustly."""
        robust = [
            float(letter(p, _letters(e)) == e.answer) if e.options else exact_match(p, e.answers)
            for e, p in zip(examples, parsed, strict=True)
        ]
        return by_kind(examples, scores) | {"robust": percent(robust)}


class CVBench(ParquetBenchmark, LetterChoice):
    """CV-Bench: 2,638 questions about counts, places, depth and distance, 2D and 3D.

    test_2d.parquet and test_3d.parquet: idx, type, task, image, question, choices, answer ("(A)"),
    source. The headline is Cambrian's: the mean of 2D (the mean of ADE20K and COCO) and 3D
    (Omni3D), each by `source`; of a part that was not asked there is none. Cambrian reads letters
    by rules of its own, here it is `metrics.choice.letter`.

    Reference: Tong et al., Cambrian-1, 2024, arXiv 2406.16860, section 3.
    """

    name, folder, family = "cv-bench", "cv-bench", "choice"
    twin = "counting, spatial"
    licence = "Apache-2.0"
    source = "https://huggingface.co/datasets/nyu-visionx/CV-Bench"
    count = 2_638
    headline = "CV-Bench"
    files = (
        File("cv-bench/test_2d.parquet", source, "0.2 GB"),
        File("cv-bench/test_3d.parquet", source, "0.1 GB"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of both files, by its file and number."""
        return [
            Record(f"{file.path[-10:-8]}/{each.id}", each.value, each.origin)
            for file in self.files
            for each in self.rows(file)
        ]

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is the task."""
        choices = record.texts("choices")
        return self.choose(
            record,
            [read_picture(record, "image")],
            record.text("question"),
            choices,
            find_place(record, "answer", len(choices)),
            kind=record.text("task"),
            details={"source": record.text("source"), "type": record.text("type")},
        )

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by task and by source, of 2D and 3D, and the mean of these."""
        sources, parts = by_kind(examples, scores, "source"), defaultdict(set)
        for example in examples:
            parts[str(example.details["type"])].add(str(example.details["source"]))
        types = {
            name: sum(sources[each] for each in within) / len(within)
            for name, within in sorted(parts.items())
        }
        total = sum(types.values()) / len(types)
        return by_kind(examples, scores) | sources | types | {"CV-Bench": total}


class MMVP(LetterChoice):
    """MMVP: 150 pairs of pictures that CLIP confuses, with the same question about both.

    Questions.csv: a header, then number, question, options ("(a) Open (b) Closed"), answer; the
    pictures MMVP Images/NUMBER.jpg. Numbers 1 and 2 are a pair, 3 and 4 the next. The headline is
    the share of pairs with both answers right, as published; the publisher asks GPT-4 whether an
    answer is right, here the letter is read (`metrics.choice.letter`).

    Reference: Tong et al., Eyes Wide Shut?, 2024, arXiv 2401.06209; tsb0601/MMVP, gpt_grader.py.
    """

    name, folder = "mmvp", "mmvp"
    twin = "attribute, presence"
    licence = "MIT"
    source = "https://huggingface.co/datasets/MMVP/MMVP"
    count = 300
    headline = "pairs"
    files = (
        File("mmvp/Questions.csv", source, "30 kB"),
        File("mmvp/MMVP Images/", source, "13 MB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question by its number, which stands in the first column."""
        path = self.path(self.files[0])
        names = ("number", "question", "options", "answer")
        records = []
        for row in read_table(path, header=False)[1:]:
            if len(row.value) != len(names):
                given = f"{len(row.value)} columns"
                raise DataError("damaged row", expected=len(names), given=given, origin=row.origin)
            value = dict(zip(names, row.value.values(), strict=True))
            records.append(Record(str(value["number"]), value, row.origin))
        return unique(records, path)

    def unit(self, record: Record) -> str:
        """The pair: its two questions are scored together."""
        return str((record.whole("number") - 1) // 2)

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the cluster is the pair."""
        pair, number = self.unit(record), record.whole("number")
        options = [each.strip() for each in re.split(r"\([a-z]\)", record.text("options"))[1:]]
        answer = record.text("answer").strip().lower().strip("()")
        letters = LETTERS[: len(options)].lower()
        if len(answer) != 1 or answer not in letters:
            raise record.wrong("answer", "the letter of an option in brackets", record["answer"])
        return self.choose(
            record,
            [self.picture(self.files[1], f"{number}.jpg", record)],
            record.text("question"),
            options,
            letters.index(answer),
            cluster=f"mmvp/pair {pair}",
            details={"pair": pair},
        )

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: pairs with both answers right, and single questions."""
        pairs = circular_scores([str(e.details["pair"]) for e in examples], list(scores))
        return {"pairs": percent(list(pairs.values())), "questions": percent(scores)}


class NaturalBench(ParquetBenchmark):
    """NaturalBench: 1,900 groups of two pictures and two questions whose answers are exchanged.

    data/*.parquet: Index, Question_Type (yes_no, multiple_choice), Source, Image_0, Image_1,
    Question_0, Question_1, and the answers as Image_0_Question_0 ... Image_1_Question_1. A question
    is asked with the publisher's request behind it, whatever the set of prompts, and read by its
    rule (`metrics.groups.naturalbench_label`). The headline is G_Acc; a group stays together.

    Reference: Li et al., NaturalBench, 2024, arXiv 2410.14669.
    """

    name, folder, family, metric = "naturalbench", "naturalbench", "conversation", "accuracy"
    twin = "presence, attribute"
    licence = "Apache-2.0"
    source = "https://huggingface.co/datasets/BaiqiL/NaturalBench"
    count = 7_600
    headline = "G_Acc"
    protocols = ("generate", "likelihood")
    max_new_tokens = 16
    files = (File("naturalbench/data/", source, "2 GB"),)
    requests = (
        ("yes_no", "Please answer Yes or No."),
        ("multiple_choice", "Please output the letter corresponding to the correct option."),
    )

    def records(self, split: Split) -> list[Record]:
        """The four questions of every group."""
        return [
            Record(
                f"{each.text('Index')}/{question}{image}",
                {**each.value, "question": question, "image": image},
                each.origin,
            )
            for each in self.rows(self.files[0])
            for question, image in PLACES
        ]

    def unit(self, record: Record) -> str:
        """The group."""
        return record.text("Index")

    def example(self, record: Record) -> Example:
        """One of the two questions about one of the two pictures; the kind is that of question."""
        question, image, kind = record["question"], record["image"], record.text("Question_Type")
        if kind not in WORDS:
            raise record.wrong("Question_Type", " or ".join(WORDS), kind)
        given = record.text(f"Image_{image}_Question_{question}").strip().lower()
        words = {word.lower(): word for word in WORDS[kind]}
        if given not in words:
            raise record.wrong(f"Image_{image}_Question_{question}", " or ".join(words), given)
        request = dict(self.requests)[kind]
        group = self.unit(record)
        return self.asked(
            record,
            [read_picture(record, f"Image_{image}")],
            f"{record.text(f'Question_{question}')} {request}",
            answers=(words[given],),
            options=WORDS[kind],
            candidates=tuple(word.capitalize() for word in WORDS[kind]),
            kind=kind,
            cluster=f"naturalbench/{group}",
            details={"group": group, "place": (question, image)},
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The answer that the output has first, or None."""
        return naturalbench_label(output, example.kind)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Acc, Q_Acc, I_Acc and G_Acc in percent."""
        groups: dict[str, dict] = defaultdict(dict)
        for example, score in zip(examples, scores, strict=True):
            groups[str(example.details["group"])][example.details["place"]] = score == 1
        return {n: 100 * v for n, v in naturalbench_scores(groups.values()).items()}
