"""What a source is, and which keys of its records it uses and ignores; all others are counted.

    record ─uses, ignores─▶ {"key `rejected` is not read": 1}

A reader says what it uses as a shape: key → None where all of its value is read, key → shape where
it holds an object or a list of them. What is neither used nor ignored nor empty is told: by
`lucida data check`, at the end of a training, and in dropped.jsonl.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from lucida.core.errors import DataError
from lucida.data.sample import Sample

Shape = Mapping[str, Any]
"""Key → None, or the shape of the objects inside."""
IGNORED = frozenset({
    "id", "_id", "idx", "index", "uid", "uuid", "key", "source", "origin", "dataset",
    "dataset_name", "data_source", "url", "license", "width", "height", "model", "created",
})  # fmt: skip
"""Keys that every reader ignores: names of records, where they come from, sizes of pictures."""
MOST = 64
"""Names of keys that a source tells apart in one process."""
OTHERS = "keys of more names are not read"
LONGEST = 60


class Source(Protocol):
    """Records by number; one that cannot be used raises `DataError`.

    A source gives its length and `sample`, and says what it reads and what it knows and ignores.
    What it leaves out of its files is in `dropped`, what it does not read of them in `noted`, how
    many of each reason. Anything with a length and `[index]` serves as a source, as a list does.
    """

    uses: ClassVar[Shape] = {}
    ignores: ClassVar[frozenset[str]] = frozenset()
    dropped: Mapping[str, int] = {}
    noted: Mapping[str, int] = {}

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; with `words` in place of its own caption. IndexError behind the last one."""
        return self.explained(index, words)[0]

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """The same, and how much of the record is not read or was left out, by reason."""
        return self.sample(index, words), Counter()

    def key(self, index: int, field: str | None) -> str:
        """What captions from elsewhere are matched by: the name of a record's picture, or one of
        its fields. DataError: records of this source have no captions."""
        kind = type(self).__name__
        raise DataError("captions are for sources of pictures with captions", given=kind)


class RecordSource(Source):
    """Records that are objects with keys. A reader gives `record` and `made`, and says in `uses`
    (or, where it depends on the record, in `shape`) what it reads."""

    uses: ClassVar[Shape]
    ignores: ClassVar[frozenset[str]] = IGNORED

    @abstractmethod
    def record(self, index: int) -> tuple[Any, str]:
        """A record as it stands in its file, and where it stands. DataError: it is broken."""

    @abstractmethod
    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A record as a sample; with `words` in place of its own caption. DataError: it is no
        record of this kind."""

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """The keys that are used of a record."""
        return self.uses

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; with `words` in place of its own caption."""
        return self.made(*self.record(index), index, words)

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """The same, and which keys of the record are not read."""
        record, origin = self.record(index)
        sample = self.made(record, origin, index, words)
        return sample, self.unread(record)

    def unread(self, record: Any) -> Counter[str]:
        """Which keys of a record are not read."""
        if not isinstance(record, Mapping):
            return Counter()
        return few(unread(record, self.shape(record), self.ignores), self)


def unread(record: Any, uses: Shape, ignores: frozenset[str]) -> Counter[str]:
    """Reason → 1 for each key of a record, and of what it holds, that is neither used nor ignored
    nor empty.

    Worked example: {"image": "a.jpg", "turns": [{"text": "A kite.", "loss": 0}], "score": 3} of
    which `image` and the texts are used gives `turns[].loss` and `score`.
    """
    return Counter({reason(name): 1 for name in _names(record, uses, ignores, "")})


def unread_of_all(value: Any, uses: Shape, ignores: frozenset[str]) -> Counter[str]:
    """Of a whole file, how often each key that is not read stands in it."""
    return Counter(map(reason, _names(value, uses, ignores, "")))


def reason(name: str) -> str:
    """How a key that is not read is told."""
    return f"key `{name}` is not read"


def _names(value: Any, uses: Shape, ignores: frozenset[str], before: str) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            if isinstance(each, Mapping | list):
                yield from _names(each, uses, ignores, before)
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            if key in uses:
                if uses[key] is not None:
                    inner = f"{before}{key}[]." if isinstance(inside, list) else f"{before}{key}."
                    yield from _names(inside, uses[key], ignores, inner)
            elif key not in ignores and not _is_empty(inside):
                yield before + str(key).encode("utf-8", "backslashreplace").decode()[:LONGEST]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict | tuple) and not value)


def few(found: Counter[str], owner: Any) -> Counter[str]:
    """The reasons, those beyond `MOST` different ones of this owner as one: records may be
    dictionaries of a million words."""
    told = vars(owner).setdefault("_told", set())
    short: Counter[str] = Counter()
    for why, many in found.items():
        if why in told or len(told) < MOST:
            told.add(why)
            short[why] += many
        else:
            short[OTHERS] += many
    return short
