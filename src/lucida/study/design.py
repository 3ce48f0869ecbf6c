"""What a study asks: a baseline, named changes, seeds, and what was declared before the first run.

    name: vision-trained
    question: Does it help to train the vision encoder as well?
    baseline: mini                     # a preset, or a recipe file beside this one
    common:                            # in every arm
      stages.sft.budget.steps: 480
    changes:                           # an arm each; keys as on the command line
      trained: {stages.sft.train.vision: 6e-3}
    seeds: [0, 1, 2]
    evaluation: {tasks: [attribute, counting], limit: 200}
    primary: {outcome: mean, margin: 3}

`grid` (key → values) makes an arm of every combination, `factors` (name → changes) a two-level
fractional factorial. All arms of a seed have the seed's data order, the same examples and the same
initial projector, since nothing but the declared changes may differ.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from lucida.core.document import dump_document, read_document
from lucida.core.errors import RecipeError, suggestion
from lucida.core.recipe import diff_recipes, load_recipe, recipe_hash
from lucida.core.spec import Recipe
from lucida.core.spec.value import Spec
from lucida.study.keys import key_of, key_of_training, keys_of_stages

STUDIES = Path(__file__).parent.parent / "studies"
BASELINE = "baseline"
MEAN = "mean"
"""The outcome that is the mean over all tasks."""
FIXED = ("seed", "name", "evaluation", "blind", "threads", "precision")
"""What is the same in all arms, so that no change may touch it."""
ASKING = "evaluation.visual_tokens"
"""What of the evaluation an arm may change all the same: how a trained model is asked. Arms that
differ in nothing else are trained once."""

Changes = dict[str, object]
ArmName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]*$")]


class Asked(Spec):
    """What every run is asked once it is trained."""

    tasks: list[str] = Field(min_length=1)
    limit: int | None = Field(default=None, gt=0)
    """Largest number of examples per task; null takes all."""
    blind: int | None = Field(default=None, gt=0)
    """Steps of a blind baseline beside every run; null trains none, and scores are normalised by
    chance."""
    curve: int | None = Field(default=None, gt=0)
    """Steps between scores on the way (64 examples of each task), for outcomes of how soon."""


class Primary(Spec):
    """What was declared to count, before the first run."""

    outcome: str = MEAN
    """A task, or `mean` over all of them."""
    contrast: list[ArmName] = Field(default=[])
    """Arms compared with the baseline under Holm's correction; empty takes all. The others are
    exploratory."""
    margin: float = Field(gt=0)
    """Points of a difference that does not matter: equivalence is tested against it."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    looks: list[int] = Field(default=[])
    """Numbers of seeds after which the study is looked at and may stop, the last of them all seeds;
    levels are adjusted for it. Empty looks once, at the end."""


class Noise(Spec):
    """Standard deviations in points of a paired difference, for planning."""

    seed: float = Field(ge=0)
    """Between training seeds, pictures apart."""
    picture: float = Field(ge=0)
    """Between pictures of the mean difference over seeds."""
    rest: float = Field(ge=0)
    """Of one picture under one seed beyond both."""


class Study(Spec):
    """A study file."""

    name: ArmName
    question: str = ""
    claim: str = ""
    """Id of the published finding that is put to the test (`claims.yaml`)."""
    baseline: str
    common: Changes = Field(default={})
    changes: dict[ArmName, Changes] = Field(default={})
    grid: dict[str, list[object]] = Field(default={})
    factors: dict[ArmName, Changes] = Field(default={})
    fraction: int = Field(default=0, ge=0)
    """Factors that are products of the others: 2^(k-p) arms instead of 2^k."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    evaluation: Asked
    primary: Primary
    pairs: list[tuple[ArmName, ArmName]] = Field(default=[])
    """Arms that are compared as well, the first against the second; exploratory."""
    noise: Noise | None = None
    """What planning takes where no study has measured it yet."""
    pooled: bool = True
    """Seed noise of all arms together; false takes each arm's own."""

    @model_validator(mode="after")
    def whole(self) -> Study:
        if not (self.changes or self.grid or self.factors):
            raise ValueError("a study needs `changes`, `grid` or `factors`")
        if BASELINE in self.changes:
            raise ValueError(f"`{BASELINE}` is the unchanged recipe; call the change otherwise")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice")
        if self.primary.outcome not in (MEAN, *self.evaluation.tasks):
            raise ValueError(
                f"primary.outcome is `{self.primary.outcome}`; expected {MEAN} or one of "
                + ", ".join(self.evaluation.tasks)
            )
        if wrong := [list(each) for each in self.pairs if len({*each, BASELINE}) < 3]:
            raise ValueError(f"the pair {wrong[0]} has to name two arms beside the baseline")
        looks = self.primary.looks
        if looks and (looks != sorted(set(looks)) or looks[0] < 2 or looks[-1] != len(self.seeds)):
            raise ValueError(
                f"primary.looks {looks} have to rise from at least 2 seeds to all {len(self.seeds)}"
            )
        free = len(self.factors) - self.fraction
        most = free + 1 if free > 2 else 1  # of two factors there is one product
        if self.fraction and (free < 2 or self.fraction > most):
            raise ValueError(
                f"`fraction` {self.fraction} of {len(self.factors)} factors leaves {max(0, free)} "
                "free, whose products are too few to tell the others apart"
            )
        return self


@dataclass(frozen=True)
class Design:
    """A study with its recipes: arm → changes, the baseline first."""

    study: Study
    arms: dict[str, Changes]
    base: str
    """How `load_recipe` finds the baseline."""

    def recipe(self, arm: str, seed: int) -> Recipe:
        """The resolved recipe of one run."""
        study = self.study
        fixed = {
            "name": f"{study.name}-{arm}",
            "seed": seed,
            "blind": None if study.evaluation.blind is None else {"steps": study.evaluation.blind},
            "evaluation.tasks": study.evaluation.tasks,
            "evaluation.limit": study.evaluation.limit,
            "evaluation.baselines": [],  # they treble the asking, and no comparison needs them
            "threads": 1,
        }
        # The last word counts: what is fixed cannot be changed by an arm.
        words = [*words_of(study.common), *words_of(self.arms[arm]), *words_of(fixed)]
        recipe = load_recipe(self.base, words)
        fixed = {}
        if recipe.precision == "auto":  # decided by a trial of speed, it might differ between arms
            fixed["precision"] = "fp32"
        if study.evaluation.curve is not None:
            for stage in recipe.stages:
                fixed[f"stages.{stage.name}.evaluate_every"] = study.evaluation.curve
        # Read twice: its stages and precision are only known once everything else is applied.
        return load_recipe(self.base, [*words, *words_of(fixed)])

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Arm → recipe of the first seed."""
        return {arm: self.recipe(arm, self.study.seeds[0]) for arm in self.arms}

    @property
    def contrasts(self) -> list[str]:
        """Arms of the primary comparison."""
        return self.study.primary.contrast or [arm for arm in self.arms if arm != BASELINE]

    @property
    def runs(self) -> Iterator[tuple[str, int]]:
        """Every arm and seed; whole seeds come first, so that a stopped study is balanced."""
        return ((arm, seed) for seed in self.study.seeds for arm in self.arms)

    @cached_property
    def trained_by(self) -> dict[str, str]:
        """Arm → the arm before it that trains the same model, where there is one."""
        first: dict[str, str] = {}
        found = {}
        for arm, recipe in self.recipes.items():
            owner = first.setdefault(key_of_training(recipe), arm)
            if owner != arm:
                found[arm] = owner
        return found

    @cached_property
    def shared_stages(self) -> dict[str, int]:
        """Arm → how many of its first stages an arm before it trains alike, with the same seed."""
        found, seen = {}, set()
        for arm, recipe in self.recipes.items():
            keys = keys_of_stages(recipe)
            found[arm] = sum(key in seen for key in keys)
            seen |= set(keys)
        return found

    @cached_property
    def hash(self) -> str:
        """16 hex digits of everything that was declared: recipes, seeds, evaluation, primary. More
        seeds are another declaration; the question in other words is not."""
        # What needs no other run or verdict; of the baseline the recipe counts.
        silent = {"question", "noise", "claim", "baseline", "pairs"}
        declared = self.study.model_dump(mode="json", exclude=silent)
        declared |= {"arms": {arm: recipe_hash(each) for arm, each in self.recipes.items()}}
        text = json.dumps(declared, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, arm: str) -> list[str]:
        """One line for every value of the recipe that differs from the baseline's."""
        lines = diff_recipes(self.recipes[BASELINE], self.recipes[arm])
        return [line for line in lines if not line.startswith("name:")]

    @property
    def notes(self) -> list[str]:
        """What has to be known before the first run."""
        found = []
        places = {stage.name: at for at, stage in enumerate(self.recipes[BASELINE].stages)}
        for arm, recipe in self.recipes.items():
            for at, stage in enumerate(recipe.stages):
                if places.get(stage.name, at) != at:
                    found.append(
                        f"{arm}: stage {stage.name} is number {at + 1}, in the baseline "
                        f"{places[stage.name] + 1}; its data come in another order"
                    )
        for owner in dict.fromkeys(self.trained_by.values()):
            arms = [arm for arm, by in self.trained_by.items() if by == owner]
            found.append(f"{', '.join(arms)}: the model that {owner} has trained, asked otherwise")
        arms = [
            arm for arm, many in self.shared_stages.items() if many and arm not in self.trained_by
        ]
        if arms:
            found.append(f"{', '.join(arms)}: go on behind first stages that another arm trains")
        if len(self.study.seeds) == 1:
            found.append("one seed: nothing can be said about chance, every verdict stays open")
        return found


def studies() -> dict[str, Path]:
    """The studies that ship, by name."""
    paths = sorted(STUDIES.glob("*.yaml"))
    return {path.stem: path for path in paths if path.stem not in ("claims", "evidence")}


def find_study(name: str | Path) -> Path:
    """The file of a shipped study's name or of a path."""
    if str(name) in (known := studies()):
        return known[str(name)]
    if Path(name).is_dir() and (Path(name) / "study.yaml").is_file():
        return Path(name) / "study.yaml"
    if not Path(name).is_file():
        raise RecipeError(
            f"there is no study `{name}`, neither one that ships nor a file",
            remedy=suggestion(str(name), known),
        )
    return Path(name)


def load_design(name: str | Path) -> Design:
    """The study of a name or file with all recipes resolved; RecipeError for every mistake: a
    change that changes nothing or touches what all arms share, two arms that are one recipe."""
    path = find_study(name)
    try:
        study = Study.model_validate(read_document(path).data)
    except ValidationError as problem:
        raise RecipeError(tell_invalid("study", problem), origin=path) from problem
    return make_design(study, path.parent, path)


def tell_invalid(kind: str, problem: ValidationError) -> str:
    """What is wrong with a file of this kind, in one line."""
    lines = [
        f"{'.'.join(map(str, each['loc'])) or kind}: {each['msg']}"
        for each in problem.errors(include_url=False)
    ]
    return f"this {kind} cannot be followed: " + "; ".join(lines)


def find_base(baseline: str, folder: Path) -> str:
    """How `load_recipe` finds a baseline that may be a file in `folder`."""
    beside = folder / baseline.partition("#")[0]
    return str(folder / baseline) if beside.is_file() else baseline


def make_design(study: Study, folder: Path = Path(), origin: object = "study") -> Design:
    """The same for a study in memory; `folder` is where its baseline's file may stand."""
    arms = {BASELINE: {}} | dict(all_changes(study))
    design = Design(study, arms, find_base(study.baseline, folder))
    named = [("primary.contrast", study.primary.contrast), *(("pairs", p) for p in study.pairs)]
    for key, arms in named:
        if unknown := [arm for arm in arms if arm not in design.arms]:
            remedy = suggestion(unknown[0], design.arms)
            raise RecipeError(f"{key} names no arm `{unknown[0]}`", origin=origin, remedy=remedy)
    for arm, changes in [("common", study.common), *design.arms.items()]:
        # `common` may choose the precision, as it chooses it for all.
        shared = FIXED[:-1] if arm == "common" else FIXED
        touched = [key for key in changes if key.split(".")[0] in shared and not is_asking(key)]
        if touched:
            raise RecipeError(
                f"{arm} changes `{touched[0]}`, which is the same in all arms of a seed",
                origin=origin,
                remedy="say it in the study's own `seeds` and `evaluation`",
            )
    _refuse_equal(design, origin)
    return design


def _refuse_equal(design: Design, origin: object) -> None:
    seen: dict[str, str] = {}
    for arm, recipe in design.recipes.items():
        key = key_of(recipe)
        if key in seen:
            other = seen[key]
            what = "changes nothing" if other == BASELINE else f"is the same recipe as {other}"
            raise RecipeError(
                f"the arm {arm} {what}",
                given=json.dumps(design.arms[arm]),
                origin=origin,
                remedy="change a value that the baseline has otherwise (`lucida show`)",
            )
        seen[key] = arm


def is_asking(key: str) -> bool:
    """Whether a key of a recipe says how a trained model is asked (`ASKING`)."""
    return key == ASKING or key.startswith(f"{ASKING}.")


def all_changes(study: Study) -> Iterator[tuple[str, Changes]]:
    """Arm → changes: the named ones, the grid's and the factorial's."""
    yield from study.changes.items()
    for values in itertools.product(*study.grid.values()) if study.grid else ():
        changes = dict(zip(study.grid, values, strict=True))
        yield "-".join(f"{key.split('.')[-1]}.{_word(v)}" for key, v in changes.items()), changes
    for levels in factorial(len(study.factors), study.fraction):
        on = [name for name, level in zip(study.factors, levels, strict=True) if level > 0]
        if on:
            merged: Changes = {}
            for name in on:
                merged |= study.factors[name]
            yield "+".join(on), merged


def factorial(factors: int, fraction: int = 0) -> list[tuple[int, ...]]:
    """Levels -1 and 1 of a 2^(k-p) design; the last p factors are products of the free ones: one of
    all of them, several of all but one each (and one more of all). With no factor none.

    Where four or more are free, up to as many others are mixed up with products of three only
    (resolution IV), else with products of two. Signs are such that everything off is a run.

    Worked example: 3 factors, fraction 1 gives (-1,-1,-1), (-1,1,1), (1,-1,1), (1,1,-1). Reference:
    Box, Hunter and Hunter, Statistics for Experimenters, chapter 12.
    """
    if not factors:
        return []
    free = factors - fraction
    # ABCD and BCD differ by A alone: with both of them A is mixed up with a product of two factors.
    # So the product of all comes last.
    left_out = [None] if fraction == 1 else [*range(free), None][:fraction]
    rows = []
    for levels in itertools.product((-1, 1), repeat=free):
        used = [[v for at, v in enumerate(levels) if at != each] for each in left_out]
        # An even number of levels -1 has the product 1, which is turned, so that all stay off.
        extra = [math.prod(each) if len(each) % 2 else -math.prod(each) for each in used]
        rows.append((*levels, *extra))
    return rows


def words_of(changes: Mapping[str, object]) -> list[str]:
    """Changes as the command line has them: JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def study_text(study: Study) -> str:
    """The study as YAML with every default."""
    return dump_document(study.model_dump(mode="json"))


def _word(value: object) -> str:
    text = str(value).lower()
    return "".join(c if c.isalnum() or c in "._+" else "_" for c in text)[:24]
