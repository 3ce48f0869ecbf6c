"""fp32, bf16 or fp16: chosen by a trial or from the hardware, said aloud, and really used."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from lucida.training import precision
from lucida.training.machine import Machine
from lucida.training.precision import Comparison, choose_precision, choose_unscaled

CPU = torch.device("cpu")


@pytest.fixture
def trial(monkeypatch):
    """Lets a test say how many times as long as fp32 half precision takes here."""

    def set_ratio(ratio):
        monkeypatch.setattr(precision, "compare", lambda name: Comparison(name, 10 * ratio, 10.0))

    return set_ratio


@pytest.mark.parametrize(
    ("ratio", "name"), [(0.2, "bf16"), (0.8, "bf16"), (0.9, "fp32"), (1.0, "fp32"), (20, "fp32")]
)
def test_auto_on_a_cpu_takes_what_a_trial_finds_faster(trial, ratio, name):
    trial(ratio)
    chosen = choose_precision("auto", CPU)
    assert chosen.name == name
    assert str(chosen).startswith(f"{name} on cpu: a trial step takes {10 * ratio:.1f} ms in bf16")


@pytest.mark.parametrize("wanted", ["bf16", "fp16"])
def test_what_a_recipe_asks_for_is_obeyed_and_told_where_it_is_slow(trial, wanted):
    trial(0.5)
    assert str(choose_precision(wanted, CPU)) == f"{wanted} on cpu: the recipe asks for it"
    trial(12)
    chosen = choose_precision(wanted, CPU)
    assert chosen.name == wanted
    assert f"takes 120.0 ms in {wanted}, 10.0 ms in fp32" in chosen.reason
    assert "precision=fp32" in chosen.reason
    assert str(choose_precision("fp32", CPU)) == "fp32 on cpu: the recipe asks for it"


@pytest.mark.parametrize("begun", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("ratio", [0.5, 12])
def test_a_run_keeps_the_precision_that_it_began_with(trial, begun, ratio):
    trial(ratio)
    chosen = choose_precision("auto", CPU, begun)
    assert chosen.name == begun
    assert "the run began with it" in chosen.reason
    assert ("fp32 would be faster" in chosen.reason) == (begun != "fp32" and ratio > 1)


def test_a_trial_times_both_and_leaves_generators_and_threads_as_they_were():
    precision.compare.cache_clear()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = precision.compare("bf16")
    assert found.half > 0 and found.full > 0
    assert precision.compare("bf16") is found, "once a process"
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="the limit is oneDNN's")
def test_emulated_bf16_is_not_taken_whatever_the_flags_say():
    """Without AVX-512 oneDNN emulates bf16 (10 times as slow as fp32), and the flags stay."""
    code = (
        "from lucida.training.precision import choose_device, choose_precision, compare\n"
        "print(choose_precision('auto', choose_device()), compare('bf16').emulated)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": ""}
        | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("fp32 on cpu: a trial step takes")
    assert "in bf16, which this processor has no products in" in done.stdout
    assert done.stdout.endswith(" True\n"), "so what asks for bf16 gets fp32 products of it"


V100 = Machine("cuda", 1, "V100", capability=(7, 0), built_for="NVIDIA")
A100 = Machine("cuda", 1, "A100", capability=(8, 0), built_for="NVIDIA")
MI50 = Machine("cuda", 1, "MI50", architecture="gfx906", built_for="AMD")
MI300 = Machine("cuda", 1, "MI300X", architecture="gfx942", built_for="AMD")
M2 = Machine("mps", 1, "Apple GPU", built_for="Apple")
GPU = torch.device("cuda", 0)


def test_a_loop_without_loss_scaling_takes_no_fp16():
    assert choose_unscaled(GPU, V100).name == "fp32"
    assert choose_unscaled(GPU, A100).name == "bf16"


@pytest.mark.parametrize(
    ("machine", "name", "why"),
    [
        (V100, "fp16", "V100, capability 7.0 has no bf16; fp16 with loss scaling"),
        (A100, "bf16", "A100, capability 8.0 multiplies bf16 natively"),
        (MI50, "fp16", "MI50, gfx906 has no bf16; fp16 with loss scaling"),
        (MI300, "bf16", "MI300X, gfx942 multiplies bf16 natively"),
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else "",
)
def test_auto_on_a_gpu(machine, name, why):
    chosen = choose_precision("auto", GPU, machine=machine)
    assert (chosen.name, chosen.reason) == (name, why)
    asked = choose_precision("bf16", GPU, machine=machine)
    assert asked.reason.endswith("no bf16") == (name == "fp16")


def test_auto_on_an_apple_gpu_and_its_sums():
    """No float64 there: what is summed up for the record has to do with fp32."""
    mps = torch.device("mps")
    chosen = choose_precision("auto", mps, machine=M2)
    assert (chosen.name, chosen.sums) == ("fp32", torch.float32)
    assert choose_precision("bf16", mps, machine=M2).name == "bf16"
    assert choose_precision("auto", mps, "bf16", M2).name == "bf16"
    assert choose_precision("auto", GPU, machine=A100).sums == torch.float64


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_matrix_products_run_in_the_chosen_precision(name):
    chosen = choose_precision(name, torch.device("cpu"))
    with chosen.autocast():
        product = nn.Linear(4, 4)(torch.ones(2, 4))
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert product.dtype == dtypes[name]
    assert chosen.scaler().is_enabled() == (name == "fp16")


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        ("always [madvise] never", None, "1"),
        ("always [madvise] never", "0", "0"),
        ("always madvise [never]", None, None),
        (None, None, None),
    ],
)
def test_large_pages_are_asked_for_where_they_are_given(monkeypatch, tmp_path, said, before, after):
    monkeypatch.setattr(precision, "LARGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if said is not None:
        (tmp_path / "enabled").write_text(said)
    environment = {} if before is None else {"THP_MEM_ALLOC_ENABLE": before}
    monkeypatch.setattr(precision.os, "environ", environment)
    precision.choose_device()
    assert environment.get("THP_MEM_ALLOC_ENABLE") == after
    assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == precision.CPU_KERNELS
