"""Sources: where records come from. One class in one file, one line in `SOURCES`."""

from __future__ import annotations

from lucida.core.errors import DataError
from lucida.core.registry import Table
from lucida.core.spec import SourceSpec
from lucida.data.mixture import Source

SOURCES = Table(
    "source",
    {
        "world": "lucida.data.sources.world:WorldSource",
        "llava": "lucida.data.sources.llava:LlavaSource",
        "messages": "lucida.data.sources.messages:MessagesSource",
        "pairs": "lucida.data.sources.pairs:PairsSource",
        "folder": "lucida.data.sources.pairs:FolderSource",
        "text": "lucida.data.sources.text:TextSource",
        "parquet": "lucida.data.sources.parquet:ParquetSource",
        "hub": "lucida.data.sources.hub:HubSource",
        "webdataset": "lucida.data.sources.webdataset:WebdatasetSource",
        "interleaved": "lucida.data.sources.interleaved:InterleavedSource",
        "annotations": "lucida.data.sources.annotations:AnnotationsSource",
    },
    group="lucida.sources",
    error=DataError,
)


def open_source(spec: SourceSpec) -> Source:
    """The source that a recipe names; every field of its spec but the weight is an argument."""
    return SOURCES[spec.kind](**spec.model_dump(exclude={"kind", "weight"}))
