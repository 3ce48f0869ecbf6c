"""A model folder, looked at before transformers reads it: whole files, known shapes, no code.

    JSON       UTF-8, an object, no `auto_map` that would ask for code of its own
    template   UTF-8, Jinja that can be parsed
    weights    safetensors whose header and length agree, every file that an index names
    config     no more layers than there are tensors; a model of it has the stored shapes

What is wrong here is a ModelError that names the file. transformers would raise what its libraries
raise, ask on the terminal, make weights up, or first take the memory that a wrong number asks for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lucida.core.errors import ModelError
from lucida.core.files import take_pairs
from lucida.model.checksums import EVERYTHING, belongs, check_sums

CONFIG, GENERATION, PROCESSOR_CONFIG = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
)
CHAT = "chat.jinja"
"""A template as Jinja, for programs that write it themselves."""
AGAIN = "get the file again from where it came"
FLOATS = ("F64", "F32", "F16", "BF16")
"""How safetensors calls the numbers that weights are."""
SPARE = 16_000_000
"""Numbers that a model may hold beside the stored ones: tables that are computed."""
MANY = re.compile(r"layers|depth|blocks|experts|stages")
"""Fields of a configuration that say how many modules are made."""
FEW = 512
"""So many modules can be made and then be found missing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file, unread."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def check_folder(folder: Path, group: Sequence[str] = EVERYTHING) -> None:
    """ModelError when a file of a group (`checksums`) is not the one that was saved, or cannot be
    read for what its name says. Weights are looked at by their headers."""
    check_sums(folder, group)
    for file in sorted(folder.iterdir()):
        if not belongs(file.name, group) or not file.is_file():
            continue
        if file.suffix == ".json":
            check_own_code(read_json(file), file)
        elif file.suffix == ".jinja":
            check_template(read_text(file), file)
    if belongs("model.safetensors", group) and any(folder.glob("model*.safetensors*")):
        headers(folder)


def read_json(file: Path, *needed: str) -> dict[str, Any]:
    """The object that a JSON file holds; ModelError when it cannot be read, is something else,
    lacks an entry or has one twice."""
    try:
        values = json.loads(read_text(file), object_pairs_hook=take_pairs)
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"this file is no JSON: {problem}", origin=file, remedy=AGAIN) from problem
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ModelError("a JSON object belongs here", given=kind, origin=file, remedy=AGAIN)
    missing = [name for name in needed if name not in values]
    if missing:
        raise ModelError("an entry is missing", expected=", ".join(missing), origin=file)
    return values


def read_text(file: Path) -> str:
    """The text of a file; ModelError when it is missing or no UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except (ValueError, OSError) as problem:
        raise ModelError(
            f"this file cannot be read: {problem}", origin=file, remedy=AGAIN
        ) from problem


def check_own_code(values: dict[str, Any], file: Path) -> None:
    """ModelError for a file that names code to be run, unless it is Lucida's own export."""
    named = values.get("auto_map")
    ours = isinstance(named, dict) and all(
        str(name).startswith("modeling_lucida.Lucida") for name in named.values()
    )
    if named and not ours:
        raise ModelError(
            "this model needs code of its own (`auto_map`), which is not run here",
            given=named,
            origin=file,
            remedy="take a model whose code transformers has, or remove the entry where it has it",
        )


def check_template(text: str, file: object) -> None:
    """ModelError when a chat template is no Jinja."""
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)  # transformers' own tag
        )
    except (jinja2.TemplateError, RecursionError) as problem:
        raise ModelError(
            f"the chat template cannot be parsed: {problem}", origin=file, remedy=AGAIN
        ) from problem


def weight_files(folder: Path) -> list[Path]:
    """The files of safetensors that a model is read from; ModelError when there are none, or one
    that an index names is missing."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():  # as transformers chooses
        return [single]
    if not index.is_file():
        raise ModelError(
            "the folder holds no weights",
            expected="model.safetensors, or model.safetensors.index.json and its files",
            given=", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "nothing",
            origin=folder,
            remedy="weights are safetensors here; a run is finished with `lucida train`",
        )
    mapped = read_json(index, "weight_map")["weight_map"]
    if not isinstance(mapped, dict) or not all(isinstance(each, str) for each in mapped.values()):
        raise ModelError("this index names no files", origin=index, remedy=AGAIN)
    names = sorted(set(mapped.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError("a file of weights is missing", expected=name, origin=index)
    return [folder / name for name in names]


def headers(folder: Path) -> dict[str, Stored]:
    """Every stored tensor of a model, by name; ModelError when a file is damaged, cut off, or holds
    what another one holds."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118
                    part = stored.get_slice(name)
                    entry = Stored(file, str(part.get_dtype()), tuple(part.get_shape()))
                    if name in found:
                        raise ModelError(f"{name} stands in two files", origin=file)
                    found[name] = entry
        except (SafetensorError, OSError, ValueError, KeyError) as problem:
            raise make_damage_error(file, problem) from problem
    return found


def make_damage_error(file: Path, problem: object) -> ModelError:
    """The error for weights that cannot be read to their end."""
    size = f"{file.stat().st_size:,} bytes" if file.is_file() else "no such file"
    return ModelError(
        f"the file of weights is damaged or cut off: {problem}",
        given=size,
        origin=file,
        remedy="get it again and compare its size with the publisher's",
    )


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file of safetensors; ModelError when it is damaged or missing."""
    try:
        with safe_open(file, "pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        raise make_damage_error(file, problem) from problem


def check_counts(values: Mapping[str, Any], stored: Mapping[str, Stored], file: Path) -> None:
    """ModelError for a configuration that asks for many more modules than there are tensors: making
    them would take for ever."""
    most = max(len(stored), FEW)
    for name, value in values.items():
        if isinstance(value, Mapping):
            check_counts(value, stored, file)
        elif MANY.search(name):
            counts = value if isinstance(value, list) else [value]
            if sum(each for each in counts if isinstance(each, int)) > most:
                raise ModelError(
                    f"`{name}` is far more than the {len(stored)} tensors of the weights can be",
                    expected=f"at most {most}",
                    given=value,
                    origin=file,
                    remedy=AGAIN,
                )


def check_shapes(
    model: nn.Module,
    stored: Mapping[str, Stored],
    config: Path,
    unused: tuple[str, ...] = (),
) -> None:
    """ModelError when the stored tensors are none for this model, which is on the meta device:
    another shape, whole numbers for weights, or far fewer numbers than it holds. `unused` names
    modules whose weights do not matter."""
    wanted = {id(value): value for value in model.state_dict(keep_vars=True).values()}
    needed = sum(value.numel() for value in wanted.values())
    given = sum(product(each.shape) for each in stored.values())
    for name, value in model.state_dict(keep_vars=True).items():
        found = stored.get(name)
        if found is None or name.startswith(tuple(f"{module}." for module in unused)):
            continue
        if tuple(value.shape) != found.shape:
            raise ModelError(
                f"{name} has another shape in the weights than {config.name} says",
                expected=tuple(value.shape),
                given=found.shape,
                origin=found.file,
                remedy=f"files of two models are mixed, or {config.name} was changed",
            )
        if value.is_floating_point() and found.dtype not in FLOATS:
            raise ModelError(
                f"{name} is not stored as weights are",
                expected=", ".join(FLOATS),
                given=found.dtype,
                origin=found.file,
                remedy="save the model in fp32, fp16 or bf16",
            )
    if needed > 2 * given + SPARE:
        raise ModelError(
            "the weights are far fewer than the configuration asks for",
            expected=f"about {needed:,} numbers",
            given=f"{given:,}",
            origin=config,
            remedy=f"files of two models are mixed, or {config.name} was changed",
        )


def are_channels(values: object, least: float) -> bool:
    """Are these a number for each of red, green and blue, finite and above `least`?"""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return False
    plain = all(type(each) in (int, float) for each in values)
    return plain and all(least < each < math.inf for each in values)


def product(shape: Sequence[int]) -> int:
    """Numbers in a tensor of this shape."""
    total = 1
    for side in shape:
        total *= side
    return total
