"""Loading from the Hub through huggingface_hub: what was cut off goes on where it ended, and what
is there is not loaded again."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lucida.apps.fetch.needs import Need
from lucida.core.errors import LucidaError
from lucida.core.progress import Progress, say

BESIDE = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""Of a model, beside its weights."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""The first kind that a repository has is loaded: all of them twice would be twice the size."""


def load(need: Need) -> Path:
    """Bring what stands on the Hub here; where it stands now. LucidaError, with what to do, where
    the Hub refuses it, has it not or cannot be reached."""
    with explain_failures(need):
        if not need.file:
            return load_model(need.repo)
        return load_file(need)


def load_model(repo: str) -> Path:
    """A model with its tokenizer or preprocessing, into the Hub's cache, where recipes find it."""
    from huggingface_hub import HfApi, snapshot_download

    names = [each for each in HfApi().list_repo_files(repo) if "/" not in each]
    chosen = next((w for w in WEIGHTS if any(Path(name).match(w) for name in names)), None)
    if chosen is None:
        raise LucidaError("the repository holds no weights that can be read", given=repo)
    patterns = [chosen, *BESIDE]
    wanted = [name for name in names if any(Path(name).match(each) for each in patterns)]
    return Path(snapshot_download(repo, allow_patterns=wanted))


def load_file(need: Need) -> Path:
    """A file of a data set to its place, a zip unpacked there."""
    from huggingface_hub import hf_hub_download

    place = need.place
    folder = place.parent
    check_room(need, folder)
    loaded = Path(hf_hub_download(need.repo, need.file, repo_type="dataset", local_dir=folder))
    if need.unpack:
        unpack(loaded, need)
    elif loaded != place:
        loaded.replace(place)
    return place


def check_room(need: Need, folder: Path) -> None:
    """LucidaError where the disk has no room, for a zip and what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (need.gigabytes or 0) * (2 if need.unpack else 1)
    free = shutil.disk_usage(folder).free / 1e9
    if wanted > free:
        raise LucidaError(
            f"the disk has no room for {need.what}",
            expected=f"{wanted:.1f} GB" + (" (the zip and what is in it)" if need.unpack else ""),
            given=f"{free:.1f} GB free",
            origin=folder,
            remedy="free some space, or let the folder be a link to another disk",
        )


def unpack(archive: Path, need: Need) -> None:
    """Unpack a zip into the place, then remove it. What was unpacked before stays; a top folder of
    the place's own name is left out."""
    place = need.place
    place.mkdir(parents=True, exist_ok=True)
    # Stays when the unpacking is killed, so that a folder with some of the files is not "there".
    need.unfinished.touch()
    with zipfile.ZipFile(archive) as opened:
        members = [each for each in opened.infolist() if not each.is_dir()]
        inside = all(each.filename.startswith(f"{place.name}/") for each in members)
        base = place.parent if inside else place
        with Progress(f"unpack {archive.name}", len(members), "file") as progress:
            for member in members:
                there = base / member.filename
                if not there.is_file() or there.stat().st_size != member.file_size:
                    opened.extract(member, base)
                progress.advance()
    need.unfinished.unlink()
    archive.unlink()
    say(f"{place}: {len(members):,} files")


@contextmanager
def explain_failures(need: Need) -> Iterator[None]:
    """What goes wrong with the Hub, with what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{'datasets/' if need.file else ''}{need.repo}"
    try:
        yield
    except GatedRepoError as problem:
        raise LucidaError(
            f"{need.what} is given to those only who accept its licence",
            origin=page,
            remedy="accept it there, then `hf auth login` with a token of that account",
        ) from problem
    except (RepositoryNotFoundError, EntryNotFoundError) as problem:
        # An entry that is not found at hand: there was no connection to look elsewhere.
        if isinstance(problem, LocalEntryNotFoundError):
            raise unreachable(need, page, problem) from problem
        raise LucidaError(
            f"the Hub has no {need.file or 'model'} there, or not for you",
            origin=page,
            remedy="look whether it has moved; for what is private, `hf auth login`",
        ) from problem
    except HfHubHTTPError as problem:
        raise LucidaError(f"the Hub refuses: {str(problem)[:300]}", origin=page) from problem
    except zipfile.BadZipFile as problem:
        raise LucidaError(
            f"{need.file} is no whole zip: {problem}",
            origin=need.place.parent / need.file,
            remedy="delete it and fetch it again",
        ) from problem
    except (HTTPError, OSError) as problem:
        raise unreachable(need, page, problem) from problem


def unreachable(need: Need, page: str, problem: Exception) -> LucidaError:
    """The error of a connection that failed or broke."""
    return LucidaError(
        f"{need.what} could not be loaded: {str(problem).splitlines()[0][:200]}",
        origin=page,
        remedy="the same command goes on where it was cut off",
    )
