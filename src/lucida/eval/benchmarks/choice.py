"""Multiple choice by letter: AI2D, ScienceQA, SEED-Bench."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.data.sample import ImageSource
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import (
    Record,
    as_record,
    read_json,
    read_named,
    read_object,
    read_records,
    read_table,
    unique,
)
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind
from lucida.eval.metrics.choice import letter
from lucida.eval.prompts import LETTERS


class LetterChoice(PublishedBenchmark):
    """A question whose options have letters; answers and options are letters, their texts stand in
    the details as `choices`. A letter is the place of its option and never moves: where a place has
    no option (a hole in a table) the letters behind it stay, its own names nothing, and its text in
    `choices` is empty. An output is read by `metrics.choice.letter`."""

    family, metric = "choice", "accuracy"
    declares = True
    protocols = ("generate", "likelihood")
    max_new_tokens = 16

    def choose(
        self,
        record: Record,
        pictures: Sequence[ImageSource],
        question: str,
        choices: Sequence[str | None],
        right: int | None,
        **rest: object,
    ) -> Example:
        """The example of a question with options, `right` being the place of the right one; None in
        `choices` is a place without an option.

        DataError: fewer than two options or more than 26 places, a right one that is none.

        Worked example: None, "Three", "Two" with right 1 is asked as "B. Three", "C. Two" and has
        the answer B.
        """
        letters = tuple(LETTERS[n] for n in places(choices) if n < len(LETTERS))
        if len(letters) < 2 or len(choices) > len(LETTERS):
            given = f"{len(letters) if len(letters) < 2 else len(choices)} options"
            raise DataError("no choice", expected="2 to 26", given=given, origin=record.origin)
        if right is not None and right not in places(choices):
            expected = ", ".join(map(str, places(choices)))
            message = "the right answer is none of the options"
            raise DataError(message, expected=expected, given=right, origin=record.origin)
        details = {"choices": tuple(text or "" for text in choices), **rest.pop("details", {})}
        return self.asked(
            record,
            pictures,
            question,
            choices=choices,
            answers=() if right is None else (LETTERS[right],),
            options=letters,
            candidates=letters,
            details=details,
            **rest,
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The letter of the option that is named, or None."""
        choices = example.details["choices"]
        return letter(output, {name: choices[LETTERS.index(name)] for name in example.options})

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by kind."""
        return by_kind(examples, scores)


def find_place(record: Record, field: str, count: int) -> int:
    """The place of the option whose letter a field holds, alone or in brackets; DataError where it
    is none of the first `count`.

    Worked example: "(B)" is 1.
    """
    name = record.text(field).strip("() \n")
    if name not in tuple(LETTERS[:count]):
        expected = f"the letter of an option, one of {', '.join(LETTERS[:count]) or 'none'}"
        raise record.wrong(field, expected, record[field])
    return LETTERS.index(name)


def places(choices: Sequence[str | None]) -> list[int]:
    """The places that have an option."""
    return [place for place, text in enumerate(choices) if text is not None]


class AI2D(LetterChoice):
    """AI2D: 15,501 questions about science diagrams, all of them as Prismatic scores.

    questions/0.png.json: {imageName, questions: {text: {answerTexts, correctAnswer, questionId}}};
    ai2d_test_ids.csv lists the pictures of the test split (number without ".png"). The kind is
    `test` or `val` (everything else; Prismatic's name for it), so both are in the summary. Pictures
    are those without the letters that some evaluations draw in (lmms-eval's have them).

    Reference: Kembhavi et al., A Diagram Is Worth A Dozen Images, 2016, arXiv 1603.07396.
    """

    name, folder = "ai2d", "ai2d"
    twin = "diagram"
    licence = "CC BY-SA 4.0"
    source = "https://prior.allenai.org/projects/diagram-understanding"
    count = 15_501
    _zip = "http://ai2-website.s3.amazonaws.com/data/ai2d-all.zip"
    files = (
        File("ai2d/questions/", _zip, "20 MB"),
        File("ai2d/ai2d_test_ids.csv", "https://s3-us-east-2.amazonaws.com/prior-datasets/"
             "ai2d_test_ids.csv", "5 kB"),
        File("ai2d/images/", _zip, "0.5 GB", "images"),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every question of every diagram."""
        folder, table = self.path(self.files[0]), self.path(self.files[1])
        # A list of numbers without a header.
        tested = {row.text("0").strip() for row in read_table(table, header=False)}
        records = []
        for path in sorted(folder.glob("*.json")):
            diagram = read_object(path)
            image = diagram.text("imageName")
            kind = "test" if image.removesuffix(".png") in tested else "val"
            for text, value in diagram.inside("questions").value.items():
                origin = f"{path}: {text[:60]}"
                asked = as_record(value, "", origin)
                value = {**asked.value, "question": text, "image": image, "kind": kind}
                records.append(Record(asked.text("questionId"), value, origin))
        return unique(records, folder)

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is its split."""
        return self.choose(
            record,
            [self.picture(self.files[2], record.text("image"), record)],
            record.text("question"),
            record.texts("answerTexts"),
            record.whole("correctAnswer"),
            kind=record.text("kind"),
        )


class ScienceQA(LetterChoice):
    """ScienceQA, test, those questions that have a picture: 2,017.

    problems.json: {id: {question, choices, answer (number), hint, image (name or null), subject,
    grade, split}}; pictures in images/SPLIT/ID/image.png. The hint goes before the question, as in
    lmms-eval's form; LLaVA's own file writes the same parts (its exact layout was not at hand).

    Reference: Lu et al., Learn to Explain, 2022, arXiv 2209.09513.
    """

    name, folder, family = "scienceqa-img", "scienceqa", "science"
    twin = "diagram"
    licence = "CC BY-NC-SA 4.0"
    source = "https://github.com/lupantech/ScienceQA"
    count = 2_017
    has_train = True
    files = (
        File("scienceqa/problems.json", f"{source}/tree/main/data/scienceqa", "30 MB"),
        File("scienceqa/images/", f"{source} (tools/download.sh)", "0.7 GB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of the split that has a picture."""
        every = read_named(self.path(self.files[0]), "problem")
        return [each for each in every if each["image"] and each.text("split") == split]

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is the subject."""
        name = f"{record.text('split')}/{record.id}/{record.text('image')}"
        return self.choose(
            record,
            [self.picture(self.files[1], name, record)],
            record.text("question"),
            record.texts("choices"),
            record.whole("answer"),
            hint=record.text("hint") if record.get("hint") else "",
            kind=str(record.get("subject", "")),
            details={"grade": str(record.get("grade", ""))},
        )

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by subject and by grade."""
        return by_kind(examples, scores) | by_kind(examples, scores, "grade")


class SEEDBench(LetterChoice):
    """SEED-Bench, the image part: 14,233 questions of nine types.

    SEED-Bench.json: {"questions": [{question_id, question, choice_a..choice_d, answer (letter),
    data_type, data_id, question_type_id}], "question_type": {name: number}}. A choice that is
    missing or null is no option, and the others keep their letters; "None" is one. The field
    generates a letter, as here; the official score is `seed-bench-ranking`.

    Reference: Li et al., SEED-Bench, 2023, arXiv 2307.16125.
    """

    name, folder = "seed-bench", "seed-bench"
    twin = "attribute, relation, counting"
    licence = "CC BY-NC 4.0"
    source = "https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
    count = 14_233
    files = (
        File("seed-bench/SEED-Bench.json", source, "9 MB"),
        File("seed-bench/SEED-Bench-image/", f"{source} (SEED-Bench-image.zip)", "26 GB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question about a picture, with the name of its type."""
        path = self.path(self.files[0])
        content = as_record(read_json(path), "", str(path))
        # The file has the numbers by name.
        names = {str(n): name for name, n in content.inside("question_type").value.items()}
        records = []
        for each in read_records(content["questions"], path, "question_id", "question"):
            if each.text("data_type") == "image":
                kind = names.get(each.text("question_type_id"), each.text("question_type_id"))
                records.append(Record(each.id, {**each.value, "kind": kind}, each.origin))
        return records

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is the type of question."""
        return self.choose(
            record,
            [self.picture(self.files[1], record.text("data_id"), record)],
            record.text("question"),
            [_option(record, f"choice_{name}") for name in "abcd"],
            find_place(record, "answer", 4),
            kind=record.text("kind"),
        )


def _option(record: Record, field: str) -> str | None:
    """The text of an option in a field of its own, or None where there is none."""
    return None if record.get(field) is None else record.text(field)


class SEEDRanking(SEEDBench):
    """SEED-Bench's official score: the option that the model finds likeliest as an answer.

    The question is asked without its options, and the likelihoods of the options' whole texts are
    compared (the publisher's script takes the option of least loss); no letter is written. By first
    token and per token stand beside it.

    Worked example: "How many towels?" with log-likelihoods one -2.1, two -0.7, three -1.9, four
    -3.0: the answer is B.

    Reference: Li et al., SEED-Bench, 2023, arXiv 2307.16125, section 3.4.
    """

    name, family = "seed-bench-ranking", "vqa"
    protocols = ("likelihood",)

    def example(self, record: Record) -> Example:
        """A question whose candidates are the texts of its options."""
        lettered = super().example(record)
        texts = lettered.details["choices"]
        if len(set(texts)) < len(texts) or not all(map(str.strip, texts)):
            message = "options that are compared by their texts differ and have one"
            raise DataError(message, given=texts, origin=record.origin)
        return self.asked(
            record,
            lettered.sample.images,
            record.text("question"),
            answers=lettered.answers,
            options=lettered.options,
            candidates=tuple(texts),
            kind=lettered.kind,
            details=lettered.details,
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The letter of the option whose text was chosen, or None."""
        choices = example.details["choices"]
        return LETTERS[choices.index(output)] if output in choices else None
