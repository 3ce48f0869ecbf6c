"""How the base language model `base-mini` is made from nothing: a small Llama, text only."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from lucida.core.progress import say
from lucida.core.spec import OptimSpec
from lucida.data.boxes import box_tokens
from lucida.data.sample import IGNORED, Batch
from lucida.model import attention
from lucida.model.attention import Layout
from lucida.model.masks import fields_of
from lucida.parts.card import write_card
from lucida.parts.corpus import Reader, TextBatch
from lucida.parts.fitting import Fitting
from lucida.parts.tokenizer import BINS, make_tokenizer
from lucida.training import optim
from lucida.training.precision import Precision, choose_unscaled
from lucida.world.text import ASKERS, document, exercise

PEAK = 3e-3
"""Learning rate of all weights, matrices by Muon and the rest by AdamW."""
DECAY = 0.05
"""Weight decay of the matrices."""


@dataclass(frozen=True)
class Leg:
    """A stretch of the training with a schedule of its own.

    share: of all steps. peak: of the learning rates. warm: steps of warm-up. begin, end: where the
    exercises stand (`world.text.exercise`) at its beginning and from its middle on.
    """

    share: float
    peak: float
    warm: int
    begin: float
    end: float


@dataclass(frozen=True)
class LegSchedule:
    """A leg between its first step and its last: how fast, and where the exercises stand."""

    leg: Leg
    first: int
    last: int

    def done(self, step: int) -> float:
        """The share of the leg before this step."""
        return (step - self.first) / (self.last - self.first)

    def rate(self, step: int) -> float:
        """The factor on the peak rates: warm-up, then to 2% over the second half."""
        warm = min(1.0, (step - self.first + 1) / self.leg.warm)
        # The last factor falls below 1 at 51% of the leg, and ends at 2%.
        return self.leg.peak * warm * min(1.0, 0.02 + 2 * (1 - self.done(step)))

    def stands(self, step: int) -> float:
        """Where the exercises stand: at the leg's end from its middle on."""
        return self.leg.begin + (self.leg.end - self.leg.begin) * min(1.0, 2 * self.done(step))


LEGS = (Leg(13 / 15, 1.0, 100, 0.0, 1.0), Leg(2 / 15, 0.5, 50, 2.0, 2.0))
"""Looking up, then pointing."""


def build_base(
    folder: Path, *, steps: int = 3000, exercises: int = 20, seed: int = 0, device: str = "cpu"
) -> dict:
    """Train tokenizer and model, write a Hugging Face folder (fp16 safetensors) and its card."""
    tokenizer = make_tokenizer(seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(small_llama(tokenizer)).to(device)
    coordinates_on_a_line(model, tokenizer)
    compile_layers(model)
    reader = Reader(tokenizer)
    started = time.time()
    precision = choose_unscaled(torch.device(device))
    loss = _pretrain(model, reader, steps, exercises, seed, precision)
    seconds = time.time() - started
    model.eval()
    scores = question_scores(model, reader, 300, device)
    perplexity = text_perplexity(model, reader, 400, device)
    folder.mkdir(parents=True, exist_ok=True)
    model.half().cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return write_card(
        folder,
        what="base language model, trained on text of the miniature world only",
        made=f"lucida parts build base-mini --out DIR --steps {steps} --seed {seed}",
        data={"exercises": steps * exercises, "split": "train"},
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=round(seconds),
        final_loss=round(loss, 4),
        measured={"text perplexity": perplexity}
        | {f"{name} in text %": value for name, value in scores.items()},
    )


def small_llama(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Four layers of width 192: 1.9 million parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=attention.NAME,
    )


def coordinates_on_a_line(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the coordinate tokens embeddings whose likeness falls with their distance.

    Sines and cosines of the bin's place, turned at random so that they share no axis with anything.
    From independent vectors, that <b03> comes before <b17> had not been learnt after a thousand
    steps; from these it takes four hundred (LOG.md).
    """
    weight = model.get_input_embeddings().weight
    width = weight.shape[1]
    waves = 2 * math.pi / torch.logspace(math.log10(4), math.log10(0.1), width // 2)
    angles = torch.arange(BINS)[:, None] / BINS * waves
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [bins, width], rows of norm √(width/2)
    turn = torch.linalg.qr(torch.randn(width, width)).Q
    ids = tokenizer.convert_tokens_to_ids(box_tokens(BINS))
    with torch.no_grad():
        # Rows of norm √(width / 2), times √2 and the usual deviation: as long as rows that were
        # drawn.
        weight[ids] = (line @ turn * model.config.initializer_range * 2**0.5).to(weight.device)


def hidden_states(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Last hidden states [1, positions, width] of packed text, questions isolated."""
    return model.model(
        input_ids=batch.input_ids,
        position_ids=batch.position,
        attention_mask=torch.zeros(1, 1, 1, 1, device=batch.input_ids.device),
        use_cache=False,
        layout=Layout(fields_of(batch), "causal"),
    ).last_hidden_state


def text_loss(model: LlamaForCausalLM, text: TextBatch, device: str) -> torch.Tensor:
    """Weighted mean cross-entropy over the supervised positions only."""
    batch = text.batch.to(device)
    taught = batch.target != IGNORED
    logits = model.lm_head(hidden_states(model, batch)[taught]).float()  # [supervised, vocabulary]
    weight = text.weight.to(device)[taught]
    each = F.cross_entropy(logits, batch.target[taught], reduction="none")
    return (each * weight).sum() / weight.sum()


def make_optimizer(model: LlamaForCausalLM, precision: Precision) -> torch.optim.Optimizer:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    spec = OptimSpec(kind="muon", weight_decay=DECAY)
    trained = {name: (weight, PEAK) for name, weight in model.named_parameters()}
    optimizer = optim.make_optimizer(trained, spec, model, precision.dtype)
    for group in optimizer.adamw.param_groups:
        group["weight_decay"] = 0.0
    return optimizer


def compile_layers(model: LlamaForCausalLM) -> None:
    """A third faster on a CPU, after a minute of compiling; nothing without a compiler."""
    if shutil.which("g++"):
        for layer in model.model.layers:
            layer.compile(dynamic=True)


def _pretrain(
    model: LlamaForCausalLM,
    reader: Reader,
    steps: int,
    exercises: int,
    seed: int,
    precision: Precision,
) -> float:
    first, device = 0, str(precision.device)

    def look(step: int) -> None:
        if step % 500 == 499:
            model.eval()
            say(f"step {step + 1}: {question_scores(model, reader, 60, device)}")
            model.train()

    with Fitting("base-mini", steps) as fitting:
        for leg in LEGS:
            last = min(steps, first + round(leg.share * steps))
            schedule = LegSchedule(leg, first, last)

            def loss_of(step: int, schedule: LegSchedule = schedule) -> torch.Tensor:
                stands = schedule.stands(step)
                text = reader.batch(seed + 1, "train", step, exercises, progress=stands)
                with precision.autocast():
                    return text_loss(model, text, device)

            optimizer = make_optimizer(model, precision)
            fitting.fit(model, optimizer, range(first, last), loss_of, schedule.rate, look)
            first = last
    return fitting.loss


@torch.no_grad()
def question_scores(
    model: LlamaForCausalLM, reader: Reader, scenes: int, device: str
) -> dict[str, float]:
    """Percent of held-out questions, told in text, whose whole answer is the most likely one, token
    by token (validation split)."""
    right: dict[str, list[bool]] = {name: [] for name in ASKERS}
    for start in range(0, scenes, 30):
        numbers = range(start, min(start + 30, scenes))
        told = [exercise(3, "validation", k, progress=2) for k in numbers]
        rows = [reader.row(one) for one in told]
        batch = reader.stack(rows).batch.to(device)
        guess = model.lm_head(hidden_states(model, batch)).argmax(-1)
        hit = (guess == batch.target).cpu()[0].split([len(row) for row in rows])
        for number, one in enumerate(told):
            for branch, exchange in enumerate(one.exchanges, start=1):
                where = [
                    k
                    for k, cell in enumerate(rows[number])
                    if cell[1] == branch and cell[3] != IGNORED
                ]
                right[exchange.task].append(bool(hit[number][where].all()))
    return {name: round(100 * sum(v) / max(1, len(v)), 1) for name, v in right.items()}


@torch.no_grad()
def text_perplexity(model: LlamaForCausalLM, reader: Reader, documents: int, device: str) -> float:
    """Perplexity of held-out documents that are no exercises, per token."""
    total = count = 0.0
    for start in range(0, documents, 50):
        numbers = range(start, min(start + 50, documents))
        rows = [reader.text_row([document(3, "validation", k)]) for k in numbers]
        batch = reader.stack(rows)
        number = batch.batch.supervised
        total += float(text_loss(model, batch, device)) * number
        count += number
    return round(math.exp(total / count), 3)
