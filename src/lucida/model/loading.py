"""Loading parts of a checkpoint: quietly, and complete or not at all."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from lucida.core.errors import LucidaError, ModelError, PartError
from lucida.core.places import WHERE
from lucida.model.checksums import PROCESSOR
from lucida.model.folder import (
    CONFIG,
    check_counts,
    check_folder,
    check_own_code,
    check_shapes,
    headers,
    read_json,
)

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files that a tokenizer's vocabulary stands in."""


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Errors only: no progress bar, no table of weights that are left out on purpose."""
    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reachable(path: str, field: str) -> Iterator[None]:
    """Turns "not here, and the Hub does not answer" into a PartError that names the part."""
    try:
        yield
    except OSError as problem:
        if problem.errno is not None:  # the disk's own trouble is told elsewhere
            raise
        fetch = f"bring it here (`hf download {path}` where there is a network) or "
        raise PartError(
            f"`{path}` is not on this machine and cannot be had from the Hub",
            given=str(problem).strip().partition("\n")[0],
            origin=field,
            remedy=f"check the name, {'' if path[:1] in './~' else fetch}name a folder that has "
            f"it; {WHERE}: {Path.cwd()}",
        ) from problem


@contextmanager
def refusing(origin: str | Path, what: str = "this model cannot be loaded") -> Iterator[None]:
    """Turns whatever transformers and its libraries raise over a folder or file that is here into
    one ModelError that names it; of what is not here, OSError passes (see `reachable`)."""
    try:
        yield
    except (LucidaError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as problem:  # tokenizers' panics are no Exception
        if isinstance(problem, OSError) and not Path(origin).exists():
            raise
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        told = " ".join(lines[:3])[:300]
        raise ModelError(
            f"{what}: {type(problem).__name__}: {told}",
            origin=origin,
            remedy="get it again from where it came, or take the change back if it was edited",
        ) from problem


def load_tokenizer(path: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id; ModelError when its files are damaged."""
    folder, origin = Path(path), path
    what = "this tokenizer cannot be loaded"
    if folder.is_dir():
        check_folder(folder, PROCESSOR)
        found = [name for name in VOCABULARIES if (folder / name).is_file()]
        origin = folder / found[0] if found else folder
        what += "" if found else f" (there is no {' or '.join(VOCABULARIES)})"
    with quiet_loading(), refusing(origin, what):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)


def load_config(path: str) -> PreTrainedConfig:
    """The configuration of a folder or Hub id; ModelError when it is damaged or not known."""
    if Path(path).is_dir():
        check_own_code(read_json(Path(path) / CONFIG), Path(path) / CONFIG)
    with quiet_loading(), refusing(path, "its configuration cannot be used"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def load_whole(
    auto: Any,
    path: str,
    *,
    config: PreTrainedConfig | None = None,
    unused: tuple[str, ...] = (),
    depth: int = 0,
    init: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A pretrained model in fp32 from a folder or Hub id, whole or not at all.

    auto: the class of transformers that loads it. unused, depth: as in `complete`. init: arguments
    of the model itself. Weights are safetensors and code is transformers' own.
    """
    own = dict(init or {})
    folder = Path(path)
    if folder.is_dir():
        check_folder(folder)
        stored = headers(folder)
        check_counts(read_json(folder / CONFIG), stored, folder / CONFIG)
        shape = config if config is not None else load_config(path)
        with quiet_loading(), refusing(folder / CONFIG), torch.device("meta"):
            empty = auto.from_config(copy.deepcopy(shape), **own)
        check_shapes(empty, stored, folder / CONFIG, unused)
    if config is not None:
        options["config"] = config
    with quiet_loading(), refusing(path):
        model, report = auto.from_pretrained(
            path,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `complete` refuses them, with the file's name
            **own,
            **options,
        )
    complete(report, path, unused, beyond=model.state_dict(), depth=depth)
    return model


def complete(
    report: dict[str, Any],
    origin: str,
    unused: tuple[str, ...] = (),
    *,
    exact: bool = False,
    beyond: Iterable[str] = (),
    depth: int = 0,
) -> None:
    """Refuse weights that are not the configuration's: some are missing (transformers would make
    them up at random), have another shape, or are left over.

    `unused` names modules whose weights do not matter. Left over is everything under `exact`; else
    layers above the last one: names that equal those of `beyond` but for a number from `depth` on.
    """
    mismatched = {entry[0] for entry in report.get("mismatched_keys") or ()}
    wrong = sorted(
        name
        for name in set(report["missing_keys"]) | mismatched
        if not name.startswith(tuple(f"{module}." for module in unused))
    )
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights are missing or have another shape: {', '.join(wrong[:5])}",
            origin=origin,
            remedy="get the checkpoint again, or check that it is a model of the type it names",
        )
    left = sorted(report.get("unexpected_keys") or ())
    if not exact:
        left = further_layers(left, beyond, depth)
    if left:
        raise ModelError(
            f"{len(left)} weights belong to no part of the model that its configuration describes:"
            f" {', '.join(left[:5])}",
            origin=origin,
            remedy="files of two models are mixed, or config.json names fewer layers than there"
            " are; get it again, or save the model anew if it was cut on purpose",
        )


def further_layers(names: Iterable[str], known: Iterable[str], depth: int) -> list[str]:
    """Names that equal a known one but for their first number, which is `depth` or more.

    Worked example, `layers.0.w` known, depth 1: `layers.1.w` is one, `head.w` and `mtp.0.w` not.
    """
    kinds = {numberless(name)[0] for name in known}
    kinds |= {kind.partition(".")[2] for kind in kinds}  # files may leave the base model's name out
    found = []
    for name in names:
        kind, number = numberless(name)
        if number is not None and number >= depth and kind in kinds:
            found.append(name)
    return found


def numberless(name: str) -> tuple[str, int | None]:
    """A weight's name with its first number taken out, and the number."""
    found = re.search(r"(?<=\.)\d+(?=\.)", name)
    if found is None:
        return name, None
    return f"{name[: found.start()]}#{name[found.end() :]}", int(found[0])
