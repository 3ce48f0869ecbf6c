"""What a stage trains: patterns of parameter names become learning rates.

    train:                  language.layers.0.weight   2e-5    (language)
      language: 2e-5        language.norm.weight       1e-4    (*.norm: the last match wins)
      "*.norm": 1e-4        projector.0.weight         1e-3    (projector)
      projector: 1e-3       vision.embed.weight        frozen  (no pattern)

A pattern is matched, shell style, against the full name of a parameter and against the name of
every module above it, so a bare module name covers all below. `*` also crosses dots. What no
pattern names is frozen; a pattern that matches nothing is refused, because it is a typing mistake
or belongs to another model. Weights that two modules share answer to both names.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from lucida.core.errors import RecipeError
from lucida.core.spec import Rate


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Every parameter of a model: trained at a rate, or frozen.

    trained: name → (parameter, peak learning rate), in the model's order.
    rows: (pattern, rate, tensors, parameters) that each pattern decided, for the log.
    """

    trained: dict[str, tuple[nn.Parameter, float]]
    frozen: dict[str, nn.Parameter]
    rows: list[tuple[str, Rate, int, int]]

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of trained scalars and of all."""
        trained = sum(parameter.numel() for parameter, _ in self.trained.values())
        return trained, trained + sum(parameter.numel() for parameter in self.frozen.values())


def ancestry(name: str) -> list[str]:
    """The name and every module above it: `a.b.c` → `a.b.c`, `a.b`, `a`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def matches(pattern: str, name: str) -> bool:
    """Does `pattern` name this parameter or a module above it?"""
    return any(fnmatchcase(part, pattern) for part in ancestry(name))


def plan_stage(model: nn.Module, train: dict[str, Rate], origin: str) -> StagePlan:
    """Decide for every parameter; touches nothing.

    `origin` says whose patterns these are ("stage align of recipe mini"). RecipeError when a
    pattern is idle, a rate is not above zero, or nothing would train.
    """
    for pattern, rate in train.items():
        if rate != "frozen" and not (rate > 0 and math.isfinite(rate)):
            raise RecipeError(
                f"the learning rate of {pattern!r} is not above zero",
                given=rate,
                origin=origin,
                remedy="give a number such as 1e-4, or the word frozen",
            )
    aliases: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter

    trained, frozen, winner, met = {}, {}, {}, set()
    for key, names in aliases.items():
        hits = [pattern for pattern in train if any(matches(pattern, name) for name in names)]
        met.update(hits)
        rate = train[hits[-1]] if hits else "frozen"
        winner[key] = hits[-1] if hits else "(no pattern)"
        if rate == "frozen":
            frozen[names[0]] = parameters[key]
        else:
            trained[names[0]] = (parameters[key], float(rate))

    for pattern in train:
        if pattern not in met:
            everything = [name for names in aliases.values() for name in names]
            raise idle(pattern, everything, origin)
    if not trained:
        raise RecipeError(
            "nothing trains: every parameter ends up frozen",
            given=", ".join(f"{pattern}: {rate}" for pattern, rate in train.items()),
            origin=origin,
            remedy="the last match wins, so put wide patterns first",
        )
    rows = []
    for pattern in [*train, "(no pattern)"]:
        decided = [parameters[key] for key in parameters if winner[key] == pattern]
        if decided or pattern in train:
            size = sum(parameter.numel() for parameter in decided)
            rows.append((pattern, train.get(pattern, "frozen"), len(decided), size))
    return StagePlan(trained, frozen, rows)


def idle(pattern: str, names: list[str], origin: str) -> RecipeError:
    """The error for a pattern that matches nothing, with the nearest names there are."""
    candidates = list(dict.fromkeys(part for name in names for part in reversed(ancestry(name))))
    near = difflib.get_close_matches(pattern, candidates, n=3, cutoff=0.5)
    tops = list(dict.fromkeys(name.split(".")[0] for name in names))
    return RecipeError(
        f"train pattern {pattern!r} matches no parameter of this model",
        origin=origin,
        remedy=f"nearest names: {', '.join(near)}" if near else f"its modules: {', '.join(tops)}",
    )


def apply_plan(model: nn.Module, plan: StagePlan) -> None:
    """Freeze and unfreeze; what is wholly frozen also leaves training mode.

    Evaluation mode keeps the running statistics of a frozen convolutional encoder where they are
    and switches its dropout off, so that frozen means unchanged.
    """
    for parameter in plan.frozen.values():
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter, _ in plan.trained.values():
        parameter.requires_grad_(True)
    set_mode(model, training=True)


def set_mode(module: nn.Module, training: bool) -> None:
    """Training mode where something trains, evaluation mode where all is frozen, top down; a module
    without parameters (dropout) follows the one that holds it."""
    parameters = list(module.parameters())
    module.training = any(each.requires_grad for each in parameters) if parameters else training
    for child in module.children():
        set_mode(child, module.training)


def describe(plan: StagePlan) -> list[tuple[str, str, str, str]]:
    """Rows of the table in the log: pattern, learning rate, tensors, parameters."""
    table = []
    for pattern, rate, tensors, size in plan.rows:
        shown = rate if rate == "frozen" else f"{rate:g}"
        table.append((pattern, shown, str(tensors), f"{size:,}" if tensors else "overruled"))
    return table
