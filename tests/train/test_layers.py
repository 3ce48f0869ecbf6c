"""Layers computed twice or compiled give the loss and the gradients of plain ones."""

import shutil

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from closeness import close
from lucida.core.spec import Recipe
from lucida.data.collate import collate
from lucida.data.stage import parts as parts_of
from lucida.model import last_layer
from lucida.model.checkpoint import build
from lucida.training import layers
from lucida.training.layers import equip
from lucida.training.loop import train_run
from lucida.training.objective import supervised_loss
from lucida.training.stage import apply_plan, plan_stage


@pytest.fixture
def tiny(recipe):
    """A tiny VLM with dropout, and a packed batch of pictures."""
    model, processor = build(recipe.model)
    source, _ = parts_of(recipe.stages[0].mixture.sources["pictures"], "pictures")
    tokens = [processor.encode(source[index]) for index in range(3)]
    batch = collate(tokens, True, processor.tokenizer.pad_token_id, processor.pixels)
    return model, batch


@pytest.fixture
def whole_layers(monkeypatch):
    """A last layer that is computed again is computed whole; a plain one only where there is a
    target, in products of other shapes. Here all are whole, so that the arithmetic is the same."""
    monkeypatch.setattr(last_layer, "last_layer", lambda language: None)


def computed(model, batch, train, how, compiled=False):
    """Loss, gradients, and bytes that the layers keep for the backward pass."""
    apply_plan(model, plan_stage(model, train, "stage").trained)
    model.zero_grad(set_to_none=True)
    equip(model, how, compiled)
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    torch.manual_seed(0)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = supervised_loss(model, batch)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters()}, sum(kept)


@pytest.mark.parametrize("how", ["full", "selective"])
@pytest.mark.parametrize(
    "train", [{"*": 1e-3}, {"projector": 1e-3}, {"language.last(1)": 1e-3}], ids=str
)
def test_computing_again_changes_no_bit(tiny, how, train, whole_layers):
    model, batch = tiny
    loss, gradients, kept = computed(model, batch, train, "none")
    found, others, less = computed(model, batch, train, how)
    assert torch.equal(loss, found)
    for name, gradient in gradients.items():
        assert (gradient is None) == (others[name] is None), name
        assert gradient is None or torch.equal(gradient, others[name]), name
    assert less < kept
    again, _, as_before = computed(model, batch, train, "none")
    assert torch.equal(again, loss) and as_before == kept


def test_computing_again_runs_each_layer_twice_and_only_where_something_learns(tiny):
    model, batch = tiny
    counts = {"vision": 0, "language": 0}
    for name, layer in (
        ("vision", model.vision.model.encoder.layers[0].mlp),
        ("language", model.language.model.layers[0].mlp),
    ):
        layer.register_forward_pre_hook(
            lambda *_, name=name: counts.update({name: counts[name] + 1})
        )
    computed(model, batch, {"projector": 1e-3}, "full")
    assert counts == {"vision": 1, "language": 2}
    assert equip(model, "full", compiled=False) == 2  # of the language model; vision is frozen
    model.eval()
    with torch.no_grad():
        supervised_loss(model, batch)
    assert counts == {"vision": 2, "language": 3}
    assert equip(model, "none", compiled=False) == 0


def changed(recipe: Recipe, how: str) -> Recipe:
    values = recipe.model_dump(mode="json")
    for stage in values["stages"]:
        stage["batch"]["checkpointing"] = how
    return Recipe.model_validate(values)


def test_a_run_that_computes_again_ends_with_the_same_bits(recipe, tmp_path, whole_layers):
    plain = train_run(recipe, tmp_path / "plain")
    again = train_run(changed(recipe, "selective"), tmp_path / "again")
    assert (plain / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_without_a_compiler_training_goes_on_and_says_so(recipe, tmp_path, monkeypatch, capfd):
    def broken(function, **options):
        raise RuntimeError("no working C++ compiler found\nmore")

    monkeypatch.setattr(layers.torch, "compile", broken)
    values = recipe.model_dump(mode="json") | {"engine": {"compile": True}}
    train_run(Recipe.model_validate(values), tmp_path / "run")
    told = capfd.readouterr().err
    assert "going on without" in told and "no working C++ compiler found" in told


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("how", ["none", "full"])
def test_compiled_layers_agree(tiny, how):
    model, batch = tiny
    model.language.config.attention_dropout = 0.0
    for layer in model.language.model.layers:
        layer.self_attn.attention_dropout = 0.0
    loss, gradients, _ = computed(model, batch, {"*": 1e-3}, "none")
    found, others, _ = computed(model, batch, {"*": 1e-3}, how, compiled=True)
    close(found, loss)
    for name, gradient in gradients.items():
        close(others[name], gradient, msg=name)
