"""Muon moves matrices of linear layers by orthogonal updates, and nothing else."""

import pytest
import torch
from torch import nn

from lucida.core.spec import OptimSpec
from lucida.training import muon
from lucida.training.muon import Muon, find_matrices, orthogonalise
from lucida.training.optim import make_optimizer, set_learning_rate
from lucida.training.stage import plan_stage


class Tied(nn.Module):
    """An embedding tied to the output over the vocabulary, with two layers of other shapes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.places = nn.Parameter(torch.zeros(4, 6))
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.patch = nn.Conv2d(3, 6, 2)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids):
        return self.head(self.norm(self.down(self.up(self.embed(ids) + self.places).relu())))


def made(model, dtype=torch.float32, **changes):
    plan = plan_stage(model, {"*": 1e-2, "down": 1e-3}, "stage")
    return make_optimizer(plan.trained, OptimSpec(kind="muon", **changes), model, dtype)


def move(model, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, 11, (5, 4), generator=generator)
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 40), (1, 1, 5)])
def test_singular_values_end_near_one(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    values = torch.linalg.svdvals(orthogonalise(matrices.to(dtype)).float())
    # A tenth of the largest singular value is far above what five iterations leave behind.
    wanted = torch.linalg.svdvals(matrices)
    seen = values[wanted > 0.1 * wanted.amax(-1, keepdim=True)]
    assert seen.min() > 0.6 and seen.max() < 1.3


def test_directions_are_kept_and_zeros_stay():
    left, right = (torch.linalg.qr(torch.randn(6, 6)).Q for _ in range(2))
    matrix = left @ torch.diag(torch.linspace(1, 3, 6)) @ right
    turned = left.mT @ orthogonalise(matrix[None])[0] @ right.mT
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-4
    assert not orthogonalise(torch.zeros(2, 3, 4)).any()


def test_which_weights_are_matrices():
    model = Tied()
    assert find_matrices(model) == {model.up.weight, model.down.weight}
    optimizer = made(model, weight_decay=0.1)
    found = {tuple(g["names"]): (g["peak"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        ("up.weight",): (1e-2, 0.1),
        ("down.weight",): (1e-3, 0.1),
        ("places", "embed.weight", "patch.weight"): (1e-2, 0.1),
        ("up.bias", "norm.weight", "norm.bias", "patch.bias"): (1e-2, 0.0),
    }
    assert "moves 2 matrices (120 parameters), AdamW the other 7 tensors" in optimizer.describe()
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(5e-3)
    assert [g["lr"] for g in optimizer.adamw.param_groups] == pytest.approx([5e-3, 5e-3])


def test_one_update_is_that_of_torch():
    """torch's own iterates in bf16, so the two agree to its precision."""
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(24, 16, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = Muon([{"params": [ours.weight], "lr": 0.02, "weight_decay": 0.1}], [])
    reference = torch.optim.Muon(
        theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        gradient = torch.randn(16, 24)
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=3 * 0.02 * 0.05, rtol=0)


def test_an_update_is_as_large_as_the_rate_says():
    """Root mean square 0.2 x rate, whatever the gradient's scale (arXiv 2502.16982, eq. 4)."""
    for scale in (1e-6, 1.0, 1e3):
        layer = nn.Linear(32, 64, bias=False)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(64, 32) * scale
        Muon([{"params": [layer.weight], "lr": 0.1, "weight_decay": 0.0}], []).step()
        moved = (layer.weight.detach() - before).square().mean().sqrt()
        assert 0.7 * 0.02 < float(moved) < 1.2 * 0.02


def test_stacks_of_any_size_give_the_same_update(monkeypatch):
    models = []
    for largest in (1, 2**26):
        monkeypatch.setattr(muon, "LARGEST_STACK", largest)
        torch.manual_seed(1)
        model = Tied()
        move(model, made(model), 3)
        models.append(model.state_dict())
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], atol=1e-5, rtol=0, msg=name)


def test_weights_without_a_gradient_stay():
    model = Tied()
    kept = model.down.weight.detach().clone()
    optimizer = made(model)
    model.up(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(kept, model.down.weight) and model.down.weight not in optimizer.state


def test_an_overflow_under_fp16_leaves_everything_alone():
    model = Tied()
    optimizer = made(model)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    loss = model(torch.zeros(1, 4, dtype=torch.long)).sum() * float("inf")
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_a_momentum_under_adamw_is_refused():
    with pytest.raises(ValueError, match="kind=muon"):
        OptimSpec(momentum=0.9)


def test_without_a_matrix_all_is_moved_by_adamw():
    model = Tied()
    plan = plan_stage(model, {"norm": 1e-2, "embed": 1e-2}, "stage")
    optimizer = make_optimizer(plan.trained, OptimSpec(kind="muon"), model)
    assert type(optimizer) is torch.optim.AdamW
    move(model, optimizer, 1)
