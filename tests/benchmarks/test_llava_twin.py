"""The two sides of the benchmarks are one model: same weights, same loss, same gradient."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, SiglipVisionConfig

from closeness import close
from lucida.training.objective import supervised_loss

FILE = Path(__file__).parents[2] / "benchmarks" / "llava_twin.py"


@pytest.fixture(scope="module")
def twin():
    spec = importlib.util.spec_from_file_location("llava_twin", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["llava_twin"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def tiny(layers, width, keys, vocabulary):
    """Shapes of an encoder and a language model of two heads, the latter with `keys` of keys."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    shape["num_attention_heads"] = 2
    text = Qwen2Config(
        num_key_value_heads=keys, vocab_size=vocabulary, tie_word_embeddings=True, **shape
    )
    return SiglipVisionConfig(image_size=16, patch_size=8, **shape), text


def test_both_models_have_one_loss_and_one_gradient(twin):
    vision, text = tiny(layers=3, width=16, keys=1, vocabulary=200)
    model = twin.lucida_model(vision, text)
    llava = twin.llava_of(model, vision)
    mix = twin.Mix("mix", 4, 200)
    samples = [mix.sample(number) for number in range(4)]
    assert len({len(sample) for sample in samples}) > 1

    total, count = supervised_loss(model, twin.packed_batch(samples, 16))
    (total / count).backward()
    theirs = llava(**twin.padded_batch(samples, 16), use_cache=False)
    theirs.loss.backward()
    torch.testing.assert_close(total / count, theirs.loss, rtol=1e-5, atol=0)
    mine = model.language.get_input_embeddings().weight.grad
    other = llava.model.language_model.get_input_embeddings().weight.grad
    close(mine, other)
    assert len(llava.model.vision_tower.encoder.layers) == 3  # all of them, as users have it
    assert len(model.vision.model.encoder.layers) == 2


@pytest.mark.parametrize("name", ["mix", "vqa", "caption"])
def test_samples_are_what_the_mix_says(twin, name):
    mix = twin.Mix(name, 64, 32_000)
    samples = [mix.sample(number) for number in range(200)]
    supervised = sum(int((sample.target >= 0).sum()) for sample in samples)
    share = supervised / sum(map(len, samples))
    low, high = {"mix": (0.3, 0.45), "vqa": (0.02, 0.06), "caption": (0.2, 0.35)}[name]
    assert low < share < high
    again = mix.sample(7)
    assert (again.input_ids == samples[7].input_ids).all()
    for sample in samples[:20]:
        where = (sample.target >= 0).nonzero()[0]
        assert (sample.target[where] == sample.input_ids[where + 1]).all()


def test_the_arithmetic_is_that_of_the_products_that_run(twin):
    from torch.utils.flop_counter import FlopCounterMode

    model = twin.lucida_model(*tiny(layers=2, width=32, keys=2, vocabulary=300))
    model.vision.requires_grad_(False)
    samples = [twin.Mix("caption", 4, 300).sample(number) for number in range(3)]
    with FlopCounterMode(display=False) as counter:
        supervised_loss(model, twin.packed_batch(samples, 16))[0].backward()
    expected = twin.arithmetic(model, samples, language=True)
    # Attention runs over whole squares, and the patch embedding is not in the sum.
    assert expected < counter.get_total_flops() < 1.35 * expected
