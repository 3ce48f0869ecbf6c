"""What a stage trains: patterns of parameter names become learning rates.

    train:                  language.layers.0.weight   2e-5    (language)
      language: 2e-5        language.norm.weight       1e-4    (*.norm: the last match wins)
      "*.norm": 1e-4        projector.0.weight         1e-3    (projector)
      projector: 1e-3       vision.embed.weight        frozen  (no pattern)

A pattern is matched, shell style, against the full name of a parameter and against the name of
every module above it, so a bare module name covers all below. `*` also crosses dots.
`vision.last(2)` names the last two layers of `vision` and nothing else (its final norm is no
layer). What no pattern names is frozen; a pattern that matches nothing is refused, because it is a
typing mistake or belongs to another model. Weights that two modules share answer to both names.

Adapters (`lora`) stand beside the linear layers that their own patterns name, and train whatever
`train` says of the matrix under them, which must be frozen.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from lucida.core.errors import RecipeError
from lucida.core.spec import LoraSpec, Rate, Recipe
from lucida.data.mixture import Part, Source
from lucida.model.adapters import adaptable, adapter_size
from lucida.model.masks import is_asked_whole
from lucida.training.blocks import blocks, whole_models

LAST = re.compile(r"(?P<module>.+)\.last\((?P<count>[^()]*)\)")
"""`MODULE.last(K)`: the last K layers of a module."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Every parameter of a model: trained at a rate, or frozen.

    trained: name → (parameter, peak learning rate), in the model's order.
    rows: (pattern, rate, tensors, parameters) that each pattern decided, for the log.
    adapted: names of the linear layers that get an adapter; adapters: their weights in all.
    """

    trained: dict[str, tuple[nn.Parameter, float]]
    frozen: dict[str, nn.Parameter]
    rows: list[tuple[str, Rate, int, int]]
    adapted: tuple[str, ...] = ()
    adapters: int = 0

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of trained scalars and of all, adapters among them."""
        trained = sum(parameter.numel() for parameter, _ in self.trained.values()) + self.adapters
        return trained, trained + sum(parameter.numel() for parameter in self.frozen.values())

    def touches(self, module: str) -> bool:
        """Does anything of this module, or an adapter in it, train?"""
        names = (*self.trained, *self.adapted)
        return any(name == module or name.startswith(f"{module}.") for name in names)


def ancestry(name: str) -> list[str]:
    """The name and every module above it: `a.b.c` → `a.b.c`, `a.b`, `a`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def matches(pattern: str, name: str) -> bool:
    """Does `pattern` name this parameter or a module above it?"""
    return any(fnmatchcase(part, pattern) for part in ancestry(name))


def expand(model: nn.Module, pattern: str, origin: str) -> list[str]:
    """The pattern itself, or the names of the layers that `MODULE.last(K)` stands for.

    RecipeError when there is no such module, K is no number from 1 on, or there are fewer layers.
    """
    parts = LAST.fullmatch(pattern)
    if parts is None:
        return [pattern]
    module, count = parts["module"], parts["count"].strip()
    modules = dict(model.named_modules())
    if module not in modules:
        raise idle(pattern, module, [name for name in modules if name], origin)
    if not count.isdecimal() or int(count) == 0:
        raise RecipeError(
            f"{pattern!r} has to say how many layers",
            expected="a number from 1 on",
            given=count or "nothing",
            origin=origin,
        )
    inside = whole_models(modules[module], module)
    if len(inside) > 1:
        raise RecipeError(
            f"{pattern!r} is not clear: {module} holds {len(inside)} models",
            origin=origin,
            remedy=f"name one of {', '.join(f'{name}.last({count})' for name in inside)}",
        )
    layers = [f"{module}.{name}" for name in blocks(modules[module])]
    if len(layers) < int(count):
        raise RecipeError(
            f"{module} has fewer layers than {pattern!r} names",
            expected=f"at most {len(layers)}",
            given=int(count),
            origin=origin,
        )
    return layers[-int(count) :]


def plan_stage(
    model: nn.Module, train: dict[str, Rate], origin: str, lora: LoraSpec | None = None
) -> StagePlan:
    """Decide for every parameter of a model without adapters; touches nothing.

    `origin` says whose patterns these are ("stage align of recipe mini"). RecipeError when a
    pattern is idle, a rate is not above zero, a quantised weight or one under an adapter would
    train, or nothing would.
    """
    for pattern, rate in train.items():
        if rate != "frozen" and not (rate > 0 and math.isfinite(rate)):
            raise RecipeError(
                f"the learning rate of {pattern!r} is not above zero",
                given=rate,
                origin=origin,
                remedy="give a number such as 1e-4, or the word frozen",
            )
    # A tied weight answers to all of its names, and trains once, under the first of them.
    aliases: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    everything = [name for names in aliases.values() for name in names]
    meant = {pattern: expand(model, pattern, origin) for pattern in train}
    trained, frozen, winner, met = {}, {}, {}, set()
    for key, names in aliases.items():
        hits = [pattern for pattern in train if matches_any(meant[pattern], names)]
        met.update(hits)  # overruled everywhere is no mistake, naming nothing is
        rate = train[hits[-1]] if hits else "frozen"
        winner[key] = hits[-1] if hits else "(no pattern)"
        if rate == "frozen":
            frozen[names[0]] = parameters[key]
        else:
            trained[names[0]] = (parameters[key], float(rate))
    for pattern in train:
        if pattern not in met:
            raise idle(pattern, pattern, everything, origin)
    refuse_quantised(trained, origin)
    adapted = () if lora is None else adapter_targets(model, lora, origin)
    refuse_twice(trained, adapted, origin)
    if not trained and not adapted:
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
    adapters = 0
    if lora is not None:
        adapters = adapter_size(model, adapted, lora)
        tensors = (3 if lora.dora else 2) * len(adapted)
        rows.append((adapter_label(lora), lora.rate, tensors, adapters))
    return StagePlan(trained, frozen, rows, adapted, adapters)


def matches_any(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Does one of the patterns match one of the names?"""
    return any(matches(pattern, name) for pattern in patterns for name in names)


def adapter_label(lora: LoraSpec) -> str:
    """How the log calls the adapters: `DoRA of rank 16 on language`."""
    kind = "DoRA" if lora.dora else "LoRA"
    return f"{kind} of rank {lora.rank} on {', '.join(lora.targets)}"


def adapter_targets(model: nn.Module, lora: LoraSpec, origin: str) -> tuple[str, ...]:
    """Names of the linear layers that the patterns of `lora.targets` name, in the model's order.

    RecipeError for a pattern that names no linear layer.
    """
    linear = adaptable(model)
    found: set[str] = set()
    for pattern in lora.targets:
        meant = expand(model, pattern, origin)
        hits = [name for name in linear if matches_any(meant, [name])]
        if not hits:
            raise idle(pattern, pattern, list(linear), origin, "lora target", "linear layer")
        found.update(hits)
    return tuple(name for name in linear if name in found)


def refuse_quantised(trained: dict[str, tuple[nn.Parameter, float]], origin: str) -> None:
    """RecipeError when a weight that is held in a few bits would train by itself."""
    for name, (parameter, rate) in trained.items():
        if not parameter.is_floating_point():
            raise RecipeError(
                f"{name} is quantised ({parameter.dtype}) and cannot train by itself",
                given=f"rate {rate:g}",
                origin=origin,
                remedy="freeze it and train adapters beside it (`lora`), or set "
                "model.language.quantize=null",
            )


def refuse_twice(
    trained: dict[str, tuple[nn.Parameter, float]], adapted: Iterable[str], origin: str
) -> None:
    """RecipeError when a matrix would train both by itself and through its adapter."""
    for name in adapted:
        if f"{name}.weight" in trained:
            rate = trained[f"{name}.weight"][1]
            raise RecipeError(
                f"{name} would train twice: by itself and through its adapter",
                given=f"rate {rate:g} in `train`, and a target of `lora`",
                origin=origin,
                remedy="freeze it in `train`, or take it out of lora.targets",
            )


def check_mask(recipe: Recipe, index: int, origin: str, sources: Mapping[str, Source]) -> None:
    """RecipeError for a mask that the data of stage number `index` do not fit.

    Pictures with several isolated questions (a source says how many `branches` its samples have)
    are refused here, before any stage trains, and not at their first batch.
    """
    spec = recipe.stages[index]
    name = recipe.resolve(spec).attention_mask
    if not is_asked_whole(name):
        return
    for where, source in sources.items():
        while isinstance(source, Part):
            source = source.source
        if (several := getattr(source, "branches", 1)) > 1:
            key = f"stages.{spec.name}.mixture.sources.{where}.questions"
            mask = f"stages.{spec.name}" if spec.attention_mask else "model"
            raise RecipeError(
                f"under the attention mask `{name}` an image sees the question: several isolated "
                "questions cannot share one",
                expected=f"{key}=1",
                given=f"{several} questions behind an image",
                origin=origin,
                remedy=f"set {key}=1, or choose another {mask}.attention_mask",
            )


def idle(
    pattern: str,
    meant: str,
    names: list[str],
    origin: str,
    kind: str = "train pattern",
    wanted: str = "parameter",
) -> RecipeError:
    """The error for a pattern that matches nothing, with the names nearest to what was `meant`."""
    candidates = list(dict.fromkeys(part for name in names for part in reversed(ancestry(name))))
    near = difflib.get_close_matches(meant, candidates, n=3, cutoff=0.5)
    tops = list(dict.fromkeys(name.split(".")[0] for name in names))
    return RecipeError(
        f"{kind} {pattern!r} matches no {wanted} of this model",
        origin=origin,
        remedy=f"nearest names: {', '.join(near)}" if near else f"its modules: {', '.join(tops)}",
    )


def apply_plan(model: nn.Module, trained: dict[str, tuple[nn.Parameter, float]]) -> None:
    """Unfreeze what trains, freeze the rest; what is wholly frozen also leaves training mode.

    `trained` is `StagePlan.trained`, with the adapters of the stage where there are any.

    Evaluation mode keeps the running statistics of a frozen convolutional encoder where they are
    and switches its dropout off, so that frozen means unchanged.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for parameter, _ in trained.values():
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
