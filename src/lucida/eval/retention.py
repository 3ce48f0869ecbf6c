"""How much plain text a language model forgot by training, and whether that is too much.

    recipe's language model ──text──▶ before ┐
    trained model           ──text──▶ after  ┴▶ loss = share lost ──▶ at most `max_loss`?

Asked of a finished run (`measure_run`), and with `each_stage` of the model in training: before the
first stage and after every one (`Retention`).

Reference: Lin et al., VILA, 2023, arXiv 2312.07533, section 3.4 (text-only instructions keep MMLU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import EvaluationSpec, Recipe, RetentionSpec
from lucida.training.observe import Observer

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

Evaluate = Callable[..., dict]
"""`lucida.eval.run.evaluate`, which asks a model a benchmark."""

NAME = "retention"
"""Under what name the measurements between stages stand in metrics.jsonl."""


def perplexity(model: LucidaModel, processor: LucidaProcessor, file: Path | str) -> float:
    """Perplexity per token of a UTF-8 text file, read in pieces of about 2,000 characters."""
    from lucida.data.sample import Sample, Turn
    from lucida.eval.benchmarks.perplexity import PIECE, pieces
    from lucida.eval.loss import document_losses

    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RunError(
            f"the text of evaluation.retention cannot be read: {problem}",
            origin=file,
            remedy="give the path of a UTF-8 text file",
        ) from problem
    samples = [
        Sample(f"{file}: piece {number}", branches=((Turn("text", (piece,)),),))
        for number, piece in enumerate(pieces(text, PIECE), start=1)
    ]
    if not samples:
        raise RunError("the text of evaluation.retention is empty", origin=file)
    losses = [loss for _, loss in document_losses(model, processor, samples)]
    nats, tokens = sum(n for n, _ in losses), sum(t for _, t in losses)
    # exp(709) is the last that a float holds.
    return math.exp(min(700.0, nats / tokens))


def text_score(
    model: LucidaModel, processor: LucidaProcessor, spec: EvaluationSpec, evaluate: Evaluate
) -> float:
    """The number that is compared: the perplexity of the file, or the benchmark's score."""
    retention = spec.retention
    if retention.file is not None:
        return perplexity(model, processor, retention.file)
    results = evaluate(
        model,
        processor,
        [retention.task],
        retention.limit,
        spec.max_new_tokens,
        samples=100,
        prompts=spec.prompts,
        data=spec.data,
    )
    return results["tasks"][retention.task]["score"]


def lost(before: float, after: float, higher_is_better: bool) -> float:
    """The share that was lost; negative when training helped.

    Worked example: perplexity 20 before and 22 after lost 0.1; a score of 0.5 before and 0.4 after
    lost 0.2.
    """
    if before == 0:
        return 0.0 if higher_is_better else math.inf
    change = before - after if higher_is_better else after - before
    return change / before


def compared(spec: RetentionSpec, before: float, after: float) -> dict:
    """What results.json holds about it."""
    share = lost(before, after, _higher_is_better(spec))
    return {
        "of": spec.file or spec.task,
        "measure": "score" if spec.file is None else "perplexity per token",
        "before": before,
        "after": after,
        "lost": share,
        "max_loss": spec.max_loss,
        "kept": share <= spec.max_loss,
    }


class Retention(Observer):
    """Text before the first stage of a run and after every one."""

    name, between_stages = NAME, True

    def __init__(self, spec: EvaluationSpec, evaluate: Evaluate) -> None:
        self.spec, self.evaluate = spec, evaluate

    def look(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        step: int,
        earlier: Sequence[Mapping[str, object]],
    ) -> dict:
        """`compared` of now with before the first stage, and what the last stage alone has lost.

        Worked example, perplexities 20, 21, 23.1 before, after the first, after the second stage:
        the last record has before 20, after 23.1, lost 0.155, stage_before 21, stage_lost 0.1.
        """
        retention = self.spec.retention
        now = text_score(model, processor, self.spec, self.evaluate)
        first = earlier[0]["after"] if earlier else now
        previous = earlier[-1]["after"] if earlier else now
        found = compared(retention, first, now)
        found["stage_before"] = previous
        found["stage_lost"] = lost(previous, now, _higher_is_better(retention))
        said = f"{found['measure']} of {found['of']} {now:.4g}"
        if earlier:
            said += f" ({found['lost']:+.1%} lost since the beginning)"
        return found | {"said": said}

    def require(self, found: Mapping[str, object], origin: object) -> None:
        """RunError when more was lost since the beginning than the recipe allows."""
        require(found, origin)


def before_training(recipe: Recipe, evaluate: Evaluate) -> float:
    """The number of the recipe's language model as it was before any stage."""
    from lucida.model.checkpoint import build

    # Text needs no encoder, and the model is the one that every stage began from.
    blind = recipe.model.model_copy(update={"vision": None})
    model, processor = build(blind)
    return text_score(model, processor, recipe.evaluation, evaluate)


def measure_run(run: RunFolder, data: str | None, evaluate: Evaluate) -> dict:
    """Before against after for a trained run whose recipe asks for it; the number before is kept in
    results.json and measured once. `stages` are the records of `each_stage`. `data` is the folder
    of published files where it is not the recipe's."""
    from lucida.model.checkpoint import load
    from lucida.training.precision import choose_device

    recipe = run.recipe
    if data is not None:
        told = recipe.evaluation.model_copy(update={"data": data})
        recipe = recipe.model_copy(update={"evaluation": told})
    spec = recipe.evaluation.retention
    known = run.results.retention
    before = known.before if known and known.of == (spec.file or spec.task) else None
    if before is None:
        before = before_training(recipe, evaluate)
    model, processor = load(run.path, choose_device())
    found = compared(spec, before, text_score(model, processor, recipe.evaluation, evaluate))
    # The first record is of before any stage; the others are each behind one.
    _, *behind = [each for each in run.logged if each.get(NAME) is not None] or [None]
    if behind:
        found["stages"] = [{"stage": each.get("stage"), **each[NAME]} for each in behind]
    return found


def require(found: Mapping[str, object], origin: object) -> None:
    """RunError when more was lost than the recipe allows."""
    if not found["kept"]:
        raise RunError(
            f"training cost the language model too much text ({found['measure']} of {found['of']}: "
            f"{found['before']:.4g} before, {found['after']:.4g} after)",
            expected=f"at most {found['max_loss']:.1%} lost",
            given=f"{found['lost']:.1%}",
            origin=origin,
            remedy="add text-only data, lower the language model's learning rate, or raise "
            "evaluation.retention.max_loss",
        )


def _higher_is_better(spec: RetentionSpec) -> bool:
    if spec.file is not None:
        return False
    from lucida.eval.benchmarks import benchmark

    return benchmark(spec.task).higher_is_better
