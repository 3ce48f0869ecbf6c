"""The language-only recipe that a recipe is compared with: same data, same questions, no images.

What a blind model scores is what the benchmark gives away without looking. A trained one is the
honest baseline: it has learned the format, the answer lengths and the most frequent answers.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from lucida.core.errors import RecipeError
from lucida.core.spec import BudgetSpec, LoraSpec, Recipe

SIGHT = ("vision", "projector", "cross_attention")
"""Modules that a blind model does not have."""


def names_only_sight(pattern: str) -> bool:
    """True for patterns that name what only a seeing model has, nothing of the language model."""
    top = pattern.split(".")[0]
    sight = any(fnmatchcase(module, top) for module in SIGHT)
    return sight and not fnmatchcase("language", top)


def blind_adapters(lora: LoraSpec | None) -> LoraSpec | None:
    """The adapters that a blind model has too; None when there are none."""
    if lora is None:
        return None
    targets = [pattern for pattern in lora.targets if not names_only_sight(pattern)]
    return lora.model_copy(update={"targets": targets}) if targets else None


def blind_recipe(recipe: Recipe) -> Recipe:
    """The blind baseline of a recipe, as a recipe: no vision, at most `blind.steps` steps a stage.

    Patterns that name vision, projector or gated layers go, of `train` and of `lora.targets` alike,
    and so does a stage in which nothing else trained (aligning a projector has no blind
    counterpart).
    """
    if recipe.blind is None:
        raise RecipeError(
            "the recipe has no blind baseline",
            origin=f"recipe {recipe.name}",
            remedy="add `blind: {steps: N}` to it",
        )
    if recipe.model.vision is None:
        raise RecipeError(
            "the recipe is language-only already: model.vision is null",
            origin=f"recipe {recipe.name}",
        )
    stages = []
    for stage in recipe.stages:
        kept = {p: rate for p, rate in stage.train.items() if not names_only_sight(p)}
        lora = blind_adapters(stage.lora)
        if lora is not None or any(rate != "frozen" for rate in kept.values()):
            steps = min(recipe.blind.steps, stage.budget.steps or recipe.blind.steps)
            changes = {"train": kept, "lora": lora, "budget": BudgetSpec(steps=steps)}
            changes["keep"] = False
            stages.append(stage.model_copy(update=changes))
    if not stages:
        raise RecipeError(
            "no stage trains language weights, so a blind model has nothing to learn",
            origin=f"recipe {recipe.name}",
            remedy="remove `blind`",
        )
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-blind",
            "description": f"Language-only baseline of {recipe.name}.",
            "model": recipe.model.model_copy(update={"vision": None, "cross_attention": None}),
            "stages": stages,
            "blind": None,
            "evaluation": recipe.evaluation.model_copy(update={"retention": None}),
        }
    )
