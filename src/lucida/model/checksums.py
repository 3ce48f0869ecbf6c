"""Checksums of a saved model's files: it loads as it was saved, or not at all.

    checksums.json   {"format": 1, "files": {"model.safetensors": {"bytes": …, "sha256": …}, …}}

Whoever writes a model folder seals it, and whoever loads from it checks, every byte of every file
that is read: about 1.5 s per GB of weights on one core, several files at once on several. A folder
without `checksums.json` (of another program, or of an older Lucida) is loaded unchecked. The sums
are those of `sha256sum`. Files come in two groups, because transformers saves and loads model and
processor apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lucida.core.errors import ModelError
from lucida.core.files import atomic_write

FILE, FORMAT = "checksums.json", 1

MODEL = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "adapter_config.json",
)
"""Files that make a model, as patterns of names."""
PROCESSOR = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "merges.txt",
    "chat_template.*",
)
"""Files that make a processor or tokenizer."""
EVERYTHING = (*MODEL, *PROCESSOR)


def seal(folder: Path, group: Sequence[str] = EVERYTHING) -> None:
    """Write down the checksums of the files of a group that stand in a folder; those of other
    files stay as they are."""
    file = folder / FILE
    known = read_recorded(folder) if file.is_file() else {}
    # Model and processor are sealed one after the other: neither forgets the other's sums.
    kept = {name: sums for name, sums in known.items() if not belongs(name, group)}
    found = [path for path in sorted(folder.iterdir()) if path.is_file()]
    found = [path for path in found if belongs(path.name, group)]
    for path, content in hashes(found):
        kept[path.name] = {"bytes": path.stat().st_size, "sha256": content}
    values = {"format": FORMAT, "files": dict(sorted(kept.items()))}
    atomic_write(file, json.dumps(values, indent=2) + "\n")


def check_sums(folder: Path, group: Sequence[str] = EVERYTHING) -> None:
    """ModelError when a file of a sealed group is missing, is another than the one that was saved,
    or was not saved with the others; nothing where no file of the group is sealed."""
    if not (folder / FILE).is_file():
        return
    sealed = {name: sums for name, sums in read_recorded(folder).items() if belongs(name, group)}
    if not sealed:
        return
    for name, sums in sealed.items():
        if not (folder / name).is_file():
            raise changed(folder / name, "a file of this model is missing", "the file", "none")
        size = (folder / name).stat().st_size
        if size != sums["bytes"]:
            expected, given = f"{sums['bytes']:,} bytes", f"{size:,} bytes"
            raise changed(folder / name, "this is not the file that was saved", expected, given)
    for path in sorted(folder.iterdir()):
        if path.is_file() and belongs(path.name, group) and path.name not in sealed:
            listed = ", ".join(sorted(sealed))
            raise changed(path, "this file was not saved with the model", listed, path.name)
    for path, content in hashes([folder / name for name in sealed]):
        expected = sealed[path.name]["sha256"]
        if content != expected:
            what, given = "this is not the file that was saved", f"sha256 {content[:16]}…"
            raise changed(path, what, f"sha256 {expected[:16]}…", given)


def changed(file: Path, what: str, expected: str, given: str) -> ModelError:
    """The error for a file that is another than it was, with what to do about it."""
    return ModelError(
        what,
        expected=expected,
        given=given,
        origin=file,
        remedy="get the folder again; if the change is meant, remove its checksums.json, and it is"
        " loaded as it stands (lucida.model.checkpoint.save writes new ones)",
    )


def read_recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """What checksums.json says of each file; ModelError when it cannot be read."""
    file = folder / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        form, files = values["format"], values["files"]
        plain = {
            name: {"bytes": int(sums["bytes"]), "sha256": str(sums["sha256"])}
            for name, sums in files.items()
            if Path(name).name == name
        }
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ModelError(
            "these checksums cannot be read",
            given=f"{type(problem).__name__}: {problem}",
            origin=file,
            remedy="get the folder again, or remove this file to load the others unchecked",
        ) from problem
    if form != FORMAT or plain.keys() != files.keys():
        raise ModelError(
            "these checksums are of another format than this version of Lucida reads",
            expected=f"format {FORMAT}, names of files",
            given=f"format {form}, {', '.join(map(str, files))}"[:200],
            origin=file,
            remedy="load it with a newer Lucida, or remove this file to load the others unchecked",
        )
    return plain


def belongs(name: str, group: Sequence[str]) -> bool:
    """Is a file of this name one of the group?"""
    return name != FILE and any(fnmatchcase(name, pattern) for pattern in group)


def hashes(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with its SHA-256 as hex digits, several at once: hashing leaves Python's lock."""
    with ThreadPoolExecutor() as pool:
        yield from zip(files, pool.map(file_hash, files), strict=True)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content, as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
