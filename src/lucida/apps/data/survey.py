"""Everything of a source read once, in parallel processes: what it holds and what is wrong with it.

    numbers ─blocks─▶ processes ─▶ Findings ─added up─▶ one Findings

Nothing is kept of a record but its figures, so memory stays that of the figures.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from PIL import Image

from lucida.core.errors import DataError, RunError
from lucida.data.images import image_size
from lucida.data.mixture import Source
from lucida.data.sample import ImagePart, Sample

BLOCK = 256
"""Records that a process takes at once."""


@dataclass
class Findings:
    """Figures of records, one entry each for those that can be read.

    words, images: of each sample. pixels: longest side of each picture. errors: number and message.
    alike: how often each content (pictures by key and text) is met, by a hash of 8 bytes.
    """

    read: int = 0
    words: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    alike: Counter[bytes] = field(default_factory=Counter)
    errors: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Takes in what another process found."""
        self.read += other.read
        for name in ("words", "tokens", "images", "sides", "turns", "lost", "alike"):
            getattr(self, name).update(getattr(other, name))
        self.errors += other.errors

    @property
    def duplicates(self) -> int:
        """Records whose like was met before."""
        return sum(many - 1 for many in self.alike.values())


def survey(
    source: Source, numbers: list[int], pictures: bool, tokenizer=None, processes: int = 1
) -> Findings:
    """Reads these records; with `pictures` every picture is opened, else only its size is asked.

    RunError when a process dies, which is said and not waited for.
    """
    whole = Findings()
    blocks = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    if processes <= 1 or len(blocks) <= 1:
        for block in blocks:
            whole.add(looked(source, block, pictures, tokenizer))
        return whole
    # Spawned: a fork would copy the threads of libraries that are loaded already.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(source, pictures, tokenizer)
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
    source, pictures, tokenizer = _given
    return looked(source, numbers, pictures, tokenizer)


def looked(source: Source, numbers: list[int], pictures: bool, tokenizer=None) -> Findings:
    """Findings of some records, in this process."""
    found = Findings()
    explained = getattr(source, "explained", None)
    for number in numbers:
        found.read += 1
        try:
            if explained is None:
                sample, lost = source[number], Counter()
            else:
                sample, lost = explained(number)
            sides, keys = [], []
            for image in sample.images:
                opened = image.load() if pictures else None
                sides.append(max(opened.size if opened else image_size(image)))
                keys.append(image.key if opened is None else pixels_of(opened))
            empty_answers(sample)
        except DataError as error:
            found.errors.append((number, str(error)))
            continue
        text = "\n".join(texts(sample))
        found.words[len(text.split())] += 1
        if tokenizer is not None:
            found.tokens[len(tokenizer.encode(text, add_special_tokens=False))] += 1
        found.images[len(sample.images)] += 1
        found.sides.update(sides)
        found.turns[sum(len(branch) for branch in sample.branches)] += 1
        found.lost += lost
        found.alike[content_of(keys, text)] += 1
    return found


def empty_answers(sample: Sample) -> None:
    """DataError for what training would refuse: an empty answer, or none at all."""
    spoken = [turn for branch in sample.branches for turn in branch]
    answers = [turn for turn in spoken if turn.role in ("assistant", "text")]
    if not answers or any(not turn.parts for turn in answers):
        what = "an answer is empty" if answers else "nothing is answered"
        remedy = "fill it in, or drop the record with mixture.on_error=skip"
        raise DataError(what, origin=sample.origin, remedy=remedy)


def texts(sample: Sample) -> Iterator[str]:
    """All text of a sample, as its turns hold it."""
    for branch in (sample.stem, *sample.branches):
        for turn in branch:
            yield "".join("" if isinstance(p, ImagePart) else str(p) for p in turn.parts)


def pixels_of(image: Image.Image) -> str:
    """What is equal for pictures with equal pixels, whatever their files are called."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() + str(image.size)


def content_of(keys: list[str], text: str) -> bytes:
    """Eight bytes that are equal for samples with equal pictures and text."""
    content = "|".join(keys) + "\n" + text
    return hashlib.blake2b(content.encode(), digest_size=8).digest()


def chosen(many: int, limit: int | None, seed: int = 0) -> list[int]:
    """Numbers of the records to read: all, or `limit` of them drawn at random, in order."""
    if limit is None or limit >= many:
        return list(range(many))
    return sorted(random.Random(seed).sample(range(many), limit))
