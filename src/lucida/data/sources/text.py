"""Text without pictures: documents and instructions.

notes.txt                      a document a line, or the file as one document
{"text": ...}                  a document
{"instruction", "input", "output"}, {"inputs", "targets"} (FLAN), {"prompt", "completion"}
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

from lucida.core.errors import DataError, shorten
from lucida.data.sample import Sample, Turn
from lucida.data.source import RecordSource, Shape
from lucida.data.sources.conversation import ASIDE, SYSTEM, one_conversation, text_of
from lucida.data.sources.records import Records, files_of
from lucida.data.sources.values import read_text
from lucida.data.sources.zipped import ending
from lucida.data.spoken import UNSAID

INSTRUCTIONS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("inputs", None, "targets"),
    ("prompt", None, "completion"),
    ("prompt", None, "response"),
    ("question", None, "answer"),
)
"""Names of what is asked, what it is about (may be absent or empty) and what is answered."""
JSON = (".json", ".jsonl", ".ndjson")


class TextSource(RecordSource):
    """Files of plain text (any ending) or of JSON records (.json, .jsonl, .ndjson).

    DataError: a file that is not UTF-8, an empty document, a record that is neither a document nor
    an instruction; files of both kinds.
    """

    uses: ClassVar = {**ASIDE, "text": None, **dict.fromkeys(chain(*INSTRUCTIONS))}

    def __init__(
        self,
        path: str | Path,
        documents: Literal["lines", "file"] = "lines",
        text: str = "text",
    ) -> None:
        self.files = files_of(path)
        self.text = text
        self.records: Records | None = None
        self.json = ending(self.files[0]) in JSON
        if any((ending(file) in JSON) != self.json for file in self.files):
            given = ", ".join(sorted({ending(file) for file in self.files}))
            message = "files of several formats in one source"
            raise DataError(message, expected="text or JSON", given=given, origin=path)
        if self.json or documents == "lines":
            self.records = Records(self.files, lines=not self.json)

    def __len__(self) -> int:
        return len(self.files) if self.records is None else len(self.records)

    def record(self, index: int) -> tuple[Any, str]:
        """JSON value, or plain text, and origin of a record."""
        if self.records is None:
            return read_text(self.files[index]), str(self.files[index])
        if not self.json:
            line, origin = self.records[index]
            return line.removesuffix("\r"), origin
        return self.records.value(index)

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """The field of a document, or those of the instruction that it is read as."""
        if self.text in record:
            return {self.text: None}
        asked = next(each for each in INSTRUCTIONS if each[0] in record and each[2] in record)
        return dict.fromkeys((*SYSTEM, *UNSAID, *asked))

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A record as a sample; it has no caption to be replaced."""
        if isinstance(record, str):
            return _document(record, origin)
        if isinstance(record, dict) and self.text in record:
            return _document(text_of(record[self.text], self.text, origin), origin)
        return _instruction(record, origin, self.text)


def _document(text: str, origin: str) -> Sample:
    if not text.strip():
        raise DataError("the document is empty", origin=origin, remedy="remove it")
    return Sample(origin, branches=((Turn("text", (text,)),),))


def _instruction(record: Any, origin: str, text: str) -> Sample:
    for asked, about, answered in INSTRUCTIONS:
        if isinstance(record, dict) and asked in record and answered in record:
            question = text_of(record[asked], asked, origin)
            given = record.get(about)
            more = "" if given is None else text_of(given, about, origin)
            answer = text_of(record[answered], answered, origin)
            words = f"{question}\n\n{more}" if more else question
            turns = (Turn("user", (words,)), Turn("assistant", (answer,) if answer else ()))
            return one_conversation(origin, (), turns, record)
    names = "; ".join(f"{asked}, {answered}" for asked, _, answered in INSTRUCTIONS)
    given = shorten(list(record), 400) if isinstance(record, dict) else type(record).__name__
    raise DataError(
        "neither a document nor an instruction",
        expected=f"`{text}`, or {names}",
        given=given,
        origin=origin,
    )
