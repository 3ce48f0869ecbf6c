"""The remote-code folder in the hands of a program that puts its parts together itself.

`ask_as_vllm` calls the same methods in the same order as vLLM's transformers backend does, and has
to arrive at the scores of the whole model.
"""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
import tiny

from lucida.apps.export.write import export
from lucida.model.checkpoint import save

QUESTION = "what is it?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported design that is no Llava: a tower of another kind, and a projector with norm."""
    place = tmp_path_factory.mktemp("backend")
    eyes = {"path": tiny.encoder_folder("dinov2"), "feature_layer": -2}
    projector = {"kind": "mlp", "norm": True}
    save(*tiny.tiny_model(eyes, image={"policy": "resize"}, projector=projector), place / "run")
    done = export(place / "run", place / "out", "remote-code")
    assert any("--model-impl transformers" in note for note in done.notes), done.notes
    return place / "out"


@pytest.fixture(scope="module")
def loaded(folder):
    """What `auto_map` names: the model without scores, the whole one, the processor."""
    named = json.loads((folder / "config.json").read_text())["auto_map"]
    kept = json.loads((folder / "processor_config.json").read_text())["auto_map"]
    file, name = named["AutoModel"].split(".")
    place = spec_from_file_location("exported", folder / f"{file}.py")
    code = module_from_spec(place)
    place.loader.exec_module(code)
    whole = named["AutoModelForImageTextToText"].split(".")[1]
    models = (getattr(code, each).from_pretrained(folder).eval() for each in (name, whole))
    processor = getattr(code, kept["AutoProcessor"].split(".")[1]).from_pretrained(folder)
    return (*models, processor)


def rendered(folder, count):
    """The conversation as the template in the folder writes it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    parts = [{"type": "image"}] * count + [{"type": "text", "text": QUESTION}]
    template = ImmutableSandboxedEnvironment().from_string((folder / "chat.jinja").read_text())
    return template.render(
        messages=[{"role": "user", "content": parts}], add_generation_prompt=True
    )


@torch.no_grad()
def ask_as_vllm(model, processor, text, pictures):
    """Hidden states of the prompt, and its ids."""
    assert processor.image_processor.model_input_names == ("pixel_values",)
    batch = processor(
        text=text,
        images=pictures,
        return_text_replacement_offsets=True,
        truncation=False,
        add_special_tokens=False,
        return_tensors="pt",
    )
    tokenizer, ids = processor.tokenizer, []
    offsets = batch.pop("text_replacement_offsets")[0]
    assert [each["type"] for each in offsets] == ["image"] * len(pictures)
    place, slots = 0, []
    for entry in offsets:
        first, last = entry["span"]
        assert text[first:last] == processor.image_token
        ids += tokenizer.encode(text[place:first], add_special_tokens=False)
        written = tokenizer.encode(entry["replacement"], add_special_tokens=False)
        slots += range(len(ids), len(ids) + len(written))
        ids, place = ids + written, last
    ids += tokenizer.encode(text[place:], add_special_tokens=False)
    sizes = [(each.height, each.width) for each in pictures]
    told = processor._get_num_multimodal_tokens(image_sizes=sizes)
    assert sum(told["num_image_tokens"]) == len(slots)
    rows = batch["pixel_values"].split(told["num_image_patches"])
    features = torch.cat([model.get_image_features(each).flatten(0, 1) for each in rows])
    embedded = model.get_input_embeddings()(torch.tensor([ids]))
    embedded[0, slots] = features
    positions = torch.arange(len(ids))[None]
    given = {"position_ids": positions, "use_cache": False, "return_dict": False}
    return model(input_ids=None, inputs_embeds=embedded, **given)[0], ids


@pytest.mark.parametrize("count", [0, 1, 2])
def test_its_parts_give_the_scores_of_the_whole(folder, loaded, count):
    model, whole, processor = loaded
    pictures = [tiny.picture(seed, 40 + 8 * seed, 30) for seed in range(count)]
    content = [{"type": "image", "image": each} for each in pictures]
    content.append({"type": "text", "text": QUESTION})
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True,
    )  # fmt: skip
    if count:
        hidden, ids = ask_as_vllm(model, processor, rendered(folder, count), pictures)
        assert ids == inputs["input_ids"][0].tolist()
    else:
        hidden = model(input_ids=inputs["input_ids"], return_dict=True).last_hidden_state
    with torch.no_grad():
        expected = whole(**inputs).logits
        assert torch.allclose(whole.get_output_embeddings()(hidden), expected, atol=1e-4)


def test_the_parts_are_found_by_name(loaded):
    model, _, processor = loaded
    assert model.get_encoder(modality="image") is model.vision
    assert model.get_decoder() is model.language_model is model.language.base_model
    side = processor.image_policy.size
    assert processor.image_processor.size == {"height": side, "width": side}
    assert processor._get_num_multimodal_tokens().num_image_tokens is None


def test_a_blind_processor_has_no_image_side(tmp_path):
    from lucida.model.backend import BackendProcessor

    save(*tiny.tiny_model(vision=None), tmp_path)
    assert not hasattr(BackendProcessor.from_pretrained(tmp_path), "image_processor")
