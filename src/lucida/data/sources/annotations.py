"""Published annotation files as training data: captions, questions with short answers, boxes.

The file is read whole when the source is opened (VQAv2's takes about 1 GB for that moment); what is
kept is a picture's name, a question, an answer and perhaps a box for each record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from lucida.core.errors import DataError, shorten
from lucida.data.sample import BoxPart, ImagePart, Sample, Turn
from lucida.data.source import IGNORED as KNOWN
from lucida.data.source import RecordSource, Shape, few, unread_of_all
from lucida.data.sources.conversation import make_captioned, most_given, one_conversation, text_of
from lucida.data.sources.pathvqa import pathology_questions, picture_name
from lucida.data.sources.pictures import PictureFolder
from lucida.data.sources.prompts import asked, asking, prompts_of
from lucida.data.sources.published import read_json
from lucida.data.sources.refcoco import PHRASES, PICTURES, Box, references

CAPTIONS = ("coco-captions", "flickr30k")
KARPATHY = {"train": ("train", "restval"), "restval": ("restval",)}
"""Karpathy's training part has two names."""


_OTHER_LAYOUT = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError,
    MemoryError,
)  # fmt: skip
_VQA = {"question_id": None, "image_id": None, "question": None}
USES: dict[str, Shape] = {
    "coco-captions": {
        "images": {"id": None, "file_name": None},
        "annotations": {"image_id": None, "caption": None},
    },
    "flickr30k": {
        "images": {
            **dict.fromkeys(("split", "filename", "filepath")), "sentences": {"raw": None},
        },
    },
    "vqav2": {
        "annotations": {**_VQA, "multiple_choice_answer": None, "answers": {"answer": None}},
        "questions": _VQA, "data_subtype": None,
    },
    "gqa": dict.fromkeys(("imageId", "question", "answer")),
    "textvqa": {"data": dict.fromkeys(("image_id", "question", "answers"))},
    "pathvqa": dict.fromkeys(("image", "question", "answer")),
    "refcoco": dict.fromkeys((*PHRASES, *PICTURES, "sentences", "bbox", "width", "height")),
}  # fmt: skip
USES["okvqa"] = USES["vqav2"]
IGNORED = KNOWN | {
    "info", "licenses", "coco_url", "flickr_url", "date_captured", "data_type", "task_type",
    "sentids", "imgid", "cocoid", "tokens", "raw_tokens", "sentid", "question_type",
    "answer_type", "answer_confidence", "answer_id", "confidence", "semantic", "entailed",
    "equivalent", "types", "groups", "annotations", "isBalanced", "fullAnswer", "semanticStr",
    "question_id", "image_id", "question_tokens", "image_classes", "flickr_original_url",
    "flickr_300k_url", "image_width", "image_height", "set_name", "dataset_type",
    "dataset_version",
}  # fmt: skip
"""Keys of the published files that say nothing of what is asked and answered."""


class Entry(NamedTuple):
    """A picture by name, what is asked (None: it is described), what is said, and a box that one of
    the two means."""

    image: str
    question: str | None
    answer: str
    box: Box | None = None


class AnnotationsSource(RecordSource):
    """One record for each caption, question or phrase of a set.

    `split` is the part that is read where a file holds several (flickr30k, refcoco). The answer of
    a question is the one given most often (the first of those that tie). Of refcoco the phrase is
    asked and its box answered, or with `answer="phrase"` the other way round. `dropped` counts what
    was left out, `noted` the keys that are not read; of refcoco all others are ignored. DataError:
    a file of another layout, a question without an answer, or with two.
    """

    uses: ClassVar = USES
    """By layout."""
    ignores = IGNORED

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
        self.noted: Counter[str] = Counter()
        self.prompts = prompts_of(prompts)
        if prompt is not None:
            self.prompts = [prompt if layout in CAPTIONS else "{}" + prompt]
        if layout not in CAPTIONS:
            asking(self.prompts, str(path))
        if pattern is not None and "{" not in pattern:
            message = "a pattern without a place names one picture for all records"
            raise DataError(message, expected="{}", given=pattern, origin=path)
        shape, told = USES.get(layout, {}), (self.dropped, self.noted)
        files = _Files(self.path, questions, instances, split, pattern, shape, *told)
        try:
            self.entries = list(READERS[layout](files))
        except _OTHER_LAYOUT as error:
            message = f"not the layout of {layout}: {type(error).__name__} {error}"
            remedy = "check `layout`, `path` and `pattern`"
            raise DataError(message, origin=path, remedy=remedy) from error
        if not self.entries:
            given = ", ".join(self.dropped) or None
            raise DataError("the file has no records", given=given, origin=path)
        self.pictures = PictureFolder(Path(images), allow_outside)

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int, field: str | None) -> str:
        """The name of a record's picture; there are no fields."""
        if field is not None:
            raise DataError(f"annotations have no field `{field}` here", origin=self.path)
        return self.entries[index].image

    def record(self, index: int) -> tuple[Entry, str]:
        """A caption, question or phrase, and where it stands."""
        return self.entries[index], f"{self.path}: record {index}"

    def made(self, record: Entry, origin: str, index: int, words: str | None = None) -> Sample:
        """A record as a sample; with `words` in place of its own caption."""
        name, question, answer, corners = record
        image = self.pictures.picture(text_of(name, "image", origin), origin)
        if question is None:
            said = answer if words is None else words
            return make_captioned(origin, image, said, self.prompts, index)
        if words is not None:
            raise DataError("a question has no caption to be replaced", origin=origin)
        about = text_of(question, "question", origin)
        if not about.strip():
            raise DataError("the question is empty", origin=origin, remedy="remove the record")
        said = text_of(answer, "answer", origin)
        if corners is None:
            ask, reply = asked(about, self.prompts, index), (said,) if said else ()
        else:
            box = BoxPart(0, *corners)
            one, other = (about, box) if self.answer == "box" else (box, about)
            ask, reply = asked(one, self.prompts, index), (other,)
        turns = (Turn("user", (ImagePart(0), *ask)), Turn("assistant", reply))
        return one_conversation(origin, (image,), turns)


@dataclass(frozen=True, slots=True)
class _Files:
    """What a reader is given: files, how pictures are named, and where to count what it leaves
    out."""

    path: Path
    questions: str | Path | None
    instances: str | Path | None
    split: str
    pattern: str | None
    shape: Shape
    dropped: Counter[str]
    noted: Counter[str]

    def read(self, path: Path) -> Any:
        """A JSON file; keys that are not read are noted."""
        value = read_json(path)
        self.note(value)
        return value

    def note(self, value: Any) -> None:
        """Counts the keys that are not read."""
        self.noted.update(few(unread_of_all(value, self.shape, IGNORED), self.noted))


def _captions(files: _Files) -> Iterator[Entry]:
    value = files.read(files.path)
    names: dict[Any, str] = {}
    for each in value["images"]:
        # COCO lists each image once; files that were joined list it again, which does no harm.
        if names.setdefault(each["id"], each["file_name"]) != each["file_name"]:
            given = shorten(each["id"])
            raise DataError("two images of one id", given=given, origin=files.path)
    if bare := len(names.keys() - {each["image_id"] for each in value["annotations"]}):
        files.noted["images without a caption"] = bare
    for each in value["annotations"]:
        identity = each["image_id"]
        name = names[identity] if files.pattern is None else files.pattern.format(identity)
        yield Entry(name, None, each["caption"])


def _flickr(files: _Files) -> Iterator[Entry]:
    parts = KARPATHY.get(files.split, (files.split,))
    for each in files.read(files.path)["images"]:
        if each["split"] not in parts:
            files.dropped[f"captions of the {each['split']} split"] += len(each["sentences"])
            continue
        if not each["sentences"]:
            files.noted["images without a caption"] += 1
        name = each["filename"] if files.pattern is None else files.pattern.format(each["filename"])
        if files.pattern is None and "filepath" in each:  # COCO's pictures stand in two folders
            name = f"{each['filepath']}/{name}"
        for sentence in each["sentences"]:
            yield Entry(name, None, sentence["raw"])


def _vqa(files: _Files) -> Iterator[Entry]:
    if files.questions is None:
        remedy = "set `questions`"
        raise DataError("the questions are missing", origin=files.path, remedy=remedy)
    said = {}
    for each in files.read(files.path)["annotations"]:
        if each["question_id"] in said:
            given = shorten(each["question_id"])
            raise DataError("two answers to one question", given=given, origin=files.path)
        # VQAv2 names its most frequent answer; OK-VQA has the ten answers alone.
        best = each.get("multiple_choice_answer")
        said[each["question_id"]] = best or most_given([a["answer"] for a in each["answers"]])
    asked = files.read(Path(files.questions))
    part = asked.get("data_subtype", "train2014")
    pattern = files.pattern or f"COCO_{part}_{{:012d}}.jpg"
    met = set()
    for each in asked["questions"]:
        if (number := each["question_id"]) not in said:
            remedy = f"are both files of the same part? the questions are {files.questions}"
            raise DataError(f"question {number} has no answer", origin=files.path, remedy=remedy)
        if number in met:
            message, given = "two questions of one id", shorten(number)
            raise DataError(message, given=given, origin=files.questions)
        met.add(number)
        name = pattern.format(each["image_id"])
        yield Entry(name, each["question"], said[number])
    if unasked := len(said.keys() - met):
        files.dropped["answers without a question"] += unasked


def _gqa(files: _Files) -> Iterator[Entry]:
    questions = list(read_json(files.path).values())
    files.note(questions)
    for each in questions:
        name = (files.pattern or "{}.jpg").format(each["imageId"])
        yield Entry(name, each["question"], each["answer"])


def _textvqa(files: _Files) -> Iterator[Entry]:
    for each in files.read(files.path)["data"]:
        name = (files.pattern or "{}.jpg").format(each["image_id"])
        yield Entry(name, each["question"], most_given(each["answers"]))


def _refcoco(files: _Files) -> Iterator[Entry]:
    instances = None if files.instances is None else Path(files.instances)
    for found in references(files.path, files.split, instances):
        name = found.picture if files.pattern is None else files.pattern.format(found.picture)
        yield Entry(name, found.phrase, "", found.box)


def _pathvqa(files: _Files) -> Iterator[Entry]:
    for each in pathology_questions(files.path):
        files.note(dict(each.value))
        image = each.text("image")
        name = picture_name(image) if files.pattern is None else files.pattern.format(image)
        yield Entry(name, each.text("question"), each.text("answer"))


READERS = {
    "coco-captions": _captions,
    "flickr30k": _flickr,
    "vqav2": _vqa,
    "okvqa": _vqa,
    "gqa": _gqa,
    "textvqa": _textvqa,
    "refcoco": _refcoco,
    "pathvqa": _pathvqa,
}
