"""What all benchmarks with published files share: their order, their pictures, their wording.

The order is one fixed shuffle: by a hash of `SEED` and the id. So the first 1,024 examples are the
same on every machine, under every Python, and a larger limit only adds to them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from lucida.core.errors import DataError
from lucida.data.images import file_source
from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.eval.benchmark import Benchmark, Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import (
    MissingFile,
    Record,
    data_root,
    needed,
    read_parquet,
    unique,
)
from lucida.eval.prompts import prompt_set, write

SEED = 21
"""Of the one shuffle; Prismatic's number (the order itself is ours)."""
PROMPTS = "llava"
"""The wording of published benchmarks when nobody chose one."""

Split = Literal["test", "train"]


class PublishedBenchmark(Benchmark):
    """A benchmark of the field, read from the files that its publisher offers.

    A subclass says what it is (the attributes of `Benchmark`), gives the `records` of a split and
    makes an `example` of a record. `folder` is where its files lie below the data root.
    """

    folder: str
    has_train = False

    def __init__(self, *, prompts: str | None = None, data: str | None = None) -> None:
        self.prompts = prompt_set(prompts or PROMPTS).name
        self._data = data
        self._ordered: dict[tuple[Path, Split], list[list[Record]]] = {}
        self._sources: dict[str, ImageSource] = {}

    @property
    def prefix(self) -> str:
        """What ids begin with: `folder`, and the part of it where several lists count alike."""
        return self.folder

    @property
    def root(self) -> Path:
        """The folder with the published files of all benchmarks."""
        return data_root(self._data)

    @abstractmethod
    def records(self, split: Split) -> list[Record]:
        """The records of a split, in any order, each with an id of its own."""

    @abstractmethod
    def example(self, record: Record) -> Example:
        """The example that a record asks for."""

    def unit(self, record: Record) -> str:
        """What is shuffled as one: the record, unless several are only scored together."""
        return record.id

    def examples(self, limit: int | None = None) -> list[Example]:
        """The first `limit` examples of the fixed order; questions scored together stay so."""
        return self._take("test", limit)

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """The first `limit` examples of the training split, in a fixed order."""
        return self._take("train", limit) if self.has_train else []

    def _take(self, split: Split, limit: int | None) -> list[Example]:
        taken: list[Example] = []
        for unit in self._in_order(split):
            # The first unit comes whole, however small the limit: there is always something to
            # score.
            if limit is not None and taken and len(taken) + len(unit) > limit:
                break
            taken += [self.example(record) for record in unit]
            if limit is not None and len(taken) >= limit:
                break
        return taken

    def _in_order(self, split: Split) -> list[list[Record]]:
        """All records of a split by units, shuffled."""
        key = (self.root, split)
        if key not in self._ordered:
            units: dict[str, list[Record]] = defaultdict(list)
            for record in self.records(split):
                units[self.unit(record)].append(record)
            if not units:
                origin = ", ".join(str(self.root / file.path) for file in self._questions(split))
                raise DataError(f"{self.name} has no examples", origin=origin)
            self._ordered[key] = [units[name] for name in sorted(units, key=shuffle_key)]
        return self._ordered[key]

    def _questions(self, split: Split) -> list[File]:
        kind = "questions" if split == "test" else "train"
        return [file for file in self.files if file.needed == kind]

    def path(self, file: File) -> Path:
        """The path of one of `files`; an error that says where to get it if it is missing."""
        return needed(self.root, file, self.name)

    def questions(self, split: Split) -> Path:
        """The path of the first of `files` that holds questions of the split."""
        return self.path(self._questions(split)[0])

    def find_within(self, folder: File, name: str) -> Path:
        """The path of what lies in a folder of `files`; the same error if it is missing."""
        return self.path(replace(folder, path=f"{folder.path}{name}"))

    def missing(self, train: bool) -> list[File]:
        """Which of `files` are not there; those of the training split only with `train`."""
        wanted = [file for file in self.files if train or file.needed != "train"]
        return [file for file in wanted if not (self.root / file.path).exists()]

    def picture(self, folder: File, relative: str, record: Record) -> ImageSource:
        """A picture in a folder of pictures, one of `files`."""
        place = f"{self.root}/{folder.path}{relative}"
        if place not in self._sources:
            path = Path(place)
            if not path.is_file():
                raise MissingFile(
                    f"the picture {relative} is not there",
                    origin=f"{record.origin}: {path}",
                    remedy=f"{folder.path} ({folder.size}) is offered at {folder.source}",
                )
            self._sources[place] = file_source(path, record.origin)
        return self._sources[place]

    def asked(
        self,
        record: Record,
        pictures: Sequence[ImageSource],
        question: str,
        *,
        family: str | None = None,
        choices: Sequence[str | None] = (),
        hint: str = "",
        tokens: Sequence[str] = (),
        **rest: object,
    ) -> Example:
        """The example of a record: its question in the chosen words behind its pictures.

        `rest` are fields of `Example`; the cluster is by default the picture.
        """
        chosen = family or self.family
        text = write(
            self.prompts, chosen, question=question, options=choices, hint=hint, tokens=tokens
        )
        keys = "|".join(source.key for source in pictures)
        fields = {"answers": (), "cluster": keys or record.id} | rest
        return Example(
            id=f"{self.prefix}/{record.id}",
            sample=sample(record.origin, pictures, text),
            question=text,
            **fields,
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """What was written, without the space around it."""
        return output.strip()

    def majority(self, examples: Sequence[Example]) -> Sequence[Parsed]:
        """The most frequent answer to this kind of question among these very examples, which is
        the most that a constant answer can score."""
        return usual_answers(examples)


class ParquetBenchmark(PublishedBenchmark):
    """A release of the Hub: parquet files with the pictures inside (needs pyarrow)."""

    def rows(self, file: File, name: str | None = None) -> list[Record]:
        """The rows of a file, or of all parquet files of a folder, named by their field `name`,
        which no two may share, else by their number."""
        place = self.path(file)
        paths = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
        if not paths:
            raise MissingFile(
                f"{self.name} needs parquet files, and there are none",
                origin=place,
                remedy=f"its publisher offers them ({file.size}) at {file.source}",
            )
        rows = [(f"{path}: row {n}", r) for path in paths for n, r in enumerate(read_parquet(path))]
        records = [Record(str(number), row, origin) for number, (origin, row) in enumerate(rows)]
        if name is None:
            return records
        return unique([Record(each.text(name), each.value, each.origin) for each in records], place)


def shuffle_key(name: str) -> str:
    """The place of an id in the fixed order."""
    return hashlib.blake2b(f"{SEED}/{name}".encode(), digest_size=12).hexdigest()


def sample(origin: str, pictures: Sequence[ImageSource], text: str) -> Sample:
    """Pictures first, which questions may share, then one question."""
    shown = tuple(ImagePart(number) for number in range(len(pictures)))
    stem = (Turn("user", shown),) if shown else ()
    return Sample(origin, tuple(pictures), stem, ((Turn("user", (text,)),),))


def usual_answers(examples: Sequence[Example]) -> list[Parsed]:
    """For each example the most frequent answer, or the median box, of those of its kind."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    boxes: list[tuple[float, ...]] = []
    for example in examples:
        if example.box is not None:
            width, height = example.size
            # In shares of the picture, as pictures differ in size.
            boxes.append(tuple(np.divide(example.box, (width, height, width, height))))
        answers[example.kind][example.answer] += 1
    median = np.median(boxes, axis=0) if boxes else None
    usual: list[Parsed] = []
    for example in examples:
        if example.box is None:
            usual.append(answers[example.kind].most_common(1)[0][0])
        else:
            width, height = example.size
            usual.append(tuple(float(v) for v in median * (width, height, width, height)))
    return usual


def percent(scores: Sequence[float]) -> float:
    """The mean of scores in percent; of none it is 0."""
    return 100 * sum(scores) / len(scores) if scores else 0.0


def by_kind(
    examples: Sequence[Example], scores: Sequence[float], detail: str | None = None
) -> dict[str, float]:
    """The mean score in percent of every kind of example, or of every value of one of its details,
    in order of the name."""
    groups: dict[str, list[float]] = defaultdict(list)
    for example, score in zip(examples, scores, strict=True):
        groups[example.kind if detail is None else str(example.details[detail])].append(score)
    return {name: percent(groups[name]) for name in sorted(groups)}
