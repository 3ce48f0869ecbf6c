"""The JSON schema of what a recipe file may hold, for editors and for checks without Lucida.

    # yaml-language-server: $schema=FILE        FILE is what `lucida schema` prints

    a whole recipe                  model: …, stages: …
    a difference from another       base: …, changes: {dotted.key: value}
    a family of several             family: …, recipes: {name: a recipe or a difference}

What depends on more than one value (exactly one budget, distinct names of stages) is checked when a
recipe is loaded, not here.
"""

from __future__ import annotations

from typing import Any

from lucida.core.families import DIFFERENCE_KEYS, FAMILY_KEYS
from lucida.core.spec import Recipe

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema of a recipe file (JSON Schema 2020-12): every form that `load_recipe` reads."""
    recipe = Recipe.model_json_schema()
    parts = recipe.pop("$defs")
    name = recipe["properties"]["name"]
    member = {key: value for key, value in recipe.items() if key not in ("required", "title")}
    member["required"] = [key for key in recipe["required"] if key != "name"]
    member["description"] = "A whole recipe; the key that it stands under is its name."
    forms = {
        "RecipeFile": recipe,
        "Member": member,
        "Difference": difference(recipe["properties"]),
        "Family": family(name),
    }
    return {
        "$schema": DRAFT,
        "title": "Lucida recipe file",
        "description": "A recipe, a difference from another recipe, or a family of several.",
        **chosen("recipes", "Family", chosen("base", "Difference", {"$ref": "#/$defs/RecipeFile"})),
        "$defs": {**forms, **parts},
    }


def difference(fields: dict[str, Any]) -> dict[str, Any]:
    """A recipe by what it changes of another; `fields` are those of a whole recipe."""
    own = {
        "base": {
            "type": "string",
            "minLength": 1,
            "description": "The recipe that this one starts from: a preset, another recipe of the "
            "same family, or a file beside this one (FILE#NAME for one of a family).",
        },
        "changes": {
            "type": "object",
            "propertyNames": {"pattern": rf"^({'|'.join(fields)})(\.|$)"},
            "description": "Dotted key -> value, with keys and meaning as on the command line: "
            "stages.sft.budget.steps: 10. An entry that cannot be null is removed by null.",
        },
    }
    shared = {key: fields[key] for key in DIFFERENCE_KEYS if key not in own}
    return {
        "type": "object",
        "description": "A recipe as a named difference from another.",
        "properties": {key: own.get(key) or shared[key] for key in DIFFERENCE_KEYS},
        "required": ["base"],
        "additionalProperties": False,
    }


def family(name: dict[str, Any]) -> dict[str, Any]:
    """A file of several recipes; `name` is the schema of a recipe's name."""
    entry = chosen("base", "Difference", {"$ref": "#/$defs/Member"})
    title = {"type": "string", "description": "What the recipes have in common, in words."}
    recipes = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": name["pattern"]},
        "additionalProperties": {"type": "object", **entry},
        "description": "Name -> a whole recipe, or a difference from another.",
    }
    return {
        "type": "object",
        "description": "A file of several recipes.",
        "properties": dict(zip(FAMILY_KEYS, (title, recipes), strict=True)),
        "required": list(FAMILY_KEYS),
        "additionalProperties": False,
    }


def chosen(key: str, form: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    """`form` where there is this key: its mistakes are then told as its own."""
    return {"if": {"required": [key]}, "then": {"$ref": f"#/$defs/{form}"}, "else": otherwise}
