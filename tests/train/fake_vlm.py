"""A VLM of forty lines for tests of the objective and the step: same interface, no transformers."""

import numpy as np
import torch
from torch import nn

from lucida.data.sample import IGNORED, Batch, Tokens

VOCABULARY = 23


class FakeVLM(nn.Module):
    """One attention layer that keeps segments and branches apart, and a tied head."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.projector = nn.Linear(width, width)
        self.language = nn.ModuleDict(
            {
                "embed": nn.Embedding(VOCABULARY, width),
                "place": nn.Embedding(64, width),
                "mix": nn.Linear(width, 3 * width),
                "norm": nn.LayerNorm(width),
            }
        )
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)

    def hidden(
        self,
        batch: Batch,
        mask: str | None = None,
        wanted: torch.Tensor | None = None,
        how: str = "segments",
    ) -> torch.Tensor:
        seen = self.language["embed"](batch.input_ids) + self.language["place"](batch.position)
        seen = torch.where((batch.image > 0).unsqueeze(-1), self.projector(seen), seen)
        q, k, v = self.language["mix"](seen).chunk(3, dim=-1)
        order = torch.arange(seen.shape[1])
        together = batch.segment[:, :, None] == batch.segment[:, None, :]
        branch_q, branch_k = batch.branch[:, :, None], batch.branch[:, None, :]
        allowed = together & ((branch_k == 0) | (branch_k == branch_q)) & (order[:, None] >= order)
        scores = (q @ k.transpose(1, 2)).masked_fill(~allowed, float("-inf"))
        return self.language["norm"](seen + scores.softmax(-1) @ v)


def fake_tokens(seed: int, length: int, image: int = 3, supervised: float = 0.4) -> Tokens:
    """A random sample: `image` placeholders, then text of which a share is supervised."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, VOCABULARY, length)
    target = np.full(length, IGNORED)
    chosen = random.random(length) < supervised
    chosen[: image + 1] = False
    chosen[-2] = True
    target[:-1][chosen[:-1]] = ids[1:][chosen[:-1]]
    where = np.arange(length)
    return Tokens(
        origin=f"fake {seed}",
        images=(),
        input_ids=ids,
        branch=np.zeros(length, dtype=np.int64),
        position=where,
        image=((where > 0) & (where <= image)).astype(np.int64),
        target=target,
    )


def lay(samples: list[Tokens], pack: bool) -> Batch:
    """Samples in one row without padding, or one row each, padded."""
    rows = [samples] if pack else [[sample] for sample in samples]
    length = max(sum(len(sample) for sample in row) for row in rows)
    names = ("input_ids", "segment", "branch", "position", "image", "target")
    fields = {name: torch.zeros(len(rows), length, dtype=torch.int64) for name in names}
    fields["target"].fill_(IGNORED)
    for r, row in enumerate(rows):
        start = 0
        for segment, sample in enumerate(row, 1):
            stop = start + len(sample)
            for name in names:
                value = segment if name == "segment" else torch.from_numpy(getattr(sample, name))
                fields[name][r, start:stop] = value
            start = stop
    return Batch(**fields, origins=[sample.origin for sample in samples])
