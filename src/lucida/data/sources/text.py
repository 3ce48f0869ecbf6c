"""Text without pictures: documents and instructions.

notes.txt                      a document a line, or the file as one document
{"text": ...}                  a document
{"instruction", "input", "output"}, {"inputs", "targets"} (FLAN), {"prompt", "completion"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lucida.core.errors import DataError
from lucida.data.sample import Sample, Turn
from lucida.data.sources.conversation import text_of
from lucida.data.sources.records import Records, files_of
from lucida.data.sources.zipped import ending

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


class TextSource:
    """Files of plain text (any ending) or of JSON records (.json, .jsonl, .ndjson).

    DataError: a file that is not UTF-8, an empty document, a record that is neither a document nor
    an instruction.
    """

    def __init__(
        self,
        path: str | Path,
        documents: Literal["lines", "file"] = "lines",
        text: str = "text",
    ) -> None:
        self.files = files_of(path)
        self.text = text
        self.records: Records | None = None
        self.json = all(ending(file) in JSON for file in self.files)
        if self.json or documents == "lines":
            self.records = Records(self.files, lines=not self.json)

    def __len__(self) -> int:
        return len(self.files) if self.records is None else len(self.records)

    def record(self, index: int) -> tuple[Any, str]:
        """JSON value and origin of a record. DataError: plain text, which has no fields."""
        if self.records is None or not self.json:
            remedy = "filter JSON or JSONL"
            raise DataError("plain text has no fields", origin=self.files[0], remedy=remedy)
        return self.records.value(index)

    def __getitem__(self, index: int) -> Sample:
        if self.records is None:
            return _document(_whole(self.files[index]), str(self.files[index]))
        if not self.json:
            line, origin = self.records[index]
            return _document(line.removesuffix("\r"), origin)
        record, origin = self.records.value(index)
        if isinstance(record, str):
            return _document(record, origin)
        if isinstance(record, dict) and self.text in record:
            return _document(text_of(record[self.text], self.text, origin), origin)
        return _instruction(record, origin, self.text)


def _whole(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "documents are text in UTF-8"
        raise DataError(f"cannot read: {error}", origin=file, remedy=remedy) from error


def _document(text: str, origin: str) -> Sample:
    if not text.strip():
        remedy = "remove it, or drop it with mixture.on_error=skip"
        raise DataError("the document is empty", origin=origin, remedy=remedy)
    return Sample(origin, branches=((Turn("text", (text,)),),))


def _instruction(record: Any, origin: str, text: str) -> Sample:
    for asked, about, answered in INSTRUCTIONS:
        if isinstance(record, dict) and asked in record and answered in record:
            question = text_of(record[asked], asked, origin)
            more = text_of(record.get(about) or "", about, origin) if about else ""
            answer = text_of(record[answered], answered, origin)
            words = f"{question}\n\n{more}" if more else question
            turns = (Turn("user", (words,)), Turn("assistant", (answer,) if answer else ()))
            return Sample(origin, branches=(turns,))
    names = "; ".join(f"{asked}, {answered}" for asked, _, answered in INSTRUCTIONS)
    given = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
    raise DataError(
        "neither a document nor an instruction",
        expected=f"`{text}`, or {names}",
        given=given,
        origin=origin,
    )
