"""The cheaper norms and rotary tables compute what they replace."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from closeness import close
from lucida.training.kernels import RmsNorm, is_rms_norm, quicken


def small(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def loss_and_gradients(model, autocast):
    ids = torch.arange(30).view(2, 15)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def test_a_quickened_model_has_the_same_loss_and_gradient():
    plain, quick = small(), small()
    assert quicken(quick) == 2 * 2 + 1 + 1
    (a, before), (b, after) = (loss_and_gradients(model, False) for model in (plain, quick))
    assert a == pytest.approx(b, rel=1e-5)
    for name in before:
        close(before[name], after[name], msg=name)


def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_model():
    exact = loss_and_gradients(small(), False)[1]
    plain = loss_and_gradients(small(), True)[1]
    model = small()
    quicken(model)
    quick = loss_and_gradients(model, True)[1]

    def error(found):
        return torch.cat([(found[n] - exact[n]).flatten() for n in exact]).norm()

    assert error(quick) < 1.5 * error(plain)


def test_the_norm_differentiates_what_it_computes():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    scale = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    (scale * weight).square().sum().backward()
    expected = [x.grad.float(), weight.grad.float()]
    again = [value.detach().float().requires_grad_() for value in (x, weight)]
    RmsNorm.apply(*again, 1e-6, torch.float32).square().sum().backward()
    torch.testing.assert_close([value.grad for value in again], expected, atol=1e-4, rtol=1e-4)


class Shifted(nn.Module):
    """Gemma's norm: the weight counts from one."""

    def __init__(self):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.zeros(6)), 1e-6

    def forward(self, x):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return x * scale * (1 + self.weight)


@pytest.mark.parametrize("module", [nn.LayerNorm(6), nn.Linear(6, 6), nn.RMSNorm(6), Shifted()])
def test_other_norms_are_left_alone(module):
    assert not is_rms_norm(module)
    assert quicken(nn.Sequential(module)) == 0
