"""What is compared of records, and which of them belong together.

source ─Reader, in parallel─▶ Printed for each record ─near─▶ groups of records
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lucida.apps.data.near import Fingerprint, make_fingerprint, near_pictures, near_texts
from lucida.apps.data.survey import over_blocks, texts
from lucida.core.errors import DataError
from lucida.data.mixture import Source
from lucida.data.reader import Reader, Unusable
from lucida.data.sample import Sample, Tokens


@dataclass(frozen=True, slots=True)
class Printed:
    """A record by number: where it stands, its pictures and where those are, what is asked, and all
    that is said. source: which of several it is from."""

    number: int
    origin: str
    pictures: tuple[Fingerprint, ...]
    places: tuple[str, ...]
    asked: str
    said: str
    source: int = 0


class TakePrints:
    """A reader's `Look`: fingerprints of the pictures of a record, and its words. A picture that
    several records show one after the other is opened once."""

    def __init__(self) -> None:
        self._last: dict[str, Fingerprint] = {}

    def __call__(self, sample: Sample, tokens: Tokens | None = None) -> Printed:
        """DataError for a picture that cannot be opened. The number is filled in later."""
        known = {
            image.key: self._last.get(image.key) or make_fingerprint(image.load())
            for image in sample.images
        }
        # Only those of the record before: questions about one picture stand behind one another in
        # many files, and prints of all pictures would fill memory.
        self._last = known or self._last
        pictures = tuple(known[image.key] for image in sample.images)
        places = tuple(image.origin for image in sample.images)
        said = "\n".join(texts(sample))
        return Printed(-1, sample.origin, pictures, places, question_of(sample), said)


PRINTS = Reader(None, look=TakePrints())


def question_of(sample: Sample) -> str:
    """What the users of a sample say, in one text."""
    turns = [turn for branch in (sample.stem, *sample.branches) for turn in branch]
    parts = [part for turn in turns if turn.role == "user" for part in turn.parts]
    return " ".join(part for part in parts if isinstance(part, str))


def read_block(
    source: Source, numbers: list[int], reader: Reader
) -> tuple[list[Printed], list[tuple[int, DataError]]]:
    """The prints of some records, and those that cannot be used."""
    found, lost = [], []
    for number in numbers:
        record = reader.read("", source, number)
        if isinstance(record, Unusable):
            lost.append((number, record.reason))
            continue
        found.append(replace(record.seen, number=number))
    return found, lost


def read_prints(
    source: Source, processes: int = 1
) -> Iterator[tuple[list[Printed], list[tuple[int, DataError]]]]:
    """The prints of every record of a source, block for block."""
    yield from over_blocks(read_block, source, list(range(len(source))), PRINTS, processes)


class Pictures:
    """The different pictures of records, each once, and the records that show it."""

    def __init__(self, printed: Sequence[Printed]) -> None:
        known: dict[tuple[int, bytes], int] = {}
        self.prints: list[Fingerprint] = []
        self.shown: list[list[int]] = []
        """For each picture the places in `printed` of the records that show it."""
        for place, record in enumerate(printed):
            for each in record.pictures:
                number = known.setdefault(each.key, len(self.prints))
                if number == len(self.prints):
                    self.prints.append(each)
                    self.shown.append([])
                self.shown[number].append(place)


class Joined:
    """Numbers below `count`, in groups: what is near to one of a group belongs to it."""

    def __init__(self, count: int, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._leader = list(range(count))
        for one, other in pairs:
            self.join(one, other)

    def _lead(self, number: int) -> int:
        leader = self._leader
        while leader[number] != number:
            # Path halving: each look shortens the chain that the next one follows.
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Makes one group of those of two numbers."""
        self._leader[self._lead(other)] = self._lead(one)

    def groups(self, least: int = 1) -> list[list[int]]:
        """The groups of at least so many, by their first number."""
        members: dict[int, list[int]] = {}
        for number in range(len(self._leader)):
            members.setdefault(self._lead(number), []).append(number)
        return [each for each in members.values() if len(each) >= least]


@dataclass(frozen=True)
class Groups:
    """Records that must stay together, as places in the list that was grouped. pictures: how many
    different ones there are; near: pairs of different pictures that are nearly the same, a record
    that shows each; texts: pairs of records without pictures that read nearly the same."""

    members: list[list[int]]
    pictures: int
    near: list[tuple[int, int]]
    texts: list[tuple[int, int]]


def group(printed: Sequence[Printed]) -> Groups:
    """Joins records that share a picture or show nearly the same one, and those without pictures
    whose words are nearly the same. What is near to one of a group belongs to it."""
    joined = Joined(len(printed))
    pictures = Pictures(printed)
    for places in pictures.shown:
        for place in places[1:]:
            joined.join(places[0], place)
    near = [
        (pictures.shown[one][0], pictures.shown[other][0])
        for one, other in near_pictures(pictures.prints)
    ]
    bare = [place for place, record in enumerate(printed) if not record.pictures]
    alike = [
        (bare[one], bare[other])
        for one, other in near_texts([printed[place].said for place in bare])
    ]
    for one, other in (*near, *alike):
        joined.join(one, other)
    return Groups(joined.groups(), len(pictures.prints), near, alike)
