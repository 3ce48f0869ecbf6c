"""What a machine computes on, as torch tells it, and the rules that follow from that.

    describe_machine ─▶ Machine ─▶ which device, whether bf16 is native, what variable hides a GPU

Rules take a Machine, so that they are the same sentence for one that is not here.

    NVIDIA   capability 8.0 (A100) and newer multiply bf16; older ones fp16
    AMD      torch calls them `cuda` too (ROCm); which ones multiply bf16 hangs on the architecture
    Apple    `mps`: one process, fp32 unless the recipe says otherwise; no float64 at all

Reference: NVIDIA, CUDA C++ Programming Guide, table of arithmetic by compute capability; AMD, ROCm
documentation, "Data types and precision support", table of matrix cores; torch.mps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from lucida.core.errors import RunError

BF16_ARCHITECTURES = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
"""Beginnings of AMD's names of what has instructions for bf16 products: MI100, MI200, MI300, MI350,
RDNA 3 and 4. MI50 and RDNA 2 have none."""

HIDING = {
    "NVIDIA": ("CUDA_VISIBLE_DEVICES",),
    "AMD": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
}
"""Environment variables that say which GPUs a process sees. AMD's torch reads NVIDIA's as well."""

NONE = ("", "-1", "NoDevFiles")
"""Values of those that mean no GPU on purpose."""


@dataclass(frozen=True, slots=True)
class Machine:
    """kind: of accelerator, as torch names its device. count: how many this process sees. name: of
    the first. capability: of an NVIDIA GPU; architecture: of an AMD one, such as gfx942. built_for:
    what this torch can use at all."""

    kind: Literal["cpu", "cuda", "mps"] = "cpu"
    count: int = 0
    name: str = "CPU"
    capability: tuple[int, int] | None = None
    architecture: str = ""
    built_for: Literal["NVIDIA", "AMD", "Apple", "CPU"] = "CPU"

    @property
    def has_bf16(self) -> bool:
        """Does its GPU multiply bf16 natively? Apple's do, by a way that is not checked here."""
        if self.architecture:
            return self.architecture.startswith(BF16_ARCHITECTURES)
        return self.capability is not None and self.capability >= (8, 0)

    def __str__(self) -> str:
        if self.architecture:
            return f"{self.name}, {self.architecture}"
        if self.capability is not None:
            return f"{self.name}, capability {self.capability[0]}.{self.capability[1]}"
        return self.name


def describe_machine() -> Machine:
    """The machine at hand, and of its GPUs the one this process computes on."""
    built_for: Literal["NVIDIA", "AMD", "Apple", "CPU"] = "CPU"
    if torch.version.hip is not None:
        built_for = "AMD"
    elif torch.version.cuda is not None:
        built_for = "NVIDIA"
    elif torch.backends.mps.is_built():
        built_for = "Apple"
    if torch.cuda.is_available():
        count, place = torch.cuda.device_count(), torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(place)
        if built_for == "AMD":
            # "gfx90a:sramecc+:xnack-"; its capability is a number of AMD's own.
            found = properties.gcnArchName.split(":")[0]
            return Machine("cuda", count, properties.name, None, found, built_for)
        capability = torch.cuda.get_device_capability(place)
        return Machine("cuda", count, properties.name, capability, "", built_for)
    if torch.backends.mps.is_available():
        return Machine("mps", 1, "Apple GPU", built_for=built_for)
    return Machine(built_for=built_for)


def choose_kind(
    machine: Machine, processes: int = 1, environment: Mapping[str, str] = os.environ
) -> str:
    """The kind of device that each of so many processes of a run computes on.

    Several cannot share Apple's GPU and sum gradients on it, so they take the CPU. RunError when
    the environment names GPUs and none of them is there: the CPU would take weeks without a word.
    """
    if machine.kind == "mps" and processes > 1:
        return "cpu"
    if machine.kind == "cpu":
        for name in ("CUDA_VISIBLE_DEVICES", *HIDING["AMD"]):
            if environment.get(name, "") not in NONE:
                raise RunError(
                    "this process is to compute on a GPU that torch does not find",
                    expected=f"numbers of GPUs that are here, for torch built for "
                    f"{machine.built_for}",
                    given=f"{name}={environment[name]}",
                    remedy=f"`nvidia-smi -L` or `rocm-smi` lists them; set {name}= to compute on "
                    "the CPU, or install torch for your GPU (https://pytorch.org)",
                )
    return machine.kind


def require_gpu(machine: Machine, local: int, environment: Mapping[str, str] = os.environ) -> None:
    """RunError when there is no GPU for process number `local` of a node; the first of those that
    have none says it."""
    if local < machine.count:
        return
    names = HIDING.get(machine.built_for, HIDING["NVIDIA"])
    name = next((each for each in names if each in environment), names[0])
    problem = RunError(
        f"there is no GPU for process {local} of this node",
        expected=f"at most {machine.count} processes",
        given=environment.get("LOCAL_WORLD_SIZE", str(local + 1)),
        origin=f"{name}={environment.get(name, 'not set')}",
        remedy=f"start no more than {machine.count} (`--gpus {machine.count}`)",
    )
    problem.told = local > machine.count
    raise problem
