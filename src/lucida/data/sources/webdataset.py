"""WebDataset tar shards as img2dataset writes them: `000.jpg`, `000.txt` and `000.json` together.

    shards ─headers, once─▶ places [samples, 7] ─sidecar─▶ sample n: three reads, nothing extracted

Members of one name (up to the first dot behind the last slash) are a sample. Which samples are kept
is decided when the shards are opened, from numbers in the JSON members.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lucida.core.errors import DataError, suggestion
from lucida.data.sample import Sample
from lucida.data.sources.conversation import captioned
from lucida.data.sources.pictures import ENDINGS, bytes_source
from lucida.data.sources.prompts import prompts_of
from lucida.data.sources.records import files_of
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.tarindex import members, read_member

SHARD, IMAGE, TEXT, JSON = 0, 1, 3, 5
"""Columns of the places: number of the shard, then begin and size of each member (-1: none)."""
KINDS = dict.fromkeys((ending[1:] for ending in ENDINGS), IMAGE) | {"txt": TEXT, "json": JSON}


class WebdatasetSource:
    """Samples of tar shards in the order of their names.

    `dropped` counts what the filters leave out, by reason; those samples are no records of this
    source. DataError: a shard that is cut short, a sample without picture or caption, JSON that is
    broken or lacks what is asked.
    """

    def __init__(
        self,
        path: str | Path,
        caption: str = "txt",
        at_least: dict[str, float] | None = None,
        rank_by: str | None = None,
        top_share: float = 1.0,
        prompts: list[str] | str | None = None,
    ) -> None:
        self.shards = files_of(path, (".tar",))
        self.caption, self.prompts = caption, prompts_of(prompts)
        self.at_least, self.rank_by, self.top_share = at_least or {}, rank_by, top_share
        if top_share < 1 and rank_by is None:
            raise DataError("`top_share` needs `rank_by`", origin=path)
        try:
            self._places = Sidecar("webdataset", self.shards, self._survey)
        except OSError as error:
            raise DataError(f"cannot read the shard: {error}", origin=path) from error
        self.dropped: dict[str, int] = {}
        self._kept: Sidecar | None = None
        if self.at_least or top_share < 1:
            asked = f"kept {list(self.at_least.items())} {rank_by} {top_share}"
            # The first rows count what was dropped, so that it is known from the sidecar as well.
            self._kept = Sidecar(asked, self.shards, self._chosen)
            names = [f"{name} below {least:g}" for name, least in self.at_least.items()]
            names.append(f"not in the best {top_share:g} by {rank_by}")
            counts = self._kept.array[: len(names)].tolist()
            self.dropped = {name: n for name, n in zip(names, counts, strict=True) if n}
            self._skip = len(names)

    def __len__(self) -> int:
        if self._kept is None:
            return len(self._places.array)
        return len(self._kept.array) - self._skip

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = index if self._kept is None else int(self._kept.array[index + self._skip])
        place = self._places.array[number]
        shard = self.shards[int(place[SHARD])]
        origin = f"{shard}: sample {number}"
        begin, size = place[IMAGE : IMAGE + 2].tolist()
        if begin < 0:
            expected = f"a member of {', '.join(ENDINGS)}"
            raise DataError("a sample without picture", expected=expected, origin=origin)
        identity = f"{shard.resolve()}|{shard.stat().st_mtime_ns}|{begin}|{size}"
        content = partial(read_member, shard, begin, size)
        image = bytes_source(content, f"{origin} (byte {begin})", identity)
        return captioned(origin, image, self._caption(place, origin), self.prompts, index)

    def _caption(self, place: np.ndarray, origin: str) -> Any:
        shard = self.shards[int(place[SHARD])]
        if self.caption == "txt":
            begin, size = place[TEXT : TEXT + 2].tolist()
            if begin < 0:
                remedy = "set `caption` to a key of the JSON member"
                raise DataError("a sample without txt member", origin=origin, remedy=remedy)
            try:
                return read_member(shard, begin, size).decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"the caption is not UTF-8: {error}", origin=origin) from error
        record = self._record(place, origin)
        if self.caption not in record:
            remedy = suggestion(self.caption, record)
            raise DataError(f"no key `{self.caption}`", origin=origin, remedy=remedy)
        return record[self.caption]

    def _record(self, place: np.ndarray, origin: str) -> dict[str, Any]:
        begin, size = place[JSON : JSON + 2].tolist()
        if begin < 0:
            raise DataError("a sample without json member", origin=origin)
        try:
            record = json.loads(read_member(self.shards[int(place[SHARD])], begin, size))
        except (ValueError, RecursionError) as error:
            raise DataError(f"broken JSON: {error}", origin=origin) from error
        if not isinstance(record, dict):
            raise DataError("bad json member", expected="an object", origin=origin)
        return record

    def _survey(self) -> np.ndarray:
        """Places of every sample of every shard."""
        rows: list[list[int]] = []
        for number, shard in enumerate(self.shards):
            found: dict[str, list[int]] = {}
            for name, begin, size in members(shard):
                folder, _, last = name.rpartition("/")
                stem, _, ending = last.partition(".")
                column = KINDS.get(ending.lower())
                if column is not None:
                    row = found.setdefault(f"{folder}/{stem}", [number, *[-1] * 6])
                    row[column : column + 2] = begin, size
            rows += found.values()
        if not rows:
            expected = "members such as 000.jpg, 000.txt, 000.json"
            raise DataError("no samples in the shards", expected=expected, origin=self.shards[0])
        return np.array(rows, dtype=np.int64)

    def _chosen(self) -> np.ndarray:
        """How many each filter drops, then the numbers of the samples that stay."""
        places = self._places.array
        dropped: Counter[int] = Counter()
        kept: list[int] = []
        for shard in range(len(self.shards)):
            passed: list[tuple[float, int]] = []
            for number in np.flatnonzero(places[:, SHARD] == shard).tolist():
                origin = f"{self.shards[shard]}: sample {number}"
                record = self._record(places[number], origin)
                for filter_number, (name, least) in enumerate(self.at_least.items()):
                    if not number_of(record, name, origin) >= least:
                        dropped[filter_number] += 1
                        break
                else:
                    rank = number_of(record, self.rank_by, origin) if self.rank_by else 0.0
                    passed.append((-rank, number))
            most = round(self.top_share * len(passed)) if self.top_share < 1 else len(passed)
            dropped[len(self.at_least)] += len(passed) - most
            kept += sorted(number for _, number in sorted(passed)[:most])
        counts = [dropped[n] for n in range(len(self.at_least) + 1)]
        return np.array(counts + kept, dtype=np.int64)


def number_of(record: dict[str, Any], name: str, origin: str) -> float:
    """A number of the JSON member, or the sum `a+b` of two; null is below everything."""
    total = 0.0
    for key in name.split("+"):
        if key not in record:
            raise DataError(f"no number `{key}`", origin=origin, remedy=suggestion(key, record))
        value = record[key]
        if value is None:
            return float("-inf")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"`{key}` is no number", given=repr(value)[:80], origin=origin)
        total += value
    return total
