"""Which device a process computes on, on machines that are not here."""

import pytest
import torch

from lucida.core.errors import RunError
from lucida.training.machine import Machine, choose_kind, describe_machine, require_gpu
from lucida.training.precision import choose_device

M2 = Machine("mps", 1, "Apple GPU", built_for="Apple")


@pytest.mark.parametrize("built_for", ["NVIDIA", "AMD"])
def test_a_gpu_is_taken_by_any_number_of_processes_and_amds_is_called_cuda(built_for):
    machine = Machine("cuda", 8, "GPU", built_for=built_for)
    assert {choose_kind(machine, many, {}) for many in (1, 8)} == {"cuda"}


def test_an_apple_gpu_is_taken_by_one_process_alone():
    assert choose_kind(M2, 1, {}) == "mps" and choose_kind(M2, 2, {}) == "cpu"
    assert choose_device(M2) == torch.device("mps")


@pytest.mark.parametrize(
    "name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]
)
def test_a_gpu_that_is_named_and_not_there_is_told(name):
    """Else a run would begin on the CPU, and take weeks."""
    for value in ("", "-1"):
        assert choose_kind(Machine(), 1, {name: value}) == "cpu"
    with pytest.raises(RunError, match=f"{name}=cuda:0") as refused:
        choose_kind(Machine(built_for="CPU"), 1, {name: "cuda:0"})
    assert "torch built for CPU" in str(refused.value) and f"set {name}= " in str(refused.value)
    assert choose_kind(Machine("cuda", 1), 1, {name: "0"}) == "cuda"


def test_more_processes_than_gpus_are_told_once():
    two = Machine("cuda", 2, "MI300X", architecture="gfx942", built_for="AMD")
    environment = {"HIP_VISIBLE_DEVICES": "0,1", "LOCAL_WORLD_SIZE": "4"}
    require_gpu(two, 1, environment)
    with pytest.raises(RunError, match="HIP_VISIBLE_DEVICES=0,1") as first:
        require_gpu(two, 2, environment)
    assert "at most 2 processes" in str(first.value) and "got 4" in str(first.value)
    with pytest.raises(RunError) as second:
        require_gpu(two, 3, environment)
    assert [first.value.told, second.value.told] == [False, True]


@pytest.mark.parametrize(
    ("architecture", "native"),
    [("gfx906", False), ("gfx1030", False), ("gfx908", True), ("gfx90a", True), ("gfx1100", True)],
)
def test_which_amd_gpus_multiply_bf16(architecture, native):
    assert Machine("cuda", 1, architecture=architecture, built_for="AMD").has_bf16 == native


def test_this_machine_is_described_as_torch_has_it():
    found = describe_machine()
    assert found.count == torch.cuda.device_count() or found.kind == "mps"
    assert (found.kind == "cuda") == torch.cuda.is_available()
    assert str(found)
