"""A model that a recipe goes on from (`model.from`): its folder, and what it is made of.

    model: {from: runs/mine}            a finished run, an export for Lucida, an import
    model: {from: runs/mine@align}      the end of a stage that was kept (`stages.align.keep`)

Only JSON is read here; the weights are `model.checkpoint.build`'s. What the recipe leaves out of
the design is filled in when it is loaded, so that everybody who reads a recipe sees all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lucida.core.document import read_document
from lucida.core.errors import RecipeError, suggestion
from lucida.core.fields import short
from lucida.core.places import WHERE
from lucida.core.spec import ModelSpec

PLACE = "model.from"
KEPT = "stages"
"""Folder of a run with the models at the ends of the stages that were kept, by name."""
OF_THE_ASKING = {
    "attention_mask",
    "language.template",
    "language.images",
    "language.max_length",
}
"""What of a design says how a model is asked, not what it is: a recipe may choose anew."""


def find_start(text: str) -> Path:
    """The folder that holds the model which `model.from` names; RecipeError when there is none."""
    folder = Path(text).expanduser()
    if folder.is_dir():
        return _find_whole(folder, text)
    run, at, stage = text.rpartition("@")
    if at and Path(run).expanduser().is_dir():
        return find_stage_end(Path(run).expanduser(), stage, text)
    raise RecipeError(
        "there is no such folder to go on from",
        expected="a run, RUN@STAGE, or a folder with a model that Lucida wrote",
        given=f"{text} (looked for in {folder.absolute().parent})",
        origin=PLACE,
        remedy="`lucida runs` lists the runs; a model of the Hub has to be fetched first; " + WHERE,
    )


def find_stage_end(run: Path, stage: str, text: str) -> Path:
    """The folder with the model at the end of a stage of a run: of its last one the run itself."""
    names = _read_stages(run)
    if stage not in names:
        raise RecipeError(
            f"this run has no stage `{stage}`",
            given=text,
            origin=PLACE,
            remedy=suggestion(stage, names) if names else "name a run folder before the @",
        )
    if stage == names[-1]:
        return _find_whole(run, text)
    kept = run / KEPT / stage
    if not (kept / "config.json").is_file():
        others = [name for name in names if (run / KEPT / name / "config.json").is_file()]
        raise RecipeError(
            f"the end of stage `{stage}` was not kept",
            expected=kept / "config.json",
            given=f"kept: {', '.join(others) or 'none'}",
            origin=PLACE,
            remedy=f"train {run} again with stages.{stage}.keep=true, or go on from the run's end",
        )
    return kept


def _read_stages(run: Path) -> list[str]:
    """The names of a run's stages; none where this is no run."""
    try:
        return [str(stage["name"]) for stage in read_document(run / "recipe.yaml").data["stages"]]
    except (RecipeError, KeyError, TypeError):
        return []


def _find_whole(folder: Path, text: str) -> Path:
    """The folder itself, when a model stands in it."""
    if (folder / "config.json").is_file():
        return folder
    if (folder / "recipe.yaml").is_file():
        kept = [each for each in _read_stages(folder) if (folder / KEPT / each).is_dir()]
        ends = f", or go on from a stage that is over: {folder}@{kept[-1]}" if kept else ""
        raise RecipeError(
            "this run is not finished, so there is no model to go on from",
            given=text,
            origin=PLACE,
            remedy=f"finish it: lucida train {folder}{ends}",
        )
    raise RecipeError(
        "this folder holds no model",
        expected="config.json",
        given=text,
        origin=PLACE,
        remedy="name a finished run, an export or what `lucida import` wrote",
    )


def read_design(text: str) -> ModelSpec:
    """What the model is made of that `model.from` names; RecipeError where that is no model of
    Lucida's."""
    file = find_start(text) / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind, spec = values.get("model_type"), values.get("spec")
    except (OSError, ValueError, RecursionError, AttributeError) as problem:
        raise RecipeError(f"this file cannot be read: {problem}", origin=file) from problem
    if kind != "lucida" or not isinstance(spec, dict):
        raise RecipeError(
            "this is a checkpoint in another layout than Lucida's",
            expected="model_type lucida",
            given=f"model_type {kind}",
            origin=file,
            remedy=f"`lucida import {file.parent} NEW_FOLDER` reads Llava, LlavaNext, LLaVA's own "
            "and Prismatic's; then name NEW_FOLDER in model.from",
        )
    try:
        return ModelSpec.model_validate(spec | {"from": None})
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"the design of this model cannot be read: {place}: {first['msg']}", origin=file
        ) from problem


def fill_design(model: object) -> None:
    """Put into the `model` of a recipe's data what it leaves out and the saved design says.

    Nothing is done where it says all there is: the recipe of a run is read without its start.
    """
    if not isinstance(model, dict) or not isinstance(model.get("from"), str):
        return
    vision = "vision" in model and (model["vision"] is None or _has_path(model["vision"]))
    # A run's recipe has all of it written out, and its start may have been deleted since.
    if vision and _has_path(model.get("language")):
        return
    saved = read_design(model["from"]).model_dump(mode="json")
    for key, value in saved.items():
        model[key] = _join(value, model[key]) if key in model else value
    # Gated layers read pictures; a language model that goes on alone has none.
    if model["vision"] is None:
        model["cross_attention"] = None


def _has_path(part: object) -> bool:
    return isinstance(part, dict) and "path" in part


def _join(saved: Any, given: Any) -> Any:
    """What is given, and of the saved value what it leaves out; another kind stands alone."""
    if not isinstance(saved, dict) or not isinstance(given, dict):
        return given
    if given.get("kind", saved.get("kind")) != saved.get("kind"):
        return given
    return {
        key: _join(saved.get(key), given[key]) if key in given else saved[key]
        for key in [*saved, *(key for key in given if key not in saved)]
    }


def check_start(spec: ModelSpec) -> Path:
    """The folder of the model that a recipe goes on from; RecipeError, with both values, when its
    design is another than the recipe's."""
    saved = read_design(spec.start)
    differing = [
        f"model.{place}: {short(old)} in the saved model, {short(new)} in the recipe"
        for place, old, new in _find_differences(
            saved.model_dump(mode="json"), _take_compared(spec, saved)
        )
        if place not in OF_THE_ASKING
    ]
    if differing:
        told = "\n  ".join(differing)
        raise RecipeError(
            f"the model to go on from is of another design:\n  {told}\n",
            origin=f"{PLACE}: {spec.start}",
            remedy="leave these values out of the recipe (the saved ones then stand), or start "
            "from the parts: model.from=null",
        )
    return find_start(spec.start)


def check_parts(spec: ModelSpec) -> None:
    """RecipeError where a whole vision-language model is named as a part, or the model to go on
    from is of another design."""
    if spec.start is not None:
        check_start(spec)
        return
    vision, parts = spec.vision, {"language": spec.language.path}
    for number, each in enumerate([vision, *vision.more] if vision is not None else []):
        parts[f"vision.more.{number - 1}" if number else "vision"] = each.path
    for place, path in parts.items():
        kind = _model_type(Path(path).expanduser() / "config.json")
        if kind == "lucida" or (place == "language" and kind in ("llava", "llava_next")):
            first = "" if kind == "lucida" else f"lucida import {path} NEW_FOLDER, then "
            named = path if kind == "lucida" else "NEW_FOLDER"
            raise RecipeError(
                "this folder holds a whole vision-language model, not a part of one",
                expected="a vision encoder" if place != "language" else "a language model",
                given=f"model_type {kind}",
                origin=f"model.{place}.path: {path}",
                remedy=f"to go on from all of it: {first}model.from={named} (and leave the rest of "
                "`model` out)",
            )


def _model_type(file: Path) -> object:
    """What a configuration calls its model; None where there is none that can be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None


def _take_compared(spec: ModelSpec, saved: ModelSpec) -> dict[str, Any]:
    """The recipe's design as it has to equal the saved one; of a language model that goes on alone
    what only pictures need does not count."""
    values = spec.model_dump(mode="json") | {"from": None}
    if spec.vision is None:
        kept = saved.model_dump(mode="json")
        values |= {key: kept[key] for key in ("vision", "cross_attention", "image", "projector")}
    return values


def _find_differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted place, saved and given value wherever they differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{place}.{key}" if place else str(key)
            found += _find_differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [(place, old, new)]


def describe_start(spec: ModelSpec) -> dict[str, Any] | None:
    """Where a run comes from, for its own folder: the model, and of a run its recipe, stages and
    own start. None for one that begins with the parts."""
    if spec.start is None:
        return None
    folder = find_start(spec.start)
    told: dict[str, Any] = {"from": spec.start, "folder": str(folder.absolute())}
    # A run, or the end of a stage that one has kept: RUN/stages/NAME.
    for above in (folder, folder.parent.parent):
        if (above / "recipe.yaml").is_file():
            try:
                recipe = read_document(above / "recipe.yaml").data
                stages = [stage["name"] for stage in recipe["stages"]]
                told |= {"recipe": recipe["name"], "stages": stages}
                told["before"] = (recipe.get("model") or {}).get("from")
            except (RecipeError, KeyError, TypeError, AttributeError):
                told |= {"recipe": "unreadable", "stages": []}
            # The end of a stage that was kept: what was trained after it is not in these weights.
            if folder != above:
                told["stages"] = told.get("stages", [])[: _count_stages(told, folder.name)]
            break
    return told


def describe_origin(spec: ModelSpec) -> str:
    """The same in a line."""
    told = describe_start(spec)
    if told is None:
        return "from the parts"
    line = f"from {told['from']}"
    if "recipe" in told:
        line += f" (recipe {told['recipe']}, stages {', '.join(told['stages'])})"
    return f"{line}, which went on from {told['before']}" if told.get("before") else line


def _count_stages(told: Mapping[str, Any], stage: str) -> int:
    stages = told.get("stages", [])
    return stages.index(stage) + 1 if stage in stages else len(stages)
