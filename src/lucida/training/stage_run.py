"""One stage of a run: planned before the first step of all, opened when its turn comes.

plan_stage_run: patterns, sources, end ─▶ open: adapters, what is frozen, optimizer
                                          ─▶ step, validate, observe, checkpoint … ─▶ close
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lucida.core.progress import Progress, say, table
from lucida.core.runs import plain
from lucida.core.spec import StageSpec
from lucida.data.sample import Batch
from lucida.model import adapters
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training import state
from lucida.training.budget import Horizon, horizon
from lucida.training.divergence import KEY as DIVERGED
from lucida.training.divergence import REMEDY, Diverged, stage_verdict
from lucida.training.ending import Ending, plan_ending, score_of
from lucida.training.feed import Feed, stage_feed
from lucida.training.layers import equip
from lucida.training.muon import Muon
from lucida.training.observe import Observer, leave_untouched, validation_loss
from lucida.training.optim import make_optimizer, set_learning_rate
from lucida.training.reading import load_adapters, load_moments, make_damage_error
from lucida.training.records import by_source, source_record, source_rows, step_record, sum_up
from lucida.training.reference import Reference, make_reference, note_rewards
from lucida.training.run import Run
from lucida.training.stage import StagePlan, apply_plan, check_mask, describe, plan_stage
from lucida.training.step import Stepper


@dataclass(slots=True)
class StageRun:
    """One stage: what it trains (`what`), reads (`feed`) and when it ends; `spec` is resolved, and
    `processor` set for it. The last four are there while it is open."""

    run: Run
    index: int
    spec: StageSpec
    what: StagePlan
    feed: Feed
    horizon: Horizon
    processor: LucidaProcessor
    ending: Ending | None = None
    reference: Reference | None = None
    stepper: Stepper | None = None
    stream: Iterator[list[Batch]] | None = None
    progress: Progress | None = None
    begun: float = 0.0
    """When it would have begun, had it never been stopped; by the clock of this process."""
    warm: bool = False
    """Has this process taken a step of it?"""

    @property
    def over(self) -> bool:
        """Does the run stand at or behind the end of this stage?"""
        position = self.run.position
        if self.index != position.stage:
            return self.index < position.stage
        return bool(position.ended) or self.horizon.over(position)

    def record(self, values: Mapping[str, object]) -> None:
        """Write a line of metrics.jsonl."""
        self.run.record(self.spec.name, values)

    def say(self, what: str) -> None:
        """Tell something about this stage."""
        say(f"stage {self.spec.name}: {what}")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside, the model is set for this stage and its data flow."""
        run, position = self.run, self.run.position
        self.set_model()
        self.say_plan()
        if self.ending is not None:
            rows = [row for row in run.folder.metrics.read() if row.get("stage") == self.spec.name]
            self.ending.begin(rows, position.step, run.engine.main)
        self.begun = time.perf_counter() - position.stage_seconds
        stream = self.feed.batches(position.step, (position.window, position.window_rows))
        label = f"train {self.spec.name}"
        with (
            closing(stream) as self.stream,
            Progress(label, self.horizon.steps, "step", done=position.step) as self.progress,
        ):
            yield
        run.engine.release()
        self.stepper = self.reference = None

    def set_model(self) -> None:
        """Set adapters, what is frozen, how layers compute, and the optimizer, which is
        restored when the newest checkpoint is of this stage."""
        run, spec, model, position = self.run, self.spec, self.run.model, self.run.position
        seed = run.recipe.seed + 1000 * (self.index + 1)
        # The run stands at the end of an earlier stage: its adapters go into the weights unless
        # they go on here, then its end may be kept, and only then does the position move on.
        if position.stage < self.index:
            if run.recipe.stages[position.stage].lora != spec.lora:
                run.merge_adapters()
            run.keep_stage_end(position.stage)
            position.next_stage(self.index)
        # Else they go on from the stage before, or came back with the checkpoint.
        if spec.lora is not None and not adapters.adapted_layers(model):
            state.seed_everything(seed + 1)
            adapters.attach(model, self.what.adapted, spec.lora)
        if spec.objective.preference is not None:
            # Before anything of this stage moves, and before an engine takes the weights away.
            self.reference = make_reference(run, spec, self.what.trained)
        rates = {name: rate for name, (_, rate) in self.what.trained.items()}
        if spec.lora is not None:
            rates |= dict.fromkeys(adapters.named_adapters(model), spec.lora.rate)
        apply_plan(model, with_rates(model, rates))
        run.touched |= set(self.what.trained)
        model, loss_of = run.engine.prepare(model, run.precision)
        equip(model, spec.batch.checkpointing, run.compiled)
        trained = with_rates(model, rates)
        made = make_optimizer(trained, spec.optim, model, run.precision.dtype)
        optimizer = run.engine.drive(made)
        scaler = run.precision.scaler()
        if position.step == 0:
            # Its own seed: how many numbers the stage before drew does not matter.
            state.seed_everything(seed)
        else:
            load_moments(run.saved, optimizer, scaler)
        self.stepper = Stepper(
            engine=run.engine,
            model=model,
            loss_of=loss_of,
            optimizer=optimizer,
            scaler=scaler,
            precision=run.precision,
            clip=spec.optim.clip,
            names=self.feed.names,
            mask=spec.attention_mask,
            how=run.attention,
        )

    def say_plan(self) -> None:
        """Tell what the stage trains and reads, and what of its recipe has no effect."""
        trained, every = self.what.counts
        spec, optimizer = self.spec, self.stepper.optimizer
        table(
            f"stage {spec.name}: {self.horizon}, {trained:,} of {every:,} parameters train",
            ["pattern", "learning rate", "tensors", "parameters"],
            describe(self.what),
        )
        if (most := self.feed.most) is not None:
            self.say(f"budgets of its sources end it after {most} steps at most")
        say(self.feed.describe_validation())
        if isinstance(optimizer, Muon):
            self.say(optimizer.describe())
        elif spec.optim.kind == "muon":
            self.say("no matrix of a linear layer trains, AdamW moves everything")
        if spec.evaluate_every is not None and not self.observers:
            self.say("evaluate_every has no effect here, nobody watches this training")

    def step(self) -> None:
        """Read a step's micro-batches, move the weights, and record it."""
        run, spec, position = self.run, self.spec, self.run.position
        begun = time.perf_counter()
        # The first one measures lengths of records, compiles layers, …: it may take its time.
        run.engine.mark("reading its records", position.total + 1, limited=self.warm)
        micro_batches = next(self.stream)
        waited = time.perf_counter() - begun
        optimizer = self.stepper.optimizer
        lr = set_learning_rate(optimizer, self.horizon.factor(position, spec.optim))
        run.engine.own_randomness(run.recipe.seed, self.index, position.step)
        if self.reference is not None:
            shift = position.reward_sum / max(1, position.rewards)
            micro_batches = [self.reference.prepare(each, shift) for each in micro_batches]
        try:
            result = self.stepper.step(micro_batches)
        except Diverged as problem:
            values = {"step": position.step + 1, "total_step": position.total + 1}
            self.record(values | {DIVERGED: str(problem)})
            raise
        seconds = time.perf_counter() - begun
        position.advance(result.samples, result.tokens, seconds)
        values = step_record(position, result, lr, seconds, waited)
        if self.reference is not None:
            values |= note_rewards(run, micro_batches)
        self.record(values | source_record(spec, result))
        shown = {"loss": result.loss}
        if self.horizon.steps is None:
            shown["done"] = f"{self.horizon.share(position):.0%}"
        self.progress.advance(**shown)
        # Rank 0's clock, for all: a budget of minutes has to end on every rank at once.
        position.stage_seconds = run.engine.agreed(time.perf_counter() - self.begun)
        self.warm = True
        run.engine.mark("between two steps", limited=False)

    def validate(self) -> dict[str, float | None]:
        """Record the loss on the held-out samples, when there are any; gives it as `loss`."""
        if self.feed.held_out is None:
            return {}
        loss = self.measure_held_out()
        self.record({"validation_loss": loss})
        self.progress.advance(0, validation="no token" if loss is None else loss)
        return {"loss": loss}

    def measure_held_out(self) -> float | None:
        """The loss on the held-out samples of the weights as they are."""
        stepper, batches = self.stepper, self.feed.validation()
        if self.reference is not None:
            batches = map(self.reference.prepare, batches)
        return validation_loss(
            stepper.model, batches, stepper.precision, stepper.engine, stepper.mask, stepper.how
        )

    @property
    def observers(self) -> list[Observer]:
        """Those that look every so many steps."""
        return [each for each in self.run.observers if not each.between_stages]

    def observe(self) -> dict[str, float | None]:
        """Let the observers look, on rank 0, and record what they find; gives the score that the
        stage ends by, on every rank."""
        engine, scores = self.run.engine, {}
        for observer in self.observers:
            with engine.whole(self.stepper.model) as model:
                found = self.look(observer, model) if engine.main else None
            if found:
                record = {observer.name: plain(dict(found))}
                self.record(record)
                if self.ending is not None:
                    by = self.ending.spec.by
                    scores |= {by: score} if (score := score_of(record, by)) is not None else {}
        return engine.gathered(scores)[0]

    def look_back(self, scores: Mapping[str, float | None]) -> None:
        """Take in what was found after this step, keep weights that the stage may end with, and end
        it where nothing becomes better; at its end, choose."""
        ending, position = self.ending, self.run.position
        if ending is None:
            return
        if ending.spec.by in scores and ending.spec.looks:
            best = ending.note(position.step, scores[ending.spec.by])
            if best and ending.spec.weights == "best":
                self.keep_weights()
            if ending.spent and not self.over:
                position.ended = 1
                self.say(
                    f"ended after step {position.step}: nothing better by {ending.spec.by} for "
                    f"{ending.spec.patience} looks"
                )
        if ending.is_averaged(position.step):
            self.keep_weights()
        if self.over:
            self.choose_weights()

    def keep_weights(self) -> None:
        """Keep what the stage trains as it is after this step; rank 0 writes."""
        tensors = state.to_disk(self.trained_tensors(), self.run.engine.main)
        if self.run.engine.main:
            self.ending.keep(self.run.position.step, tensors)

    def trained_tensors(self) -> dict[str, Tensor]:
        """What the stage trains, by name, adapters and buffers too."""
        model = self.stepper.model
        own = state.stored_tensors(model, set(self.what.trained))
        return own | adapters.named_adapters(model)

    def choose_weights(self) -> None:
        """Put the weights into the model that the stage ends with."""
        run, ending = self.run, self.ending
        run.engine.wait()
        chosen = ending.choose()
        if chosen is None:
            return
        steps, stored = chosen
        with torch.no_grad():
            for name, place in self.trained_tensors().items():
                state.put(place, stored[name])
        told = {"weights": ending.spec.weights, "steps": steps}
        if self.feed.held_out is not None:
            told["validation_loss"] = self.measure_held_out()
        self.record({"ending": told})
        of = f"the mean of steps {steps}" if len(steps) > 1 else f"step {steps[0]}"
        loss = told.get("validation_loss")
        shown = "" if loss is None else f" (validation loss {loss:.4g})"
        self.say(f"ends with the weights of {of}{shown}")

    def look(
        self, observer: Observer, model: LucidaModel, earlier: Sequence[Mapping[str, object]] = ()
    ) -> Mapping[str, object] | None:
        """What an observer finds now; the training does not notice."""
        with leave_untouched(model), self.run.precision.autocast():
            return observer.look(model, self.processor, self.run.position.total, earlier)

    def checkpoint(self) -> Path:
        """Save all that a resumption needs, and record what was cut or left out of the data since
        the last time; rank 0 writes."""
        run, position, stepper = self.run, self.run.position, self.stepper
        lost: Counter[tuple[str, str]] = Counter()
        for each in run.engine.gathered(self.feed.newly_lost()):
            lost.update(each)
        if lost:
            self.record({"left_out": by_source(lost)})
        position.window, position.window_rows = self.feed.loader.bookmark(position.step)
        if not run.engine.main and not run.engine.shards:
            return state.checkpoint_path(run.folder.path, position)
        now = state.Snapshot(
            position=position,
            setting=run.setting,
            model=stepper.model,
            touched=run.touched,
            optimizer=stepper.optimizer,
            scaler=stepper.scaler,
            lora=self.spec.lora,
        )
        path = state.save_checkpoint(run.folder.path, now, run.engine.main)
        if self.ending is not None and run.engine.main:
            self.ending.prune()
        return path

    def close(self) -> None:
        """Tell what the stage used, cut and left out, and whether it has diverged; what follows
        from that is the run's."""
        run, name = self.run, self.spec.name
        if not run.engine.main:
            return
        if self.ending is not None:
            self.ending.close()
        rows = [row for row in run.folder.metrics.read() if row.get("stage") == name]
        if losses := source_rows(rows):
            columns = ["source", "samples", "supervised tokens", "loss, first tenth", "last tenth"]
            table(f"stage {name}: loss by source", columns, losses)
        for source, reasons in sum_up(run.folder, name, rows).items():
            said = ", ".join(f"{many:,} × {reason}" for reason, many in reasons.items())
            say(f"stage {name}, {source}: {said}")
        for line in self.feed.uncomputed():
            say(f"stage {name}, {line}")
        words = run.model.get_output_embeddings().weight.shape[0]
        pairs = self.spec.objective.preference is not None
        if why := stage_verdict(rows, name, None if pairs else words):
            self.record({DIVERGED: f"stage {name}: {why}"})
            say(f"WARNING: stage {name} has diverged: {why}; {REMEDY}")


def with_rates(model: LucidaModel, rates: Mapping[str, float]) -> dict[str, tuple]:
    """Name → (parameter, learning rate), of a model's own weights and adapters by those names."""
    named = dict(adapters.named_weights(model)) | adapters.named_adapters(model)
    return {name: (named[name], rate) for name, rate in rates.items()}


def plan_stage_run(run: Run, index: int) -> StageRun:
    """What stage number `index` does, checked without changing anything.

    The model has no adapters yet: patterns name its weights as they are without.
    """
    recipe, spec = run.recipe, run.recipe.resolve(run.recipe.stages[index])
    origin = f"stage {spec.name} of recipe {recipe.name}"
    what = plan_stage(run.model, spec.train, origin, spec.lora)
    if spec.lora is not None:
        adapters.lora_config(spec.lora, what.adapted)  # is PEFT there?
    processor = run.processor.for_stage(spec)
    dropped = run.folder.dropped.path
    feed = stage_feed(recipe, index, what, run.model, processor, run.precision, dropped, run.engine)
    check_mask(recipe, index, origin, feed.loader.mixture.sources)
    end = horizon(spec.budget, feed.steps, feed.most)
    end.check(spec.optim)
    ending = plan_ending(run.folder.path, run.observers, spec, feed)
    return StageRun(run, index, spec, what, feed, end, processor, ending)


def restore_adapters(run: Run, stages: Sequence[StageRun]) -> None:
    """Bring back the adapters of the newest checkpoint, which was of a stage with `lora`."""
    if run.saved is None or not (run.saved.path / state.ADAPTER).is_dir():
        return
    current = stages[run.position.stage]
    if current.spec.lora is None:
        raise make_damage_error(
            run.saved.path / state.ADAPTER, f"stage {current.spec.name} has no adapters"
        )
    adapters.attach(run.model, current.what.adapted, current.spec.lora)
    load_adapters(run.saved, run.model, current.spec.lora)
