"""Convolutions whose result is one column wide, in half precision on a CPU."""

from __future__ import annotations

from torch import Tensor, bfloat16, float16, nn
from torch.nn.functional import pad


def mend_narrow(model: nn.Module) -> None:
    """Let every convolution with a stride be right where its result is one column wide.

    oneDNN 3.12 (torch 2.13) reads beyond its input there on CPUs that multiply bf16 in tiles (AMX):
    with a stride of 2 or more and five rows of results or more, all rows but the first ones are
    wrong or NaN. Smallest case: a bf16 picture of 3 x 10 x 2 under a convolution of kernel and
    stride 2. Pictures of one patch's width have this shape under `model.image.policy=native`.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride[-1] > 1:
            module.register_forward_hook(widened)


def widened(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    """The result for an input with one more column of results, without that column.

    Worked example: kernel and stride 8, an input of 40 x 8 → zeros at its right, 40 x 16 → results
    of 5 x 2 → the first column, 5 x 1. A convolution pads with zeros anyway, so that the first
    column reads the same numbers as before. None, which leaves the output, everywhere else.
    """
    half = output.dtype in (bfloat16, float16) and output.device.type == "cpu"
    if not half or output.shape[-1] != 1 or module.padding_mode != "zeros":
        return None
    return module.forward(pad(inputs[0], (0, module.stride[-1])))[..., :1]
