"""A run under way, from its beginning to the model that is saved.

choose_engine ─▶ build_run: precision, parts, newest checkpoint ─▶ stages ─▶ finish: the model
                                                                             as it is saved
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lucida.core.errors import RecipeError
from lucida.core.files import atomic_folder, make_folder
from lucida.core.progress import say
from lucida.core.recipe import diff_recipes
from lucida.core.runs import RunFolder
from lucida.core.spec import EngineSpec, Recipe, StageSpec
from lucida.core.start import KEPT, describe_start
from lucida.model import adapters
from lucida.model.attention import trained_way
from lucida.model.checkpoint import build, generation_defaults, save
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training.engine import DataParallel, Engine
from lucida.training.kernels import quicken
from lucida.training.layers import able_to_compile, equip
from lucida.training.meeting import meet
from lucida.training.observe import Observer
from lucida.training.precision import Precision, choose_device, choose_precision
from lucida.training.reading import Saved, check_records, load_weights, newest
from lucida.training.sharding import Sharded
from lucida.training.state import Position, Setting, seed_everything
from lucida.training.stopping import StopRequest
from lucida.training.zero import Zero


@dataclass(slots=True)
class Run:
    """What the stages of a run share.

    touched: names of the parameters that any stage so far has trained. saved: the checkpoint that
    this process continues from, None when it began the run. attention: how attention is computed in
    training, as in `LucidaModel.hidden`. compiled: whether layers are.
    """

    recipe: Recipe
    folder: RunFolder
    engine: Engine
    stop: StopRequest
    model: LucidaModel
    processor: LucidaProcessor
    precision: Precision
    setting: Setting
    position: Position
    touched: set[str]
    saved: Saved | None
    attention: str
    compiled: bool
    observers: Sequence[Observer] = ()

    def record(self, stage: str, values: Mapping[str, object]) -> None:
        """Write a line of metrics.jsonl, with its place in the run; `step` counts within the
        stage. Only rank 0 writes."""
        if self.engine.main:
            place = {"stage": stage, "step": self.position.step, "total_step": self.position.total}
            self.folder.metrics.append(place | dict(values))

    def must_stop(self) -> bool:
        """Whether any rank was asked to stop."""
        # A signal reaches ranks at different moments, and all have to stop behind the same step.
        return any(self.engine.total(bool(self.stop)))

    def merge_adapters(self) -> None:
        """Add the adapters to their matrices; these are then weights that the run has changed."""
        self.touched |= set(adapters.merge(self.model))

    def write_header(self, command: str, accepted: Sequence[str]) -> None:
        """Write recipe and environment, and forget what was recorded after the newest checkpoint.

        `accepted` says which data or parts have changed since the run began. RunError when what the
        run has recorded so far is damaged.
        """
        folder, position = self.folder, self.position
        if not folder.exists or diff_recipes(folder.recipe, self.recipe):
            folder.write_recipe(self.recipe)
        rows = folder.metrics.read()
        check_records(folder.metrics.path, rows)
        folder.metrics.keep(lambda record: record["total_step"] <= position.total)
        # Lines of steps are those with a gradient's norm; others are looks and what was left out.
        known = sum("grad_norm" in row and row["total_step"] <= position.total for row in rows)
        if known != position.total:
            path = folder.metrics.path
            say(f"note: {path} holds {known} of the {position.total} steps that were taken")
        folder.dropped.read()
        if torn := folder.dropped.torn:
            say(f"note: {torn} lines of {folder.dropped.path} cannot be read and do not count")
        folder.environment(
            command,
            precision=str(self.precision),
            device=self.setting.device,
            threads=self.setting.threads,
            engine=self.engine.kind,
            processes=self.engine.world,
            **({"accepted": list(accepted)} if accepted else {}),
            **({"start": start} if (start := describe_start(self.recipe.model)) else {}),
        )

    def finish(self) -> None:
        """Make of the trained model what is saved: adapters merged, and asked as it was last
        trained.

        The adapters of a last stage with `lora` are kept beside it as well, in `adapter/`.
        """
        model, processor = self.model, self.processor
        last = self.recipe.resolve(self.recipe.stages[-1])
        equip(model, "none", compiled=False)
        if last.lora is not None and self.engine.main:
            keep_adapter(self)
        self.merge_adapters()
        spec = self.recipe.model
        quantised = spec.language.quantize is not None
        if quantised:
            adapters.write_out(model)
            say("the language model is saved in fp32, quantised matrices written out")
        asked = (spec.language.template, spec.attention_mask)
        if (last.template, last.attention_mask) == asked and not quantised:
            return
        processor.template = last.template
        if quantised:
            model.config.text_config = forget_quantisation(model.language)
        describe_as_trained(model, processor, last)

    def keep_stage_end(self, index: int) -> None:
        """Save the model as it is at the end of a stage that asks for it (`keep`), once; adapters
        are merged by now. Training does not notice."""
        stage, model = self.recipe.resolve(self.recipe.stages[index]), self.model
        folder = self.folder.path / KEPT / stage.name
        if not stage.keep or not self.engine.main or (folder / "config.json").exists():
            return
        equip(model, "none", compiled=False)
        processor, before = copy(self.processor), (model.config.spec, model.generation_config)
        processor.template = stage.template
        describe_as_trained(model, processor, stage)
        make_folder(folder)
        save(model, processor, folder)
        model.config.spec, model.generation_config = before
        say(f"stage {stage.name}: its end is kept in {folder}")


def describe_as_trained(model: LucidaModel, processor: LucidaProcessor, stage: StageSpec) -> None:
    """Write into the model how a resolved stage trained it to be asked."""
    spec = model.config.model_spec
    changes = {"template": stage.template, "quantize": None}
    language = spec.language.model_copy(update=changes)
    told = spec.model_copy(update={"language": language, "attention_mask": stage.attention_mask})
    model.config.spec = told.model_dump(mode="json")
    model.generation_config = generation_defaults(model.language, processor)


def choose_engine(spec: EngineSpec, folder: Path = Path()) -> Engine:
    """The engine that a recipe names, or the one that fits how the process was started; of several
    processes all meet here. `folder`: of the run.

    RecipeError when a recipe for one process runs on several; RunError when they do not meet.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        if spec.kind in ("ddp", "fsdp", "deepspeed"):
            more = "`lucida launch RECIPE --local --gpus N` for more"
            say(f"engine {spec.kind}: one process; {more}")
        return Engine()
    if spec.kind == "single":
        raise RecipeError(
            "the recipe is for one process",
            expected="engine.kind auto, ddp, fsdp or deepspeed",
            given=f"engine.kind=single and {world} processes",
            remedy="start it on one process, or set engine.kind=ddp",
        )
    watch = meet(spec.patience, folder)
    if spec.kind == "deepspeed":
        return Zero(spec, watch)
    return Sharded(watch) if spec.kind == "fsdp" else DataParallel(watch)


def build_run(
    recipe: Recipe,
    folder: RunFolder,
    engine: Engine,
    stop: StopRequest,
    observers: Sequence[Observer] = (),
) -> Run:
    """Build the model, or take the run up where its newest checkpoint left it (adapters excepted:
    they come back once the stages are planned, whose patterns name weights without them)."""
    check_quantised(recipe)
    saved = newest(folder.path, len(recipe.stages))
    name = "none" if saved is None else saved.path.name
    engine.require_same(
        {"the newest checkpoint": name}, f"all need to see one folder {folder.path}"
    )
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = choose_device()
    precision = agree_on_precision(recipe, folder, saved, engine, device)
    setting = Setting(
        precision.name, str(device), torch.get_num_threads(), torch.__version__, engine.world
    )
    say(f"precision: {precision}")
    if engine.world > 1:
        say(f"engine: {engine.kind}, {engine.world} processes")
    seed_everything(recipe.seed)  # the projector is drawn in `build`
    model, processor = build(recipe.model)
    if device.type == "cpu":
        quicken(model.language)  # on a CPU alone: a GPU hides what it saves
        adapters.keep_differentiable(model)
    position, touched = Position(), set()
    if saved is not None:
        position, touched = saved.position, load_weights(saved, model)
        say(f"going on from step {position.total} of {folder.path}")
        if changes := saved.setting.differences(setting):
            say(f"note: {changes}; the last bits of the weights may differ")
    model.to(device)
    return Run(
        recipe=recipe,
        folder=folder,
        engine=engine,
        stop=stop,
        model=model,
        processor=processor,
        precision=precision,
        setting=setting,
        position=position,
        touched=touched,
        saved=saved,
        attention=trained_way(
            recipe.engine.attention, model.language.config, device, precision.dtype
        ),
        compiled=recipe.engine.compile and able_to_compile(),
        observers=observers,
    )


def agree_on_precision(
    recipe: Recipe, folder: RunFolder, saved: Saved | None, engine: Engine, device: torch.device
) -> Precision:
    """Rank 0's choice, which is that of the newest checkpoint, its own or for a blind baseline
    that of the run it belongs to, wherever that was begun."""
    above = RunFolder(folder.path.parent)
    if saved is None and folder.path.name == "blind" and above.exists:
        saved = newest(above.path, len(above.recipe.stages))
    begun = None if saved is None else saved.setting.precision
    own = choose_precision(recipe.precision, device, begun)
    name, reason = engine.gathered((own.name, own.reason))[0]
    return Precision(name, device, reason)


def forget_quantisation(language: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of a language model whose matrices were written out; it is changed."""
    config = language.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    language.is_quantized = False
    language.hf_quantizer = None
    return config


def check_quantised(recipe: Recipe) -> None:
    """RecipeError when adapters on quantised weights would be merged before the end: a checkpoint
    of the next stage could not say what lies under its own."""
    if recipe.model.language.quantize is None:
        return
    for stage, after in itertools.pairwise(recipe.stages):
        if stage.lora is not None and stage.lora != after.lora:
            raise RecipeError(
                "adapters on a quantised language model last to the end of the run",
                expected=f"the `lora` of stage {stage.name} in stage {after.name} as well",
                given=after.lora.model_dump() if after.lora else "none",
                origin=f"recipe {recipe.name}",
                remedy="give both stages the same `lora`, or set model.language.quantize=null",
            )


def keep_adapter(run: Run) -> None:
    """Write the last stage's adapters into `adapter/`, for PEFT to put onto the parts again.

    Adapters of the language model alone are laid out for it, and name it as their base; those of a
    run that goes on from a model are for all of that model. They are left out, and this is said,
    when another stage has changed the weights that they belong to.
    """
    lora, model, start = run.recipe.stages[-1].lora, run.model, run.recipe.model.start
    layers = adapters.adapted_layers(model)
    inside = start is None and all(name.startswith("language.") for name in layers)
    below = "language" if inside else ""
    tops = {name.split(".")[0] for name in layers}
    # What PEFT would put the adapters onto is the base as it was published, and nothing else.
    changed = sorted(name for name in run.touched if name.split(".")[0] in tops)
    if changed:
        say(
            f"no adapter/ beside the model: its base is not a published part, the run changed "
            f"{changed[0]} too ({len(changed)} tensors)"
        )
        return
    base = run.recipe.model.language.path if below else start
    with atomic_folder(run.folder.path / "adapter") as aside:
        adapters.save_adapter(model, aside, lora, below, base)
