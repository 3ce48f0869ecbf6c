"""Exports equal the model they were made from; what no format holds is refused with its reasons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))

from tiny_designs import make

import lucida
from lucida.apps import cli
from lucida.apps.export.probes import compare
from lucida.apps.export.write import check, export
from lucida.core.errors import ModelError, RunError
from lucida.model.checkpoint import save
from lucida.model.conversion import llava


def reloaded(model, processor, folder):
    llava.write_llava(model, processor, folder)
    return check(model, processor, "llava", folder)


@pytest.mark.parametrize("vision", ["clip", "siglip"])
@pytest.mark.parametrize("language", ["llama", "qwen2", "qwen3"])
def test_a_llava_equals_the_model_it_was_made_from(vision, language, tmp_path):
    agreement = reloaded(*make(vision, language), tmp_path)
    # Some encoders hand features on transposed; ours lie in order, as kept ones do, and kernels
    # may round products of the two layouts differently.
    assert agreement.logits < 64 * torch.finfo(torch.float32).eps
    assert agreement.prompts == 6 and agreement.images > 6


@pytest.mark.parametrize(
    "template", ["plain", "vicuna", "llama2", "mistral", "phi", "prismatic"]
)  # fmt: skip
def test_every_template_becomes_jinja(template, tmp_path):
    assert reloaded(*make(template=template), tmp_path).prompts >= 3


@pytest.mark.parametrize("template", ["vicuna", "llama2", "prismatic_llama2"])
def test_images_at_the_start_become_jinja(template, tmp_path):
    model, processor = make()
    processor.template, processor.image_places = template, "at_start"
    processor.max_length = 600
    assert reloaded(model, processor, tmp_path).images > 6


@pytest.mark.parametrize(
    "change",
    [
        {"image": {"policy": "crop"}},
        {"image": {"policy": "letterbox", "pad": "first"}},
        {"image": {"policy": "resize", "resample": "lanczos"}},
        {"projector": {"kind": "linear"}},
        {"projector": {"kind": "mlp", "hidden": 8, "activation": "relu"}},
        {"layer": [-1, -3]},
    ],
    ids=["crop", "padded first", "lanczos", "one matrix", "a narrow layer", "two layers"],
)
def test_designs_that_are_a_llava_in_other_words(change, tmp_path):
    assert reloaded(*make(**change), tmp_path).logits < 1e-5


def test_every_reason_is_named(tmp_path):
    projector = {"kind": "mlp", "norm": True, "depth": 3}
    save(*make(mask="image_block", projector=projector, image={}), tmp_path / "run")
    with pytest.raises(ModelError) as caught:
        export(tmp_path / "run", tmp_path / "out", "llava")
    for word in ("attention_mask", "letterbox", "pad `first`", "norm", "depth", "remote-code"):
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_difference_leaves_nothing_behind(tmp_path, monkeypatch):
    model, processor = make()
    save(model, processor, tmp_path / "run")
    written = llava.to_llava

    def spoilt(model):
        other = written(model)
        layer = other.model.multi_modal_projector.linear_2
        layer.bias = torch.nn.Parameter(layer.bias + 1)  # a new tensor: the model keeps its own
        return other

    monkeypatch.setattr(llava, "to_llava", spoilt)
    with pytest.raises(ModelError, match="logits differ"):
        export(tmp_path / "run", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("group", [0, 2, 6], ids=["first", "between", "last"])
def test_logits_that_are_no_numbers_are_a_difference(group):
    model, processor = make()
    asked = iter(range(99))

    def answered(inputs):
        logits = model(**inputs).logits
        return logits.fill_(float("nan")) if next(asked) == group else logits

    with pytest.raises(ModelError, match="logits differ"):
        compare(model, processor, answered, "nowhere")


def test_what_stands_there_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(RunError, match="something stands there"):
        export(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "x"


def test_the_verb_says_what_was_compared(tmp_path, capsys):
    save(*make(), tmp_path / "run")
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert not caught.value.code, printed.err
    assert "as llava" in printed.err and "6 prompts" in printed.err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "llava"
    positions = config["text_config"]["max_position_embeddings"]  # vLLM refuses a longer context
    assert positions < 200  # what the processor would take
    assert f"vllm serve out --max-model-len {positions}`" in printed.err


def test_a_folder_with_its_own_code(tmp_path):
    projector = {"kind": "mlp", "position": True}
    save(*make("siglip", mask="image_block", projector=projector), tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "out")
    assert done.format == "remote-code" and done.agreement.logits == 0.0
    assert "attention_mask" in " ".join(done.obstacles)


@pytest.mark.slow
def test_its_own_code_is_found_and_saved_again(tmp_path):
    """By transformers' Auto classes, in a process that has not met Lucida."""
    save(*make(), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", "remote-code")
    again = (
        "import sys\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "for auto in (AutoModelForImageTextToText, AutoProcessor):\n"
        "    loaded = auto.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "    loaded.save_pretrained(sys.argv[2])\n"
    )
    source = str(Path(lucida.__file__).parents[1])
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "m"), "PYTHONPATH": source}
    places = [str(tmp_path / "out"), str(tmp_path / "again")]
    subprocess.run([sys.executable, "-c", again, *places], env=environment, check=True)
    assert [file.name for file in (tmp_path / "again").glob("*.py")] == ["modeling_lucida.py"]
    (first, _), (second, _) = map(lucida.load, places)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_the_way_in_says_what_is_missing(tmp_path, monkeypatch):
    from lucida.apps.export.remote import CODE

    monkeypatch.setitem(sys.modules, "lucida.model", None)
    with pytest.raises(ImportError, match="runs on Lucida"):
        exec(CODE.replace("{version}", "1"), {})
