"""Half precision on a CPU without it: fp32 products of the rounded operands, rounded at the end."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lucida.training import precision
from lucida.training.loop import train_run
from lucida.training.precision import Comparison, Precision
from lucida.training.widened import HALF, PRODUCTS, widen_products

CPU = torch.device("cpu")


class Halves(TorchDispatchMode):
    """Counts the products of half-precision tensors that reach torch."""

    count = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        half = any(isinstance(a, torch.Tensor) and a.dtype in HALF for a in arguments)
        self.count += half and operator in PRODUCTS
        return operator(*arguments, **(options or {}))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("half", HALF)
def test_a_product_and_its_gradients_are_those_of_the_rounded_operands(half):
    left, right, above = (draw(*s, seed=i).to(half) for i, s in enumerate([(7, 5), (5, 3), (7, 3)]))
    given = left.clone().requires_grad_(), right.clone().requires_grad_()
    with widen_products():
        result = given[0] @ given[1]
        found = torch.autograd.grad(result, given, above)
    wide = [each.float() for each in (left, right, above)]
    assert torch.equal(result, (wide[0] @ wide[1]).to(half))
    assert torch.equal(found[0], (wide[2] @ wide[1].T).to(half))
    assert torch.equal(found[1], (wide[0].T @ wide[2]).to(half))


LAYERS = {
    "linear": lambda x, w: functional.linear(x, w, w[:, 0]),
    "rows": lambda x, w: functional.linear(x[0], w),
    "vector": lambda x, w: w @ x[0, 0],
    "batches": lambda x, w: x @ x.mT,
    "scores": lambda x, w: torch.einsum("bik,bjk->bij", x, x),
    "convolution": lambda x, w: functional.conv1d(x.mT, w[..., None], w[:, 0]),
    "attention": lambda x, w: functional.scaled_dot_product_attention(x, x, x),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("half", HALF)
def test_what_layers_compute_is_what_torch_gives_natively_up_to_the_order_of_sums(name, half):
    def run():
        x, w = draw(2, 6, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
        with torch.autocast("cpu", dtype=half):
            result = LAYERS[name](x, w)
        return result, *torch.autograd.grad(
            result.float().square().sum(), (x, w), allow_unused=True
        )

    plain = run()
    with Halves() as reached, widen_products():
        widened = run()
    assert reached.count == 0
    assert widened[0].dtype == half
    error = 2 * torch.finfo(half).eps
    for ours, theirs in zip(widened, plain, strict=True):
        if theirs is not None:
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=error, atol=error * scale)


def test_what_is_kept_for_the_backward_pass_stays_in_half_precision():
    kept = []
    layer, x = nn.Linear(4, 3), draw(5, 4).requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.append, lambda each: each)
    with widen_products(), torch.autocast("cpu", dtype=torch.bfloat16), hooks:
        layer(x).sum()
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16}


def test_it_holds_in_its_thread_until_the_outermost_ends():
    x = draw(3, 3).bfloat16()

    def reached(*contexts):
        with Halves() as halves:
            for context in contexts:
                context.__enter__()
            _ = x @ x
            for context in reversed(contexts):
                context.__exit__(None, None, None)
            inside = halves.count
            _ = x @ x
        return inside, halves.count - inside

    assert reached() == (1, 1)
    assert reached(widen_products(), widen_products()) == (0, 1)
    elsewhere = []
    with widen_products():
        thread = threading.Thread(target=lambda: elsewhere.append(reached()))
        thread.start()
        thread.join()
    assert elsewhere == [(1, 1)]


@pytest.mark.parametrize("emulated", [False, True])
def test_a_whole_run_multiplies_so_where_half_precision_is_emulated(
    recipe, tmp_path, monkeypatch, emulated
):
    """Forward, backward, the optimizer, the validation loss and the blind baseline."""
    asked = recipe.model_copy(update={"precision": "bf16"})
    found = Comparison("bf16", 9.0, 1.0, emulated)
    monkeypatch.setattr(precision, "compare", lambda name: found)
    with Halves() as halves:
        train_run(asked, tmp_path / "run")
    assert (halves.count == 0) == emulated, halves.count


def test_fp32_and_other_devices_need_nothing(monkeypatch):
    monkeypatch.setattr(precision, "compare", lambda name: pytest.fail("timed in vain"))
    for chosen in (Precision("fp32", CPU, ""), Precision("bf16", torch.device("cuda"), "")):
        with chosen.multiply(), Halves() as halves:
            draw(2, 2).bfloat16() @ draw(2, 2).bfloat16()
        assert halves.count == 1
