"""A checkpoint brings everything back bit for bit, and half of one is never met."""

import contextlib
import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lucida.core.errors import RunError
from lucida.core.spec import OptimSpec
from lucida.training import state
from lucida.training.optim import make_optimizer
from lucida.training.reading import load_moments, load_weights, newest, read_checkpoint
from lucida.training.stage import apply_plan, plan_stage
from lucida.training.state import Position, Setting, Snapshot, checkpoints, save_checkpoint

HERE = Setting("fp32", "cpu", 1, torch.__version__)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.vision = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.projector = nn.Linear(3, 4)
        self.language = nn.Linear(4, 5)


def new(train=None):
    model = Parts()
    plan = plan_stage(model, train or {"projector": 1e-2, "language": 1e-2}, "stage")
    apply_plan(model, plan.trained)
    optimizer = make_optimizer(plan.trained, OptimSpec(), model)
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False), plan


def snapshot(position, model, optimizer, scaler, touched):
    return Snapshot(position, HERE, model, set(touched), optimizer, scaler)


def move(model, optimizer, steps):
    for _ in range(steps):
        model.language(model.projector(model.vision(torch.randn(6, 3)))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_going_on_equals_never_having_stopped(tmp_path):
    model, optimizer, scaler, plan = new()
    move(model, optimizer, 3)
    path = save_checkpoint(
        tmp_path, snapshot(Position(0, 3, 3), model, optimizer, scaler, plan.trained)
    )
    move(model, optimizer, 4)

    again, optimizer_again, scaler_again, _ = new()
    torch.manual_seed(99)
    saved = read_checkpoint(path, 1)
    assert (saved.position, saved.setting) == (Position(0, 3, 3), HERE)
    assert load_weights(saved, again) == set(plan.trained)
    load_moments(saved, optimizer_again, scaler_again)
    move(again, optimizer_again, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_moments_of_what_a_stage_does_not_train_are_refused(tmp_path):
    model, optimizer, scaler, plan = new()
    move(model, optimizer, 1)
    path = save_checkpoint(
        tmp_path, snapshot(Position(0, 1, 1), model, optimizer, scaler, plan.trained)
    )
    _, less, scaler, _ = new({"language": 1e-2})
    with pytest.raises(RunError, match=r"projector.bias \(2 in all\) is not what"):
        load_moments(read_checkpoint(path, 1), less, scaler)


def test_settings_tell_what_changed():
    assert HERE.differences(HERE) == ""
    assert HERE.differences(Setting("bf16", "cpu", 2, HERE.torch)) == (
        "precision fp32 → bf16, threads 1 → 2"
    )


def test_all_three_random_generators_return(tmp_path):
    values, tensors = state.random_state()
    values = json.loads(json.dumps(values))
    drawn = (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: NPY002
    state.restore_random_state(values, tensors)
    assert drawn == (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: NPY002


def test_a_run_of_eight_gpus_goes_on_with_two(monkeypatch):
    values, tensors = state.random_state()
    tensors |= {f"random/cuda{index}": torch.tensor([index]) for index in range(8)}
    set_back = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s, at: set_back.update({at: s.item()}))
    state.restore_random_state(values, tensors)
    assert set_back == {0: 0, 1: 1}


def test_only_what_trained_is_stored_and_the_older_checkpoint_goes(tmp_path):
    model, optimizer, scaler, plan = new()
    for step in (1, 2):
        move(model, optimizer, 1)
        position = Position(0, step, step)
        save_checkpoint(tmp_path, snapshot(position, model, optimizer, scaler, plan.trained))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002"]
    weights = load_file(checkpoints(tmp_path)[0] / "weights.safetensors")
    assert not any(name.startswith("vision.0") for name in weights)
    assert "vision.1.running_mean" in weights
    assert "projector.weight" in weights


def test_earlier_stages_are_kept_when_their_parameters_are_frozen_later(tmp_path):
    model, optimizer, scaler, plan = new({"language": 1e-2})
    touched = {"projector.weight", "projector.bias", *plan.trained}
    with torch.no_grad():
        model.projector.weight.fill_(7)
    path = save_checkpoint(tmp_path, snapshot(Position(1, 1, 9), model, optimizer, scaler, touched))
    again = Parts()
    load_weights(read_checkpoint(path, 2), again)
    assert (again.projector.weight == 7).all()


def test_a_failing_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    model, optimizer, scaler, plan = new()
    move(model, optimizer, 1)
    first = save_checkpoint(
        tmp_path, snapshot(Position(0, 1, 1), model, optimizer, scaler, plan.trained)
    )

    def full(tensors, path):
        save_file(tensors, path)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(RunError, match="disk is full"):
        save_checkpoint(
            tmp_path, snapshot(Position(0, 2, 2), model, optimizer, scaler, plan.trained)
        )
    assert checkpoints(tmp_path) == [first]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [first.name]


def test_other_frozen_parts_are_refused(tmp_path):
    model, optimizer, scaler, plan = new()
    path = save_checkpoint(
        tmp_path, snapshot(Position(0, 1, 1), model, optimizer, scaler, plan.trained)
    )
    other = Parts()
    with torch.no_grad():
        other.vision[0].weight[0, 0] += 1
    with pytest.raises(RunError, match="frozen parts"):
        load_weights(read_checkpoint(path, 1), other)


def test_another_format_is_refused(tmp_path):
    model, optimizer, scaler, plan = new()
    path = save_checkpoint(
        tmp_path, snapshot(Position(0, 1, 1), model, optimizer, scaler, plan.trained)
    )
    content = json.loads((path / "state.json").read_text()) | {"format": 99}
    (path / "state.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="another format"):
        read_checkpoint(path, 1)


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "turned":
        place = len(content) * 2 // 3
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        path.write_bytes(b"\x93" * len(content))


HOWS = ("missing", "empty", "cut", "turned", "noise")


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_checkpoint_is_refused_by_its_file(tmp_path, name, how):
    model, optimizer, scaler, plan = new()
    move(model, optimizer, 1)
    path = save_checkpoint(
        tmp_path, snapshot(Position(0, 1, 1), model, optimizer, scaler, plan.trained)
    )
    damage(path / name, how)
    if (name, how) == ("state.json", "turned"):
        return  # one sign of a text may still be a text
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        newest(tmp_path, 1)


def test_the_checkpoint_before_a_damaged_one_is_taken_and_this_is_told(tmp_path, capsys):
    model, optimizer, scaler, plan = new()
    kept = tmp_path / "kept"
    for step in (1, 2):
        move(model, optimizer, 1)
        position = Position(0, step, step)
        path = save_checkpoint(tmp_path, snapshot(position, model, optimizer, scaler, plan.trained))
        if step == 1:
            path.rename(kept)
    kept.rename(path.with_name("step-000001"))
    damage(path / "weights.safetensors", "cut")
    saved = newest(tmp_path, 1)
    assert saved.position.total == 1
    assert "damaged-step-000002" in capsys.readouterr().err
    assert [each.name for each in checkpoints(tmp_path)] == ["step-000001"]


VALUES = (None, [], {}, "x", -1, 1e99, True, [[]], {"a": 1})


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_whatever_stands_in_the_state_of_a_checkpoint_is_a_run_error_or_fits(tmp_path, value):
    model, optimizer, scaler, plan = new()
    move(model, optimizer, 1)
    path = save_checkpoint(
        tmp_path, snapshot(Position(0, 1, 1), model, optimizer, scaler, plan.trained)
    )
    whole = json.loads((path / "state.json").read_text())
    places = [(key,) for key in whole] + [("position", key) for key in whole["position"]]
    places += [("setting", "threads"), ("random", "python"), ("random", "numpy")]
    for place in places:
        changed = json.loads(json.dumps(whole))
        here = changed
        for key in place[:-1]:
            here = here[key]
        here[place[-1]] = value
        (path / "state.json").write_text(json.dumps(changed))
        again, optimizer_again, scaler_again, _ = new()
        with contextlib.suppress(RunError):
            saved = read_checkpoint(path, 1)
            load_weights(saved, again)
            load_moments(saved, optimizer_again, scaler_again)
