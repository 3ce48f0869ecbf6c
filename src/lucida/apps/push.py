"""A model on the Hub, through huggingface_hub: private unless asked otherwise, and never over
anything that is there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lucida.core.errors import LucidaError
from lucida.core.progress import say

CARD = "README.md"


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload a run (exported first) or a folder that `lucida export` wrote to a new
    repository; its address.

    LucidaError where the name is none, a repository of this name exists, nobody is logged in, or
    the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError("a name is ORG/NAME")
    except HFValidationError as problem:
        raise LucidaError(f"this is no name of a repository: {problem}", given=name) from problem
    api = HfApi()
    with tempfile.TemporaryDirectory() as place:
        whole = find_export(folder, Path(place) / "export")
        try:
            address = api.create_repo(name, private=not public, exist_ok=False)
            say(f"{address} was made, {'for everybody' if public else 'private'}; uploading")
            api.upload_folder(
                repo_id=name, folder_path=whole, commit_message="Upload a model by lucida push"
            )
        except LocalTokenNotFoundError as problem:
            raise LucidaError(
                "nobody is logged in at the Hub", remedy="hf auth login, or set HF_TOKEN"
            ) from problem
        except HfHubHTTPError as problem:
            raise refuse(problem, name) from problem
        except (HTTPError, OSError) as problem:  # no network, or a connection that broke
            raise LucidaError(
                f"the Hub cannot be reached: {problem}",
                origin=api.endpoint,
                remedy=f"try again; a repository {name} that was made meanwhile is deleted by hand "
                "first, as nothing is ever written over",
            ) from problem
    return str(address)


def refuse(problem: Exception, name: str) -> LucidaError:
    """What the Hub said, with what to do."""
    response = getattr(problem, "response", None)
    status = getattr(response, "status_code", None)
    if status == 409:
        return LucidaError(
            "a repository of this name exists, and nothing is written over",
            given=name,
            remedy="take another name, or delete it there first",
        )
    if status in (401, 403):
        return LucidaError(
            f"the Hub refuses ({status})",
            given=name,
            remedy="hf auth login with a token that may write there",
        )
    return LucidaError(f"the Hub refuses ({status}): {str(problem)[:300]}", given=name)


def find_export(folder: Path, place: Path) -> Path:
    """The folder itself where it is an export with its card, else the run exported to `place`."""
    if (folder / "recipe.yaml").is_file():
        from lucida.apps.export.write import export

        export(folder, place, "auto")
        return place
    models = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    if not (folder / CARD).is_file() or not models:
        raise LucidaError(
            f"this folder is neither a run nor an export (a model beside its {CARD})",
            origin=folder,
            remedy="lucida export RUN DIR, then lucida push DIR ORG/NAME",
        )
    return folder
