"""The model as it was when a stage began, which preference is measured against.

    model ─copy, adapters off─▶ reference ─ losses of both answers, no gradient ─▶ Batch.pairs

What the stage leaves frozen is shared with the model that trains, so under adapters the reference
takes no memory. What trains is kept in the run folder, `kept/STAGE-reference.safetensors`, for a
run that goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from lucida.core.files import atomic_write, make_folder
from lucida.core.spec import MaskName, PreferenceSpec, StageSpec
from lucida.data.sample import Batch
from lucida.model import adapters
from lucida.model.vlm import LucidaModel
from lucida.training.ending import FOLDER
from lucida.training.layers import equip
from lucida.training.objective import token_losses
from lucida.training.precision import Precision
from lucida.training.preference import Pairs
from lucida.training.reading import read_tensors

if TYPE_CHECKING:
    from lucida.training.run import Run


@dataclass(slots=True)
class Reference:
    """Gives batches the losses of the reference."""

    model: LucidaModel
    spec: PreferenceSpec
    mask: MaskName
    precision: Precision
    how: str

    def prepare(self, batch: Batch, shift: float = 0.0) -> Batch:
        """The same batch, on the device, for a loss of pairs; `shift` is the mean reward so far."""
        batch = batch.to(self.precision.device)
        with torch.no_grad(), self.precision.autocast():
            _, losses = token_losses(self.model, batch, self.mask, self.how)
        batch.pairs = Pairs(self.spec, losses, shift)
        return batch


def make_reference(run: Run, stage: StageSpec, trained: Mapping[str, object]) -> Reference:
    """The model as it is, or was, when a resolved stage begins."""
    reference = copy_reference(run.model, trained, share=not run.engine.shards)
    file = run.folder.path / FOLDER / f"{stage.name}-reference.safetensors"
    keep_reference(reference, trained, file, run.position.step == 0, run.engine.main)
    spec = stage.objective.preference
    return Reference(reference, spec, stage.attention_mask, run.precision, run.attention)


def note_rewards(run: Run, micro_batches: Sequence[Batch]) -> dict[str, float]:
    """Count the rewards of a step's answers, on all ranks; gives what is recorded of them: the
    share of pairs whose chosen answer has more, and the mean difference."""
    rewards = torch.cat([each for batch in micro_batches for each in batch.pairs.rewards], 1)
    chosen, rejected = rewards.double()
    pairs, summed, better, apart = run.engine.total(
        len(chosen),
        float(rewards.double().sum()),
        float((chosen > rejected).sum()),
        float((chosen - rejected).sum()),
    )
    run.position.rewards += 2 * int(pairs)
    run.position.reward_sum += summed
    return {"preferred": better / pairs, "reward_margin": apart / pairs}


def copy_reference(model: LucidaModel, trained: Mapping[str, object], share: bool) -> LucidaModel:
    """A copy that never trains, without adapters; with `share` what the stage leaves frozen is the
    model's own."""
    frozen = [weight for name, weight in adapters.named_weights(model) if name not in trained]
    # A sharded engine empties the model while it trains: nothing of it can be shared then.
    shared = {id(weight): weight for weight in frozen} if share else {}
    reference = copy.deepcopy(model, shared)
    for name, layer in adapters.adapted_layers(reference).items():
        adapters.replace(reference, name, layer.get_base_layer())
    equip(reference, "none", compiled=False)  # layers may carry the `forward` of an earlier stage
    for name, weight in reference.named_parameters():
        if name in trained:  # the rest is shared, and frozen already
            weight.requires_grad_(False)
    return reference.eval()


def keep_reference(
    reference: LucidaModel, trained: Mapping[str, object], file: Path, fresh: bool, writes: bool
) -> None:
    """Write down what the stage will train as it is at its beginning, or (not `fresh`) put into the
    reference what was written then. RunError when the file is gone or damaged."""
    own = {name: weight for name, weight in adapters.named_weights(reference) if name in trained}
    if fresh:
        if writes and own:
            make_folder(file.parent)
            atomic_write(file, save({k: v.detach().cpu().contiguous() for k, v in own.items()}))
        return
    stored = read_tensors(file) if own else {}
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(stored[name])
