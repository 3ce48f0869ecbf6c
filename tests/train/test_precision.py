"""fp32, bf16 or fp16: chosen from the hardware, said aloud, and really used."""

import pytest
import torch
from torch import nn

from lucida.train import precision
from lucida.train.precision import choose_precision


@pytest.mark.parametrize(
    ("features", "name"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_auto_on_a_cpu(monkeypatch, features, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    chosen = choose_precision("auto", torch.device("cpu"))
    assert chosen.name == name
    assert "cpu" in str(chosen).lower() and "bf16" in chosen.reason


@pytest.mark.parametrize(("capability", "name"), [((7, 0), "fp16"), ((8, 0), "bf16")])
def test_auto_on_a_gpu(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100 or A100")
    assert choose_precision("auto", torch.device("cuda", 0)).name == name


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
