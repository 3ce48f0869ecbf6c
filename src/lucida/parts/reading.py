"""How `wordnet-mini` is made: `base-mini` with more words, reading what WordNet says of things.

    gloss ──▶ what is it called, which of four names is it, what kind of thing is it
    name  ──▶ what kind of thing is it, which of four names is of this kind

A picture takes the place of the gloss afterwards. Only things with a name of one word are read,
half of all: pictures are seldom called by the others. It does not ship: `lucida fetch wordnet-mini`
makes it from Debian's package. After 200 steps it had not learnt to read: not even to copy one of
four names (LOG.md, 2026-11-30).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from lucida.data.sample import IGNORED
from lucida.model.language import load_language
from lucida.model.loading import quiet_loading
from lucida.model.parts import part_path
from lucida.parts.card import write_card
from lucida.parts.corpus import Reader
from lucida.parts.fitting import Fitting
from lucida.parts.glosses import KIND, NAME, Gloss, ask_choice, read_glosses
from lucida.parts.language import compile_layers, hidden_states, make_optimizer, text_loss
from lucida.parts.tokenizer import train_tokenizer
from lucida.training.precision import choose_unscaled

BASE = "base-mini"
WORDS = 4096
"""Tokens of the vocabulary."""
HELD = 25
"""Every so manieth gloss is kept out, to measure on."""
Row = list[tuple[int, int, int, int, float]]


class Exercises:
    """Rows of exercises about things, number by number."""

    def __init__(self, reader: Reader, glosses: Sequence[Gloss], seed: int) -> None:
        self.reader, self.glosses, self.seed = reader, glosses, seed
        self.order = list(range(len(glosses)))
        random.Random(seed).shuffle(self.order)
        self.names = [each.name for each in glosses]

    def rows(self, number: int) -> tuple[Row, Row]:
        """Those of thing `number` of an order drawn by lot, which begins again at its end: behind
        its gloss, and from its name alone."""
        rng = random.Random(self.seed * 1_000_003 + number)
        gloss = self.glosses[self.order[number % len(self.order)]]
        near = self.near(rng, gloss)
        kind = rng.choice(gloss.kinds)
        told = [
            (NAME, gloss.name),
            (ask_choice(rng, gloss.name, self.names), gloss.name),
            (ask_choice(rng, gloss.name, near), gloss.name),
            (KIND, kind),
        ]
        alone = [
            (f"What kind of thing is {gloss.name}?", ", ".join(gloss.kinds[:3])),
            (self.ask_kind(rng, gloss, kind), gloss.name),
        ]
        return self._row(gloss.text, told), self._row("", alone)

    def near(self, rng: random.Random, gloss: Gloss) -> list[str]:
        """Names of things of the same widest kinds, of three hundred drawn; all names if few."""
        some = rng.sample(self.glosses, min(300, len(self.glosses)))
        wide = set(gloss.kinds[-3:])  # of animals other animals, not tools
        found = sorted({each.name for each in some if wide <= set(each.kinds)} - {gloss.name})
        return found if len(found) > 3 else self.names

    def ask_kind(self, rng: random.Random, gloss: Gloss, kind: str) -> str:
        """Which of four names is of a kind; of the others none is."""
        some = rng.sample(self.glosses, min(40, len(self.glosses)))
        others = sorted({each.name for each in some if kind not in each.kinds} - {gloss.name})
        return ask_choice(rng, gloss.name, others, kind) if len(others) > 3 else KIND

    def _row(self, text: str, asked: Sequence[tuple[str, str]]) -> Row:
        ids = self.reader.ids
        words = ids(f" {text}") if text else ()
        return self.reader.asked(words, [(q, ids(f" {a}")) for q, a in asked])


def build_wordnet(
    folder: Path, file: Path, *, steps: int = 500, things: int = 24, seed: int = 0
) -> dict:
    """Train tokenizer and model on the nouns in `file`, `things` a step, and write a Hugging Face
    folder (fp16 safetensors) and its card, which is returned."""
    glosses = [each for each in read_glosses(file) if " " not in each.name]
    tokenizer = train_tokenizer(_texts(glosses), WORDS)
    torch.manual_seed(seed)
    model, known = load_language(part_path(f"lucida:{BASE}"))
    give_words(model, known, tokenizer)
    compile_layers(model)
    reader = Reader(tokenizer)
    held = glosses[::HELD]
    exercises = Exercises(reader, [g for k, g in enumerate(glosses) if k % HELD], seed)
    precision = choose_unscaled(torch.device("cpu"))

    def loss_of(step: int) -> torch.Tensor:
        numbers = range(step * things, (step + 1) * things)
        rows = [row for number in numbers for row in exercises.rows(number)]
        with precision.autocast():
            return text_loss(model, reader.stack(rows), "cpu")

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 50) * min(1.0, 0.02 + 2 * (1 - step / steps))

    started = time.process_time()
    with Fitting("wordnet-mini", steps) as fitting:
        fitting.fit(model, make_optimizer(model, precision), range(steps), loss_of, rate)
    seconds = time.process_time() - started
    model.eval()
    measured = measure(model, reader, Exercises(reader, held, seed + 1))
    with quiet_loading():
        model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return write_card(
        folder,
        what="language model that has read WordNet's glosses of things and nothing else",
        made="lucida fetch wordnet-mini",
        data={"glosses": len(glosses) - len(held), "read": steps * things},
        parameters=sum(p.numel() for p in model.parameters()),
        processor_seconds=round(seconds),
        final_loss=round(fitting.loss, 4),
        measured=measured,
    )


@torch.no_grad()
def give_words(
    model: LlamaForCausalLM, known: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The vocabulary of `tokenizer` in place of the `known` one: a token begins as what was known
    of it, or as the mean of the pieces that it fell into."""
    old = model.get_input_embeddings().weight.clone()
    before = known.get_vocab()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for token, place in tokenizer.get_vocab().items():
        pieces = [before[token]] if token in before else []
        # A new token begins as the mean of the old ones that spell it.
        pieces = pieces or known.encode(tokenizer.decode([place]), add_special_tokens=False)
        model.get_input_embeddings().weight[place] = old[pieces].mean(0)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
        setattr(model.generation_config, name, getattr(tokenizer, name))


@torch.no_grad()
def measure(model: LlamaForCausalLM, reader: Reader, exercises: Exercises) -> dict[str, float]:
    """Percent of answers about glosses that were not read whose every token is the likeliest."""
    names = ("name by gloss", "of four by gloss", "of four near by gloss", "kind by gloss",
             "three kinds by name", "of four by kind")  # fmt: skip
    right: dict[str, list[bool]] = {name: [] for name in names}
    for number in range(min(400, len(exercises.glosses))):
        rows = exercises.rows(number)
        batch = reader.stack(list(rows)).batch
        hit = (model.lm_head(hidden_states(model, batch)).argmax(-1) == batch.target)[0]
        cells = [(part, cell[1], cell[3]) for part, row in enumerate(rows) for cell in row]
        for place, name in enumerate(names):
            mine = (0, place + 1) if place < 4 else (1, place - 3)
            where = [k for k, cell in enumerate(cells) if cell[:2] == mine and cell[2] != IGNORED]
            right[name].append(bool(hit[where].all()))
    return {f"{name} %": round(100 * sum(v) / len(v), 1) for name, v in right.items()}


def _texts(glosses: Sequence[Gloss]) -> Iterator[str]:
    yield f"\nQuestion: {NAME}\nAnswer:\nQuestion: {KIND}\nAnswer: Which of these is it:, or?"
    for each in glosses:
        yield f" {each.name} {each.text} {', '.join(each.kinds[:3])}"
