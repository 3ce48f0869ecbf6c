"""The examination of a recipe, in the order in which one fault explains the next.

parts ─▶ weights ─▶ records, labels ─▶ pictures ─▶ vision ─▶ projector ─▶ norms ─▶ first loss
      ─▶ sight ─▶ gradients ─▶ trial ─▶ sight
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lucida.apps.doctor import still, trial, way
from lucida.apps.doctor.finding import Finding
from lucida.apps.doctor.patient import Patient, admit
from lucida.core.errors import LucidaError
from lucida.core.spec import Recipe


def examine(
    recipe: Recipe, stage: str | None = None, steps: int = 60, run: Path | None = None
) -> Iterator[Finding]:
    """Findings about one stage of a recipe (the last without a name), as they come.

    With `run`, the folder of a finished run, its trained model is examined. The model is changed
    by the trial and thrown away; nothing is written.
    """
    try:
        patient = admit(recipe, stage, run)
    except LucidaError as problem:
        yield Finding("parts", "broken", str(problem), "parts that load and fit together")
        return
    kind = "the run's model" if patient.from_run else "a new model"
    trained, every = patient.plan.counts
    told = f"{kind}, stage {patient.stage.name}: {trained:,} of {every:,} parameters train"
    yield Finding("parts", "ok", told)
    yield still.weights(patient)
    yield from way.as_loaded(patient)
    yield from still.labels(patient)
    if patient.dead or not patient.tokens:
        return
    try:
        yield from running(patient, steps)
    except LucidaError as problem:
        yield Finding("forward pass", "broken", str(problem), "one batch goes through the model")


def running(patient: Patient, steps: int) -> Iterator[Finding]:
    """The checks that run the model."""
    if patient.sees:
        yield from way.follow_image(patient)
        yield still.norms(patient)
    yield still.first_loss(patient)
    if patient.dead:
        return
    if patient.sees:
        yield still.sight(patient, "sight", expect_use=patient.from_run)
        yield still.layers(patient)
    yield trial.gradients(patient)
    yield from trial.overfit(patient, steps)
    if patient.sees and not patient.dead:
        yield still.sight(patient, "sight after the trial", expect_use=True)
