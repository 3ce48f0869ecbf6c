"""Captions: COCO (Karpathy's split), Flickr30k, NoCaps, TextCaps; CIDEr-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from lucida.data.sample import ImageSource
from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_object, read_records
from lucida.eval.benchmarks.coco import FOLDERS, TRAIN2014, VAL2014
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind
from lucida.eval.benchmarks.textvqa import TEXTVQA_PICTURES
from lucida.eval.metrics.captions import score_captions
from lucida.eval.metrics.outputs import as_text

_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_TRAINING = ("train", "restval")


class Captioning(PublishedBenchmark):
    """One caption for a picture. The score is CIDEr-D (1 is shown as 100), whose weights come from
    the examples that are scored together: numbers of different limits cannot be compared."""

    family, metric = "caption", "CIDEr-D"
    twin = "caption"
    together = True
    max_new_tokens = 64

    def describe(
        self,
        record: Record,
        picture: ImageSource,
        field: str,
        captions: Sequence[str],
        kind: str = "",
    ) -> Example:
        """The example of a picture with its captions, which `field` holds."""
        if not captions:
            raise record.wrong(field, "at least one caption", [])
        return self.asked(record, [picture], "", answers=tuple(captions), kind=kind)

    def scores(self, examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
        """CIDEr-D of each caption."""
        return score_each_caption(examples, parsed)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """CIDEr-D, BLEU-1 to 4 and ROUGE-L of the corpus, all times 100."""
        return score_corpus(examples, parsed)


def score_each_caption(examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
    """CIDEr-D of each caption against the answers of its example."""
    return _score_together(examples, parsed)["per_image"]["CIDEr-D"]


def score_corpus(examples: Sequence[Example], parsed: Sequence[Parsed]) -> dict[str, float]:
    """CIDEr-D, BLEU-1 to 4 and ROUGE-L of all captions together, times 100."""
    scored = _score_together(examples, parsed)
    return {name: 100 * value for name, value in scored.items() if name != "per_image"}


def _score_together(examples: Sequence[Example], parsed: Sequence[Parsed]) -> dict:
    return _score(tuple(map(as_text, parsed)), tuple(e.answers for e in examples))


@lru_cache(maxsize=1)  # scores and summary take the same seconds of work in turn
def _score(captions: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> dict:
    return score_captions(captions, references)


class CocoCaptions(Captioning):
    """COCO Captions, Karpathy's test split: 5,000 pictures with five or more captions each.

    dataset_coco.json: {"images": [{cocoid, filepath (val2014 or train2014), filename, split,
    sentences: [{raw}]}]}. Training is `train` and `restval`.

    Reference: Chen et al., Microsoft COCO Captions, 2015, arXiv 1504.00325; Karpathy and Li, Deep
    Visual-Semantic Alignments, 2015, arXiv 1412.2306 (the split).
    """

    name, folder, family = "coco-captions", "coco-captions", "karpathy"
    licence = "CC BY 4.0 (annotations); pictures: Flickr's terms"
    source = _KARPATHY
    count = 5_000
    has_train = True
    files = (
        File("coco-captions/dataset_coco.json", _KARPATHY, "144 MB"),
        VAL2014,
        replace(TRAIN2014, needed="train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every picture of the split."""
        path = self.path(self.files[0])
        wanted = ("test",) if split == "test" else _TRAINING
        pictures = read_records(read_object(path)["images"], path, "cocoid", "image")
        return [each for each in pictures if each.text("split") in wanted]

    def example(self, record: Record) -> Example:
        """A picture with its captions."""
        folder = FOLDERS.get(record.text("filepath"))
        if folder is None:
            raise record.wrong("filepath", "val2014 or train2014", record["filepath"])
        picture = self.picture(folder, record.text("filename"), record)
        return self.describe(record, picture, "sentences", _raw(record))


class Flickr30k(Captioning):
    """Flickr30k, Karpathy's test split: 1,000 pictures with five captions each.

    dataset_flickr30k.json: {"images": [{imgid, filename, split, sentences: [{raw}]}]}.

    Reference: Young et al., From image descriptions to visual denotations, TACL 2014; Karpathy and
    Li, 2015, arXiv 1412.2306 (the split).
    """

    name, folder = "flickr30k", "flickr30k"
    licence = "for non-commercial research only; pictures: Flickr's terms"
    source = "https://shannon.cs.illinois.edu/DenotationGraph/"
    count = 1_000
    has_train = True
    files = (
        File("flickr30k/dataset_flickr30k.json", _KARPATHY, "35 MB"),
        File("flickr30k/flickr30k-images/", f"{source} (form)", "4 GB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every picture of the split."""
        path = self.path(self.files[0])
        pictures = read_records(read_object(path)["images"], path, "imgid", "image")
        return [each for each in pictures if each.text("split") == split]

    def example(self, record: Record) -> Example:
        """A picture with its captions."""
        picture = self.picture(self.files[1], record.text("filename"), record)
        return self.describe(record, picture, "sentences", _raw(record))


class NoCaps(Captioning):
    """NoCaps, validation: 4,500 pictures of Open Images with ten captions each.

    nocaps_val_4500_captions.json: {"images": [{id, file_name, domain}], "annotations": [{image_id,
    caption}]}. The summary has the mean by domain with the weights of all that was scored; the
    server of the challenge weighs each domain by itself.

    Reference: Agrawal et al., nocaps, 2019, arXiv 1812.08658.
    """

    name, folder = "nocaps", "nocaps"
    licence = "CC BY 2.0"
    source = "https://nocaps.org/download"
    count = 4_500
    files = (
        File(
            "nocaps/nocaps_val_4500_captions.json",
            "https://s3.amazonaws.com/nocaps/nocaps_val_4500_captions.json",
            "6 MB",
        ),
        File(
            "nocaps/val/",
            "s3://open-images-dataset/validation (each picture has its coco_url)",
            "1.5 GB",
            "images",
        ),
    )

    def records(self, split: Split) -> list[Record]:
        """Every picture with its captions."""
        path = self.path(self.files[0])
        content = read_object(path)
        pictures = read_records(content["images"], path, "id", "image")
        captions: dict[str, list[str]] = {each.id: [] for each in pictures}
        for each in content.records("annotations"):
            name = each.text("image_id")
            if name not in captions:
                raise each.wrong("image_id", "the id of one of the images", name)
            captions[name].append(each.text("caption"))
        return [
            Record(each.id, {**each.value, "captions": captions[each.id]}, each.origin)
            for each in pictures
        ]

    def example(self, record: Record) -> Example:
        """A picture with its captions; the kind is the domain."""
        picture = self.picture(self.files[1], record.text("file_name"), record)
        captions, domain = record.texts("captions"), record.text("domain")
        return self.describe(record, picture, "captions", captions, domain)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """The corpus' numbers and CIDEr-D by domain, all times 100."""
        return super().summary(examples, parsed, scores) | by_kind(examples, scores)


_TEXTCAPS = "https://textvqa.org/textcaps/dataset/"


class TextCaps(Captioning):
    """TextCaps, validation: 3,166 pictures with five captions that say the text in them.

    TextCaps_0.1_val.json: {"data": [{image_id, caption_str, reference_strs}]}, a record for each
    caption, with all captions of its picture as references. The score is CIDEr-D against them;
    pictures are TextVQA's train_images/, shared with it.

    Reference: Sidorov et al., TextCaps, 2020, arXiv 2003.12462.
    """

    name, folder = "textcaps", "textcaps"
    twin = "caption, reading"
    licence = "CC BY 4.0"
    source = _TEXTCAPS
    count = 3_166
    files = (
        File(
            "textcaps/TextCaps_0.1_val.json",
            "https://dl.fbaipublicfiles.com/textvqa/data/textcaps/TextCaps_0.1_val.json",
            "12 MB",
        ),
        TEXTVQA_PICTURES,
    )

    def records(self, split: Split) -> list[Record]:
        """Every picture with its captions, from the first of its records."""
        path = self.path(self.files[0])
        found: dict[str, Record] = {}
        for each in read_object(path).records("data"):
            name = each.text("image_id")
            found.setdefault(name, Record(name, each.value, each.origin))
        return list(found.values())

    def example(self, record: Record) -> Example:
        """A picture with its captions."""
        picture = self.picture(TEXTVQA_PICTURES, f"{record.id}.jpg", record)
        captions = record.texts("reference_strs")
        return self.describe(record, picture, "reference_strs", captions)


def _raw(record: Record) -> list[str]:
    return [each.text("raw") for each in record.records("sentences")]
