"""What runs have in common that are one run, one trained model, or begin with the same stages."""

from __future__ import annotations

from lucida.core.recipe import recipe_hash
from lucida.core.spec import Recipe

STAGES = "stages"
"""Where a study's folder has the first stages that runs share (`study.shared_stages`)."""


def key_of(recipe: Recipe) -> str:
    """What two runs have in common that are one: the recipe but for its name, the seed included."""
    return recipe_hash(recipe.model_copy(update={"name": "same"}))


def key_of_training(recipe: Recipe) -> str:
    """What two runs have in common whose trained models are one: all but how the model is asked
    once it is trained. Where it is asked on the way, that is a part of the training."""
    looks = any(stage.evaluate_every or stage.ending is not None for stage in recipe.stages)
    if not looks:
        asked = recipe.evaluation.model_copy(update={"visual_tokens": None})
        recipe = recipe.model_copy(update={"evaluation": asked})
    return key_of(recipe)


def keys_of_stages(recipe: Recipe) -> list[str]:
    """A key for the first stage, the first two, and so on: equal where two runs train them alike.
    The blind baseline of a run trains behind all of them, in a folder of its own."""
    firsts = (recipe.stages[: number + 1] for number in range(len(recipe.stages)))
    return [
        key_of_training(recipe.model_copy(update={"stages": stages, "blind": None}))
        for stages in firsts
    ]
