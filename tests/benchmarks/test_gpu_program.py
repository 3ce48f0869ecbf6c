"""benchmarks/gpu.py and peers.py run to their ends at toy size, within their time."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def programs(monkeypatch):
    """The two programs, and shapes much smaller than a toy."""
    from transformers import Qwen2Config, SiglipVisionConfig

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    import gpu

    def tiny():
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
        vision = SiglipVisionConfig(image_size=32, patch_size=16, num_attention_heads=2, **shape)
        text = Qwen2Config(
            num_attention_heads=2, num_key_value_heads=1, vocab_size=300,
            tie_word_embeddings=True, **shape,
        )  # fmt: skip
        return vision, text

    monkeypatch.setattr(gpu, "toy_parts", tiny)
    monkeypatch.setattr(peers, "POOL", 400)
    return gpu, peers, tiny


def test_every_part_leaves_figures(programs, tmp_path, capfd):
    gpu, _, _ = programs
    out = tmp_path / "gpu.json"
    parts = [name for name in gpu.SHARES if name != "tests"]
    found = gpu.measure_all(out, 2, toy=True, only=parts)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert found["toy"] and set(parts) < set(found)
    for name in parts:
        assert "error" not in found[name], found[name]
    sides = {row["side"] for row in found["training 1.5b"]["sides"]}
    assert {"P0", "P1", "P1 + rows", "lucida", "+ features"} <= sides
    assert found["decoding"]["toy, batch 8, lucida"]["tokens/s"] > 0
    assert found["reading"]["pictures/s"] > 0


def test_a_part_that_fails_does_not_end_the_others(programs, tmp_path, monkeypatch, capfd):
    gpu, _, _ = programs

    def fail(seconds, toy):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu.PARTS, "decoding", fail)
    found = gpu.measure_all(tmp_path / "gpu.json", 1, toy=True, only=["decoding", "reading"])
    assert found["decoding"]["error"] == "RuntimeError: out of memory"
    assert found["reading"]["pictures/s"] > 0


def test_a_case_ends_in_time_with_what_it_has(programs, capfd):
    """No time at all is left: one batch of each kind all the same."""
    _, peers, tiny = programs
    result = peers.time_case("tiny", peers.Case(tiny, "mix", 2), 4, 5, minutes=0)
    told = capfd.readouterr().out
    whole = [line for line in told.splitlines() if "times lucida's" in line]
    assert [each.split(", ")[2][:12] for each in whole] == ["batch 1 of 8", "batch 2 of 8"]
    assert "batch 3 of 8" not in told and "the time is over" in told
    assert {len(timing.wall) for timing in result.times.values()} == {1}
    assert set(result.tokens) == {"random", "grouped"}


def test_whole_repetitions_count(programs, capfd):
    _, peers, tiny = programs
    result = peers.time_case("tiny", peers.Case(tiny, "vqa", 2), 1, 3, minutes=2)
    assert {len(timing.wall) for timing in result.times.values()} == {3}
    told = capfd.readouterr().out
    assert told.count("lucida 1.00") == told.count(": lucida ") == 3 * 2  # of each batch
    assert " CPU s" in told


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # as a program finds the files beside it
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("skipped: this machine has no GPU")
    assert not list(tmp_path.iterdir())
