"""lucida doctor: a healthy recipe passes, and each thing that is broken on purpose is found."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from tiny_training import tiny_recipe, write_language, write_parts

from lucida.apps.cli import main
from lucida.apps.doctor import environment, still, trial, way
from lucida.apps.doctor.alignment import alignment, chamfer
from lucida.apps.doctor.environment import environment_checks
from lucida.apps.doctor.examine import examine
from lucida.apps.doctor.finding import Finding, report
from lucida.apps.doctor.patient import (
    admit,
    with_blank_pictures,
    with_other_pictures,
    without_pictures,
)
from lucida.core.recipe import load_recipe
from lucida.core.spec import Recipe
from lucida.training import precision
from lucida.training.loop import train_run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def recipe(parts):
    """One stage at rates that learn by heart in a few steps."""
    whole = tiny_recipe(parts, "language-plain").model_dump()
    whole["stages"] = [whole["stages"][1] | {"train": {"projector": 1e-2, "language": 1e-2}}]
    return Recipe.model_validate(whole)


@pytest.fixture
def patient(recipe):
    admitted = admit(recipe, None, None)
    list(still.labels(admitted))
    return admitted


def changed(recipe, **stage):
    values = recipe.model_dump()
    values["stages"][0] |= stage
    return Recipe.model_validate(values)


def found(findings):
    return {finding.name: finding for finding in findings}


def test_a_healthy_recipe_has_nothing_broken(recipe):
    findings = found(examine(recipe, steps=40))
    assert [name for name, each in findings.items() if each.state == "broken"] == []
    assert {"weights", "labels", "initial loss", "sight", "gradient norms", "frozen parts"} <= set(
        findings
    )
    # To at most 0.6 of the loss before; over 20 seeds to between 0.06 and 0.11 of it.
    assert findings["overfit one batch"].state == "ok"
    assert "frozen tensors unchanged" in findings["frozen parts"].measured


ADAPTERS = {"rate": 2e-2, "rank": 8, "alpha": 16}


@pytest.mark.parametrize("bits", [None, "4bit"], ids=["plain", "4bit"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_healthy_stage_with_adapters_has_nothing_broken(recipe, dora, bits, tmp_path):
    if bits is not None:
        pytest.importorskip("bitsandbytes")
    values = changed(
        recipe, train={"projector": 1e-2, "*norm": 1e-2}, lora=ADAPTERS | {"dora": dora}
    ).model_dump()
    wide = str(write_language(tmp_path / "wide", width=64))
    values["model"]["language"] |= {"quantize": bits, "path": wide}
    adapted = Recipe.model_validate(values)
    findings = found(examine(adapted, steps=60))
    wrong = {name: each.measured for name, each in findings.items() if each.state == "broken"}
    assert wrong == {}, findings["overfit one batch"].measured
    assert findings["frozen parts"].state == "ok"
    patient = admit(adapted, None, None)
    names = trial.digests(patient)
    assert set(patient.trained) <= set(names)
    assert not [name for name in names if ".default" in name or "base_layer" in name]


@pytest.mark.parametrize("batch", [{"tokens": 600, "row": 300}, {"tokens": 500}])
def test_a_budget_of_tokens_is_examined_in_its_own_rows(recipe, batch):
    findings = found(examine(changed(recipe, batch=batch), steps=40))
    assert [name for name, each in findings.items() if each.state == "broken"] == []
    assert findings["rows"].state in ("ok", "warn")
    patient = admit(changed(recipe, batch=batch), None, None)
    list(still.labels(patient))
    made = patient.batch()
    if "row" in batch:
        assert made.segment.shape[1] == 300
        assert int((made.segment > 0).sum()) == sum(map(len, patient.tokens))
        plain = admit(recipe, None, None)
        plain.tokens = patient.tokens
        assert patient.loss() == pytest.approx(plain.loss(), abs=1e-4)
    assert len(made.pixel_values) == sum(len(each.images) for each in patient.tokens)


def test_a_damaged_picture_is_a_record_that_cannot_be_used(recipe, tmp_path):
    """As training replaces it; it used to end the examination at the forward pass."""
    records = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        Image.effect_noise((40, 40), 50).convert("RGB").save(path)
        turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
        records.append({"image": path.name, "conversations": turns})
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:900])
    (tmp_path / "d.json").write_text(json.dumps(records))
    mixture = {"sources": {"d": {"kind": "llava", "path": str(tmp_path / "d.json")}}}
    mixture |= {"on_error": "skip", "max_dropped": 0.1}
    patient = admit(changed(recipe, mixture=mixture), None, None)
    findings = found(still.labels(patient))
    assert findings["records"].state == "warn" and "3.png" in findings["records"].measured
    assert len(patient.tokens) == 4 and math.isfinite(patient.loss())


def test_rows_that_are_too_short_or_too_few_are_found(recipe):
    short = found(examine(changed(recipe, batch={"tokens": 16})))
    assert short["records"].state == "broken"
    assert "longer than a row" in short["records"].measured
    few = found(examine(changed(recipe, batch={"tokens": 600, "row": 300, "accumulate": 1})))
    assert few["parts"].state == "ok"
    assert still.rows([70, 70], 100).state == "warn"
    assert "up to 70" in still.rows([70, 70], 100).remedy
    uneven = found(examine(changed(recipe, batch={"samples": 2, "accumulate": 4})))
    assert uneven["parts"].state == "broken"


def test_a_part_that_cannot_be_loaded_ends_it(recipe):
    values = recipe.model_dump()
    values["model"]["language"]["path"] = "lucida:base-mni"
    only = list(examine(Recipe.model_validate(values)))
    assert [(each.name, each.state) for each in only] == [("parts", "broken")]
    assert "base-mini" in only[0].measured


def test_an_idle_pattern_is_found(recipe):
    only = list(examine(changed(recipe, train={"projectr": 1e-3})))
    assert only[0].state == "broken"
    assert "projectr" in only[0].measured


def test_a_weight_that_is_not_finite_is_found_and_named(patient):
    with torch.no_grad():
        patient.model.projector.get_parameter(next(iter(patient.model.projector.state_dict())))[
            0
        ] = math.nan
    finding = still.weights(patient)
    assert finding.state == "broken"
    assert "first projector." in finding.measured
    assert patient.dead


def test_records_without_answers_are_found(recipe, parts, tmp_path):
    records = json.loads((parts / "pictures" / "pictures.json").read_text())
    for record in records:
        record["conversations"][1]["value"] = ""
        record["image"] = str(record["image"])
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(records))
    source = {"kind": "llava", "path": str(path), "images": str(parts / "pictures")}
    findings = found(examine(changed(recipe, mixture={"sources": {"d": source}})))
    assert findings["records"].state == "broken"
    assert "record" in findings["records"].measured
    assert "gradient norms" not in findings


def test_labels_that_teach_no_end_are_found(patient):
    tokens = list(patient.tokens)
    ends = patient.processor.end_tokens()
    for each in tokens:
        for end in ends:
            each.target[each.target == end] = -100
    assert still.endings(patient, tokens).state == "broken"
    for each in tokens:
        each.target[:] = -100
    assert still.shares(tokens).state == "broken"


@pytest.mark.parametrize(("factor", "state"), [(1.0, "ok"), (1e5, "broken"), (0.0, "broken")])
def test_visual_tokens_too_loud_or_silent_are_found(patient, factor, state):
    loudness = Scaled(patient.model.projector, factor)
    patient.model.projector = loudness
    finding = still.norms(patient)
    if factor == 1.0:
        assert finding.state in ("ok", "warn")
    else:
        assert finding.state == state


class Scaled(nn.Module):
    """A module whose output is multiplied."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, *inputs, **named):
        return self.factor * self.inner(*inputs, **named)


def states(findings):
    return {finding.name: finding.state for finding in findings}


def test_the_way_of_a_picture_is_whole(patient):
    found = states(way.follow_image(patient))
    assert found == {"pictures": "warn", "vision": "ok", "projector": "ok"}  # one has one colour


def test_blank_pictures_are_at_fault_and_no_part(patient):
    patient.tokens = with_blank_pictures(patient.tokens)
    (finding,) = way.follow_image(patient)
    assert (finding.name, finding.state) == ("pictures", "broken")
    assert "4 of one colour" in finding.measured


def test_copies_of_one_picture_are_at_fault(patient):
    first = next(image for each in patient.tokens for image in each.images)
    patient.tokens = [
        dataclasses.replace(each, images=(dataclasses.replace(first, key=str(number)),))
        for number, each in enumerate(patient.tokens)
    ]
    finding = way.pictures(patient, [image for each in patient.tokens for image in each.images])
    assert finding.state == "broken" and "all alike" in finding.measured


def test_an_encoder_that_sees_nothing_is_at_fault(patient):
    with torch.no_grad():
        patient.model.vision.model.embeddings.patch_embedding.weight.zero_()
    found = states(way.follow_image(patient))
    assert found == {"pictures": "warn", "vision": "broken"}


def test_a_projector_that_has_collapsed_is_at_fault(patient):
    with torch.no_grad():
        for weight in patient.model.projector.parameters():
            weight.zero_()
    found = states(way.follow_image(patient))
    assert found == {"pictures": "warn", "vision": "ok", "projector": "broken"}


@pytest.fixture
def run(recipe, tmp_path, monkeypatch):
    """A finished run: its encoder is frozen."""
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    return train_run(recipe, tmp_path / "run")


def spoil(run, part, change):
    file = run / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if key.startswith(part) and weights[key].ndim == 2)
    weights[name] = change(weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    (run / "checksums.json").unlink()
    return name


def test_a_frozen_encoder_that_was_changed_on_the_disk_is_at_fault(recipe, run):
    found = {each.name: each for each in examine(recipe, run=run, steps=1)}
    assert found["vision as loaded"].state == "ok"
    name = spoil(run, "vision", lambda weight: weight + 1e-3)
    found = {each.name: each for each in examine(recipe, run=run, steps=1)}
    assert found["vision as loaded"].state == "broken"
    assert name in found["vision as loaded"].measured
    trained = changed(recipe, train={"vision": 1e-3})
    assert "vision as loaded" not in states(examine(trained, run=run, steps=1))


@pytest.mark.parametrize("trains", [True, False])
def test_closed_gates_are_a_fault_only_where_nothing_opens_them(recipe, trains):
    model = recipe.model.model_dump() | {"cross_attention": {"every": 1}}
    rates = {"projector": 1e-2, "language": 1e-2} | ({"cross_attention": 1e-2} if trains else {})
    gated = Recipe.model_validate(changed(recipe, train=rates).model_dump() | {"model": model})
    found = {finding.name: finding for finding in examine(gated, steps=20)}
    if trains:
        assert found["sight"].state == "note" and found["gradient norms"].state == "ok"
        assert found["sight after the trial"].state != "broken"
    else:
        assert found["sight"].state == "broken"
        assert "cross_attention: 1e-3" in found["sight"].remedy


def test_a_projector_of_shuffled_weights_is_at_fault(patient, monkeypatch):
    """True pictures do worse than grey ones, and the encoder is as it was loaded."""
    patient.from_run = True
    losses = iter([2.9, 2.7, 3.0])  # true, blank, exchanged
    monkeypatch.setattr(type(patient), "loss", lambda self, tokens=None: next(losses))
    finding = still.sight(patient, "sight", expect_use=True)
    assert finding.state == "broken" and "its projector misleads" in finding.remedy


def test_pictures_that_do_not_reach_the_answers_are_found(patient):
    assert still.sight(patient, "sight", expect_use=False).state == "note"
    patient.model.projector = Scaled(patient.model.projector, 0.0)
    assert still.sight(patient, "sight", expect_use=False).state == "broken"
    assert trial.gradients(patient).state == "broken"
    assert "projector" in trial.gradients(patient).remedy


def test_a_model_that_answers_without_looking_is_found(patient, monkeypatch):
    losses = iter([1.0, 0.9, 0.8])
    monkeypatch.setattr(type(patient), "loss", lambda self, tokens=None: next(losses))
    assert still.sight(patient, "sight", expect_use=True).state == "warn"


def test_a_language_model_that_does_not_read_its_tokens_is_found(patient):
    with torch.no_grad():
        patient.model.get_output_embeddings().weight.mul_(400)
    assert still.first_loss(patient).state == "broken"


def test_rates_that_teach_nothing_are_found(recipe):
    slow = changed(recipe, train={"projector": 1e-9, "language": 1e-9})
    findings = found(examine(slow, steps=3))
    assert findings["overfit one batch"].state == "broken"
    assert "learning rates" in findings["overfit one batch"].remedy


def test_rates_that_explode_are_found(recipe):
    wild = changed(recipe, train={"projector": 1e30, "language": 1e30})
    findings = found(examine(wild, steps=5))
    assert findings["overfit one batch"].state == "broken"


def test_a_frozen_part_that_moves_is_found(patient, monkeypatch):
    real = trial.Stepper.step

    def meddling(stepper, micro_batches):
        with torch.no_grad():
            next(stepper.model.vision.parameters()).add_(1e-6)
        return real(stepper, micro_batches)

    monkeypatch.setattr(trial.Stepper, "step", meddling)
    findings = found(trial.overfit(patient, 2))
    assert findings["frozen parts"].state == "broken"
    assert "vision." in findings["frozen parts"].measured


def test_a_trained_weight_that_stays_is_told(patient, monkeypatch):
    monkeypatch.setattr(trial.Stepper, "step", lambda *everything: None)
    assert found(trial.overfit(patient, 1))["frozen parts"].state == "warn"


def test_the_text_of_a_sample_alone_is_the_sample_of_a_blind_model(patient):
    for each in patient.tokens:
        alone = without_pictures(each)
        assert len(alone) == int((each.image == 0).sum())
        assert alone.images == ()
        for branch in range(int(alone.branch.max()) + 1):
            places = alone.position[alone.branch == branch]
            assert (places[1:] - places[:-1] == 1).all()
        assert alone.position[0] == 0


def test_exchanged_pictures_keep_their_sizes(patient):
    changed_tokens = with_other_pictures(patient.tokens)
    for before, after in zip(patient.tokens, changed_tokens, strict=True):
        assert [i.load().size for i in before.images] == [i.load().size for i in after.images]
        assert [i.key for i in before.images] != [i.key for i in after.images]
    grey = with_blank_pictures(patient.tokens)[0].images[0].load()
    assert grey.getcolors() == [(grey.width * grey.height, (128, 128, 128))]
    assert with_other_pictures(patient.tokens[:1]) is None


def test_the_chamfer_distance_of_the_docstring():
    visual, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    assert chamfer(visual, text) == pytest.approx(0.25)
    assert chamfer(visual, visual) == pytest.approx(0, abs=1e-6)
    assert chamfer(visual[:1], -visual[:1]) == pytest.approx(2)


def test_alignment_is_measured_after_each_layer_and_sample_by_sample(patient):
    batch = patient.batch()
    distances = alignment(patient.model.eval(), batch)
    assert len(distances) == 2
    assert all(0 <= each <= 2 for each in distances)
    alone = [alignment(patient.model, patient.batch([each])) for each in patient.tokens]
    means = torch.tensor(alone).mean(0).tolist()
    assert distances == pytest.approx(means, abs=1e-4)


def test_a_torchvision_of_another_torch_is_found(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    words = "operator torchvision::nms does not exist"
    (package / "__init__.py").write_text(f"raise RuntimeError('{words}')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = environment.torchvision()
    assert finding.state == "broken"
    assert words in finding.measured
    assert "uninstall" in finding.remedy


def test_an_extra_that_a_recipe_needs_is_missed(recipe, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    adapted = changed(recipe, train={}, lora={"rate": 1e-3})
    findings = found(environment.extras(adapted))
    assert findings["extra peft"].state == "broken"
    assert "stages.sft.lora" in findings["extra peft"].expected
    assert findings["extra timm"].state == "note"
    assert found(environment.extras(load_recipe("in1k-224px+7b")))["extra timm"].state == "broken"


def test_full_disks_slow_bf16_and_too_many_threads_are_found(recipe, monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 1e8})
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda folder: usage)
    assert environment.disk(tmp_path, "disk").state == "broken"
    monkeypatch.setattr(precision, "compare", lambda name: precision.Comparison(name, 3.0, 1.0))
    values = recipe.model_dump() | {"precision": "bf16", "threads": 4000}
    finding = environment.precision(Recipe.model_validate(values))
    assert finding.state == "warn"
    assert "3.0 ms in bf16, 1.0 ms in fp32" in finding.measured
    assert environment.precision(recipe).state == "ok", "fp32 is not slow"
    assert environment.threads(Recipe.model_validate(values)).state == "warn"
    monkeypatch.setattr(environment, "usable_cores", lambda: 1)
    single = environment.threads(Recipe.model_validate(values | {"threads": 1}))
    assert (single.state, single.measured) == ("ok", "1 thread on 1 usable core")


def test_a_cache_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "file" / "cache"))
    finding = environment.cache()
    assert finding.state == "warn"
    assert "LUCIDA_CACHE" in finding.remedy


def test_this_environment_is_described():
    names = [finding.name for finding in environment_checks()]
    assert {"versions", "torchvision", "precision", "threads", "cache"} <= set(names)


def test_a_report_tells_measured_expected_and_remedy_and_counts():
    out = io.StringIO()
    findings = [Finding("a", "ok", "1"), Finding("b", "broken", "2", "3", "do this")]
    assert report("title", findings, Console(file=out, width=80)) == 1
    said = out.getvalue()
    for word in ("✓ a", "✗ b", "expected   3", "remedy     do this", "1 broken"):
        assert word in said


def test_the_exit_code_is_1_when_something_is_broken(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lucida.apps.doctor.environment.environment_checks", lambda recipe=None: [])
    for state, code in (("ok", 0), ("broken", 1)):
        monkeypatch.setattr(
            "lucida.apps.doctor.examine.examine",
            lambda *a, state=state: [Finding("a", state, "b")],
        )
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "mini"])
        assert ended.value.code == code
