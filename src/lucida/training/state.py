"""Everything that a stopped run needs to go on as if it had never stopped.

    checkpoints/step-000400/
      weights.safetensors     parameters that any stage so far has trained, and buffers
      optimizer.safetensors   the optimizer's moments, by parameter name; random generators
      adapter/                the adapters of a stage with `lora`, as PEFT keeps them
      state.json              stage, step, counters, random generators, loss scale

A checkpoint is written aside, forced to disk and renamed, so what stands under its final name is
whole; the one before is removed only afterwards. state.json holds a hash of every file beside it: a
checkpoint that was damaged later is refused, or the one before is taken where there still is one
(training/reading.py). Nothing is pickled. Frozen weights come from the
parts again: their fingerprint is stored, and other parts are refused.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lucida.core.files import atomic_folder
from lucida.core.spec import LoraSpec
from lucida.data.fingerprint import file_fact
from lucida.model.adapters import (
    adapted_layers,
    named_adapters,
    named_weights,
    plain_name,
    save_adapter,
)

FORMAT = 1
"""Raised when the layout of a checkpoint changes; another number is refused."""

ADAPTER = "adapter"
"""The folder of a checkpoint that holds the adapters."""

NAME = re.compile(r"step-(\d{6,})$")


@dataclass(slots=True)
class Position:
    """Where a run stands. `step` and `stage_…` count within the stage, the rest over the whole run.

    `seconds` is the time of the steps; `stage_seconds` that of the stage, looks and checkpoints
    included. Interruptions are left out of both. `ended` is 1 when the stage was ended before its
    budget. `rewards`, `reward_sum`: of the answers of a stage that learns a preference. `window`
    and `window_rows` find the step in an order by rows without planning what came before
    (`data.order.Bookmark`).
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stage_tokens: int = 0
    stage_seconds: float = 0.0
    window: int = 0
    window_rows: int = 0
    ended: int = 0
    rewards: int = 0
    reward_sum: float = 0.0

    def advance(self, samples: int, tokens: int, seconds: float) -> None:
        """Count a step that read so many samples and tokens of them, and took so long."""
        self.step += 1
        self.total += 1
        self.samples += samples
        self.tokens += tokens
        self.stage_tokens += tokens
        self.seconds += seconds

    def next_stage(self, index: int) -> None:
        """Move to the beginning of a later stage."""
        self.stage, self.step, self.stage_tokens, self.stage_seconds = index, 0, 0, 0.0
        self.window, self.window_rows, self.ended = 0, 0, 0
        self.rewards, self.reward_sum = 0, 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What the weights' last bits depend on besides the recipe; compared when a run goes on."""

    precision: str
    device: str
    threads: int
    torch: str
    processes: int = 1

    def differences(self, now: Setting) -> str:
        """What has changed since, as in "threads 2 → 1"; empty when nothing has."""
        names = (each.name for each in fields(self))
        pairs = ((name, getattr(self, name), getattr(now, name)) for name in names)
        return ", ".join(f"{name} {old} → {new}" for name, old, new in pairs if old != new)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a checkpoint is made of, beside the random generators of the process.

    model: the one that trains; touched: names of the parameters that any stage so far has trained;
    lora: what the adapters of the model are, None when it has none.
    """

    position: Position
    setting: Setting
    model: nn.Module
    touched: set[str]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lora: LoraSpec | None = None


def seed_everything(seed: int) -> None:
    """Set Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other people's code draws from it
    torch.manual_seed(seed)


def random_state() -> tuple[dict, dict[str, torch.Tensor]]:
    """State of Python's, NumPy's and torch's generators: what JSON can hold, and tensors."""
    _, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    values = {
        "python": random.getstate(),
        "numpy": [keys.tolist(), int(place), int(has_gauss), float(gauss)],
    }
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"random/cuda{index}"] = state
    if torch.backends.mps.is_available():
        tensors["random/mps"] = torch.mps.get_rng_state()
    return values, tensors


def restore_random_state(values: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Put every generator back where `random_state` found it; those of GPUs that are not here have
    nothing to go on with (a run may go on with fewer)."""
    version, internal, gauss_next = values["python"]
    random.setstate((version, tuple(internal), gauss_next))
    keys, place, has_gauss, gauss = values["numpy"]
    state = ("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, gauss)
    np.random.set_state(state)  # noqa: NPY002
    torch.set_rng_state(tensors["random/cpu"])
    for index in range(torch.cuda.device_count()):
        if (name := f"random/cuda{index}") in tensors:
            torch.cuda.set_rng_state(tensors[name], index)
    if "random/mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["random/mps"])


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, of which this rank may hold a part; all ranks have to ask. A part says so by
    `full_tensor`, as torch's own do."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def put(place: torch.Tensor, value: torch.Tensor) -> None:
    """Put a whole value in the place of a tensor, of which this rank may hold a part."""
    take = getattr(place, "take_tensor", None)
    if take is None:
        place.copy_(part_of(value, place))
    else:
        take(value)


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor, on the device and laid out like another one."""
    value = value.to(like.device)
    if not isinstance(like, DTensor) or value.shape != like.shape:  # AdamW's counter has no shape
        return value
    # None: every rank has read the whole value itself, so nothing is sent around.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def stored_tensors(model: nn.Module, touched: set[str]) -> dict[str, torch.Tensor]:
    """The parameters in `touched` and every persistent buffer, by name; no adapters."""
    kept = {name: value for name, value in named_weights(model) if name in touched}
    # By way of `state_dict`, which leaves out buffers that are computed anew (rotary tables).
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    layers = adapted_layers(model)
    for name, value in model.state_dict().items():
        plain = plain_name(name, layers)
        if name in buffers and plain is not None:
            kept[plain] = value
    return kept


def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash of weights by name: name, shape, dtype and some 4096 evenly spread values of each."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        every = whole(tensor).detach()
        flat = every.flatten()
        # A checkpoint of a projector must not read all of the frozen gigabytes beside it.
        sampled = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
        digest.update(f"{name} {tuple(every.shape)} {every.dtype}".encode())
        digest.update(sampled.tobytes())
    return digest.hexdigest()[:16]


def frozen_parts(model: nn.Module, touched: set[str]) -> str:
    """Fingerprint of the parameters that no stage has touched."""
    return fingerprint(item for item in named_weights(model) if item[0] not in touched)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: AdamW's `name/exp_avg`, `name/exp_avg_sq` and
    `name/step`, Muon's `name/momentum_buffer`; none of a parameter that has had no gradient yet."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{key}"] = value.detach()
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Hand the optimizer back the state that `optimizer_tensors` took; ValueError for some of a
    parameter that it does not move."""
    by_parameter: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        parameter, key = name.rsplit("/", 1)
        by_parameter.setdefault(parameter, {})[key] = value
    moved = {name for group in optimizer.param_groups for name in group["names"]}
    if foreign := sorted(by_parameter.keys() - moved):
        raise ValueError(f"{foreign[0]} ({len(foreign)} in all) is not what this stage trains")
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if name in by_parameter:
                parts = {key: part_of(v, parameter) for key, v in by_parameter[name].items()}
                optimizer.state[parameter] = parts


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if NAME.search(path.name)]
    return sorted(found, key=lambda path: int(NAME.search(path.name).group(1)))


def checkpoint_path(folder: Path, position: Position) -> Path:
    """Where the checkpoint of this position stands."""
    return folder / "checkpoints" / f"step-{position.total:06d}"


def save_checkpoint(folder: Path, now: Snapshot, writes: bool = True) -> Path:
    """Write a checkpoint of the run in `folder`, then remove the older ones.

    Of a sharded model the file holds whole tensors: all ranks have to call this, and those that do
    not write only give theirs.
    """
    path = checkpoint_path(folder, now.position)
    older = [each for each in checkpoints(folder) if each != path]
    values, tensors = random_state()
    state = {
        "format": FORMAT,
        "position": asdict(now.position),
        "setting": asdict(now.setting),
        "touched": sorted(now.touched),
        "frozen_parts": frozen_parts(now.model, now.touched),
        "scaler": now.scaler.state_dict(),
        "random": values,
    }
    # Gathering needs all ranks, tensor after tensor: those that do not write return behind it.
    weights = to_disk(stored_tensors(now.model, now.touched), writes)
    moments = to_disk(optimizer_tensors(now.optimizer) | tensors, writes)
    adapters = to_disk(named_adapters(now.model), writes)
    if not writes:
        return path
    if not path.exists():  # a stop right behind a checkpoint finds it there
        with atomic_folder(path) as aside:
            save_file(weights, aside / "weights.safetensors")
            save_file(moments, aside / "optimizer.safetensors")
            if now.lora is not None:
                (aside / ADAPTER).mkdir()
                save_adapter(now.model, aside / ADAPTER, now.lora, weights=adapters)
            state["files"] = hashes(aside)
            (aside / "state.json").write_text(json.dumps(state))
    for each in older:
        shutil.rmtree(each)
    return path


def to_disk(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """The same tensors as safetensors wants them, whole, on the CPU and contiguous; only gathered,
    one after the other, where they are not kept."""
    kept = {}
    for name, value in tensors.items():
        gathered = whole(value).detach()
        if keep:
            kept[name] = gathered.cpu().contiguous()
    return kept


def hashes(folder: Path) -> dict[str, str]:
    """Size and hash of every file of a checkpoint but state.json, by its path below the folder."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    named = {str(each.relative_to(folder).as_posix()): each for each in files}
    return {name: file_fact(each) for name, each in named.items() if name != "state.json"}
