"""Records in LLaVA's format: `image` and `conversations`, as a JSON array or one record a line.

    {"id": "7", "image": "coco/7.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                       {"from": "gpt", "value": "A kite."}]}

`image` may be a list or be missing. Each `<image>` in a human turn shows the next image, where it
stands. Images that open the first turn become the stem of the sample. The file is looked through
once for where its records begin; a record is read when it is asked for, so memory stays small.

Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 4.1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from lucida.core.errors import DataError, suggestion
from lucida.data.images import file_source
from lucida.data.sample import ImagePart, ImageSource, Part, Role, Sample, Turn
from lucida.data.sources.conversation import one_conversation

PLACEHOLDER = "<image>"
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_SPACE = re.compile(r"[ \t\r\n]*")


class LlavaSource:
    """A JSON array or JSONL file whose image paths are relative to the folder `images`.

    DataError, with file and record: broken JSON (with its line), another shape than the format's,
    more or fewer `<image>` than images, an image path that leaves the folder, a missing image.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None) -> None:
        self.path = Path(path)
        self.images = self.path.parent if images is None else Path(images)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            message = f"cannot read the data file: {error.strerror or error}"
            remedy = "check `path` of the source"
            raise DataError(message, origin=self.path, remedy=remedy) from error
        if not self.images.is_dir():
            remedy = "set `images` of the source"
            raise DataError("the image folder does not exist", origin=self.images, remedy=remedy)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            remedy = "convert the file to UTF-8"
            raise DataError(f"not UTF-8: {error}", origin=self.path, remedy=remedy) from error
        self._lines = not text.lstrip("\ufeff \t\r\n").startswith("[")
        places = _line_places(content) if self._lines else self._array_places(text)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 3)
        if not len(self._places):
            raise DataError("the data file has no records", origin=self.path)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        begin, end, line = self._places[index].tolist()
        origin = f"{self.path}: record {index} (line {line})"
        with self.path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        try:
            record = json.loads(content)
        except ValueError as error:
            remedy = "a file without a leading [ holds one record in each line; correct this one"
            raise DataError(f"broken JSON: {error}", origin=origin, remedy=remedy) from error
        return self._sample(record, origin)

    def _array_places(self, text: str) -> list[tuple[int, int, int]]:
        """Begin and end in bytes, and line, of each record of an array."""
        decoder, places = json.JSONDecoder(), []
        at = text.index("[") + 1
        passed, line = len(text[:at].encode()), 1 + text.count("\n", 0, at)
        last = at
        while True:
            at = _SPACE.match(text, at).end()
            if text[at : at + 1] == "]" and not places:
                return places
            try:
                _, end = decoder.raw_decode(text, at)
                follows = _SPACE.match(text, end).end()
                if text[follows : follows + 1] not in (",", "]"):
                    raise json.JSONDecodeError("expected , or ]", text, follows)
            except (json.JSONDecodeError, RecursionError) as error:
                message = f"broken JSON: {error}"
                remedy = "the file may be cut short; download it again or correct this line"
                origin = f"{self.path}: record {len(places)}"
                raise DataError(message, origin=origin, remedy=remedy) from error
            passed += len(text[last:at].encode())
            line += text.count("\n", last, at)
            length = len(text[at:end].encode())
            places.append((passed, passed + length, line))
            passed, line, last = passed + length, line + text.count("\n", at, end), end
            if text[follows] == "]":
                return places
            at = follows + 1

    def _sample(self, record: Any, origin: str) -> Sample:
        turns = record.get("conversations") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not turns:
            remedy = "each record is an object with a list `conversations`"
            raise DataError("no conversation in this record", origin=origin, remedy=remedy)
        names = record.get("image") or []
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            expected = "a path or a list of paths"
            raise DataError("bad `image`", expected=expected, given=names, origin=origin)
        written = [_turn(turn, origin) for turn in turns]
        shown = sum(texts.count(PLACEHOLDER) for role, texts in written if role == "user")
        if shown != len(names):
            raise DataError(
                f"the human turns show another number of images ({PLACEHOLDER}) than there are",
                expected=len(names),
                given=shown,
                origin=origin,
                remedy="correct the record, or drop it with mixture.on_error=skip",
            )
        images = tuple(self._image(name, origin) for name in names)
        number = 0
        spoken = []
        for role, text in written:
            pieces = text.split(PLACEHOLDER) if role == "user" else [text]
            parts: list[Part] = [pieces[0]]
            for piece in pieces[1:]:
                parts += [ImagePart(number), piece]
                number += 1
            spoken.append(Turn(role, tuple(part for part in parts if part != "")))
        return one_conversation(origin, images, tuple(spoken))

    def _image(self, name: str, origin: str) -> ImageSource:
        outside = (
            PurePosixPath(name).is_absolute()
            or PureWindowsPath(name).drive
            or PureWindowsPath(name).root
            or ".." in PureWindowsPath(name).parts
            or "\0" in name
        )
        if outside:
            raise DataError(
                "the image path leaves the image folder",
                expected=f"a path below {self.images}",
                given=name,
                origin=origin,
                remedy="write paths relative to `images` of the source, without ..",
            )
        return file_source(self.images / name, record=origin)


def _turn(turn: Any, origin: str) -> tuple[Role, str]:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(speaker, str) or speaker not in ROLES:
        remedy = suggestion(str(speaker), ROLES)
        raise DataError("unknown speaker", given=speaker, origin=origin, remedy=remedy)
    text = turn.get("value")
    if not isinstance(text, str):
        expected = "a text"
        raise DataError("bad `value`", expected=expected, given=repr(text), origin=origin)
    return ROLES[speaker], text


def _line_places(content: bytes) -> list[tuple[int, int, int]]:
    """Begin and end in bytes, and line, of each line that is not blank."""
    places, begin = [], 3 if content.startswith(b"\xef\xbb\xbf") else 0
    for number, line in enumerate(content[begin:].split(b"\n"), start=1):
        if line.strip():
            places.append((begin, begin + len(line), number))
        begin += len(line) + 1
    return places
