"""What data are, in a few facts that a later process compares: other facts, other data.

    files      size, and a hash of the content: up to 64 MiB of all, of more evenly spread blocks
    elsewhere  address, size and version, as the server names it
    records    their number, and a hash of up to 128 of them, evenly spread: their text, and of as
               many of their pictures as `PIXELS` allows the decoded pixels

Times of files are no facts: a copy is the same data. So a change is missed that leaves the size of
a large file alone and falls between the blocks and records that are looked at.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lucida.core.errors import DataError, LucidaError
from lucida.core.files import disk_errors
from lucida.core.spec import SourceSpec
from lucida.data.images import image_size
from lucida.data.mixture import Source
from lucida.data.sample import ImageSource, Sample
from lucida.data.sources.pictures import ENDINGS
from lucida.data.sources.records import files_of
from lucida.data.sources.remote import Remote

BLOCK, BLOCKS = 1 << 16, 1024
"""Bytes of a block, and the most blocks that are read of all files of a source."""
RECORDS, RECORDS_ELSEWHERE = 128, 4
"""Records that are read of a source; of one that is not local."""
PIXELS = 1 << 24
"""Pixels that are decoded of a source's pictures, the first one whatever its size."""
READ = 4096
"""Files of a source that are read; of more, as many evenly spread ones."""
LISTED = 200
"""Files of a source that are told apart by name; more are one fact together."""

Facts = dict[str, str]
"""What is compared → its value, as words."""


def source_facts(spec: SourceSpec, source: Source) -> Facts:
    """Facts about a source as it was opened; DataError or RunError when a file cannot be read."""
    facts = {"records": f"{len(source):,}"}
    files = files_read(source)
    beside = (getattr(spec, name, None) for name in ("questions", "instances"))
    paths = [path for path in beside if isinstance(path, str)]  # the world's is a number
    if getattr(spec, "captions", None) is not None:
        paths.append(spec.captions.path)
    if files is None and getattr(spec, "path", None):
        paths.append(spec.path)
    else:
        facts |= file_facts(getattr(spec, "path", ""), files or [])
    for path in paths:
        facts |= file_facts(path, sorted(files_below(Path(path).expanduser(), path)))
    few = any(isinstance(file, Remote) for file in files or [])
    return facts | record_facts(source, RECORDS_ELSEWHERE if few else RECORDS)


def files_read(source: Source) -> Sequence[Path | Remote] | None:
    """The files that a source says it reads; None when it does not say."""
    while source is not None:
        if (files := getattr(source, "files", None)) is not None:
            return files
        source = getattr(source, "source", None)
    return None


def file_facts(path: str, files: Sequence[Path | Remote]) -> Facts:
    """Facts about files, which `path` meant. Of very many some are read, of the others the size."""
    blocks, every = max(3, BLOCKS // max(1, len(files))), max(1, len(files) // READ)
    found = {}
    for number, file in enumerate(files):
        if isinstance(file, Remote):
            found[file.name] = file.identity
        elif number % every:
            found[str(file)] = f"{file.stat().st_size:,} bytes"
        else:
            found[str(file)] = file_fact(file, blocks)
    return list_files(path, found)


def files_below(path: Path, pattern: str) -> Iterator[Path]:
    """The files that are meant; of a folder all but pictures, which records are read for."""
    if path.is_dir():
        every = sorted(each for each in path.rglob("*") if each.is_file())
        yield from (each for each in every if each.suffix.lower() not in ENDINGS)
    elif path.is_file():
        yield path
    elif glob.has_magic(pattern):
        yield from files_of(pattern)


def list_files(path: str, found: Mapping[str, str]) -> Facts:
    """Each file by its name, or many as one fact."""
    if len(found) <= LISTED:
        return {f"file {name}": fact for name, fact in found.items()}
    every = hashlib.blake2b(repr(sorted(found.items())).encode(), digest_size=8)
    return {f"files {path}": f"{len(found):,} files, {every.hexdigest()}"}


def file_fact(file: Path, blocks: int = BLOCKS) -> str:
    """Size and hash of a file: of all of it where it has no more than so many blocks, else of so
    many, evenly spread, the first and the last among them."""
    digest = hashlib.blake2b(digest_size=8)
    with disk_errors(file), file.open("rb") as stream:
        size = file.stat().st_size
        if size <= blocks * BLOCK:
            while content := stream.read(BLOCK):
                digest.update(content)
        else:
            for number in range(blocks):
                # Block 0 begins at 0 and the last one ends at the end.
                stream.seek(number * (size - BLOCK) // (blocks - 1))
                digest.update(stream.read(BLOCK))
    return f"{size:,} bytes, {digest.hexdigest()}"


def record_facts(source: Source, most: int = RECORDS) -> Facts:
    """Facts about evenly spread records of a source."""
    many = min(most, len(source))
    text, seen = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
    left, pictures = PIXELS, 0
    for place in range(many):
        try:
            sample = source[place * len(source) // many]
            text.update(describe_sample(sample).encode("utf-8", "surrogatepass"))
            for image in sample.images:
                width, height = image_size(image)
                left -= width * height
                if left >= 0 or not pictures:
                    seen.update(pixels(image))
                    pictures += 1
        except DataError:
            text.update(b"unusable")  # in training it raises again, or is skipped
    facts = {f"text of {many} records": text.hexdigest()}
    return facts | ({f"pixels of {pictures} pictures": seen.hexdigest()} if pictures else {})


def describe_sample(sample: Sample) -> str:
    """A sample in words, its origin left out: a copy elsewhere is the same."""
    return repr([[(turn.role, turn.parts) for turn in b] for b in (sample.stem, *sample.branches)])


def pixels(image: ImageSource) -> bytes:
    """A picture's size and pixels."""
    opened = image.load()
    return repr(opened.size).encode() + opened.tobytes()


WEIGHTS = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
"""Endings of the files that make a pretrained part."""


def part_facts(path: str) -> Facts:
    """Facts about a pretrained part: its files where it is a folder, else the commit of the Hub
    that the local cache holds; none where nothing is known of it."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = sorted(each for each in folder.iterdir() if each.suffix in WEIGHTS)
        files = [each for each in files if each.is_file() and each.name != "card.json"]
        blocks = max(3, BLOCKS // max(1, len(files)))
        return {f"file {each.name}": file_fact(each, blocks) for each in files}
    from huggingface_hub import try_to_load_from_cache

    try:
        known = try_to_load_from_cache(path, "config.json")
    except (ValueError, OSError, LucidaError):  # no name that the Hub could have
        return {}
    return {"commit": Path(known).parent.name} if isinstance(known, str) else {}
