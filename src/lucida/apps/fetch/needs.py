"""What a recipe needs beside itself, where each thing comes from, and whether it is here.

The data of presets by the names of their files stand in `recipes/published_data.json`; sizes and
licences are as their publishers told them, as far as remembered, and the publisher's page decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lucida.core.recipe import PRESETS
from lucida.core.spec import Recipe, StageSpec

TABLE = PRESETS / "published_data.json"


@dataclass(frozen=True, slots=True)
class Need:
    """A thing that a recipe needs.

    what: in words. place: where it has to stand; None for models, which stand in the Hub's cache.
    repo and file: of the Hub, when it is to be had there (without `file`, the model itself); then
    `unpack` says that the file is a zip of what has to stand in `place`. address: where a person
    gets it otherwise.
    """

    what: str
    licence: str
    place: Path | None = None
    repo: str = ""
    file: str = ""
    unpack: bool = False
    address: str = ""
    gigabytes: float | None = None

    @property
    def here(self) -> bool:
        """Whether it is there already; of models the loading finds out."""
        if self.place is None:
            return False
        if self.place.is_dir():
            return any(self.place.iterdir()) and not self.unfinished.exists()
        from lucida.data.sources.remote import expand_braces

        meant = map(Path, expand_braces(str(self.place)))
        return self.place.exists() or any(any(each.parent.glob(each.name)) for each in meant)

    @property
    def unfinished(self) -> Path:
        """Stands beside a folder as long as it is being filled."""
        return self.place.with_name(f"{self.place.name}.unfinished")


@cache
def read_published() -> dict:
    """The table of published data by the name of a file, where that is not one of a kind with its
    folder, and of pictures that several need."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def needs_of(recipe: Recipe) -> list[Need]:
    """All that a recipe needs and does not bring with it, each once."""
    found: dict[Path | str, Need] = {}
    for need in (*models_of(recipe), *data_of(recipe), *benchmarks_of(recipe)):
        found.setdefault(need.place or need.repo, need)
    return list(found.values())


def models_of(recipe: Recipe) -> Iterator[Need]:
    """The parts that stand on the Hub."""
    model = recipe.model
    if model.start is not None:
        return
    vision = [] if model.vision is None else [model.vision, *model.vision.more]
    for path in [model.language.path, *(part.path for part in vision)]:
        if not path.startswith("lucida:") and not Path(path).expanduser().exists():
            repo = f"timm/{path.removeprefix('timm:')}" if path.startswith("timm:") else path
            yield Need(f"model {path}", "on its page", repo=repo)


def data_of(recipe: Recipe) -> Iterator[Need]:
    """Records and pictures of every stage's sources that have a path."""
    for stage in recipe.stages:
        sources = dict(stage.mixture.sources)
        if stage.validation is not None and stage.validation.source is not None:
            sources["validation"] = stage.validation.source
        for name, source in sources.items():
            path = getattr(source, "path", None)
            if path is None or source.kind in ("hub",) or "://" in str(path):
                continue
            images = getattr(source, "images", None)
            yield from data_at(Path(path), Path(images) if images else None, name)


def data_at(path: Path, images: Path | None, source: str) -> Iterator[Need]:
    """What stands, or is to stand, at the paths of a source."""
    known = find_published(path)
    if known is None:
        yield Need(f"data of {source}", "unknown here", path, address="nobody but you knows")
        return
    licence, repo = known["licence"], known.get("repo", "")
    made = known.get("make", "")
    yield Need(
        f"{path.name}: {made}" if made else path.name,
        licence,
        path,
        repo,
        path.name if repo else "",
        address=known.get("address", ""),
        gigabytes=known.get("gigabytes"),
    )
    if images is None:
        return
    if pictures := known.get("pictures"):
        size = pictures["gigabytes"]
        yield Need(
            f"pictures of {path.name}", licence, images, repo, pictures["file"], True, "", size
        )
    for each in read_published()["pictures"].get(known.get("by_hand", ""), ()):
        into = images / each["into"]
        yield Need(
            f"pictures {each['into']}",
            each["licence"],
            into,
            address=each["address"],
            gigabytes=each["gigabytes"],
        )


def find_published(path: Path) -> dict | None:
    """What the table says of the data at a path."""
    table = read_published()
    return table.get(f"{path.parent.name}/{path.name}") or table.get(path.name)


def count_published(stage: StageSpec) -> int | None:
    """Records of a stage's sources as their publishers count them (of interleaved pages their
    pictures), None when that of any is not in the table."""
    paths = [getattr(source, "path", None) for source in stage.mixture.sources.values()]
    known = [None if path is None else find_published(Path(path)) for path in paths]
    counts = [None if each is None else each.get("records") for each in known]
    return None if None in counts else sum(counts)


def benchmarks_of(recipe: Recipe) -> Iterator[Need]:
    """The published files of the benchmarks that it is measured on."""
    from lucida.core.errors import DataError
    from lucida.eval.benchmarks import find_task
    from lucida.eval.benchmarks.published import PublishedBenchmark

    for name in recipe.evaluation.names:
        task = find_task(recipe.evaluation, name)
        if not isinstance(task, PublishedBenchmark):
            continue
        try:
            root = task.root
        except DataError:  # nobody said where benchmarks are kept
            root = Path("$LUCIDA_DATA")
        for file in task.files:
            if file.needed != "train":
                place, size = root / file.path, f"{file.path} ({file.size})"
                yield Need(f"benchmark {name}: {size}", task.licence, place, address=file.source)
