"""The tiny parts of the tests of `train`; without a GPU these tests say that they are skipped."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from tiny_training import write_parts


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(autouse=True)
def a_gpu_and_a_cache(tmp_path, monkeypatch, request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use")
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
