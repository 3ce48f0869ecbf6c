"""How likely a model finds each of several answers: the prompt once, the answers as its branches.

    stem       [image]                       once for all questions about it
    branches   [question 1]  [question 2]    never seeing one another
    twigs      [yes] [no]    [red] [blue]    the candidates, each behind its question

Such a tree is one segment of a packed row (`model.masks`), many of them share one forward, and
logits are computed only at positions that predict a token of a candidate. A question's last
position predicts the first token of each of its candidates, so what has one token is not fed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lucida.core.errors import DataError
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, Sample, Tokens, Turn
from lucida.model.evaluating import evaluating
from lucida.model.masks import TWIG, is_asked_whole
from lucida.model.reduction import reduce_prompts
from lucida.model.trees import (
    PASS_TOKENS,
    Beginning,
    Branch,
    batches,
    beginning,
    branched,
    group_by_beginning,
    in_order,
    shared_length,
    total_length,
    with_images,
)

if TYPE_CHECKING:
    from lucida.core.spec import FewerTokensSpec
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

BATCH_TOKENS = 8192
"""Positions of one forward; on a CPU `PASS_TOKENS`, unless one tree has more."""
CHUNK_LOGITS = 2**24
"""Most logits alive at once: 64 MiB in fp32."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probabilities (nats) of one candidate: of its first token, and of all `tokens` of it.

    The end token is one of them: an answer is the text and then nothing.
    """

    first: float
    whole: float
    tokens: int

    @property
    def normalised(self) -> float:
        """Per token, so that long candidates are not worse for being long."""
        return self.whole / self.tokens


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with candidates as ids, or one of them where a mask lets images see the question.

    `targets` are the ids of each candidate; all but the last of them are fed behind `stem`.
    `number` counts the questions that one prompt was split into.
    """

    index: int
    stem: Tokens
    targets: tuple[np.ndarray, ...]
    number: int = 0

    def __len__(self) -> int:
        return len(self.stem) + sum(len(target) - 1 for target in self.targets)

    @property
    def cut(self) -> int:
        """Where what other questions may begin with as well ends, 0 where nothing is shared."""
        return shared_length(self.stem)

    @property
    def beginning(self) -> Beginning:
        """What must be equal for two questions to share it: pictures, and ids up to `cut`."""
        return beginning(self.stem, self.cut)


@dataclass(frozen=True, slots=True)
class Tree:
    """Questions that begin alike. `cut` positions are shared; of a question alone, all of it."""

    cut: int
    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return self.cut + sum(len(each) - self.cut for each in self.questions)


@torch.no_grad()
def likelihoods(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    candidates: Sequence[Sequence[str]],
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[Likelihood]]:
    """For each sample (one branch that ends with the user's turn) what its candidates score.

    A sample whose branch is a document (role `text`) is continued by its candidates, without an end
    token. DataError: no candidates, an empty one, or one that does not fit the context.

    Worked example: a picture, "is it red?", candidates "yes" and "no". The segment is
    image, question | yes | no with branches 0 .., 1, 2; three positions have logits: the question's
    last (of "yes" and "no"), and the two candidates' (of the end token). With a second question
    about the picture, "how many?" and "1", it is image | is it red? | yes | no | how many? | 1 with
    branches 0, 1, T + 1, 2 T + 1, 2, T + 2 (T: `masks.TWIG`).
    """
    scored = score_candidates(model, processor, samples, candidates, batch_tokens)
    return in_order(scored, len(samples))


@torch.no_grad()
def score_candidates(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    candidates: Sequence[Sequence[str]],
    batch_tokens: int = BATCH_TOKENS,
    fewer: FewerTokensSpec | None = None,
) -> Iterator[tuple[int, list[Likelihood]]]:
    """The same as they are found: (number of the sample, its likelihoods). `fewer`: how many visual
    tokens are left of each picture."""
    pairs = zip(samples, candidates, strict=True)
    questions = [question(processor, n, sample, texts) for n, (sample, texts) in enumerate(pairs)]
    stems = reduce_prompts(model, processor, [each.stem for each in questions], fewer)
    questions = [replace(q, stem=stem) for q, stem in zip(questions, stems, strict=True)]
    alone = is_asked_whole(model.mask_for(processor))
    if alone:  # several branches cannot share what sees them
        questions = [
            replace(each, targets=(target,), number=number)
            for each in questions
            for number, target in enumerate(each.targets)
        ]
    waiting = Counter(each.index for each in questions)
    found: dict[int, dict[int, list[Likelihood]]] = {}
    # `model.attention` refuses a segment that is longer than a sliding window, so trees stay below.
    window = getattr(model.config.text_config, "sliding_window", None) or batch_tokens
    grown = trees(questions, 0 if alone else min(window, batch_tokens))
    if model.device.type == "cpu":  # trees as large, but fewer at a time
        batch_tokens = min(batch_tokens, PASS_TOKENS)
    for batch in batches(grown, total_length, batch_tokens):
        with evaluating(model):
            done = scored_batch(model, processor, batch)
        for each, scored in done:
            parts = found.setdefault(each.index, {})
            parts[each.number] = scored
            if len(parts) == waiting[each.index]:
                whole = found.pop(each.index)
                yield each.index, [one for number in sorted(whole) for one in whole[number]]


def question(
    processor: LucidaProcessor, index: int, sample: Sample, texts: Sequence[str]
) -> Question:
    """A sample and its candidates, tokenised together and cut where they begin to differ."""
    if not texts:
        raise DataError(
            "there are no candidates to compare",
            origin=sample.origin,
            remedy="ask this task with the protocol `generate`",
        )
    prompt = processor.prompt(sample)
    # Each candidate is tokenised with its prompt, as it would be written: a tokenizer may join the
    # end of the one with the beginning of the other. What all begin with is the stem, and may be
    # shorter than the prompt.
    whole = [append_candidate(processor, sample, text) for text in texts]
    shared = min(common_prefix(prompt.input_ids, tokens.input_ids) for tokens in whole)
    if shared == 0:
        raise DataError(
            "nothing stands before the candidates, so their first token has no likelihood",
            origin=sample.origin,
            remedy="use a tokenizer with a start token, or give the text a beginning",
        )
    document = sample.branches[0][-1].role == "text" if sample.branches else False
    targets = []
    for text, tokens in zip(texts, whole, strict=True):
        ids = tokens.input_ids[shared : len(tokens) - 1 if document else _end(tokens)]
        if len(ids) == 0:
            raise DataError("a candidate has no tokens", given=repr(text), origin=sample.origin)
        targets.append(ids)
    if prompt.image[shared:].any():
        raise DataError(
            "a candidate changes how the images before it are written", origin=sample.origin
        )
    fields = ("input_ids", "branch", "position", "image", "target")
    stem = replace(prompt, **{name: getattr(prompt, name)[:shared] for name in fields})
    return Question(index, stem, tuple(targets))


def append_candidate(processor: LucidaProcessor, sample: Sample, text: str) -> Tokens:
    """The sample with one candidate as its answer; DataError when it does not fit whole."""
    (branch,) = sample.branches or ((),)
    lost: Counter[str] = Counter()
    if branch and branch[-1].role == "text":
        branch = (*branch[:-1], Turn("text", (*branch[-1].parts, text)))
    else:
        branch = (*branch, Turn("assistant", (text,)))
    tokens = processor.encode(replace(sample, branches=(branch,)), counts=lost)
    if lost:
        raise DataError(
            "a candidate does not fit into the context",
            expected=f"at most {processor.max_length} tokens",
            given=f"{len(tokens) + lost['tokens_cut']}",
            origin=sample.origin,
            remedy="shorten it or raise model.language.max_length",
        )
    return tokens


def common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    """How many ids two prompts begin with together."""
    size = min(len(first), len(second))
    differ = np.flatnonzero(first[:size] != second[:size])
    return int(differ[0]) if len(differ) else size


def _end(tokens: Tokens) -> int:
    """Behind the last supervised token: what a template writes after the end token is no answer."""
    # A target at i is the id that stands at i + 1, so the ids end behind i + 1.
    return int(np.flatnonzero(tokens.target != IGNORED)[-1]) + 2


def trees(questions: Sequence[Question], longest: int) -> list[Tree]:
    """Questions joined where they begin alike, into trees of at most `longest` positions; those of
    a picture side by side among trees of similar length."""
    groups = group_by_beginning(
        sorted(questions, key=lambda each: (each.beginning, len(each))),
        key=lambda each: each.beginning,
        cut=lambda each: each.cut,
        behind=lambda each: each.cut and len(each) - each.cut,
        longest=longest,
    )
    grown = [
        Tree(group[0].cut if len(group) > 1 else len(group[0].stem), tuple(group))
        for group in groups
    ]
    return sorted(grown, key=lambda tree: (len(tree), tree.questions[0].beginning[0]))


def pack_tree(tree: Tree) -> tuple[Tokens, list[np.ndarray]]:
    """A segment as tokens, and for each candidate, question by question, the positions that predict
    its tokens."""
    alone = len(tree.questions) == 1
    behind: list[Branch] = []
    places, ends = [], []
    end = tree.cut
    for number, each in enumerate(tree.questions, 1):
        rest = each.stem.input_ids[tree.cut :]
        behind.append((rest, number, each.stem.behind(tree.cut)))
        end += len(rest)
        ends.append(end - 1)
        for twig, target in enumerate(each.targets, 1):
            fed = target[:-1]
            # A question alone is the stem itself (branch 0), so its candidates are plain branches
            # of it; among several each candidate is a twig of its own branch (`masks.TWIG`).
            own = twig if alone else twig * TWIG + number
            behind.append((fed, own, each.stem.behind(len(each.stem))))
            # The question's last position predicts a candidate's first token; each token that is
            # fed, the next one.
            places.append(np.concatenate([ends[-1:], end + np.arange(len(fed))]))
            end += len(fed)
    return branched(tree.questions[0].stem, tree.cut, behind, ends), places


def scored_batch(
    model: LucidaModel, processor: LucidaProcessor, batch: Sequence[Tree]
) -> list[tuple[Question, list[Likelihood]]]:
    """One forward, and the likelihoods of every candidate in it, question by question."""
    rows, places = zip(*map(pack_tree, batch), strict=True)
    fields = collate(rows, pack=True, pad_id=processor.tokenizer.pad_token_id)
    with_images(fields, model, processor, rows)
    starts = np.cumsum([0, *(len(row) for row in rows)])
    # `starts` has one more than there are trees.
    own = [p + start for start, each in zip(starts, places, strict=False) for p in each]
    where = torch.from_numpy(np.concatenate(own)).to(model.device)
    mask = model.mask_for(processor)
    hidden = model.hidden(fields.to(model.device), mask, wanted=where.unique())[0]
    questions = [each for tree in batch for each in tree.questions]
    wanted = [target for each in questions for target in each.targets]
    scores = log_probabilities(
        model,
        hidden,
        where,
        torch.from_numpy(np.concatenate(wanted)).to(model.device),
    )
    begin, done = 0, []
    for each in questions:
        found = []
        for target in each.targets:
            part = scores[begin : begin + len(target)]
            found.append(Likelihood(float(part[0]), float(part.sum()), len(target)))
            begin += len(target)
        done.append((each, found))
    return done


def log_probabilities(
    model: LucidaModel, hidden: Tensor, where: Tensor, wanted: Tensor
) -> np.ndarray:
    """log p(wanted[i] | position where[i]) as float64; each position's logits are computed once."""
    places, row = where.unique(return_inverse=True)
    size = max(1, CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    result = torch.empty(len(where), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(places), size):
        logits = model.logits(hidden[places[start : start + size]]).float()
        scores = functional.log_softmax(logits, dim=-1)
        inside = ((row >= start) & (row < start + size)).nonzero().squeeze(1)
        result[inside] = scores[row[inside] - start, wanted[inside]]
    return result.double().cpu().numpy()
