"""Taking a run up again from a checkpoint, which may have been damaged since it was written.

    newest checkpoint ─state.json, hashes of its files─▶ whole ─▶ weights ─▶ optimizer, generators
                        └ damaged ─▶ the one before, and this is told, or RunError with the file

Everything is checked before anything of the model changes. Only LucidaError comes out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from lucida.core.errors import LucidaError, RunError
from lucida.core.files import disk_errors
from lucida.core.progress import say
from lucida.core.spec import LoraSpec
from lucida.model import adapters
from lucida.training.state import (
    ADAPTER,
    FORMAT,
    Position,
    Setting,
    checkpoints,
    frozen_parts,
    hashes,
    restore_optimizer,
    restore_random_state,
    stored_tensors,
)

REMEDY = (
    "restore the file from a copy; without one, delete the checkpoint's folder (the run goes on "
    "from an older one, or begins again), or train in another folder with --run DIR"
)


@dataclass(frozen=True, slots=True)
class Saved:
    """A whole checkpoint."""

    path: Path
    position: Position
    setting: Setting
    state: dict


def newest(folder: Path, stages: int) -> Saved | None:
    """The newest whole checkpoint of a run, None when it has none at all.

    A damaged one is put aside (`damaged-…`) where an older one is whole, and this is told; RunError
    where none is.
    """
    found, damaged = checkpoints(folder), []
    for path in reversed(found):
        try:
            saved = read_checkpoint(path, stages)
        except RunError as problem:
            damaged.append((path, problem))
            continue
        for broken, problem in damaged:
            aside = broken.with_name(f"damaged-{broken.name}")
            # Another rank may have been first.
            with disk_errors(aside), suppress(FileNotFoundError):
                broken.replace(aside)
            say(f"{problem}. Going on from {path.name}; the damaged one is now {aside.name}")
        return saved
    if damaged:
        raise damaged[0][1]
    return None


def read_checkpoint(path: Path, stages: int) -> Saved:
    """Position, setting and state of a checkpoint whose files are as they were written, of a
    recipe with so many stages."""
    file = path / "state.json"
    with readable(file):
        state = json.loads(file.read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise RunError(
                "the checkpoint has another format than this version of Lucida reads",
                expected=FORMAT,
                given=state["format"],
                origin=path,
                remedy="finish the run with the version that began it, or train in another folder",
            )
        position, setting = Position(**state["position"]), Setting(**state["setting"])
        for each in fields(position):
            value = getattr(position, each.name)
            number = (int, float) if each.type == "float" else int  # annotations are text here
            least = -math.inf if each.name == "reward_sum" else 0
            if isinstance(value, bool) or not isinstance(value, number) or not value >= least:
                raise ValueError(f"position.{each.name} is {value!r}")
        if position.stage >= stages:
            raise ValueError(f"it is of stage {position.stage}, and the recipe has {stages}")
        if not all(isinstance(name, str) for name in state["touched"]):
            raise ValueError("`touched` holds other things than names")
        wanted = dict(state.get("files", {}))  # a run of an older version has none
    for name, fact in (wanted and hashes(path)).items():
        if wanted.pop(name, fact) != fact:
            raise make_damage_error(path / name, "it is not as it was written")
    for name in wanted:
        raise make_damage_error(path / name, "it is missing")
    return Saved(path, position, setting, state)


def load_weights(saved: Saved, model: nn.Module) -> set[str]:
    """Put a checkpoint's weights into a freshly built model; the names that stages touched."""
    path, touched = saved.path, set(saved.state["touched"])
    stored = read_tensors(path / "weights.safetensors")
    places = stored_tensors(model, touched)
    if stored.keys() != places.keys():
        differing = sorted(stored.keys() ^ places.keys())
        raise RunError(
            f"the checkpoint and the model built from the recipe hold different tensors, "
            f"{differing[0]} for one ({len(differing)} in all)",
            origin=path,
            remedy="put the parts back that the run began with, or train in another folder",
        )
    for name, value in stored.items():
        if value.shape != places[name].shape:
            raise RunError(
                f"{name} has another shape in the checkpoint than in the model",
                expected=tuple(places[name].shape),
                given=tuple(value.shape),
                origin=path / "weights.safetensors",
                remedy="put the parts back that the run began with, or train in another folder",
            )
    found = frozen_parts(model, touched)
    if found != saved.state.get("frozen_parts"):
        raise RunError(
            "the frozen parts are not those that the run began with",
            expected=f"fingerprint {saved.state.get('frozen_parts')}",
            given=found,
            origin=path,
            remedy="put the old parts back, or train in another folder",
        )
    with torch.no_grad():
        for name, value in stored.items():
            places[name].copy_(value)
    return touched


def load_adapters(saved: Saved, model: nn.Module, lora: LoraSpec | None) -> None:
    """Fill the adapters of the model with those of the checkpoint."""
    with readable(saved.path / ADAPTER):
        adapters.load_adapter(model, saved.path / ADAPTER, lora)


def load_moments(
    saved: Saved, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> None:
    """Restore the optimizer, the loss scale and all random generators from a checkpoint."""
    file = saved.path / "optimizer.safetensors"
    tensors = read_tensors(file)
    generators = {name: value for name, value in tensors.items() if name.startswith("random/")}
    with readable(file):
        restore_optimizer(optimizer, {k: v for k, v in tensors.items() if k not in generators})
        fit(optimizer)
    with readable(saved.path / "state.json"):
        if scaler.is_enabled() and saved.state["scaler"]:
            scaler.load_state_dict(saved.state["scaler"])
        restore_random_state(saved.state["random"], generators)


def fit(optimizer: torch.optim.Optimizer) -> None:
    """ValueError when a parameter has some state of another shape than its own."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if value.numel() > 1 and value.shape != parameter.shape:
                    shapes = f"{tuple(value.shape)}, and its parameter {tuple(parameter.shape)}"
                    raise ValueError(f"{name}/{key} has the shape {shapes}")


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; RunError when it is not whole."""
    with readable(file):
        return load_file(file)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Whatever goes wrong while a file of a checkpoint is taken in is a RunError that names it."""
    try:
        yield
    except LucidaError:
        raise
    except Exception as problem:  # of any kind: parsers, tensors of other shapes, generators
        raise make_damage_error(file, f"{type(problem).__name__}: {problem}") from problem


def make_damage_error(file: Path, what: str) -> RunError:
    """The error for a file of a checkpoint that cannot be used."""
    first = " ".join(what.split())[:200]
    message = f"this file of a checkpoint cannot be used: {first}"
    return RunError(message, origin=file, remedy=REMEDY)


def check_records(run_file: Path, rows: list[dict[str, Any]]) -> None:
    """RunError when a line of metrics.jsonl has no place in the run, or other values than training
    writes: what reads it later would not know."""
    for number, row in enumerate(rows, start=1):
        whole = isinstance(row.get("total_step"), int) and isinstance(row.get("step"), int)
        good = whole and isinstance(row.get("stage"), str) and _numbers(row)
        if not good:
            raise RunError(
                f"line {number} is no record of training: {json.dumps(row)[:80]}",
                origin=run_file,
                remedy="restore the file or delete that line",
            )


def _numbers(row: Mapping[str, Any]) -> bool:
    """Whether the values of a record that are read again have their types."""
    loss = row.get("loss")
    if not (loss is None or isinstance(loss, (int, float))):
        return False
    for name in ("sources", "source_loss", "source_supervised"):
        values = row.get(name, {})
        if not isinstance(values, dict) or not all(
            isinstance(value, (int, float, type(None))) for value in values.values()
        ):
            return False
    left = row.get("left_out", {})
    reasons = list(left.values()) if isinstance(left, dict) else [None]
    return all(
        isinstance(each, dict) and all(isinstance(many, int) for many in each.values())
        for each in reasons
    )
