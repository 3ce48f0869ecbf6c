"""A training step: Lucida beside transformers' Llava in its Trainer, with the same weights.

    P0 fp32        Trainer as it comes: rows padded to the longest of a random batch, fp32
    P0             the same with bf16=True
    P1             P0 tuned: batches grouped by length (its own sampler, 3,200 samples), checked
                   bf16, fused AdamW, no recomputation of activations
    P1 + rows      P1 with logits at supervised positions only, as TRL's `chunked_nll` has it
    lucida         packed without padding, logits at supervised positions, unused layers left out
    + features     lucida with the frozen encoder's features given, as its cache does

A step is forward, backward, clipping and the update, by each program's own code (`training_step`
and what stands behind it in Trainer's loop; `lucida.training.step`), at a learning rate of 0: all
the arithmetic, and the same weights in every repetition. The vision encoder is frozen. Every batch
that a Trainer sees is given to Lucida too, and the losses must agree.

    toy          4 + 6 layers, 64 visual tokens, 32k vocabulary; half short VQA, half conversation
    projector    the same, captions, only the projector trains
    real         SigLIP-B/16 + Qwen2.5-0.5B (some 12 GB; SGD on a CPU, whose update needs no room)
    large        SigLIP-so400m/14 + Qwen2.5-1.5B, for a GPU

    python benchmarks/peers.py [--case toy] [--repetitions 5] [--batches 4] [--minutes 5]

A case ends after so many minutes with the repetitions that it has by then (at least one step of
each side on a batch of each kind); what was found is told at once. On a GPU it also
prints the share of the peak arithmetic and the memory of each side (this part has not run yet: no
GPU was at hand). One thread on a CPU unless `--threads`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from llava_twin import (
    Mix,
    arithmetic,
    llava_of,
    lucida_model,
    packed_batch,
    padded_batch,
    parts,
    toy_parts,
)
from timing import Timing, alternate, held_at_most, ratio
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedConfig, Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from lucida.core.progress import table
from lucida.core.spec import OptimSpec
from lucida.data.sample import IGNORED, Batch, Tokens
from lucida.model.vlm import LucidaModel
from lucida.training.engine import Engine
from lucida.training.kernels import quicken
from lucida.training.optim import make_optimizer
from lucida.training.precision import choose_device, choose_precision
from lucida.training.step import Stepper

POOL = 3200
"""Samples that the length-grouped sampler sorts: eight of its megabatches."""
PEAK = 989e12
"""bf16 operations a second of an H100 or H200 without sparsity, as its maker states them."""


@dataclass(frozen=True, slots=True)
class Case:
    """Shapes, samples and what trains."""

    parts: Callable[[], tuple[PreTrainedConfig, PreTrainedConfig]]
    mix: str
    samples: int
    language: bool = True
    fp32: bool = False
    big: bool = False


CASES = {
    "toy": Case(toy_parts, "mix", 8, fp32=True),
    "projector": Case(toy_parts, "caption", 8, language=False),
    "real": Case(
        partial(parts, "google/siglip-base-patch16-224", "Qwen/Qwen2.5-0.5B"), "mix", 3, big=True
    ),
    "large": Case(
        partial(parts, "google/siglip-so400m-patch14-384", "Qwen/Qwen2.5-1.5B"), "mix", 16, big=True
    ),
}


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5, help="of each case, at most")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    choose_device()  # before the first tensor: both sides have what it sets
    for name in given.case or ["toy", "projector"]:
        run(name, CASES[name], given.batches, given.repetitions, given.minutes)


def run(name: str, case: Case, batches: int, repetitions: int, minutes: float) -> None:
    """Time all sides of one case, and print the table."""
    result = time_case(name, case, batches, repetitions, minutes)
    report(name, result)
    if result.sides.device.type == "cuda":
        report_gpu(result)


def time_case(name: str, case: Case, batches: int, repetitions: int, minutes: float) -> Result:
    """Time all sides of one case, telling each figure as it comes."""
    until = time.monotonic() + 60 * minutes
    torch.manual_seed(0)
    vision, text = case.parts()
    print(f"{name}: building both models", flush=True)
    with choose_device():  # random numbers for billions of weights take minutes on a CPU
        model = lucida_model(vision, text)
    pool = samples_of(case, model)
    sides = Sides(model, vision, case)
    print(f"{name}: {sides.precision}, {case.samples} samples a step", flush=True)
    drawn = torch.Generator().manual_seed(1)
    lengths = [len(sample) for sample in pool]
    mixed = random_batches(lengths, case.samples, batches, drawn)
    grouped = grouped_batches(lengths, case.samples, batches, drawn)
    work = []
    # From the middle outwards: where the time ends early, what is known is of usual batches.
    outwards = sorted(range(batches), key=lambda number: abs(number - (batches - 1) / 2))
    for number in outwards:
        for kind, chosen in (("random", mixed), ("grouped", grouped)):
            numbers = chosen[number].tolist()
            batch = [pool[number] for number in numbers]
            work.append(Work(kind, sides.of(batch, kind), sum(map(len, batch)),
                             arithmetic(model, batch, case.language)))  # fmt: skip
    done, times = measure(name, work, repetitions, until)
    tokens, needed = {}, {}
    for each in work[:done]:
        tokens[each.kind] = tokens.get(each.kind, 0) + each.tokens
        needed[each.kind] = needed.get(each.kind, 0.0) + each.arithmetic
    return Result(times, tokens, needed, sides)


@dataclass(frozen=True, slots=True)
class Result:
    """`side|kind` → times of the batches of a kind together; by kind their real tokens, and the
    arithmetic that they ask for."""

    times: dict[str, Timing]
    tokens: dict[str, int]
    needed: dict[str, float]
    sides: Sides

    def rows(self) -> list[dict]:
        """Numbers of every side: by the clock, and how many times longer than ours it takes."""
        found = []
        for key, timing in self.times.items():
            side, kind = key.split("|")
            wall = statistics.median(timing.wall)
            ours = statistics.median(self.times[f"lucida|{kind}"].wall)
            found.append(
                {
                    "side": side,
                    "batches": kind,
                    "repetitions": len(timing.wall),
                    "seconds": round(wall, 4),
                    "tokens/s": round(self.tokens[kind] / wall, 1),
                    "times ours": round(wall / ours, 3),
                    "of the peak": round(self.needed[kind] / wall / PEAK, 4),
                    "memory GB": round(self.sides.memory.get(side, 0.0), 2),
                }
            )
        return found


@dataclass(frozen=True, slots=True)
class Work:
    """A batch: whether its samples came at random or by length, a step of each side on it, its
    tokens, and the arithmetic that it asks for."""

    kind: str
    sides: dict[str, Callable[[], float]]
    tokens: int
    arithmetic: float


def measure(
    name: str, work: list[Work], repetitions: int, until: float
) -> tuple[int, dict[str, Timing]]:
    """How many of the batches were timed, and `side|kind` → the times of them together in each
    repetition. Whole repetitions count, and of the first as much as there was time for: at least a
    batch of each kind."""
    times: dict[str, Timing] = {}
    most, kinds = 0.0, len({each.kind for each in work})
    for repetition in range(repetitions):
        found: dict[str, Timing] = {}
        for number, each in enumerate(work):
            first = not times and number < kinds
            if not first and time.monotonic() + most > until:
                print(f"{name}: the time is over", flush=True)
                return (len(work), times) if times else (number, found)
            begun = time.monotonic()
            if repetition == 0:
                agree(each.sides)
            place = (
                f"{name}, repetition {repetition + 1} of {repetitions}, batch {number + 1} of "
                f"{len(work)} ({each.kind})"
            )

            def tell(side: str, seconds: float, place: str = place) -> None:
                print(f"{place}: {side} {seconds:.2f} CPU s", flush=True)

            timed = alternate(each.sides, 1, warm_up=0, wait=wait, tell=tell)
            for side, timing in timed.items():
                key = f"{side}|{each.kind}"
                found[key] = found.get(key, Timing()) + timing
            most = max(most, time.monotonic() - begun)
            ours = timed["lucida"].cpu[0]
            shown = ", ".join(
                f"{side} {timing.cpu[0] / ours:.2f}" for side, timing in timed.items()
            )
            print(f"{place}: times lucida's: {shown}", flush=True)
        for key, timing in found.items():
            times.setdefault(key, Timing())
            times[key].cpu.extend(timing.cpu)
            times[key].wall.extend(timing.wall)
    return len(work), times


def random_batches(
    lengths: list[int], samples: int, many: int, drawn: torch.Generator
) -> torch.Tensor:
    """Batches in random order, from well filled to mostly padding in equal steps: a few drawn as
    they come may be far from the usual, which is 0.45 real positions in `toy`, 0.73 in `real`."""
    order = torch.randperm(len(lengths), generator=drawn)
    whole = order[: len(order) // samples * samples].view(-1, samples)
    found = torch.tensor(lengths)[whole]
    return evenly(whole, found.sum(1) / found.max(1).values, many)


def grouped_batches(
    lengths: list[int], samples: int, many: int, drawn: torch.Generator
) -> torch.Tensor:
    """Batches of transformers' length-grouped sampler, from short to long in equal steps."""
    order = get_length_grouped_indices(lengths, samples, generator=drawn)
    whole = torch.tensor(order[: len(order) // samples * samples]).view(-1, samples)
    return evenly(whole, torch.tensor(lengths)[whole].sum(1), many)


def evenly(batches: torch.Tensor, measure: torch.Tensor, many: int) -> torch.Tensor:
    """Batches at equal steps of the order by `measure`; of one, the median."""
    return batches[measure.argsort()[(torch.arange(many) + 0.5).mul(len(batches) / many).long()]]


def samples_of(case: Case, model: LucidaModel) -> list[Tokens]:
    """The pool of a case."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    mix = Mix(case.mix, model.config.visual_tokens, vocabulary)
    return [mix.sample(number) for number in range(POOL)]


class Sides:
    """Both programs around one set of weights."""

    def __init__(self, model: LucidaModel, vision: PreTrainedConfig, case: Case) -> None:
        self.model, self.case = model, case
        self.device = choose_device()
        self.precision = choose_precision("auto", self.device)
        self.side = model.config.image_size
        self.memory: dict[str, float] = {}
        if self.device.type == "cpu":
            quicken(model.language)
        freeze(model, case, ("vision.",), ("projector.",))
        model.train()
        trained = {n: (p, 0.0) for n, p in model.named_parameters() if p.requires_grad}
        self.sgd = case.big and self.device.type == "cpu"
        parameters = [p for p, _ in trained.values()]
        spec = OptimSpec(clip=1.0)
        optimizer = (
            torch.optim.SGD(parameters, 0.0) if self.sgd else make_optimizer(trained, spec, model)
        )
        scaler = self.precision.scaler()
        _, loss_of = Engine().prepare(model, self.precision)
        self.stepper = Stepper(Engine(), model, loss_of, optimizer, scaler, self.precision, 1.0)
        fast = self.precision.name
        self.tuned = self.trainer(vision, fast, RowsTrainer)
        self.slow = self.trainer(vision, "fp32", Trainer) if case.fp32 else None
        check_precision(self.tuned.model, partial(self.peer, self.tuned), fast, self.example())

    def example(self) -> dict[str, torch.Tensor]:
        """A small batch for looking at what runs."""
        return padded_batch(samples_of(self.case, self.model)[:1], self.side)

    def trainer(self, vision: PreTrainedConfig, precision: str, kind: type[Trainer]) -> Trainer:
        """A Trainer with its defaults, as `train()` leaves it before the first step."""
        with self.device:
            llava = llava_of(self.model, vision)
        freeze(llava, self.case, ("model.vision_tower.",), ("model.multi_modal_projector.",))
        arguments = TrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=self.case.samples,
            learning_rate=0.0,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            optim="sgd" if self.sgd else "adamw_torch_fused",
            use_cpu=self.device.type == "cpu",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = kind(model=llava, args=arguments)
        trainer.create_optimizer()
        model, trainer.optimizer = trainer.accelerator.prepare(llava, trainer.optimizer)
        trainer.model_wrapped = model
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    def of(self, samples: list[Tokens], kind: str) -> dict[str, Callable[[], float]]:
        """Side → one step on these samples, which gives its loss."""
        rows, packed = padded_batch(samples, self.side), packed_batch(samples, self.side)
        cached = packed_batch(samples, self.side)
        with torch.no_grad(), self.precision.autocast():
            cached.features = self.model.encode_images(packed.pixel_values).to("cpu", torch.float32)
        cached.pixel_values = None
        work = {"P0" if kind == "random" else "P1": partial(self.peer, self.tuned, rows)}
        if kind == "random" and self.slow is not None:
            work["P0 fp32"] = partial(self.peer, self.slow, rows)
        if kind == "grouped":
            work["P1 + rows"] = partial(self.peer, self.tuned, rows, only_supervised=True)
        work["lucida"] = partial(self.lucida, packed)
        work["+ features"] = partial(self.lucida, cached)
        return {name: partial(self.watched, name, each) for name, each in work.items()}

    def lucida(self, batch: Batch) -> float:
        """One step of ours."""
        return self.stepper.step([batch]).loss

    def peer(self, trainer: Trainer, rows: dict, only_supervised: bool = False) -> float:
        """One step as Trainer's loop makes it."""
        trainer.only_supervised = only_supervised
        rows = {name: value.to(self.device) for name, value in rows.items()}
        many = (rows["labels"] != IGNORED).sum()
        loss = trainer.training_step(trainer.model_wrapped, rows, many)
        trainer._clip_grad_norm(trainer.model_wrapped)
        trainer.optimizer.step()
        trainer.model_wrapped.zero_grad()
        return float(loss)

    def watched(self, name: str, work: Callable[[], float]) -> float:
        """The same, noting how much memory of the GPU it needs."""
        if self.device.type != "cuda":
            return work()
        torch.cuda.reset_peak_memory_stats()
        loss = work()
        most = torch.cuda.max_memory_allocated() / 1e9
        self.memory[name] = max(most, self.memory.get(name, 0.0))
        return loss


class RowsTrainer(Trainer):
    """A Trainer that can leave out the logits that no label asks for."""

    only_supervised = False

    def compute_loss(self, model: nn.Module, inputs: dict, *args: object, **more: object):
        if not self.only_supervised:
            return super().compute_loss(model, inputs, *args, **more)
        llava: LlavaForConditionalGeneration = self.accelerator.unwrap_model(model)
        labels = inputs.pop("labels")
        with self.accelerator.autocast():
            hidden = llava.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
            chosen = labels[:, 1:] != IGNORED
            logits = llava.lm_head(hidden[chosen]).float()
        return functional.cross_entropy(logits, labels[:, 1:][chosen])


def freeze(model: nn.Module, case: Case, always: tuple[str], projector: tuple[str]) -> None:
    """Nothing of the encoder trains, and without `language` the projector alone."""
    for name, parameter in model.named_parameters():
        trains = not name.startswith(always) and (case.language or name.startswith(projector))
        parameter.requires_grad_(trains)


def check_precision(model: nn.Module, work: Callable, wanted: str, batch: dict) -> None:
    """Stops unless the products of the peer's language model run in the wanted precision."""
    seen: set[torch.dtype] = set()
    layer = model.model.language_model.layers[0].mlp.up_proj
    hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    work(batch)
    hook.remove()
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
    if seen != {expected}:
        raise SystemExit(f"the peer multiplies in {seen}, not in {expected}")


def agree(work: dict[str, Callable[[], float]]) -> None:
    """One untimed step of every side; stops where the losses differ."""
    losses = {name: each() for name, each in work.items()}
    low, high = min(losses.values()), max(losses.values())
    if high - low > 0.005 * high:
        raise SystemExit(f"the sides disagree: {losses}")


def wait() -> None:
    """Until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(name: str, result: Result) -> None:
    """Seconds, tokens a second and the ratios of one case."""
    rows = []
    for key, timing in result.times.items():
        side, kind = key.split("|")
        ours = result.times[f"lucida|{kind}"], result.times[f"+ features|{kind}"]
        wall = statistics.median(timing.wall)
        rows.append(
            [
                side,
                kind,
                f"{statistics.median(timing.cpu):.2f}",
                f"{wall:.2f}",
                f"{result.tokens[kind] / wall:,.0f}",
                ratio(timing.cpu, ours[0].cpu),
                ratio(timing.cpu, ours[1].cpu),
                ratio(timing.wall, ours[0].wall),
            ]
        )
    columns = ["side", "batches", "CPU s", "wall s", "tokens/s"]
    columns += ["lucida, CPU", "+ features, CPU", "lucida, wall"]
    table(f"{name}: a step, and how many times faster Lucida is", columns, rows)
    print(f"most memory of this process: {held_at_most():.1f} GB")


def report_gpu(result: Result) -> None:
    """The share of the peak that the arithmetic of the task takes, and the most memory."""
    rows = [
        [each["side"], each["batches"], f"{each['of the peak']:.1%}", f"{each['memory GB']:.1f}"]
        for each in result.rows()
    ]
    table("on the GPU", ["side", "batches", "of the peak", "memory, GB"], rows)


def peak_memory() -> float:
    """Most GB of the GPU since it was last asked; 0 without one."""
    if not torch.cuda.is_available():
        return 0.0
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


if __name__ == "__main__":
    logging.getLogger("transformers").setLevel(logging.ERROR)
    main()
