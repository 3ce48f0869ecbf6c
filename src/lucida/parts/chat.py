"""How the chat model `chat-mini` is made: `base-mini` tuned on conversations in words alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from lucida.core.progress import say
from lucida.data.chat import encode
from lucida.data.collate import collate_rows
from lucida.data.policies import make_policy
from lucida.data.sample import IGNORED, Batch, Tokens
from lucida.model.language import load_language
from lucida.model.parts import part_path
from lucida.parts.card import write_card
from lucida.parts.corpus import Reader, TextBatch
from lucida.parts.dialogues import (
    STANDS,
    Talk,
    dialogue_talk,
    questions_talk,
    request_talk,
    requests_talk,
)
from lucida.parts.fitting import Fitting
from lucida.parts.language import (
    compile_layers,
    hidden_states,
    make_optimizer,
    text_loss,
    text_perplexity,
)
from lucida.parts.tokenizer import BINS
from lucida.training.precision import Precision, choose_unscaled
from lucida.world.phrases import short_name
from lucida.world.requests import REFUSAL, Request, bad, harmless, task
from lucida.world.scenes import make_scene, scene_rng

BASE = "base-mini"
MARKERS = {
    "<|system|>": "\n",
    "<|user|>": "Question:",
    "<|assistant|>": ":",
    "<|end|>": "<eos>",
}
"""ChatML with one token for each role and one for the end of a turn, and what each is like in the
base model's text. Four tokens stand around a question and its answer; `<|im_start|>assistant` and
its like would be a dozen of this vocabulary."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('no such role: ' ~ message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|> {{ message['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The space in front of each text belongs to its first word, as in the text that the base model has
read; the assistant writes it itself."""
PEAK = 0.6
"""Learning rates, as a share of those that the base model was trained with."""
PER_STEP = {"questions": 6, "dialogue": 10, "requests": 28, "base": 4}
"""Conversations of each form in a step, and rows of the base model's own corpus."""
NO_PICTURES = make_policy("resize", 64, (0.5,) * 3, (0.5,) * 3)


def build_chat(folder: Path, *, steps: int = 800, seed: int = 0, device: str = "cpu") -> dict:
    """Tune `base-mini`, write a Hugging Face folder (fp16 safetensors) and its card.

    Reference: Ouyang et al., Training language models to follow instructions with human feedback,
    2022, arXiv 2203.02155, sections 3.4 (supervised fine-tuning) and 3.5 (text kept in the mix).
    """
    torch.manual_seed(seed)
    model, tokenizer = load_language(part_path(f"lucida:{BASE}"))
    model.to(device).eval()
    before = text_perplexity(model, Reader(tokenizer), 400, device)
    give_template(model, tokenizer)
    reader = Reader(tokenizer)
    started = time.time()
    precision = choose_unscaled(torch.device(device))
    loss = _tune(model, reader, steps, seed, precision)
    seconds = time.time() - started
    measured = {
        "text perplexity": text_perplexity(model, reader, 400, device),
        f"text perplexity of {BASE}": before,
        **chat_scores(model, reader, 300, device),
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.half().cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return write_card(
        folder,
        what=f"chat model, {BASE} tuned on conversations in text of the miniature world only",
        made=f"lucida parts build chat-mini --out DIR --steps {steps} --seed {seed}",
        data={name: number * steps for name, number in PER_STEP.items()} | {"split": "train"},
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=round(seconds),
        final_loss=round(loss, 4),
        measured=measured,
    )


def give_template(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the markers and the chat template; what ends an answer is known to `generate`.

    A marker starts as the mean of what stands in its place in the base model's text: from means of
    the whole vocabulary the first loss is 12 nats a token, from these it is 5.
    """
    tokenizer.add_special_tokens(
        {"extra_special_tokens": list(MARKERS)}, replace_extra_special_tokens=False
    )
    tokenizer.chat_template = TEMPLATE
    weight = model.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight
    with torch.no_grad():
        for marker, model_text in MARKERS.items():
            alike = tokenizer.encode(model_text, add_special_tokens=False)
            weight[tokenizer.convert_tokens_to_ids(marker)] = weight[alike].mean(0)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    model.generation_config.eos_token_id = [end, tokenizer.eos_token_id]


def tokens_of(talk: Talk, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A conversation in the tokenizer's own template; answers and their ends are supervised."""
    room = tokenizer.model_max_length
    return encode(
        talk.sample,
        tokenizer,
        "tokenizer",
        0,
        NO_PICTURES,
        BINS,
        "answers",
        room,
        image_token_id=None,
    )


def talk_batch(reader: Reader, seed: int, step: int) -> TextBatch:
    """The conversations of a step and rows of the base model's corpus, end to end."""
    numbers = {name: range(step * n, (step + 1) * n) for name, n in PER_STEP.items()}
    talks = [questions_talk(reader, seed, "train", k) for k in numbers["questions"]]
    talks += [dialogue_talk(reader, seed, "train", k) for k in numbers["dialogue"]]
    talks += [requests_talk(seed, "train", k) for k in numbers["requests"]]
    chat = pack_rows([tokens_of(talk, reader.tokenizer) for talk in talks])
    base = reader.batch(seed, "train", step, PER_STEP["base"], progress=STANDS)
    return _side_by_side(chat, base)


def pack_rows(rows: Sequence[Tokens]) -> TextBatch:
    """Conversations end to end; a token of an answer of n tokens weighs 1/√n, as in the corpus."""
    batch = collate_rows([rows], sum(map(len, rows)), pad_id=0)  # one row, no padding
    number, lengths = answer_numbers(batch.target)
    weight = torch.where(batch.target != IGNORED, lengths[number].float().rsqrt(), 0.0)
    return TextBatch(batch, weight)


def answer_numbers(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which answer each supervised position [1, positions] belongs to, and the length of each.

    Answers are runs of targets, and what a template writes between two is no target. Positions that
    are not supervised have the number of the answer before them (0 before the first).

    Worked example: targets - a b - - c give the numbers 0 0 0 0 0 1 and the lengths 2 1.
    """
    taught = target[0] != IGNORED
    begins = taught & ~torch.cat([taught.new_zeros(1), taught[:-1]])
    number = (begins.cumsum(0) - 1).clamp(min=0)
    lengths = torch.bincount(number[taught], minlength=1).clamp(min=1)
    return number[None], lengths


def _side_by_side(first: TextBatch, second: TextBatch) -> TextBatch:
    names = ("input_ids", "segment", "branch", "position", "image", "target")
    fields = {name: [getattr(one.batch, name) for one in (first, second)] for name in names}
    fields["segment"][1] = fields["segment"][1] + fields["segment"][0].max()
    joined = Batch(**{name: torch.cat(pair, dim=1) for name, pair in fields.items()})
    return TextBatch(joined, torch.cat([first.weight, second.weight], dim=1))


def _tune(
    model: LlamaForCausalLM, reader: Reader, steps: int, seed: int, precision: Precision
) -> float:
    compile_layers(model)
    device = str(precision.device)

    def loss_of(step: int) -> torch.Tensor:
        with precision.autocast():
            return text_loss(model, talk_batch(reader, seed + 1, step), device)

    def rate(step: int) -> float:
        return PEAK * min(1.0, (step + 1) / 50) * (1 - step / steps)

    def look(step: int) -> None:
        if step % 200 == 199:
            say(f"step {step + 1}: {chat_scores(model, reader, 40, device)}")

    model.train()
    with Fitting("chat-mini", steps) as fitting:
        fitting.fit(model, make_optimizer(model, precision), range(steps), loss_of, rate, look)
    model.eval()
    return fitting.loss


def chat_scores(
    model: LlamaForCausalLM, reader: Reader, scenes: int, device: str
) -> dict[str, float]:
    """Percent of held-out answers that come out whole, asked through the chat template.

    The questions are those of the base model's card. Requests are held out in wording and object,
    except amid dialogues; one is refused when the refusal is what the model would write.
    """
    training = model.training
    model.eval()
    some = range(scenes)
    talks = [questions_talk(reader, 3, "validation", k) for k in some]
    right = answers_right(model, talks, reader, device)
    scores = {f"{name} in text %": right[name] for name in right}
    dialogues = [dialogue_talk(reader, 3, "validation", k) for k in some]
    right = answers_right(model, dialogues, reader, device)
    scores |= {
        'questions about "it" %': right["it"],
        "whole sentences %": right["sentence"],
        "bad requests refused amid a dialogue %": right["bad"],
    }
    rng = scene_rng(3, 1, 0, 560)
    names = [[short_name(t) for t in make_scene(3, "validation", k).things] for k in some]
    fine = [harmless(rng, held_out=True) for _ in some]
    asked = [bad(rng, held_out=True) for _ in some] + fine
    asked += [task(words, rng, held_out=True) for words in names]
    right = answers_right(model, [request_talk(one, "request") for one in asked], reader, device)
    refused = [request_talk(Request("refused", one.question, REFUSAL), "request") for one in fine]
    too_much = answers_right(model, refused, reader, device)["refused"]
    model.train(training)
    return scores | {
        "bad requests refused %": right["bad"],
        "harmless ones not refused %": round(100 - too_much, 1),
        "harmless ones answered %": right["harmless"],
        "small tasks %": right["task"],
    }


@torch.no_grad()
def answers_right(
    model: LlamaForCausalLM, talks: Sequence[Talk], reader: Reader, device: str
) -> dict[str, float]:
    """Percent of the answers of each kind whose every token, the end included, is the most likely
    one behind the right conversation so far: what greedy decoding would write."""
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(talks), 40):
        some = talks[start : start + 40]
        batch = pack_rows([tokens_of(talk, reader.tokenizer) for talk in some]).batch
        number, lengths = answer_numbers(batch.target)
        guess = model.lm_head(hidden_states(model, batch.to(device))).argmax(-1).cpu()
        taught = batch.target != IGNORED
        # Right tokens of each answer; the answer is right when they are as many as it has.
        hits = torch.bincount(number[taught], (guess == batch.target)[taught].float())
        kinds = [kind for talk in some for kind in talk.kinds]
        for kind, whole in zip(kinds, (hits == lengths).tolist(), strict=True):
            right[kind].append(whole)
    return {kind: round(100 * sum(v) / len(v), 1) for kind, v in right.items()}
