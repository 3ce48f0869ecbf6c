"""PathVQA: questions about pathology pictures, yes/no and open."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.data.sources.pathvqa import pathology_questions, picture_name
from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, percent
from lucida.eval.metrics.pathvqa import (
    bleu,
    exact_match,
    is_yes_no,
    normalise,
    token_f1,
    yes_no_score,
)

_PAGE = "https://github.com/UCSD-AI4H/PathVQA"


class PathVQA(PublishedBenchmark):
    """PathVQA, test: about 6,700 questions (6,719 after duplicates were taken out).

    pvqa/qas/test/test_qa.pkl: a pickle of [{image, question, answer}], read without running any of
    it; pictures in pvqa/images/test/NAME.jpg. Questions have no ids, so theirs is their number. A
    yes/no question is scored by its label, an open one by true exact match; the summary has token
    F1 and BLEU. The publisher's own script is not reproduced: its "exact match" and BLEU are not
    what they are called (its BLEU takes brevity in characters and skips n-grams without a match).

    Reference: He et al., PathVQA, 2020, arXiv 2003.10286.
    """

    name, folder, family, metric = "pathvqa", "pathvqa", "vqa", "yes/no and exact match"
    twin = "attribute, presence"
    licence = "MIT"
    source = _PAGE
    has_train = True
    max_new_tokens = 32
    files = (
        File("pathvqa/pvqa/qas/test/test_qa.pkl", f"{_PAGE} (link in its README)", "0.6 MB"),
        File("pathvqa/pvqa/images/", f"{_PAGE} (link in its README)", "0.8 GB", "images"),
        File("pathvqa/pvqa/qas/train/train_qa.pkl", f"{_PAGE} (link in its README)", "2 MB",
             "train"),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every question, named by its number."""
        return [
            Record(f"{split}/{each.id}", each.value, each.origin)
            for each in pathology_questions(self.questions(split))
        ]

    def example(self, record: Record) -> Example:
        """A question with its answer; the kind is yes/no or open."""
        image, answer = record.text("image"), record.text("answer")
        closed = is_yes_no(answer)
        return self.asked(
            record,
            [self.picture(self.files[1], picture_name(image), record)],
            record.text("question"),
            answers=(normalise(answer) if closed else answer,),
            options=("yes", "no") if closed else (),
            kind="yes/no" if closed else "open",
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the right label or the very answer."""
        closed = example.kind == "yes/no"
        return (yes_no_score if closed else exact_match)(parsed, example.answers[0])

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: yes/no accuracy; exact match, token F1 and BLEU-1 to 4 of open questions."""
        rows = list(zip(examples, parsed, scores, strict=True))
        totals = {"yes/no": percent([score for e, _, score in rows if e.kind == "yes/no"])}
        asked = [(e.answers[0], p, score) for e, p, score in rows if e.kind == "open"]
        if asked:
            totals["open exact match"] = percent([score for _, _, score in asked])
            totals["open F1"] = percent([token_f1(p, answer) for answer, p, _ in asked])
            written = bleu([p for _, p, _ in asked], [answer for answer, _, _ in asked])
            totals |= {f"open BLEU-{n}": 100 * value for n, value in enumerate(written, 1)}
        return totals
