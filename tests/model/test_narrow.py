"""Pictures one patch wide in half precision: the same features as in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import encoder_folder
from torch import nn
from torch.nn.functional import conv2d

from lucida.core.spec import EncoderSpec
from lucida.model.encoders.encoder import load_encoder
from lucida.model.encoders.narrow import mend_narrow, widened

ROWS = 6


def soil() -> None:
    """Leave NaN in the memory that is handed out next."""
    for size in (1000, 20_000, 200_000):
        torch.full((size,), float("nan"))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (8, 8, 0), (3, 2, 1), (7, 2, 3)]
)
@pytest.mark.parametrize("width", [1, 2])
def test_one_column_of_results(kernel: int, stride: int, padding: int, width: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 16, kernel, stride, padding)
    columns = kernel - 2 * padding if kernel == stride else width
    pixels = torch.randn(2, 3, ROWS * stride, columns)
    expected = convolution(pixels)
    assert expected.shape[-1] == 1
    mended = copy.deepcopy(convolution)
    mend_narrow(mended)
    # In fp32 nothing is widened, and widening would change nothing.
    assert torch.equal(mended(pixels), expected)
    assert widened(convolution, (pixels,), expected) is None
    soil()
    with torch.autocast("cpu", torch.bfloat16):
        found = mended(pixels)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_gradients_reach_weights_and_pixels() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 16, 8, 8)
    mended = copy.deepcopy(convolution)
    mend_narrow(mended)
    one, other = torch.randn(2, 1, 3, 48, 8).unbind()
    other.copy_(one)
    convolution(one.requires_grad_()).square().mean().backward()
    with torch.autocast("cpu", torch.bfloat16):
        mended(other.requires_grad_()).float().square().mean().backward()
    torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=0.05)
    torch.testing.assert_close(mended.weight.grad, convolution.weight.grad, atol=2e-3, rtol=0.05)


def test_wider_results_are_left_alone() -> None:
    convolution = nn.Conv2d(3, 16, 8, 8).bfloat16()
    pixels = torch.randn(1, 3, 48, 16).bfloat16()
    assert widened(convolution, (pixels,), convolution(pixels)) is None
    reference = conv2d(pixels, convolution.weight, convolution.bias, stride=8)
    assert torch.equal(convolution(pixels), reference)


@pytest.mark.parametrize("name", ["clip", "siglip", "resnet"])
def test_encoders_of_narrow_pictures(name: str) -> None:
    spec = EncoderSpec(path=encoder_folder(name), feature_layer=-1)
    encoder = load_encoder(spec).eval()
    pixels = torch.randn(1, 3, 8 * ROWS, 8)
    with torch.no_grad():
        expected = encoder(pixels)
        soil()
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(pixels).float()
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0.1)
