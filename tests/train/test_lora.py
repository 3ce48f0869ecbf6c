"""Adapters in a run: what trains, what is kept, when they are merged, and what is refused."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_training import tiny_recipe, write_language
from transformers import AutoModelForCausalLM

from closeness import close
from lucida.core.errors import ModelError, RecipeError, RunError
from lucida.core.spec import LoraSpec, Recipe
from lucida.model import adapters
from lucida.model.checkpoint import build, load
from lucida.training.engine import Engine
from lucida.training.feed import stage_feed
from lucida.training.loop import train_run
from lucida.training.observe import validation_loss
from lucida.training.precision import choose_precision
from lucida.training.stage import plan_stage
from lucida.training.state import checkpoints


def with_lora(recipe: Recipe, *loras: dict | None, train: dict | None = None) -> Recipe:
    """The recipe with these `lora` values, stage by stage; adapted stages train `train` as well."""
    values = recipe.model_dump(mode="json")
    for stage, lora in zip(values["stages"], loras, strict=True):
        stage["lora"] = lora
        if lora is not None:
            stage["train"] = {"projector": 1e-3} if train is None else train
    return Recipe.model_validate(values)


LORA = {"rate": 1e-2, "rank": 2, "alpha": 4}
DORA = LORA | {"dora": True}


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def started(recipe: Recipe) -> dict[str, torch.Tensor]:
    torch.manual_seed(recipe.seed)
    return {name: value.detach() for name, value in build(recipe.model)[0].named_parameters()}


@pytest.mark.parametrize(
    "lora", [LORA, DORA, LORA | {"dropout": 0.5}], ids=["lora", "dora", "drop"]
)
def test_the_saved_model_is_plain_and_only_what_was_named_has_changed(recipe, tmp_path, lora):
    ours = with_lora(recipe, None, lora)
    before, after = started(ours), weights(train_run(ours, tmp_path / "run"))
    assert set(after) == set(before)
    for name, value in after.items():
        linear = name.startswith("language.model.layers") and "norm" not in name
        moved = linear or name.startswith("projector.")
        assert torch.equal(value, before[name]) != moved, name


def test_a_checkpoint_of_adapters_is_small_and_holds_no_adapted_matrix(recipe, tmp_path):
    folder = train_run(with_lora(recipe, None, LORA), tmp_path / "run")
    (newest,) = checkpoints(folder)
    kept = load_file(newest / "weights.safetensors")
    assert {name.split(".")[0] for name in kept} == {"projector"}
    stored = load_file(newest / "adapter" / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * 7  # layers, matrices of an adapter, linear layers of a layer
    moments = {name.rsplit("/", 1)[0] for name in load_file(newest / "optimizer.safetensors")}
    moments = {name for name in moments if not name.startswith("random")}
    plain = {name.removeprefix("base_model.model.") for name in stored}
    assert moments == plain | set(kept)


def test_peft_puts_the_adapter_onto_the_base_again(recipe, tmp_path):
    folder = train_run(with_lora(recipe, None, DORA), tmp_path / "run")
    trained, _ = load(folder)
    values = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == recipe.model.language.path
    base = AutoModelForCausalLM.from_pretrained(values["base_model_name_or_path"])
    base.resize_token_embeddings(trained.language.get_input_embeddings().weight.shape[0])
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, folder / "adapter")
        found = adapted(input_ids=ids).logits
        expected = trained.language(input_ids=ids).logits
    assert not torch.allclose(found, plain, atol=1e-3)
    rows = recipe_rows(recipe)  # the rows that were added start at random
    close(found[..., :rows], expected[..., :rows])


def recipe_rows(recipe) -> int:
    base = AutoModelForCausalLM.from_pretrained(recipe.model.language.path)
    return base.get_input_embeddings().weight.shape[0]


def test_an_adapter_of_weights_that_the_run_changed_is_not_kept(recipe, tmp_path, capfd):
    values = with_lora(recipe, None, LORA).model_dump(mode="json")
    values["stages"][0]["train"] = {"language": 1e-3}
    folder = train_run(Recipe.model_validate(values), tmp_path / "run")
    assert not (folder / "adapter").exists()
    assert "no adapter/" in capfd.readouterr().err


def test_the_same_lora_goes_on_through_stages_and_another_is_merged_before(recipe, tmp_path):
    same = train_run(with_lora(recipe, LORA, LORA), tmp_path / "same")
    (newest,) = checkpoints(same)
    kept = load_file(newest / "weights.safetensors")
    assert {name.split(".")[0] for name in kept} == {"projector"}  # nothing was merged on the way
    other = train_run(with_lora(recipe, LORA, LORA | {"rank": 3}), tmp_path / "other")
    (newest,) = checkpoints(other)
    kept = load_file(newest / "weights.safetensors")
    assert "language.model.layers.0.self_attn.q_proj.weight" in kept
    stored = load_file(newest / "adapter" / "adapter_model.safetensors")
    assert {min(value.shape) for value in stored.values()} == {3}
    assert not (other / "adapter").exists()  # its base was merged, it is no published part


def test_a_plain_stage_after_adapters_trains_the_merged_weights(recipe, tmp_path):
    folder = train_run(with_lora(recipe, LORA, None), tmp_path / "run")
    assert not (folder / "adapter").exists()
    assert not (checkpoints(folder)[0] / "adapter").exists()


@pytest.mark.parametrize(
    ("lora", "train", "words"),
    [
        (LORA | {"targets": ["langauge"]}, {}, "lora target 'langauge'.*language"),
        (LORA | {"targets": ["language.model.norm"]}, {}, "matches no linear layer"),
        (LORA | {"targets": ["language.lm_head"]}, {}, "matches no linear layer"),
        (LORA, {"language": 1e-3}, "would train twice"),
        (LORA | {"targets": ["language.last(9)"]}, {}, "fewer layers"),
    ],
)
def test_what_adapters_cannot_do_is_refused_before_training(recipe, tmp_path, lora, train, words):
    with pytest.raises(RecipeError, match=words):
        train_run(with_lora(recipe, None, lora, train=train), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_adapters_of_the_last_layer_and_nothing_else(recipe, tmp_path):
    ours = with_lora(recipe, None, LORA | {"targets": ["language.last(1)"]}, train={})
    values = ours.model_dump(mode="json")
    values["stages"] = values["stages"][1:]
    ours = Recipe.model_validate(values)
    before, after = started(ours), weights(train_run(ours, tmp_path / "run"))
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert len(changed) == 7 and all("layers.1." in name for name in changed)


def test_a_checkpoint_of_another_rank_is_refused_with_both_values(parts, tmp_path):
    spec = LoraSpec.model_validate(LORA)
    model, _ = build(tiny_recipe(parts).model)
    names = [name for name in adapters.adaptable(model) if name.startswith("language.")]
    adapters.attach(model, names, spec)
    adapters.save_adapter(model, tmp_path, spec)
    other, _ = build(tiny_recipe(parts).model)
    adapters.attach(other, names, LoraSpec.model_validate(LORA | {"rank": 3}))
    with pytest.raises(RunError, match=r"other lora\.rank") as error:
        adapters.load_adapter(other, tmp_path, LoraSpec.model_validate(LORA | {"rank": 3}))
    assert "expected 3, got 2" in str(error.value)


def quantised(recipe: Recipe, folder) -> Recipe:
    """The recipe over a language model that is wide enough for blocks of 4-bit numbers."""
    path = str(write_language(folder / "wide", width=64))
    language = recipe.model.language.model_copy(update={"quantize": "4bit", "path": path})
    return recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"language": language})}
    )


@pytest.mark.parametrize("lora", [LORA, DORA], ids=["lora", "dora"])
def test_adapters_on_quantised_weights_end_in_a_plain_model(recipe, tmp_path, lora):
    pytest.importorskip("bitsandbytes")
    ours = quantised(with_lora(recipe, None, lora), tmp_path)
    folder = train_run(ours, tmp_path / "run")
    model, _ = load(folder)
    assert model.config.model_spec.language.quantize is None
    assert {value.dtype for value in weights(folder).values()} == {torch.float32}
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    looks = [record["validation_loss"] for record in steps if "validation_loss" in record]
    again = validation(ours, model, folder)
    assert again == pytest.approx(looks[-1], abs=1e-4)  # the merged model is the trained one


def validation(recipe, model, folder) -> float:
    """The last stage's validation loss of a saved model."""
    stage = recipe.stages[-1]
    _, processor = load(folder)
    fp32 = choose_precision("fp32", torch.device("cpu"))
    what = plan_stage(model, {"projector": 1e-3}, "stage")
    feed = stage_feed(recipe, 1, what, model, processor, fp32, folder / "dropped.jsonl", Engine())
    assert stage.lora is not None
    return validation_loss(model, feed.validation(), fp32, Engine())


def test_quantised_weights_are_refused_where_they_cannot_train(recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(RecipeError, match="quantised"):
        train_run(quantised(recipe, tmp_path), tmp_path / "run")
    with pytest.raises(RecipeError, match="last to the end of the run"):
        train_run(quantised(with_lora(recipe, LORA, None), tmp_path), tmp_path / "run")


def test_without_peft_the_remedy_is_named(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"lucida\[lora\]"):
        train_run(with_lora(recipe, None, LORA), tmp_path / "run")
