"""WebDataset tar shards as img2dataset writes them: `000.jpg`, `000.txt` and `000.json` together.

    shards ─one pass, once─▶ places [samples, 7] ─sidecar─▶ sample n: three reads, nothing extracted

Shards may stand elsewhere (`https://`, `s3://`, `hf://`, ...). They are streamed once to find out
where samples begin; from then on a sample is one request for its bytes, so any sample can be had at
any time: the order, the share and the exact resumption of a mixture are those of local files. With
`keep` that one pass leaves a local copy. Which samples are kept is decided when the shards are
opened, from numbers in the JSON members.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lucida.core.errors import DataError, suggestion
from lucida.data.sample import Sample
from lucida.data.source import Source
from lucida.data.sources.conversation import make_captioned, text_of
from lucida.data.sources.pictures import ENDINGS
from lucida.data.sources.prompts import asking, prompts_of
from lucida.data.sources.questions import answered_sample
from lucida.data.sources.records import unread_files
from lucida.data.sources.remote import Remote
from lucida.data.sources.shards import (
    BROKEN,
    KINDS,
    NUMBERS,
    TARS,
    TWICE,
    TWO_DOTS,
    Shard,
    json_record,
    name_of,
    number_of,
    open_shards,
    picture_in,
    table_of,
    tables_of,
)
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.tables import field_of
from lucida.data.sources.tarindex import member_name, read_member
from lucida.data.sources.values import decode_text

SHARD, IMAGE, TEXT, JSON = 0, 1, 3, 5
"""Columns of the places: number of the shard, then begin and size of each member (-1: none)."""
BETWEEN = 1 << 14
"""Bytes between the members of a sample that are fetched rather than asked for separately."""


class WebdatasetSource(Source):
    """Samples of tar shards in the order of their names.

    A sample's picture, txt and json member have one name up to the first dot (`shards.key_of`).
    `dropped` counts what the filters leave out, by reason, and members with a second dot in their
    names; those are no records of this source. `noted` counts members that are not read. Of the
    JSON member those keys are read that `caption`, `question`, `at_least` and `rank_by` name; all
    others are ignored, because that is where publishers put what they know of a picture.

    DataError: a shard that is cut short, a sample without picture or caption, JSON that is broken
    or lacks what is asked. RunError: a shard elsewhere that cannot be reached, or changed.
    With `skip` the rest of a damaged shard, and a sample without the numbers that filters go by,
    are records that raise the error.
    """

    uses: ClassVar = dict.fromkeys(KINDS)
    """Endings of members."""
    ignores = frozenset({"every key of the json member that is not asked for"})

    def __init__(
        self,
        path: str | Path,
        caption: str = "txt",
        question: str | None = None,
        at_least: dict[str, float] | None = None,
        rank_by: str | None = None,
        top_share: float = 1.0,
        min_bytes: int = 0,
        keep: str | None = None,
        prompts: list[str] | str | None = None,
        skip: bool = False,
    ) -> None:
        if top_share < 1 and rank_by is None:
            raise DataError("`top_share` needs `rank_by`", origin=path)
        self.shards = open_shards(path, keep)
        self.caption, self.question, self.prompts = caption, question, prompts_of(prompts)
        if question is not None:
            asking(self.prompts, str(path))
        self.at_least, self.rank_by, self.top_share = at_least or {}, rank_by, top_share
        self.min_bytes, self.skip = min_bytes, skip
        self._names = [*self.at_least, *([rank_by] if rank_by and top_share < 1 else [])]
        try:
            # Whether a sample without its numbers is an error or a record depends on the numbers.
            what = f"webdataset skip {self._names}" if skip else "webdataset"
            self._places = Sidecar(what, self.shards, self._survey)
        except OSError as error:
            raise DataError(f"cannot read the shard: {error}", origin=path) from error
        notes = self._places.notes
        self.dropped = {why: many for why, many in notes.items() if why.startswith(TWO_DOTS)}
        self.noted = {why: many for why, many in notes.items() if why not in self.dropped}
        self.noted |= unread_files(path, (TARS,))
        if caption != "txt" and (texts := int((self._places.array[:, TEXT] >= 0).sum())):
            self.noted[f"txt members that are not read (the caption is `{caption}`)"] = texts
        self._kept: Sidecar | None = None
        if self._names or min_bytes:
            asked = f"kept {list(self.at_least.items())} {rank_by} {top_share} {min_bytes}"
            asked += " skip" if skip else ""
            # The first rows count what was dropped, so that it is known from the sidecar as well.
            self._kept = Sidecar(asked, self.shards, self._chosen)
            reasons = [f"picture below {min_bytes} bytes"]
            reasons += [f"{name} below {least:g}" for name, least in self.at_least.items()]
            reasons.append(f"not in the best {top_share:g} by {rank_by}")
            counts = self._kept.array[: len(reasons)].tolist()
            self.dropped |= {why: n for why, n in zip(reasons, counts, strict=True) if n}
            self._skip = len(reasons)
        self.__dict__.pop("_tables", None)

    def __len__(self) -> int:
        if self._kept is None:
            return len(self._places.array)
        return len(self._kept.array) - self._skip

    @property
    def files(self) -> list[Shard]:
        """What this source reads."""
        return self.shards

    def key(self, index: int, field: str | None) -> str:
        """The name of a sample's picture, or one key of its JSON member, as text."""
        place, shard, origin = self._place(index)
        if field is not None:
            return str(field_of(self._record(place, origin), field, origin))
        if place[IMAGE] < 0:
            return ""
        return member_name(shard, int(place[IMAGE]), origin)

    def record(self, index: int) -> tuple[dict[str, Any], str]:
        """The JSON member of a sample, and where it stands."""
        place, _, origin = self._place(index)
        return self._record(place, origin), origin

    def _place(self, index: int) -> tuple[np.ndarray, Shard, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = index if self._kept is None else int(self._kept.array[index + self._skip])
        place = self._places.array[number]
        shard = self.shards[int(place[SHARD])]
        # Rows stand shard after shard, so the first of this one is where its number begins.
        first = int(np.searchsorted(self._places.array[:, SHARD], place[SHARD]))
        return place, shard, f"{name_of(shard)}: sample {number - first}"

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; with `words` in place of its own caption."""
        place, shard, origin = self._place(index)
        begin, size = place[IMAGE : IMAGE + 2].tolist()
        if begin == TWICE:
            message = "two members of one kind and one key: nobody says which belong together"
            remedy = "give each sample a name of its own"
            raise DataError(message, origin=origin, remedy=remedy)
        if begin == BROKEN:
            self._raise(place, shard, origin)
        if begin < 0:
            expected = f"a member of {', '.join(ENDINGS)}"
            raise DataError("a sample without picture", expected=expected, origin=origin)
        if isinstance(shard, Remote):
            self._fetch(shard, place)
        image = picture_in(shard, begin, size, f"{origin} (byte {begin})")
        said = self._caption(place, origin) if words is None else words
        if self.question is None:
            return make_captioned(origin, image, said, self.prompts, index)
        asked = text_of(self._value(self.question, place, origin), self.question, origin)
        return answered_sample(asked, said, (image,), self.prompts, index, {}, origin)

    def _raise(self, place: np.ndarray, shard: Shard, origin: str) -> None:
        """What is wrong with a record that `table_of` could not read."""
        if self._names and place[JSON] >= 0:
            record = self._record(place, origin)
            for name in self._names:
                number_of(record, name, origin)
        if isinstance(shard, Path):
            table_of(shard, self._names)
        remedy = "download it again"
        raise DataError("what follows cannot be read", origin=origin, remedy=remedy)

    def _caption(self, place: np.ndarray, origin: str) -> Any:
        shard = self.shards[int(place[SHARD])]
        if self.caption == "txt":
            begin, size = place[TEXT : TEXT + 2].tolist()
            if begin < 0:
                remedy = "set `caption` to a key of the JSON member, `question` to one that asks"
                raise DataError("a sample without txt member", origin=origin, remedy=remedy)
            return decode_text(read_member(shard, begin, size), f"{origin}: txt member").strip()
        return self._value(self.caption, place, origin)

    def _value(self, key: str, place: np.ndarray, origin: str) -> Any:
        record = self._record(place, origin)
        if key not in record:
            raise DataError(f"no key `{key}`", origin=origin, remedy=suggestion(key, record))
        return record[key]

    def _record(self, place: np.ndarray, origin: str) -> dict[str, Any]:
        begin, size = place[JSON : JSON + 2].tolist()
        if begin < 0:
            raise DataError("a sample without json member", origin=origin)
        return json_record(read_member(self.shards[int(place[SHARD])], begin, size), origin)

    def _fetch(self, shard: Remote, place: np.ndarray) -> None:
        """All members of a sample in one request where they stand together."""
        begins, sizes = place[IMAGE::2], place[IMAGE + 1 :: 2]
        there = begins >= 0
        begin, end = int(begins[there].min()), int((begins + sizes)[there].max())
        if end - begin <= int(sizes[there].sum()) + BETWEEN:
            shard.read(begin, end - begin)

    @cached_property
    def _tables(self) -> list[tuple[np.ndarray, dict[str, int]]]:
        """Tables of all shards, with numbers; only there while the source is opened."""
        return tables_of(self.shards, self._names, self.skip)

    def _survey(self) -> tuple[np.ndarray, Counter[str]]:
        """Places of every sample of every shard, and what of the shards is not used."""
        parts = []
        notes: Counter[str] = Counter()
        for number, (table, unused) in enumerate(self._tables):
            notes.update(unused)
            places = table[:, :NUMBERS].astype(np.int64)
            parts.append(np.insert(places, 0, number, axis=1))
        rows = np.concatenate(parts)
        if not len(rows):
            expected = "members such as 000.jpg, 000.txt, 000.json"
            raise DataError(
                "no samples in the shards",
                expected=expected,
                given=", ".join(f"{many} {what}" for what, many in notes.items()) or "nothing",
                origin=name_of(self.shards[0]),
            )
        return rows, notes

    def _chosen(self) -> np.ndarray:
        """How many each filter drops, then the numbers of the samples that stay."""
        limits = [self.min_bytes or -np.inf, *self.at_least.values()]
        dropped = np.zeros(len(limits) + 1, dtype=np.int64)
        kept, before = [], 0
        for table, _ in self._tables:
            there = np.arange(len(table))
            columns = [table[:, 1], *table[:, NUMBERS:].T]
            for filter_number, least in enumerate(limits):
                good = columns[filter_number][there] >= least
                dropped[filter_number] += np.count_nonzero(~good)
                there = there[good]
            if self.top_share < 1:
                # The last column is `rank_by`; of equal ones the earlier sample stays.
                best = np.argsort(-columns[-1][there], kind="stable")
                most = round(self.top_share * len(there))
                dropped[-1] += len(there) - most
                there = np.sort(there[best[:most]])
            kept.append(there + before)
            before += len(table)
        return np.concatenate([dropped, *kept])
