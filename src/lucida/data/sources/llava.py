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

from typing import Any, ClassVar

from lucida.core.errors import DataError, shorten
from lucida.data.sample import Sample
from lucida.data.sources.conversation import (
    ASIDE,
    SPOKEN,
    check_places,
    one_of,
    place_images,
    read_turns,
)
from lucida.data.sources.pictures import PictureFolder
from lucida.data.sources.tables import PicturedRows, field_of


class LlavaSource(PicturedRows):
    """A JSON array or JSONL file whose image paths are relative to the folder `images`.

    DataError, with file and record: broken JSON (with its line), another shape than the format's,
    more or fewer `<image>` than images, an image path that leaves the folder, a missing image.
    """

    uses: ClassVar = {**ASIDE, "image": None, "images": None, "conversations": SPOKEN}

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A record as a sample; with `words` in place of its one answer."""
        return conversation_sample(record, origin, self.pictures, words)

    def key(self, index: int, field: str | None) -> str:
        """The path of a record's first picture, or one of its fields, as text; nothing of a record
        without picture."""
        record, origin = self.record(index)
        if field is not None:
            return str(field_of(record if isinstance(record, dict) else {}, field, origin))
        names = _names(record, origin) if isinstance(record, dict) else []
        return names[0] if names else ""


def conversation_sample(
    record: Any, origin: str, pictures: PictureFolder, instead: str | None = None
) -> Sample:
    """A record of this format as a sample. `instead` is a caption in place of its one answer."""
    written = read_turns(record.get("conversations") if isinstance(record, dict) else None, origin)
    if instead is not None:
        places = [place for place, (role, _) in enumerate(written) if role == "assistant"]
        if len(places) != 1:
            message = "a caption takes the place of one answer"
            given = f"{len(places)} answers"
            raise DataError(message, expected="one answer", given=given, origin=origin)
        written[places[0]] = ("assistant", instead)
    names = _names(record, origin)
    check_places(origin, len(names), written)
    images = tuple(pictures.picture(name, origin) for name in names)
    return place_images(origin, images, written, record)


def _names(record: dict[str, Any], origin: str) -> list[str]:
    """Paths of a record's pictures."""
    names = one_of(record, ("image", "images"), origin) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        expected, given = "a path or a list of paths", shorten(names)
        raise DataError("bad `image`", expected=expected, given=given, origin=origin)
    return names
