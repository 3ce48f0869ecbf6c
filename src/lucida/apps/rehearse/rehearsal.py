"""The same recipe on tiny parts and made-up records: every stage and every benchmark, in minutes.

What it finds is what would stop the real run later: templates, patterns, shapes, schedules, files
and prompts that do not fit each other. Scores and losses of it mean nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from lucida.apps.rehearse.parts import write_encoder, write_language
from lucida.apps.rehearse.questions import ASKED
from lucida.apps.rehearse.records import texts, write_source
from lucida.apps.rehearse.suites import SUITES
from lucida.core.errors import RecipeError, RunError
from lucida.core.files import make_folder
from lucida.core.progress import say
from lucida.core.spec import Recipe

STEPS, SAMPLES, EXAMPLES = 3, 4, 2
"""Of each stage, of a step, of each benchmark."""
MARK = "rehearsal.json"
"""In a folder that a rehearsal has written, and may delete."""


def rehearse(recipe: Recipe, folder: Path) -> Path:
    """Train and evaluate a recipe in small below `folder`, which is made anew; the run's folder.

    LucidaError for whatever of it does not work.
    """
    from lucida.eval.during_training import observers
    from lucida.eval.run import evaluate_run
    from lucida.training.loop import train_run

    begun = time.monotonic()
    if recipe.model.start is not None:
        raise RecipeError(
            "a rehearsal begins with the parts",
            given=f"model.from={recipe.model.start}",
            remedy="rehearse the recipe that this one goes on from",
        )
    clear(folder)
    small = shrink_recipe(recipe, folder)
    run = folder / "run"
    train_run(small, run, f"lucida train {recipe.name} --rehearse", observers(small))
    tasks = len(small.evaluation.tasks)
    if tasks:
        evaluate_run(run)
    say(
        f"{recipe.name} was rehearsed in {time.monotonic() - begun:.0f} s: {len(small.stages)} "
        f"stages, {tasks} benchmarks, on random parts and made-up records; no number of it means "
        "anything"
    )
    return run


def clear(folder: Path) -> None:
    """Make the folder anew; RunError when something else stands there."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise RunError(
                "this folder holds something else than a rehearsal",
                origin=folder,
                remedy="name another with --run DIR",
            )
        shutil.rmtree(folder)
    make_folder(folder)
    (folder / MARK).write_text("{}\n")


def shrink_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with tiny parts, made-up records and benchmarks (all written below the folder),
    and a few steps of a few samples; what else it says stays. Tasks over own records and what is
    lost in text are left out, which is told."""
    values = recipe.model_dump(mode="json", by_alias=True)
    parts = {}
    vision = values["model"]["vision"]
    for number, part in enumerate([vision, *vision["more"]] if vision else []):
        if not part["path"].startswith("lucida:"):
            parts[part["path"]] = place = str(folder / "parts" / f"vision{number}")
            write_encoder(part["path"], Path(place))
            part["path"] = place
    language = values["model"]["language"]
    if not language["path"].startswith("lucida:"):
        parts[language["path"]] = place = str(folder / "parts" / "language")
        write_language(language["path"], Path(place), texts())
        language["path"] = place
    if values["precision"] == "fp16":
        say("precision fp16 is that of GPUs; rehearsed in bf16")
        values["precision"] = "bf16"
    for stage in values["stages"]:
        shorten_stage(stage, folder / "data")
    if values["blind"] is not None:
        values["blind"]["steps"] = STEPS
    tasks = [task for task in values["evaluation"]["tasks"] if isinstance(task, str)]
    kept = recipe.evaluation.retention is not None
    left = [name for name in recipe.evaluation.names if name not in tasks] + ["retention"] * kept
    if left:
        say(f"not rehearsed, because it is of your own files: evaluation of {', '.join(left)}")
    for lay_out in (*ASKED, *SUITES) if tasks else ():
        lay_out(folder / "benchmarks")
    values["evaluation"] |= {
        "tasks": tasks,
        "limit": EXAMPLES,
        "baseline_limit": EXAMPLES,
        "samples": 100,
        "data": str(folder / "benchmarks"),
        "retention": None,
    }
    (folder / MARK).write_text(json.dumps({"recipe": recipe.name, "parts": parts}) + "\n")
    return Recipe.model_validate(values)


def shorten_stage(stage: dict, data: Path) -> None:
    """In place: a few steps of a few samples, over records that are written below `data`."""
    stage["budget"] = {"steps": STEPS}
    batch, optim, mixture = stage["batch"], stage["optim"], stage["mixture"]
    if batch["tokens"] is None:
        batch["samples"] = min(batch["samples"], SAMPLES)
        batch["accumulate"] = min(batch["accumulate"], batch["samples"])
    batch["workers"] = min(batch["workers"], 1)
    if optim["warmup"] >= 1:
        optim["warmup"] = 1
    for name in ("validate_every", "evaluate_every", "checkpoint_every"):
        if stage[name] is not None:
            stage[name] = min(stage[name], STEPS)
    mixture["caps"], mixture["budgets"] = {}, {}
    for name, source in mixture["sources"].items():
        mixture["sources"][name] = write_source(source, data)
    if (stage["validation"] or {}).get("source"):
        stage["validation"]["source"] = write_source(stage["validation"]["source"], data)
