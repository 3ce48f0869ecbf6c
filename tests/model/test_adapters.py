"""Adapters change nothing when new, are gone without a trace when merged, and keep plain names."""

import pytest
import torch
from tiny import LANGUAGES, language_folder, tiny_model

from closeness import close
from lucida.core.spec import LoraSpec
from lucida.data.sample import Views
from lucida.model.adapters import (
    adaptable,
    adapted_layers,
    adapter_size,
    attach,
    load_adapter,
    merge,
    named_adapters,
    named_weights,
    plain_name,
    save_adapter,
)


def spec(**more) -> LoraSpec:
    return LoraSpec(rate=1e-3, rank=3, alpha=6, **more)


def adapted(language="llama", **more):
    """A tiny model whose adapters have been moved away from nothing, and their names."""
    model, _ = tiny_model(language={"path": language_folder(language), "max_length": 120})
    names = list(adaptable(model))
    torch.manual_seed(4)
    attach(model, names, spec(**more))
    return model, names


def stir(model):
    with torch.no_grad():
        for weight in named_adapters(model).values():
            weight.add_(0.1 * torch.randn_like(weight))


def logits(model):
    ids = torch.arange(4, 20)[None]
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    with torch.no_grad():
        seen = model.visual(Views.read(pixels), None)
        return model(input_ids=ids).logits, torch.stack(seen)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("dora", [False, True])
def test_new_adapters_change_nothing_and_merged_ones_equal_the_unmerged(language, dora):
    model, _ = tiny_model(language={"path": language_folder(language), "max_length": 120})
    before = logits(model)
    names = list(adaptable(model))
    assert any(name.startswith("vision.") for name in names)
    assert any(name.startswith("projector.") for name in names)
    attach(model, names, spec(dora=dora))
    for found, expected in zip(logits(model), before, strict=True):
        close(found, expected)
    stir(model)
    trained = logits(model)
    assert not torch.allclose(trained[0], before[0], atol=1e-3)
    assert merge(model) == [f"{name}.weight" for name in names]
    for found, expected in zip(logits(model), trained, strict=True):
        close(found, expected)
    assert not adapted_layers(model) and merge(model) == []


def test_names_are_those_of_the_plain_model_in_its_order():
    plain, _ = tiny_model()
    model, names = adapted(dora=True)
    for duplicates in (True, False):
        expected = [name for name, _ in plain.named_parameters(remove_duplicate=duplicates)]
        assert [name for name, _ in named_weights(model, duplicates)] == expected
    assert len(named_adapters(model)) == 3 * len(names)
    assert adapter_size(plain, names, spec(dora=True)) == sum(
        weight.numel() for weight in named_adapters(model).values()
    )


def test_the_worked_example_of_plain_names():
    found = [plain_name(name, ["q"]) for name in ("q.base_layer.weight", "q.lora_A.default.weight")]
    assert found == ["q.weight", None]
    assert plain_name("norm.weight", ["q"]) == "norm.weight"
    assert plain_name("queue.weight", ["q"]) == "queue.weight"


def test_the_output_matrix_gets_no_adapter():
    model, _ = tiny_model(tied=False)
    assert not any("lm_head" in name for name in adaptable(model))


def test_saved_adapters_come_back_bit_for_bit(tmp_path):
    model, _ = adapted(dora=True)
    stir(model)
    save_adapter(model, tmp_path, spec(dora=True))
    again, _ = adapted(dora=True)
    load_adapter(again, tmp_path, spec(dora=True))
    expected = named_adapters(model)
    for name, weight in named_adapters(again).items():
        assert torch.equal(weight, expected[name]), name
