"""Weights that others published as Python pickles: read with consent, and only tensors of them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lucida.core.errors import ModelError
from lucida.model.folder import make_damage_error


def load_pickle(path: Path, consent: bool) -> dict[str, Any]:
    """What a `.pt` or `.bin` file holds, on the CPU; ModelError without consent or when damaged.

    torch's restricted reader makes tensors and plain containers and nothing else: no code of the
    file runs, and a file that asks for any is refused. Tensors stay on disk until they are used.
    """
    if not consent:
        raise ModelError(
            f"{path.name} is a Python pickle, and pickles are not read unless you say so",
            origin=path,
            remedy="say --allow-pickle (tensors are read and no code of the file is run), or"
            " convert the weights to safetensors first",
        )
    if not path.is_file():
        raise ModelError("a file of weights is missing", expected=path.name, origin=path.parent)
    with path.open("rb") as file:
        archive = file.read(2) == b"PK"
    if archive and not zipfile.is_zipfile(path):
        raise make_damage_error(path, "its end is missing")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as problem:
        raise foreign(path, problem) from problem
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as problem:
        raise make_damage_error(
            path, str(problem).partition("\n")[0] or type(problem).__name__
        ) from problem
    if not isinstance(found, dict):
        raise ModelError(
            "this file holds no weights by name",
            expected="a dictionary",
            given=type(found).__name__,
            origin=path,
        )
    return found


def foreign(path: Path, problem: Exception) -> ModelError:
    """The error for a pickle that wants more than tensors, or that is no pickle at all."""
    wanted = next((line for line in str(problem).splitlines() if "GLOBAL" in line), None)
    if wanted is None:
        return make_damage_error(path, "it is no file of torch's")
    return ModelError(
        "this pickle asks for code to be run, which is never done here",
        expected="tensors, numbers, text, and containers of them",
        given=wanted.partition("GLOBAL ")[2].split(" was not", 1)[0],
        origin=path,
        remedy="get the weights from somebody you trust, as safetensors",
    )


def tensors(values: object, origin: object) -> dict[str, Tensor]:
    """Tensors by name; ModelError for anything else."""
    if isinstance(values, dict) and all(isinstance(each, Tensor) for each in values.values()):
        return dict(values)
    strange = type(values).__name__
    if isinstance(values, dict):
        strange = next(
            f"{name}: {type(each).__name__}"
            for name, each in values.items()
            if not isinstance(each, Tensor)
        )
    raise ModelError(
        "these are no weights", expected="tensors by name", given=strange, origin=origin
    )
