"""A number that is not finite is traced to the module that made it."""

import pytest
import torch
from torch import nn

from lucida.training.diagnose import first_bad_module


class Chain(nn.Module):
    def __init__(self, fault: str):
        super().__init__()
        self.vision = nn.Linear(3, 3)
        self.projector = nn.Sequential(nn.Linear(3, 3), nn.GELU())
        self.language = nn.Linear(3, 3)
        self.fault = fault

    def forward(self, x):
        x = self.projector(self.vision(x))
        if self.fault == "gradient":
            x = (x * 0).sqrt() + x  # finite, with an infinite slope at zero
        x = self.language(x)
        return x.sum() * (float("nan") if self.fault == "loss" else 1.0)


@pytest.mark.parametrize(
    ("fault", "phrase"),
    [
        ("loss", "but the loss is not"),
        ("gradient", "gradient of projector.0.bias"),
    ],
)
def test_faults_outside_modules(fault, phrase):
    model = Chain(fault)
    assert phrase in first_bad_module(model, lambda: model(torch.ones(2, 3)))


def test_without_a_fault_there_is_nothing_to_name():
    model = Chain("none")
    assert first_bad_module(model, lambda: model(torch.ones(2, 3))) is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_first_bad_output_names_its_module():
    model = Chain("none")
    model.projector[0].register_forward_hook(lambda module, inputs, output: output / 0.0)
    assert "projector.0" in first_bad_module(model, lambda: model(torch.ones(2, 3)))


def test_bad_weights_are_named():
    model = Chain("none")
    with torch.no_grad():
        model.language.weight[0, 0] = float("inf")
    assert "weights of language.weight" in first_bad_module(model, lambda: model(torch.ones(2, 3)))
