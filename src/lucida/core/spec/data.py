"""Where samples come from, and in which shares.

One class for each kind of source; the class that reads it stands in `lucida.data.sources`. Paths
may be patterns where a field says so (`shards/*.tar`); they are read in the order of their names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lucida.core.spec.value import Spec, widen

PromptSet = Literal[
    "instructblip-captions",
    "instructblip-questions",
    "llava-questions",
    "llava-boxes",
    "llava-regions",
]
"""Wordings that `lucida.data.sources.prompts` holds."""
Prompts = list[str] | PromptSet


class CaptionsSpec(Spec):
    """Captions from a file of their own in place of a source's, such as AI-written ones."""

    path: str
    """CSV, TSV, JSON, JSONL or parquet: file or pattern."""
    by: str = "name"
    """What of the source is compared: `path` of the picture as it is written there, `name` (its
    last part), `stem` (that without its ending), or a field of its records, such as `url`."""
    key: str = "image"
    """Field of the file that is compared with it."""
    text: str = "caption"
    """Field of the file with the caption."""
    missing: Literal["keep", "drop", "error"] = "error"
    """A record without a caption in the file keeps its own, is left out, or is an error (which
    `mixture.on_error` may skip)."""


class WorldSourceSpec(Spec):
    """Samples drawn from the miniature world."""

    kind: Literal["world"] = "world"
    tasks: list[str] = Field(min_length=1)
    """Task families, as `lucida.world.tasks.TASKS` names them; one named twice is asked twice as
    often. Those that ask of the same kind of scene share a picture; which kind a picture is of is
    drawn in proportion to how many of the names ask of it."""
    split: Literal["train", "validation", "test", "novel"] = "train"
    count: int = Field(default=4096, gt=0)
    """Number of samples (each one image with its questions, or one document)."""
    questions: int = Field(default=8, ge=1, le=64)
    """Isolated questions behind one image."""
    size: Literal[64, 96] = 64
    seed: int = 0
    weight: float = Field(default=1.0, gt=0)


class LlavaSourceSpec(Spec):
    """A LLaVA-style JSON or JSONL file: `image` and `conversations` per record."""

    kind: Literal["llava"] = "llava"
    path: str
    images: str | None = None
    """Folder that image paths are relative to; null is the folder of the file."""
    allow_outside: bool = False
    """Let image paths leave that folder: absolute ones, `..`, symbolic links."""
    at_least: dict[str, float] = Field(default={})
    """Field → smallest value: records rated lower, or not at all, are left out and counted."""
    captions: CaptionsSpec | None = None
    """Captions in place of the answers here, for records with one answer such as LLaVA's 558K."""
    weight: float = Field(default=1.0, gt=0)


class MessagesSourceSpec(Spec):
    """JSON or JSONL with `messages` (role and content, images as parts) or ShareGPT's
    `conversations`."""

    kind: Literal["messages"] = "messages"
    path: str
    """File or pattern."""
    images: str | None = None
    """Folder that image paths are relative to; null is the folder of the file."""
    allow_outside: bool = False
    """Let image paths leave that folder."""
    at_least: dict[str, float] = Field(default={})
    """As in `llava`."""
    weight: float = Field(default=1.0, gt=0)


class PairsSourceSpec(Spec):
    """One picture and one text a row: CSV, TSV, JSON or JSONL."""

    kind: Literal["pairs"] = "pairs"
    path: str
    """File or pattern."""
    images: str | None = None
    """Folder that image paths are relative to; null is the folder of the file."""
    image: str = "image"
    """Column of the image path."""
    text: str = "text"
    """Column of the text."""
    columns: list[str] | None = None
    """Names of the columns of a CSV or TSV without a header line."""
    prompts: Prompts = Field(default=[])
    """What the user asks before the text, or the name of a set of such wordings; each record takes
    one of them. None: the picture and its text are a document."""
    allow_outside: bool = False
    """Let image paths leave the folder."""
    at_least: dict[str, float] = Field(default={})
    """As in `llava`."""
    captions: CaptionsSpec | None = None
    """Captions in place of the ones here."""
    weight: float = Field(default=1.0, gt=0)


class QuestionsSourceSpec(Spec):
    """Pictures, a question and its answer a row: CSV, TSV, JSON, JSONL or parquet."""

    kind: Literal["questions"] = "questions"
    path: str
    """File or pattern."""
    images: str | None = None
    """Folder that image paths are relative to; null is the folder of the file."""
    image: str | None = None
    """Column of the picture's path, or of several as a list; null is the first that holds something
    of image, images, image_path, image_file, img, file_name and filename, or image_1, image_2, …"""
    question: str | None = None
    """Column of the question; null is the first that holds something of question, query, prompt and
    instruction (with what `input` adds to it). `<image>` in it is where a picture stands."""
    answer: str | None = None
    """Column of the answer; null is the first that holds something of answer, answers (of several
    the one given most often), response, output and completion."""
    columns: list[str] | None = None
    """Names of the columns of a CSV or TSV without a header line."""
    prompts: Prompts = Field(default=[])
    """Wordings with `{}` where the question stands, or the name of a set of them."""
    allow_outside: bool = False
    """Let image paths leave the folder."""
    at_least: dict[str, float] = Field(default={})
    """As in `llava`."""
    weight: float = Field(default=1.0, gt=0)


class PreferencesSourceSpec(Spec):
    """Pictures, a question, a chosen and a rejected answer a row, for `objective.preference`."""

    kind: Literal["preferences"] = "preferences"
    path: str
    """File or pattern: CSV, TSV, JSON, JSONL or parquet."""
    images: str | None = None
    """Folder that image paths are relative to; null is the folder of the file."""
    image: str | None = None
    """Column of the picture's path; null as in `questions`."""
    question: str | None = None
    """Column of the question; null as in `questions`."""
    chosen: str = "chosen"
    """Column of the better answer."""
    rejected: str = "rejected"
    """Column of the worse one."""
    columns: list[str] | None = None
    """Names of the columns of a CSV or TSV without a header line."""
    prompts: Prompts = Field(default=[])
    """Wordings with `{}` where the question stands, or the name of a set of them."""
    allow_outside: bool = False
    """Let image paths leave the folder."""
    weight: float = Field(default=1.0, gt=0)


class WorldPreferencesSourceSpec(Spec):
    """Pairs drawn from the miniature world: a true caption chosen, one with a thing that is not
    there rejected."""

    kind: Literal["world-preferences"] = "world-preferences"
    split: Literal["train", "validation", "test", "novel"] = "train"
    count: int = Field(default=4096, gt=0)
    size: Literal[64, 96] = 64
    seed: int = 0
    weight: float = Field(default=1.0, gt=0)


class FolderSourceSpec(Spec):
    """A folder of pictures with their texts beside them: `a.jpg` and `a.txt`."""

    kind: Literal["folder"] = "folder"
    path: str
    prompts: Prompts = Field(default=[])
    """As in `pairs`."""
    allow_outside: bool = False
    """Follow symbolic links that leave the folder."""
    captions: CaptionsSpec | None = None
    """Captions in place of the ones here."""
    weight: float = Field(default=1.0, gt=0)


class TextSourceSpec(Spec):
    """Text alone: plain files, or JSON and JSONL with documents or instructions."""

    kind: Literal["text"] = "text"
    path: str
    """File or pattern."""
    documents: Literal["lines", "file"] = "lines"
    """What one document of a plain text file is."""
    text: str = "text"
    """Field of a document in JSON. A record without it is an instruction: `instruction`, `input`
    and `output`, or `inputs` and `targets`, or `prompt` and `completion`."""
    at_least: dict[str, float] = Field(default={})
    """As in `llava`."""
    weight: float = Field(default=1.0, gt=0)


class ParquetSourceSpec(Spec):
    """Local parquet or Arrow files with the images inside: `images` and `texts` as the Cauldron and
    FineVision have them, `messages` or `conversations`, or one image and one text."""

    kind: Literal["parquet"] = "parquet"
    path: str
    """File, folder or pattern."""
    at_least: dict[str, float] = Field(default={})
    """Column → smallest value: a rating of the row drops the row, a list with one rating for each
    turn drops turns."""
    prompts: Prompts = Field(default=[])
    """As in `pairs`, where a row has one image and one text; for rows with `question` and `answer`,
    wordings with `{}` where the question stands."""
    captions: CaptionsSpec | None = None
    """Captions in place of the ones here."""
    weight: float = Field(default=1.0, gt=0)


class HubSourceSpec(Spec):
    """A data set of the Hugging Face Hub, or a local folder that `datasets` reads."""

    kind: Literal["hub"] = "hub"
    path: str
    name: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    revision: str | None = None
    at_least: dict[str, float] = Field(default={})
    """As in `parquet`."""
    prompts: Prompts = Field(default=[])
    """As in `pairs`."""
    captions: CaptionsSpec | None = None
    """Captions in place of the ones here."""
    weight: float = Field(default=1.0, gt=0)


class WebdatasetSourceSpec(Spec):
    """Tar shards as img2dataset writes them: picture, `txt` and `json` members of one name."""

    kind: Literal["webdataset"] = "webdataset"
    path: str
    """Shard, folder or pattern, or the address of shards elsewhere (`https://`, `s3://`, `hf://`);
    braces count or list: `https://host/{00000..00127}.tar`."""
    keep: str | None = None
    """Folder that shards elsewhere are copied into when they are first read; null asks for each
    sample when its turn comes. Runs without a network take the folder as `path`."""
    caption: str = "txt"
    """`txt`, or a key of the JSON member; with `question` it is the answer."""
    question: str | None = None
    """Key of the JSON member that holds a question about the picture."""
    at_least: dict[str, float] = Field(default={})
    """Number in the JSON member → smallest value; `a+b` is the sum of two."""
    rank_by: str | None = None
    """Number in the JSON member that `top_share` goes by; `a+b` is the sum of two."""
    top_share: float = Field(default=1.0, gt=0, le=1)
    """Keep the best of each shard: this share of what passes `at_least` (VILA keeps 0.2 of COYO by
    the sum of its two similarities)."""
    min_bytes: int = Field(default=0, ge=0)
    """Smallest file of a picture; smaller ones are mostly icons."""
    prompts: Prompts = Field(default=[])
    """As in `pairs`; with `question` as in `questions`."""
    captions: CaptionsSpec | None = None
    """Captions in place of the ones here."""
    weight: float = Field(default=1.0, gt=0)


class InterleavedSourceSpec(Spec):
    """Web pages with pictures between their sentences, as MMC4 or OBELICS store them.

    Reference: Lin et al., VILA, 2023, arXiv 2312.07533, section 3.2.
    """

    kind: Literal["interleaved"] = "interleaved"
    path: str
    """JSONL (also in zip archives, as MMC4 is published: `docs_*.jsonl.zip`) or parquet: file,
    folder of parquet files, or pattern."""
    layout: Literal["mmc4", "obelics"] = "mmc4"
    images: str | None = None
    """Folder or tar files (pattern, braces, addresses) of the pictures; null is the folder of the
    file. `{shard}` stands for the number in the name of a file of pages, as MMC4 counts them:
    `images/{shard}.tar`. Pictures in the records themselves (`image_base64`, bytes) need none."""
    find: Literal["name", "url"] = "name"
    """What pictures are found by: their file name, or the address that they were loaded from, which
    img2dataset writes into the JSON beside each picture of its tars."""
    order: Literal["matched", "images_first", "pairs", "text_only"] = "matched"
    """Each picture right before the sentence that it matches; all pictures before all text (VILA's
    negative control); only matched sentences, each behind its picture; or no pictures at all."""
    max_images: int = Field(default=6, ge=1)
    """Pictures of a page that are kept."""
    choose: Literal["first", "similar"] = "first"
    """Which are kept: those that come first, or the most similar ones."""
    min_similarity: float | None = None
    """Smallest similarity of a picture to its sentence (MMC4)."""
    min_bytes: int = Field(default=0, ge=0)
    """Smallest file of a picture."""
    missing: Literal["error", "drop"] = "error"
    """A picture that is not there spoils the page, or is left out of it."""
    drop_trailing: bool = True
    """Leave out pictures behind the last text."""
    allow_outside: bool = False
    """Let image paths leave the folder."""
    weight: float = Field(default=1.0, gt=0)


class AnnotationsSourceSpec(Spec):
    """Published annotation files as training data."""

    kind: Literal["annotations"] = "annotations"
    layout: Literal[
        "coco-captions", "flickr30k", "vqav2", "okvqa", "gqa", "textvqa", "refcoco", "pathvqa"
    ]
    path: str
    """The annotation file; of vqav2 and okvqa the one with the answers, of gqa and textvqa the one
    with questions and answers, of flickr30k Karpathy's JSON (COCO's is read as well), of refcoco
    refs(unc).p or a conversion (JSON, MDETR's JSON, JSONL, parquet), of pathvqa train_qa.pkl."""
    questions: str | None = None
    """The file of questions (vqav2, okvqa)."""
    instances: str | None = None
    """instances.json of refcoco; null is the one beside `path`."""
    split: str = "train"
    """The part that is read of a file with several (flickr30k, refcoco)."""
    images: str
    """Folder of the pictures; of pathvqa the one that holds train, val and test."""
    pattern: str | None = None
    """File name of a picture from its id, such as `COCO_train2014_{:012d}.jpg`; null is how the set
    is published."""
    answer: Literal["box", "phrase"] = "box"
    """What is answered (refcoco): the box that the phrase means, or the phrase that fits the
    box."""
    prompt: str | None = None
    """For captions: what the user asks (null: a document). For questions: what stands behind the
    question."""
    prompts: Prompts = Field(default=[])
    """In place of `prompt`, several wordings or the name of a set; each record takes one of them.
    For questions `{}` is where the question, the phrase or the box stands."""
    allow_outside: bool = False
    """Let image paths leave the folder."""
    captions: CaptionsSpec | None = None
    """Captions in place of the ones here."""
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def one_wording(self) -> AnnotationsSourceSpec:
        if self.prompt is not None and self.prompts:
            raise ValueError("give `prompt` or `prompts`, not both")
        return self


SourceSpec = Annotated[
    widen(
        WorldSourceSpec
        | LlavaSourceSpec
        | MessagesSourceSpec
        | PairsSourceSpec
        | QuestionsSourceSpec
        | PreferencesSourceSpec
        | WorldPreferencesSourceSpec
        | FolderSourceSpec
        | TextSourceSpec
        | ParquetSourceSpec
        | HubSourceSpec
        | WebdatasetSourceSpec
        | InterleavedSourceSpec
        | AnnotationsSourceSpec,
        "lucida.sources",
    ),
    Field(discriminator="kind"),
]
