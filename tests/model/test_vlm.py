"""The model as a whole: what it refuses, what it differentiates, what transformers does with it."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from tiny import language_folder, picture, tiny_model
from transformers import AutoModelForCausalLM, TextIteratorStreamer

from closeness import close
from lucida.core.errors import ModelError
from lucida.data.collate import collate
from lucida.data.sample import ImagePart, Sample, Turn, Views
from lucida.model.fuse import fuse
from lucida.model.generation import image_numbers, prompt_mask, repeated_by_row
from lucida.model.masks import MASKS, causal
from lucida.model.messages import image_source
from lucida.model.vlm import LucidaModel

torch.set_num_threads(1)


def sample(text: str, images: int = 1, seed: int = 0) -> Sample:
    sources = tuple(image_source(picture(seed + n), n) for n in range(images))
    parts = (*(ImagePart(n) for n in range(images)), text)
    turns = (Turn("user", parts), Turn("assistant", ("yes",)))
    return Sample("test", sources, (), (turns,))


def batch_of(processor, *samples: Sample):
    return collate([processor.encode(s) for s in samples], True, 0, processor.pixels)


def test_visual_tokens_take_their_places_in_reading_order():
    embedded = torch.zeros(2, 4, 3)
    places = torch.tensor([[False, True, True, False], [True, False, True, False]])
    visual = torch.arange(12.0).view(2, 2, 3)
    fused = fuse(embedded, places, list(visual))
    assert torch.equal(fused[places], visual.view(4, 3))
    assert (fused[~places] == 0).all() and (embedded == 0).all()


@pytest.mark.parametrize("images", [1, 3])
def test_other_counts_of_images_and_placeholders_are_refused(images):
    model, processor = tiny_model()
    given = processor.batch([processor.prompt(sample("a", images=2))])
    given["pixel_values"] = given["pixel_values"][:1].repeat(images, 1, 1, 1)
    with pytest.raises(ModelError, match=rf"expected 8 .*got {4 * images} \({images} images of 4"):
        model(**given)
    with pytest.raises(ModelError, match=r"expected 8 .*got 0"):
        model(input_ids=given["input_ids"])
    batch = batch_of(processor, sample("a", images=2))
    batch.pixel_values = batch.pixel_values.select([0])
    with pytest.raises(ModelError, match="expected 8"):
        model.hidden(batch)
    with pytest.raises(ModelError, match="not both"):
        model(**given, features=torch.zeros(images, 4, 16))


def test_images_beside_embeddings_are_refused():
    """No place is kept for them, so they would change nothing."""
    model, processor = tiny_model()
    given = processor.batch([processor.prompt(sample("a"))])
    embedded = model.get_input_embeddings()(given["input_ids"])
    with pytest.raises(ModelError, match="no placeholders"):
        model(inputs_embeds=embedded, pixel_values=given["pixel_values"])
    with pytest.raises(ModelError, match="exactly one"):
        model(input_ids=given["input_ids"], inputs_embeds=embedded)


def test_a_mask_of_another_package_holds_for_text_alone(monkeypatch):
    def near(query, key):
        return causal(query, key) & (query.order - key.order < 2)

    monkeypatch.setitem(MASKS._loaded, "near", near)
    model, _ = tiny_model()
    text = torch.zeros(1, 4, dtype=torch.long)
    made = prompt_mask(model.config, "near", text, None, None, torch.float32)
    seen = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert made[0, 0].int().tolist() == seen
    assert prompt_mask(model.config, "image_block", text, None, None, torch.float32) is None


@torch.no_grad()
def test_text_alone_is_the_language_model_alone():
    model, _ = tiny_model()
    plain = AutoModelForCausalLM.from_pretrained(language_folder())
    ids = torch.tensor([[1, 50, 60, 70, 80]])
    expected = plain(ids).logits
    given = model(input_ids=ids).logits[..., : expected.shape[-1]]
    close(given, expected)
    kept = model(input_ids=ids, logits_to_keep=2).logits
    close(kept, model(input_ids=ids).logits[:, -2:])


@torch.no_grad()
def test_a_blind_model_reads_text_and_refuses_images():
    model, processor = tiny_model(None)
    assert model.vision is None and model.projector is None
    assert not any(name.startswith(("vision", "projector")) for name, _ in model.named_parameters())
    shown, unseen = sample("what colour?"), sample("what colour?", images=0)
    assert (processor.prompt(shown).input_ids == processor.prompt(unseen).input_ids).all()
    given = processor.batch([processor.prompt(shown)])
    assert "pixel_values" not in given
    model.generate(**given, max_new_tokens=2)
    with pytest.raises(ModelError, match="blind"):
        model(input_ids=given["input_ids"], pixel_values=torch.zeros(1, 3, 16, 16))


def test_loss_is_the_mean_over_labels_shifted_inside():
    model, processor = tiny_model()
    tokens = processor.encode(sample("what", images=2))
    given = processor.batch([tokens])
    labels = torch.full_like(given["input_ids"], -100)
    target = torch.from_numpy(tokens.target)
    labels[0, 1:] = target[:-1]
    loss = model(**given, labels=labels).loss
    batch = batch_of(processor, sample("what", images=2))
    logits = model.logits(model.hidden(batch))[0]
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=-100)
    close(loss, expected)


@pytest.mark.parametrize("trained", ["projector", "language", "vision", "language.model.layers.1"])
def test_nothing_below_the_lowest_trained_weight_is_differentiated(trained):
    model, processor = tiny_model()
    model.train()
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(trained + "."))
    met = []
    for name, module in model.named_modules():
        module.register_full_backward_hook(lambda *_, name=name: met.append(name))
    batch = batch_of(processor, sample("what"))
    model.hidden(batch).sum().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    if trained == "language.model.layers.1":
        assert not any(name.startswith("language.model.layers.0") for name in met)
    if trained != "vision":
        assert not any(name.startswith("vision") for name in met)


def test_a_frozen_encoder_keeps_its_batch_statistics_in_training():
    model, processor = tiny_model("resnet", image={"size": 64})
    statistics = model.vision.model.embedder.embedder.normalization.running_mean
    for weight in model.vision.parameters():
        weight.requires_grad_(False)
    model.eval()
    batch = batch_of(processor, sample("what", images=2))
    before, frozen = statistics.clone(), model.encode_images(batch.pixel_values)
    model.train()
    assert torch.equal(model.encode_images(batch.pixel_values).values, frozen.values)
    model.hidden(batch).sum().backward()
    assert torch.equal(statistics, before)


def test_a_batch_without_images_gives_the_projector_a_gradient_of_zero():
    model, processor = tiny_model()
    model.train()
    batch = batch_of(processor, sample("no image", images=0))
    model.eval()
    expected = model.hidden(batch)
    model.train()
    hidden = model.hidden(batch)
    assert torch.equal(hidden, expected)
    hidden.sum().backward()
    assert all((weight.grad == 0).all() for weight in model.projector.parameters())


def test_gradient_checkpointing_changes_nothing():
    model, processor = tiny_model(mask="image_block")
    model.train()
    batch = batch_of(processor, sample("what", images=2), sample("a"))
    model.hidden(batch).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()
                if weight.grad is not None}  # fmt: skip
    model.zero_grad()
    model.activation_checkpointing_enable()
    model.hidden(batch).square().sum().backward()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            close(weight.grad, expected[name])


def test_packed_batches_need_our_attention():
    model, processor = tiny_model()
    model.language.set_attn_implementation("eager")
    with pytest.raises(ModelError, match="set_attn_implementation"):
        model.hidden(batch_of(processor, sample("what")))


@torch.no_grad()
def test_streaming_gives_the_generated_text():
    model, processor = tiny_model()
    given = processor.batch([processor.prompt(sample("what"))])
    options = {"max_new_tokens": 6, "do_sample": False}
    written = model.generate(**given, **options)[0, given["input_ids"].shape[1] :]
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    thread = Thread(target=model.generate, kwargs={**given, **options, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == processor.tokenizer.decode(written)
    thread.join()


@torch.no_grad()
@pytest.mark.parametrize("mask", ["causal", "image_block"])
def test_beams_see_the_images_of_their_own_row(mask):
    model, processor = tiny_model(mask=mask)
    prompts = [processor.prompt(sample("what", images=2)), processor.prompt(sample("a", seed=7))]
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    together = model.generate(**processor.batch(prompts), **options)[:, -4:]
    for row, prompt in enumerate(prompts):
        assert torch.equal(
            together[row], model.generate(**processor.batch([prompt]), **options)[0, -4:]
        )


@torch.no_grad()
def test_generation_from_features_equals_generation_from_pixels():
    model, processor = tiny_model()
    given = processor.batch([processor.prompt(sample("what", images=2))])
    options = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**given, **options)
    features = model.encode_images(model.views_of(given.pop("pixel_values")))
    assert torch.equal(model.generate(**given, features=features, **options), expected)


@torch.no_grad()
def test_a_second_turn_may_show_an_image_behind_a_cache():
    """Prompt, cached; then more text with another image: as if all had been given at once."""
    for mask in ("causal", "image_block"):
        model, processor = tiny_model(mask=mask)
        whole = processor.batch([processor.prompt(sample("ab", images=2))])
        ids, pixels = whole["input_ids"], whole["pixel_values"]
        cut = int((ids[0] == processor.image_token_id).nonzero()[4])  # between the two images
        ones = whole["attention_mask"]
        first = model(ids[:, :cut], pixels[:1], ones[:, :cut], use_cache=True)
        second = model(ids[:, cut:], pixels[1:], ones, past_key_values=first.past_key_values)
        expected = model(**whole).logits
        close(second.logits, expected[:, cut:])


def test_neighbouring_images_are_told_apart():
    places = torch.tensor([[False, True, True, True, True, False]])
    assert image_numbers(places, [2, 2]).tolist() == [[0, 1, 1, 2, 2, 0]]
    images = Views.read(torch.tensor([[1], [2], [3]]))
    repeated = repeated_by_row(images, torch.tensor([2, 0, 1]), 2)
    assert repeated.values.tolist() == [1, 2, 1, 2, 3, 3]


def test_a_configuration_without_a_spec_is_refused():
    from lucida.model.config import LucidaConfig

    with pytest.raises(ModelError, match="no model spec"):
        LucidaModel(LucidaConfig())
