"""Published annotation files as training data: captions, questions with short answers, boxes.

The file is read whole when the source is opened (VQAv2's takes about 1 GB for that moment); what is
kept is a picture's name, a question, an answer and perhaps a box for each record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lucida.core.errors import DataError
from lucida.data.sample import BoxPart, ImagePart, Sample, Turn
from lucida.data.sources.conversation import captioned, one_conversation, text_of
from lucida.data.sources.pathvqa import pathology_questions, picture_name
from lucida.data.sources.pictures import PictureFolder
from lucida.data.sources.prompts import asked, asking, prompts_of
from lucida.data.sources.refcoco import Box, references

CAPTIONS = ("coco-captions", "flickr30k")
KARPATHY = {"train": ("train", "restval"), "restval": ("restval",)}
"""Karpathy's training part has two names."""


class Entry(NamedTuple):
    """A picture by name, what is asked (None: it is described), what is said, and a box that one of
    the two means."""

    image: str
    question: str | None
    answer: str
    box: Box | None = None


class AnnotationsSource:
    """One record for each caption, question or phrase of a set.

    `split` is the part that is read where a file holds several (flickr30k, refcoco). The answer of
    a question is the one given most often (the first of those that tie). Of refcoco the phrase is
    asked and its box answered, or with `answer="phrase"` the other way round. `dropped` counts what
    was left out. DataError: a file of another layout, a question without an answer.
    """

    def __init__(
        self,
        layout: str,
        path: str | Path,
        images: str | Path,
        questions: str | Path | None = None,
        instances: str | Path | None = None,
        split: str = "train",
        pattern: str | None = None,
        prompt: str | None = None,
        prompts: list[str] | str | None = None,
        answer: Literal["box", "phrase"] = "box",
        allow_outside: bool = False,
    ) -> None:
        self.path, self.answer = Path(path), answer
        self.files = [self.path]
        self.dropped: Counter[str] = Counter()
        self.prompts = prompts_of(prompts)
        if prompt is not None:
            self.prompts = [prompt if layout in CAPTIONS else "{}" + prompt]
        if layout not in CAPTIONS:
            asking(self.prompts, str(path))
        try:
            if layout in ("vqav2", "okvqa"):
                if questions is None:
                    remedy = "set `questions`"
                    raise DataError("the questions are missing", origin=path, remedy=remedy)
                found = _vqa(_json(self.path), _json(Path(questions)), pattern)
            elif layout == "refcoco":
                beside = None if instances is None else Path(instances)
                found = _refcoco(self.path, split, beside, pattern)
            elif layout == "pathvqa":
                found = _pathvqa(self.path, pattern)
            elif layout == "flickr30k":
                found = _flickr(_json(self.path), pattern, split, self.dropped)
            else:
                found = READERS[layout](_json(self.path), pattern)
            self.entries = list(found)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            message = f"not the layout of {layout}: {type(error).__name__} {error}"
            remedy = "check `layout`, `path` and `pattern`"
            raise DataError(message, origin=path, remedy=remedy) from error
        if not self.entries:
            given = ", ".join(self.dropped) or None
            raise DataError("the file has no records", given=given, origin=path)
        self.pictures = PictureFolder(Path(images), allow_outside)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def key(self, index: int, field: str | None) -> str:
        """The name of a record's picture; there are no fields."""
        if field is not None:
            raise DataError(f"annotations have no field `{field}` here", origin=self.path)
        return self.entries[index].image

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; with `words` in place of its own caption."""
        origin = f"{self.path}: record {index}"
        name, question, answer, corners = self.entries[index]
        image = self.pictures.picture(text_of(name, "image", origin), origin)
        if question is None:
            said = answer if words is None else words
            return captioned(origin, image, said, self.prompts, index)
        if words is not None:
            raise DataError("a question has no caption to be replaced", origin=origin)
        about = text_of(question, "question", origin)
        said = text_of(answer, "answer", origin)
        if corners is None:
            ask, reply = asked(about, self.prompts, index), (said,) if said else ()
        else:
            box = BoxPart(0, *corners)
            one, other = (about, box) if self.answer == "box" else (box, about)
            ask, reply = asked(one, self.prompts, index), (other,)
        turns = (Turn("user", (ImagePart(0), *ask)), Turn("assistant", reply))
        return one_conversation(origin, (image,), turns)


def most_given(answers: list[str]) -> str:
    """The most frequent answer; the first of those that tie."""
    return Counter(answers).most_common(1)[0][0]


def _captions(value: Any, pattern: str | None) -> Iterator[Entry]:
    names = {each["id"]: each["file_name"] for each in value["images"]}
    for each in value["annotations"]:
        identity = each["image_id"]
        name = names[identity] if pattern is None else pattern.format(identity)
        yield Entry(name, None, each["caption"])


def _flickr(value: Any, pattern: str | None, split: str, dropped: Counter[str]) -> Iterator[Entry]:
    for each in value["images"]:
        if each["split"] not in KARPATHY.get(split, (split,)):
            dropped[f"captions of the {each['split']} split"] += len(each["sentences"])
            continue
        name = each["filename"] if pattern is None else pattern.format(each["filename"])
        if pattern is None and "filepath" in each:  # COCO's pictures stand in two folders
            name = f"{each['filepath']}/{name}"
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


def _gqa(value: Any, pattern: str | None) -> Iterator[Entry]:
    for each in value.values():
        name = (pattern or "{}.jpg").format(each["imageId"])
        yield Entry(name, each["question"], each["answer"])


def _textvqa(value: Any, pattern: str | None) -> Iterator[Entry]:
    for each in value["data"]:
        name = (pattern or "{}.jpg").format(each["image_id"])
        yield Entry(name, each["question"], most_given(each["answers"]))


def _refcoco(
    path: Path, split: str, instances: Path | None, pattern: str | None
) -> Iterator[Entry]:
    for found in references(path, split, instances):
        name = found.picture if pattern is None else pattern.format(found.picture)
        yield Entry(name, found.phrase, "", found.box)


def _pathvqa(path: Path, pattern: str | None) -> Iterator[Entry]:
    for each in pathology_questions(path):
        image = each.text("image")
        name = picture_name(image) if pattern is None else pattern.format(image)
        yield Entry(name, each.text("question"), each.text("answer"))


READERS = {"coco-captions": _captions, "gqa": _gqa, "textvqa": _textvqa}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "download it again, unpacked"
        raise DataError(f"cannot read the file: {error}", origin=path, remedy=remedy) from error
