"""Sigmoid contrastive pretraining of a tiny vision encoder from images and their captions alone.

A caption of the world is a list of phrases ("a large red striped star at the top left, ...").
Each phrase is matched with a picture through its best patch: the logit of (picture, phrase) is a
smooth maximum over patches of the scaled cosine between patch and phrase, and every pair is an
independent yes/no decision. Matching phrases instead of whole captions puts shape and colour
into the patches: with whole captions, a batch can be told apart by colours and counts.

Positives follow from caption text only: a phrase fits a picture when all of its words stand
together in one phrase of that picture's caption. Half of the asked phrases have one word changed.

Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343, §3;
Yao et al., FILIP, 2021, arXiv 2111.07783, §3.2 (patch-phrase maximum); Yuksekgonul et al., When and
Why Vision-Language Models Behave like Bags-of-Words, 2022, arXiv 2210.01936, §4 (swapped words).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lucida.world import scenes
from lucida.world.drawing import draw
from lucida.world.phrases import PLACES, caption_phrases
from lucida.world.scenes import Scene, make_scene

_SILENT = {"a", "an", "at", "the", "that", "says"}
_ALTERNATIVES: tuple[tuple[str, ...], ...] = (
    scenes.SHAPES,
    scenes.COLOURS,
    scenes.SIZES,
    ("striped", "dotted"),
    tuple(p.replace(" ", "-") for row in PLACES for p in row),
    tuple(scenes.WORDS),
    scenes.BACKGROUNDS,
)
_SWAP_WEIGHTS = {0: 5, 1: 2, 2: 2, 3: 2, 4: 2, 5: 3, 6: 1}
VOCABULARY = (*(w for words in _ALTERNATIVES for w in words), "sign", "background")
_NUMBER = {word: i for i, word in enumerate(VOCABULARY)}
_KIND = {word: k for k, words in enumerate(_ALTERNATIVES) for word in words}


def words_of(phrase: str) -> list[str]:
    """The words of a phrase that say something; a place of two words is one word."""
    head, at, where = phrase.partition(" at the ")
    return [w for w in head.split() if w not in _SILENT] + ([where.replace(" ", "-")] if at else [])


def shorten_phrase(words: list[str], rng: random.Random) -> list[str]:
    """The phrase with some of its adjectives or its place left out; never its noun."""
    return [w for w in words if _KIND.get(w) in (0, 5, 6, None) or rng.random() < 0.6]


def swap_word(words: list[str], rng: random.Random) -> list[str]:
    """The phrase with one word exchanged for another of its kind: a lie about one attribute."""
    places = [i for i, w in enumerate(words) if w in _KIND]
    at = rng.choices(places, [_SWAP_WEIGHTS[_KIND[words[i]]] for i in places])[0]
    others = [w for w in _ALTERNATIVES[_KIND[words[at]]] if w != words[at]]
    return [*words[:at], rng.choice(others), *words[at + 1 :]]


@dataclass
class ContrastiveBatch:
    """pixels [n, 3, s, s]; owned, asked: words of phrases as 0/1 [phrases, vocabulary]; owner
    [phrases] says whose caption an owned phrase stands in."""

    pixels: torch.Tensor
    owned: torch.Tensor
    owner: torch.Tensor
    asked: torch.Tensor

    def truth(self) -> torch.Tensor:
        """[pictures, asked phrases]: whether all words of the phrase stand in one owned phrase."""
        # Words are 0 or 1: a phrase fits where it has as many in common as it has itself.
        held = self.asked @ self.owned.T  # [asked, owned] words in common
        fits = held == self.asked.sum(1, keepdim=True)
        truth = torch.zeros(len(self.pixels), len(self.asked), dtype=torch.bool)
        for picture in range(len(self.pixels)):
            truth[picture] = fits[:, self.owner == picture].any(1)
        return truth


def make_batch(seed: int, step: int, size: int) -> ContrastiveBatch:
    """Batch number `step`: `size` fresh training pictures with true and false phrases."""
    rng = scenes.scene_rng(seed, 77, step)
    pictures, owned, owner, asked = [], [], [], []
    for row in range(size):
        scene = make_scene(seed, "train", step * size + row)
        pictures.append(as_square(scene))
        for phrase in caption_phrases(scene):
            words = words_of(phrase)
            owned.append(words)
            owner.append(row)
            short = shorten_phrase(words, rng)
            asked.append(short)
            asked.append(swap_word(short, rng))
    return ContrastiveBatch(
        to_pixels(pictures), phrases_hot(owned), torch.tensor(owner), phrases_hot(asked)
    )


def as_square(scene: Scene, side: int = 64) -> np.ndarray:
    """The drawn scene in the middle of a grey square: uint8 [side, side, 3]."""
    canvas = np.full((side, side, 3), 127, np.uint8)
    left, top = (side - scene.width) // 2, (side - scene.height) // 2
    canvas[top : top + scene.height, left : left + scene.width] = np.asarray(draw(scene))
    return canvas


def to_pixels(pictures: list[np.ndarray]) -> torch.Tensor:
    """float32 [n, 3, side, side] with mean 0.5 and deviation 0.5 per channel."""
    stacked = torch.from_numpy(np.stack(pictures))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def phrases_hot(phrases: list[list[str]]) -> torch.Tensor:
    """Words of phrases as 0/1 [phrases, vocabulary]."""
    hot = torch.zeros(len(phrases), len(VOCABULARY))
    for row, words in enumerate(phrases):
        for word in words:
            hot[row, _NUMBER[word]] = 1.0
    return hot


class PhraseMatcher(nn.Module):
    """Patches and phrases in one space. Thrown away after pretraining; only the encoder is kept."""

    def __init__(self, width: int, dim: int = 128):
        super().__init__()
        self.patch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim, bias=False))
        self.word = nn.Sequential(
            nn.Linear(len(VOCABULARY), dim), nn.GELU(), nn.Linear(dim, dim, bias=False)
        )
        self.bag = nn.Linear(len(VOCABULARY), dim, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def forward(self, patches: torch.Tensor, phrases: torch.Tensor) -> torch.Tensor:
        """patches [n, p, width], phrases [m, vocabulary] → logits [n, m]."""
        patch = F.normalize(self.patch(patches).float(), dim=-1)
        phrase = F.normalize((self.word(phrases) + self.bag(phrases)).float(), dim=-1)
        cosine = torch.matmul(patch, phrase.T)  # [n, p, m]
        scaled = cosine * self.scale.exp().clamp(max=60.0)
        # A smooth maximum over patches, so that every patch gets some gradient from the start.
        return torch.logsumexp(scaled, dim=1) + self.bias


def contrastive_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Sigmoid loss averaged over true pairs, over the hardest false ones (twice as many) and over
    all false ones, in the proportion 1 : 1 : 0.5. logits and truth: [pictures, phrases]."""
    each = F.softplus(torch.where(truth, -logits, logits))
    wrong = each[~truth]
    # Most false pairs are wrong in every word; what has to be told apart are lies about one.
    hard = wrong.topk(min(2 * int(truth.sum()), len(wrong))).values
    return each[truth].mean() + hard.mean() + 0.5 * wrong.mean()
