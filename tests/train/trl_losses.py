"""TRL's own DPO loss on given log-probabilities, beside which Lucida's stand.

    python tests/train/trl_losses.py tests/golden/preference_trl.json

It needs trl; a folder that pip filled with `--no-deps --target DIR` is found by PYTHONPATH=DIR.

`DPOTrainer._compute_loss` is called as TRL 1.16 has it, with a stand-in for the trainer and a model
that gives the log-probability of each token; nothing of it is written anew here.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch

LOSSES = {
    "dpo": (["sigmoid"], [1.0]),
    "ipo": (["ipo"], [1.0]),
    "mpo": (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
}
"""What each of Lucida's losses is called in TRL, and MPO's shares of it."""


def trl_loss(policy: list, reference: list, loss: str, beta: float) -> float:
    """TRL's loss of one pair: policy, reference: log-probabilities of the tokens of the chosen and
    of the rejected answer, two lists each."""
    from trl import DPOTrainer

    length = max(map(len, policy)) + 1  # a prompt of one token
    mask, logs = torch.zeros(2, length, dtype=torch.long), torch.zeros(2, length - 1)
    for row, answer in enumerate(policy):
        mask[row, 1 : 1 + len(answer)] = 1
        logs[row, : len(answer)] = torch.tensor(answer)
    nothing = torch.zeros_like(logs)
    outputs = SimpleNamespace(
        log_probs=logs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )
    inputs = {
        "input_ids": mask,
        "attention_mask": mask,
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor([sum(reference[0])]),
        "ref_rejected_logps": torch.tensor([sum(reference[1])]),
    }
    kinds, weights = LOSSES[loss]
    alone = {"gather": lambda x: x, "gather_for_metrics": lambda x: x, "device": "cpu"}
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(**alone),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=kinds,
        loss_weights=weights,
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return float(DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False))


def make_pairs() -> list[tuple[list, list]]:
    """Policy and reference of eight pairs, made up: answers of 1 to 9 tokens."""
    draw = torch.Generator().manual_seed(0)

    def answer(length: int) -> list[float]:
        return (-3 * torch.rand(length, generator=draw)).tolist()

    lengths = torch.randint(1, 10, (8, 2), generator=draw).tolist()
    return [([answer(n) for n in each], [answer(n) for n in each]) for each in lengths]


def make_golden() -> dict:
    """Pairs, and TRL's losses of each."""
    import trl

    rows = [
        {"policy": policy, "reference": reference, "beta": beta}
        | {loss: trl_loss(policy, reference, loss, beta) for loss in LOSSES}
        for policy, reference in make_pairs()
        for beta in (0.1, 0.5)
    ]
    note = f"DPOTrainer._compute_loss of trl {trl.__version__}, by tests/train/trl_losses.py"
    return {"note": note, "pairs": rows}


if __name__ == "__main__":
    golden = make_golden()
    rows = ",\n".join(f"  {json.dumps(row)}" for row in golden["pairs"])
    text = f'{{"note": {json.dumps(golden["note"])},\n "pairs": [\n{rows}\n ]}}\n'
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
