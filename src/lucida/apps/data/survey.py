"""Everything of a source read once, in parallel processes: what it holds and what is wrong with it.

    sources ─ a Reader for each: a stage's, or of text alone ─▶ survey ─▶ Surveyed

    survey:  numbers ─blocks─▶ processes ─▶ Findings ─added up─▶ one Findings

Nothing is kept of a record but its figures, so memory stays that of the figures: 32 bytes for each,
and different short answers.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from lucida.apps.data.guess import Opened
from lucida.apps.weightless import tokenizer_of, weightless_processor
from lucida.core.errors import DataError, LucidaError, ModelError, RunError
from lucida.core.progress import Progress
from lucida.data.mixture import Source
from lucida.data.order import capacity
from lucida.data.reader import Reader, Unusable
from lucida.data.sample import ImagePart, Sample, Tokens, Turn, is_blank

BLOCK = 256
"""Records that a process takes at once."""
START = 1.0
"""Seconds until a process is there and has read its modules."""
CUT = ("samples_cut", "branches_dropped")
"""What `encode` counts for a sample that does not fit into the context."""

SHORT, KEPT = 40, 100_000
"""Letters of an answer that is counted by its words, and how many different ones are kept."""


def _numbers() -> array:
    return array("Q")


@dataclass
class Findings:
    """Figures of records, one entry each for those that can be read.

    words, images, turns: of each sample; tokens, supervised, visual: the same, where tokens are
    counted. sides: longest side of each picture. lengths: words of each answer; answers: those of
    at most `SHORT` letters, as they are written. cut: samples, and what was cut away from them, for
    lack of room. lost: what transforms left out. errors: number and message. records: the number of
    each sample. content, pictures, said: hashes of pictures and text, of pictures, of answers.
    """

    read: int = 0
    words: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    supervised: Counter[int] = field(default_factory=Counter)
    visual: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    records: array = field(default_factory=_numbers)
    content: array = field(default_factory=_numbers)
    pictures: array = field(default_factory=_numbers)
    said: array = field(default_factory=_numbers)
    errors: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Takes in what another process found."""
        self.read += other.read
        for each in fields(self):
            mine, its = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(its)
            elif not isinstance(mine, int):
                mine.extend(its)
        if len(self.answers) > 2 * KEPT:
            self.answers = Counter(dict(self.answers.most_common(KEPT)))

    @property
    def duplicates(self) -> int:
        """Records whose like, pictures and text, was met before."""
        return count_repeated(self.content)

    def groups(self, most: int = 10) -> list[list[int]]:
        """Records with equal content, the largest groups first."""
        hashes = np.frombuffer(self.content, dtype=np.uint64)
        # which [records]: the number of a record's hash among the different ones; many [hashes].
        _, which, many = np.unique(hashes, return_inverse=True, return_counts=True)
        largest = np.argsort(-many, kind="stable")[:most]
        records = np.frombuffer(self.records, dtype=np.uint64)
        return [records[which == group].tolist() for group in largest if many[group] > 1]


def count_repeated(hashes: array) -> int:
    """How many of them were met before."""
    return len(hashes) - len(set(hashes))


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one record; see `Findings`. supervised, visual: None where only text is counted."""

    tokens: int | None
    supervised: int | None
    visual: int | None
    words: int
    images: int
    turns: int
    sides: list[int]
    answers: list[str]
    content: int
    pictures: int | None
    said: int


@dataclass(frozen=True)
class TakeFigures:
    """A reader's `Look`: opens every picture of a record and counts. tokenizer: counts the text
    where the reader makes no tokens (no template, no pictures); None counts words only."""

    tokenizer: Any = None

    def __call__(self, sample: Sample, tokens: Tokens | None) -> Figures:
        """DataError for a picture that cannot be opened, or answers that training would refuse."""
        pictures = [image.load() for image in sample.images]
        keys = "|".join(map(hash_pixels, pictures))
        empty_answers(sample)
        answers = texts(sample, answers=True)
        written = "\n".join(texts(sample))
        count = supervised = visual = None
        if tokens is not None:
            count, supervised, visual = len(tokens), tokens.supervised, tokens.visual
        elif self.tokenizer is not None:
            count = len(self.tokenizer.encode(written, add_special_tokens=False))
        return Figures(
            count,
            supervised,
            visual,
            words=len(written.split()),
            images=len(pictures),
            turns=sum(len(branch) for branch in sample.branches),
            sides=[max(picture.size) for picture in pictures],
            answers=answers,
            content=hash_text(keys + "\n" + written),
            pictures=hash_text(keys) if pictures else None,
            said=hash_text("\n".join(answers)),
        )


PLAIN = Reader(None, look=TakeFigures())
"""Reads records as their files have them: nothing is encoded."""


def survey(
    source: Source, numbers: list[int], reader: Reader = PLAIN, processes: int = 1, name: str = ""
) -> Findings:
    """Reads these records, whose reader takes `Figures`, and opens every picture of them. Progress
    is shown under the `name` of the source."""
    whole = Findings()
    with Progress(f"read {name}".strip(), len(numbers), "record") as progress:
        for found in over_blocks(survey_block, source, numbers, reader, processes):
            whole.add(found)
            progress.advance(found.read)
    return whole


Work = Callable[[Source, list[int], Reader], Any]
"""What is made of some records, in one process."""


def over_blocks(
    work: Work, source: Source, numbers: list[int], reader: Reader, processes: int = 1
) -> Iterator[Any]:
    """What `work` makes of every block of these records, in their order, block for block.

    RunError when a process dies, which is said and not waited for.
    """
    blocks = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    if not blocks:
        return
    begun = time.perf_counter()
    first = work(source, blocks.pop(0), reader)
    # It tells how long the others take. Processes that start for less than their start costs would
    # only make the answer late.
    alone = len(blocks) * (time.perf_counter() - begun)
    yield first
    if alone <= START + alone / processes:
        yield from (work(source, block, reader) for block in blocks)
        return
    # Spawned: a fork would copy the threads of libraries that are loaded already.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(work, source, reader)
    ) as pool:
        try:
            yield from pool.map(_block, blocks)
        except BrokenProcessPool as error:
            remedy = "most often for lack of memory: lower --workers"
            raise RunError("a process that reads the data died", remedy=remedy) from error


# Of a process of the pool: work, source and reader come once, and only numbers with each block.
_given: list = []


def _begin(*given: object) -> None:
    _given[:] = given


def _block(numbers: list[int]) -> Any:
    work, source, reader = _given
    return work(source, numbers, reader)


def survey_block(source: Source, numbers: list[int], reader: Reader = PLAIN) -> Findings:
    """Findings of some records, in this process. Two records are equal when their pictures have
    the same pixels and their turns the same text."""
    found = Findings()
    for number in numbers:
        found.read += 1
        record = reader.read("", source, number)
        if isinstance(record, Unusable):
            found.errors.append((number, str(record.reason)))
            continue
        figures: Figures = record.seen
        for name in ("tokens", "supervised", "visual", "words", "images", "turns"):
            if (value := getattr(figures, name)) is not None:
                getattr(found, name)[value] += 1
        found.sides.update(figures.sides)
        found.lengths.update(len(answer.split()) for answer in figures.answers)
        found.answers.update(a.strip() for a in figures.answers if len(a.strip()) <= SHORT)
        found.cut.update(record.cut)
        found.cut["samples"] += any(record.cut[name] for name in CUT)
        found.lost.update(record.left_out)
        found.records.append(number)
        found.content.append(figures.content)
        found.said.append(figures.said)
        if figures.pictures is not None:
            found.pictures.append(figures.pictures)
    return found


def texts(sample: Sample, answers: bool = False) -> list[str]:
    """The text of each turn, as the data hold it; of `answers` and documents alone. A picture
    between two words parts them as a space does."""
    return [
        _join_words(turn)
        for branch in (sample.stem, *sample.branches)
        for turn in branch
        if not answers or turn.role in ("assistant", "text")
    ]


def _join_words(turn: Turn) -> str:
    """Worked example: `a kite`, a picture, `over trees` is `a kite over trees`; no space is added
    where one stands."""
    said = ""
    parted = False
    for part in turn.parts:
        if isinstance(part, ImagePart):
            parted = True
            continue
        text = str(part)
        between = parted and said and text and not said[-1].isspace() and not text[0].isspace()
        said += f" {text}" if between else text
        parted = parted and not text
    return said


def empty_answers(sample: Sample) -> None:
    """DataError for what training would refuse: an empty answer, or none at all."""
    spoken = [turn for branch in sample.branches for turn in branch]
    answers = [turn for turn in spoken if turn.role in ("assistant", "text")]
    if not answers or any(is_blank(turn.parts) for turn in answers):
        what = "an answer is empty" if answers else "nothing is answered"
        remedy = "fill it in, or remove the record"
        raise DataError(what, origin=sample.origin, remedy=remedy)


def hash_pixels(image: Image.Image) -> str:
    """What is equal for pictures with equal pixels, whatever their files are called."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() + str(image.size)


def hash_text(content: str) -> int:
    """64 bits that are equal for equal content."""
    digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def choose_records(many: int, limit: int | None) -> list[int]:
    """Numbers of the records to read: all, or `limit` of them drawn at random, in order."""
    if limit is None or limit >= many:
        return list(range(many))
    return sorted(random.Random(0).sample(range(many), limit))


@dataclass(frozen=True)
class Surveyed:
    """A source and what was found in it. counted: how tokens were counted, or why they were not."""

    each: Opened
    found: Findings
    counted: str = ""


def survey_sources(
    sources: Sequence[Opened],
    samples: int | None,
    tokenizer: str | None,
    processes: int,
    every: bool = False,
) -> list[Surveyed]:
    """What is found in up to `samples` records of each source (None: all), drawn at random.

    Tokens are counted by `tokenizer` (its path; text alone), or by the recipe that a source is of.
    A source that two stages read in the same way is read once. With `every` a recipe's records have
    to be encoded as in training: LucidaError when that cannot be done here.
    """
    done: dict[str, Findings] = {}
    readers: dict[str, tuple[Reader, str]] = {}
    found = []
    for each in sources:
        way = _way(each)
        if way not in readers:
            readers[way] = reader_of(each, tokenizer, every)
        reader, counted = readers[way]
        key = f"{way} {each.spec!r}"
        if key not in done:
            numbers = choose_records(len(each.source), samples)
            done[key] = survey(each.source, numbers, reader, processes, each.name)
        found.append(Surveyed(each, done[key], counted))
    return found


def _way(each: Opened) -> str:
    """What of a stage changes the tokens of a sample."""
    if each.stage is None:
        return ""
    return f"{each.stage.template} {each.stage.loss} {capacity(each.stage.batch)}"


def reader_of(each: Opened, tokenizer: str | None, needed: bool = False) -> tuple[Reader, str]:
    """What reads the records of a source, and in words how their tokens are counted, or why they
    are not (ModelError when they are `needed`)."""
    if tokenizer is not None:
        words = TakeFigures(tokenizer_of(tokenizer))
        return Reader(None, look=words), f"tokens of text alone, by {tokenizer}"
    if each.recipe is None or each.stage is None:
        return PLAIN, ""
    try:
        processor = weightless_processor(each.recipe, each.stage)
    except (LucidaError, OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0][:160]
        if needed:
            raise ModelError(
                f"the records cannot be encoded as training would: {reason}",
                origin=f"stage {each.stage.name} of recipe {each.recipe.name}",
                remedy="get the tokenizer and the parts, or check each source by its path",
            ) from problem
        return PLAIN, f"words, because tokens cannot be counted: {reason}"
    told = (
        f"tokens as in training: template {processor.template}, loss {each.stage.loss}, "
        f"at most {processor.max_length:,}"
    )
    if (row := capacity(each.stage.batch)) is not None:
        told += f", rows of {row:,}"
    return Reader(partial(processor.encode, loss=each.stage.loss), row, TakeFigures()), told


def consequence(each: Surveyed) -> str:
    """What training makes of the records that cannot be used; empty where there are none, or where
    the source is of no recipe."""
    lost, records = len(each.found.errors), each.found.read
    if each.each.stage is None or not lost:
        return ""
    mixture, stage = each.each.stage.mixture, each.each.stage.name
    if mixture.on_error == "error":
        return f"stage {stage} stops at the first of {lost:,} records that it meets"
    share = f"{lost:,} of {records:,} records ({lost / records:.1%}) by others"
    if lost > mixture.max_dropped * records:
        limit = f"max_dropped allows {mixture.max_dropped:.1%}"
        return f"stage {stage} would replace {share}, and stops on the way: {limit}"
    return f"stage {stage} replaces {share}"
