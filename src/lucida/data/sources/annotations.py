"""Published annotation files as training data: captions, and questions with short answers.

The file is read whole when the source is opened (VQAv2's takes about 1 GB for that moment); what is
kept is a picture's name, a question and an answer for each record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lucida.core.errors import DataError
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.data.sources.conversation import captioned, one_conversation, text_of
from lucida.data.sources.pictures import PictureFolder


class Entry(NamedTuple):
    """A picture by name, what is asked (None: it is described) and what is said."""

    image: str
    question: str | None
    answer: str


class AnnotationsSource:
    """One record for each caption or question of a set; of Flickr30k its training part.

    The answer of a question is the one given most often (the first of those that tie). `dropped`
    counts what was left out. DataError: a file of another layout, a question without an answer.
    """

    def __init__(
        self,
        layout: str,
        path: str | Path,
        images: str | Path,
        questions: str | Path | None = None,
        pattern: str | None = None,
        prompt: str | None = None,
        allow_outside: bool = False,
    ) -> None:
        self.path, self.prompt = Path(path), prompt
        self.dropped: Counter[str] = Counter()
        value = _json(self.path)
        try:
            if layout in ("vqav2", "okvqa"):
                if questions is None:
                    remedy = "set `questions`"
                    raise DataError("the questions are missing", origin=path, remedy=remedy)
                found = _vqa(value, _json(Path(questions)), pattern)
            else:
                found = READERS[layout](value, pattern, self.dropped)
            self.entries = list(found)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            message = f"not the layout of {layout}: {type(error).__name__} {error}"
            remedy = "check `layout`, `path` and `pattern`"
            raise DataError(message, origin=path, remedy=remedy) from error
        if not self.entries:
            raise DataError("the file has no records", origin=path)
        self.pictures = PictureFolder(Path(images), allow_outside)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        origin = f"{self.path}: record {index}"
        name, question, answer = self.entries[index]
        image = self.pictures.picture(text_of(name, "image", origin), origin)
        if question is None:
            prompts = [] if self.prompt is None else [self.prompt]
            return captioned(origin, image, answer, prompts, index)
        asked = text_of(question, "question", origin) + (self.prompt or "")
        said = text_of(answer, "answer", origin)
        turns = (Turn("user", (ImagePart(0), asked)), Turn("assistant", (said,) if said else ()))
        return one_conversation(origin, (image,), turns)


def most_given(answers: list[str]) -> str:
    """The most frequent answer; the first of those that tie."""
    return Counter(answers).most_common(1)[0][0]


def _captions(value: Any, pattern: str | None, _: Counter[str]) -> Iterator[Entry]:
    names = {each["id"]: each["file_name"] for each in value["images"]}
    for each in value["annotations"]:
        identity = each["image_id"]
        name = names[identity] if pattern is None else pattern.format(identity)
        yield Entry(name, None, each["caption"])


def _flickr(value: Any, pattern: str | None, dropped: Counter[str]) -> Iterator[Entry]:
    for each in value["images"]:
        if each["split"] not in ("train", "restval"):
            dropped[f"captions of the {each['split']} split"] += len(each["sentences"])
            continue
        name = each["filename"] if pattern is None else pattern.format(each["filename"])
        for sentence in each["sentences"]:
            yield Entry(name, None, sentence["raw"])


def _vqa(value: Any, asked: Any, pattern: str | None) -> Iterator[Entry]:
    part = asked.get("data_subtype", "train2014")
    pattern = pattern or f"COCO_{part}_{{:012d}}.jpg"
    said = {}
    for each in value["annotations"]:
        best = each.get("multiple_choice_answer")
        said[each["question_id"]] = best or most_given([a["answer"] for a in each["answers"]])
    for each in asked["questions"]:
        name = pattern.format(each["image_id"])
        yield Entry(name, each["question"], said[each["question_id"]])


def _gqa(value: Any, pattern: str | None, _: Counter[str]) -> Iterator[Entry]:
    for each in value.values():
        name = (pattern or "{}.jpg").format(each["imageId"])
        yield Entry(name, each["question"], each["answer"])


def _textvqa(value: Any, pattern: str | None, _: Counter[str]) -> Iterator[Entry]:
    for each in value["data"]:
        name = (pattern or "{}.jpg").format(each["image_id"])
        yield Entry(name, each["question"], most_given(each["answers"]))


READERS = {"coco-captions": _captions, "flickr30k": _flickr, "gqa": _gqa, "textvqa": _textvqa}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "download it again, unpacked"
        raise DataError(f"cannot read the file: {error}", origin=path, remedy=remedy) from error
