"""Everything of a source read once, in parallel processes: what it holds and what is wrong with it.

    numbers ─blocks─▶ processes ─▶ Findings ─added up─▶ one Findings

Nothing is kept of a record but its figures, so memory stays that of the figures: 32 bytes for each.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
from array import array
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields

import numpy as np
from PIL import Image

from lucida.apps.data.counting import Count, texts
from lucida.core.errors import DataError, RunError
from lucida.data.mixture import Source
from lucida.data.sample import Sample

BLOCK = 256
"""Records that a process takes at once."""
CUT = ("samples_cut", "branches_dropped")
"""What `encode` counts for a sample that does not fit into the context."""


def _numbers() -> array:
    return array("Q")


@dataclass
class Findings:
    """Figures of records, one entry each for those that can be read.

    words, images, turns: of each sample; tokens, supervised, visual: the same, where tokens are
    counted. sides: longest side of each picture. cut: samples, and what was cut away from them, for
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

    @property
    def duplicates(self) -> int:
        """Records whose like, pictures and text, was met before."""
        return again(self.content)

    def groups(self, most: int = 10) -> list[list[int]]:
        """Records with equal content, the largest groups first."""
        hashes = np.frombuffer(self.content, dtype=np.uint64)
        _, which, many = np.unique(hashes, return_inverse=True, return_counts=True)
        largest = np.argsort(-many, kind="stable")[:most]
        records = np.frombuffer(self.records, dtype=np.uint64)
        return [records[which == group].tolist() for group in largest if many[group] > 1]


def again(hashes: array) -> int:
    """How many of them were met before."""
    return len(hashes) - len(set(hashes))


def survey(
    source: Source,
    numbers: list[int],
    count: Count | None = None,
    processes: int = 1,
) -> Findings:
    """Reads these records and opens every picture of them.

    RunError when a process dies, which is said and not waited for.
    """
    whole = Findings()
    blocks = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    if processes <= 1 or len(blocks) <= 1:
        for block in blocks:
            whole.add(looked(source, block, count))
        return whole
    # Spawned: a fork would copy the threads of libraries that are loaded already.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(source, count)
    ) as pool:
        try:
            for found in pool.map(_block, blocks):
                whole.add(found)
        except BrokenProcessPool as error:
            remedy = "most often for lack of memory: lower --workers"
            raise RunError("a process that reads the data died", remedy=remedy) from error
    return whole


_given: list = []


def _begin(*given: object) -> None:
    _given[:] = given


def _block(numbers: list[int]) -> Findings:
    source, count = _given
    return looked(source, numbers, count)


def looked(source: Source, numbers: list[int], count: Count | None = None) -> Findings:
    """Findings of some records, in this process. Two records are equal when their pictures have
    the same pixels and their turns the same text."""
    found = Findings()
    explained = getattr(source, "explained", None)
    for number in numbers:
        found.read += 1
        cut: Counter[str] = Counter()
        try:
            if explained is None:
                sample, lost = source[number], Counter()
            else:
                sample, lost = explained(number)
            sides, keys = [], []
            for image in sample.images:
                opened = image.load()
                sides.append(max(opened.size))
                keys.append(pixels_of(opened))
            empty_answers(sample)
            measure = None if count is None else count(sample, cut)
        except DataError as error:
            found.errors.append((number, str(error)))
            continue
        if measure is not None:
            found.tokens[measure.tokens] += 1
            if measure.supervised is not None and measure.visual is not None:
                found.supervised[measure.supervised] += 1
                found.visual[measure.visual] += 1
        if any(cut[name] for name in CUT):
            cut["samples"] += 1
        found.cut += cut
        said = "\n".join(texts(sample))
        found.words[len(said.split())] += 1
        found.images[len(sample.images)] += 1
        found.sides.update(sides)
        found.turns[sum(len(branch) for branch in sample.branches)] += 1
        found.lost += lost
        found.records.append(number)
        found.content.append(hashed("|".join(keys) + "\n" + said))
        if keys:
            found.pictures.append(hashed("|".join(keys)))
        found.said.append(hashed("\n".join(texts(sample, answers=True))))
    return found


def empty_answers(sample: Sample) -> None:
    """DataError for what training would refuse: an empty answer, or none at all."""
    spoken = [turn for branch in sample.branches for turn in branch]
    answers = [turn for turn in spoken if turn.role in ("assistant", "text")]
    if not answers or any(not turn.parts for turn in answers):
        what = "an answer is empty" if answers else "nothing is answered"
        remedy = "fill it in, or drop the record with mixture.on_error=skip"
        raise DataError(what, origin=sample.origin, remedy=remedy)


def pixels_of(image: Image.Image) -> str:
    """What is equal for pictures with equal pixels, whatever their files are called."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() + str(image.size)


def hashed(content: str) -> int:
    """64 bits that are equal for equal content."""
    digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def chosen(many: int, limit: int | None, seed: int = 0) -> list[int]:
    """Numbers of the records to read: all, or `limit` of them drawn at random, in order."""
    if limit is None or limit >= many:
        return list(range(many))
    return sorted(random.Random(seed).sample(range(many), limit))
