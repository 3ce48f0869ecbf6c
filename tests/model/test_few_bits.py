"""Weights in fewer bits: which, how near, how many bytes, and what is refused."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from tiny import picture, tiny_model

from lucida.core.errors import ModelError
from lucida.model.checkpoint import load, save
from lucida.model.decode import greedy
from lucida.model.few_bits import check_weights, count_bytes, hold_in_few_bits, shrink
from lucida.model.messages import sample_of


def test_unknown_forms_and_a_missing_package_are_told(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="did you mean `int4`"):
        check_weights("int44")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"pip install 'lucida\[quantize\]'"):
        load(tmp_path / "not looked at", weights="int8")
    check_weights(None)


@pytest.mark.parametrize(("weights", "most", "share"), [("int8", 0.02, 0.28), ("int4", 0.12, 0.18)])
@torch.no_grad()
def test_a_layer_in_fewer_bits_is_near_and_small(weights, most, share):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plain, given = nn.Linear(256, 128), torch.randn(1, 5, 256)
    held = shrink(plain, weights)
    expected = plain(given)
    assert float((held(given) - expected).norm() / expected.norm()) < most
    assert count_bytes(held) < share * count_bytes(plain)


def plain_shape(model, name):
    return model.language.base_model.layers.get_submodule(name).weight.shape


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_only_the_decoder_is_held_so_and_it_answers(weights, tmp_path, caplog):
    pytest.importorskip("bitsandbytes")
    save(*tiny_model(language={"path": "lucida:base-mini"}, coordinate_bins=32), tmp_path)
    plain, processor = load(tmp_path)
    model, _ = load(tmp_path, weights=weights)
    for name, layer in model.language.base_model.layers.named_modules():
        if isinstance(layer, nn.Linear):
            fits = all(side % 32 == 0 for side in plain_shape(plain, name))
            assert (type(layer) is nn.Linear) != fits, name
    for part in (model.vision, model.projector):
        assert not any(type(each).__module__.startswith("bitsandbytes") for each in part.modules())
    assert type(model.get_output_embeddings()) is nn.Linear
    content = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "what?"}]
    sample = sample_of([{"role": "user", "content": content}])
    answers = [greedy(each, processor, [sample], 4)[0] for each in (plain, model)]
    assert all(isinstance(each, str) for each in answers)
    batch = processor.batch([processor.prompt(sample)])
    with torch.no_grad():
        expected = plain(**batch).logits
        apart = (model(**batch).logits - expected).norm() / expected.norm()
    assert 0 < float(apart) < (0.1 if weights == "int8" else 0.3)
    assert not [each for each in caplog.messages if "MatMul8bitLt" in each]  # one a product


def test_nothing_is_changed_without_a_form():
    model, _ = tiny_model()
    before = copy.deepcopy(model.state_dict())
    hold_in_few_bits(model, None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
