"""Sources: where records come from. One class in one file, one line in `SOURCES`."""

from __future__ import annotations

from lucida.core.errors import DataError
from lucida.core.registry import Table
from lucida.core.spec import SourceSpec
from lucida.data.mixture import Source
from lucida.data.sources.captions import Recaptioned
from lucida.data.sources.rated import Rated

SOURCES = Table(
    "source",
    {
        "world": "lucida.data.sources.world:WorldSource",
        "llava": "lucida.data.sources.llava:LlavaSource",
        "messages": "lucida.data.sources.messages:MessagesSource",
        "pairs": "lucida.data.sources.pairs:PairsSource",
        "questions": "lucida.data.sources.questions:QuestionsSource",
        "preferences": "lucida.data.sources.preferences:PreferencesSource",
        "world-preferences": "lucida.data.sources.preferences:WorldPreferences",
        "folder": "lucida.data.sources.pairs:FolderSource",
        "text": "lucida.data.sources.text:TextSource",
        "parquet": "lucida.data.sources.parquet:ParquetSource",
        "hub": "lucida.data.sources.parquet:HubSource",
        "webdataset": "lucida.data.sources.webdataset:WebdatasetSource",
        "interleaved": "lucida.data.sources.interleaved:InterleavedSource",
        "annotations": "lucida.data.sources.annotations:AnnotationsSource",
    },
    group="lucida.sources",
    error=DataError,
)


RATED = ("llava", "messages", "pairs", "questions", "text")
"""Kinds of one JSON value or row a record, whose ratings are read around them."""


OF_ARCHIVES = ("parquet", "webdataset")
"""Kinds whose files may be unreadable as a whole, or from some place on."""


def open_source(spec: SourceSpec, skip: bool = False) -> Source:
    """The source that a recipe names; every field of its spec but the weight is an argument.
    `captions` are put around it, and so is `at_least` where it does not filter by itself.

    With `skip` (`mixture.on_error`) what cannot be read of a damaged shard or table is a record
    that raises DataError when its turn comes, and not an error here; so is one whose ratings cannot
    be read."""
    fields = spec.model_dump(exclude={"kind", "weight", "captions"})
    if skip and spec.kind in OF_ARCHIVES:
        fields["skip"] = True
    around = spec.kind in RATED
    given = {name: value for name, value in fields.items() if not (around and name == "at_least")}
    source = SOURCES[spec.kind](**given)
    if around and spec.at_least:
        source = Rated(source, spec.at_least, repr(sorted(given.items())), skip)
    captions = getattr(spec, "captions", None)
    if captions is None:
        return source
    # What is matched is kept by files; the fields tell apart two readings of the same files.
    return Recaptioned(source, **captions.model_dump(), identity=repr(sorted(fields.items())))
