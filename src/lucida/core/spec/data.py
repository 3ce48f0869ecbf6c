"""Where samples come from, and in which shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lucida.core.spec.value import Spec


class WorldSourceSpec(Spec):
    """Samples drawn from the miniature world."""

    kind: Literal["world"] = "world"
    tasks: list[str] = Field(min_length=1)
    """Task families, as `lucida.world.tasks.TASKS` names them; one named twice is asked twice as
    often."""
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
    weight: float = Field(default=1.0, gt=0)


SourceSpec = Annotated[WorldSourceSpec | LlavaSourceSpec, Field(discriminator="kind")]


class MixtureSpec(Spec):
    """Sources with weights, and what to do with a record that cannot be used."""

    sources: dict[str, SourceSpec] = Field(min_length=1)
    """Name of the source → where its samples come from."""
    on_error: Literal["error", "skip"] = "error"
    """`skip` drops a bad record, writes it to `dropped.jsonl`, and stops above `max_dropped`."""
    max_dropped: float = Field(default=0.01, ge=0, le=1)
    """Largest share of records that may be dropped before the run stops."""
