"""Real (tiny) models under evaluation: Lucida's, a LLaVA; inside training; text that was kept."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from tiny import encoder_folder, picture, tiny_model, tiny_tokenizer
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from lucida.core.errors import ModelError, RunError
from lucida.core.spec import EvaluationSpec, RetentionSpec
from lucida.data.sample import BoxPart, ImagePart, Sample, Turn
from lucida.eval.answerers.lucida_model import LucidaAnswerer
from lucida.eval.answerers.transformers_model import (
    TransformersAnswerer,
    list_images,
    load_answerer,
    messages,
)
from lucida.eval.answerers.written_box import read_written_box
from lucida.eval.benchmark import Example
from lucida.eval.benchmarks import benchmark
from lucida.eval.during_training import Scores
from lucida.eval.loss import document_losses
from lucida.eval.retention import compared, lost, perplexity, require
from lucida.eval.run import evaluate_target
from lucida.model.checkpoint import save
from lucida.model.messages import image_source
from lucida.training.observe import leave_untouched

torch.set_num_threads(1)

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A folder with a random LLaVA and its processor."""
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = tiny_tokenizer("<image>")
    torch.manual_seed(5)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size, crop_size=size)
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def example(text: str, *seeds: int, candidates: tuple[str, ...] = ()) -> Example:
    images = tuple(image_source(picture(seed), n) for n, seed in enumerate(seeds, 1))
    stem = (Turn("user", tuple(ImagePart(n) for n in range(len(images)))),) if images else ()
    sample = Sample(text, images, stem, ((Turn("user", (text,)),),))
    return Example(
        id=text, sample=sample, question=text, answers=("a",), candidates=candidates, cluster=text
    )


def test_a_llava_answers_in_batches_as_it_does_alone(llava):
    answerer = load_answerer(str(llava))
    examples = [example("what colour?", 1), example("no picture"), example("is it?", 2),
                example("how many in both of them?", 1, 3)]  # fmt: skip
    found = dict(answerer.stream(examples, "generate", 6))
    model, processor = answerer.model, answerer.processor
    for number, each in enumerate(examples):
        shown = [source.load() for source in each.sample.images] or None
        prompt = f"user: {'<image>' * len(each.sample.images)}{each.question}\nassistant:"
        inputs = processor(images=shown, text=[prompt], return_tensors="pt")
        with torch.no_grad():
            row = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        ids = row[0, inputs["input_ids"].shape[1] :]
        expected = processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert found[number].output == expected
    assert len({said.output for said in found.values()}) > 1


def test_a_llavas_likelihoods_are_those_of_its_logits(llava):
    answerer = load_answerer(str(llava))
    each = example("what colour?", 1, candidates=("red", "light blue"))
    ((_, said),) = answerer.stream([each], "likelihood", 1)
    numbers = said.details["likelihoods"]
    for place, candidate in enumerate(each.candidates):
        prompt = "user: <image>what colour?\nassistant:"
        text = f"{prompt} {candidate}<eos>"
        inputs = answerer.processor(
            images=[each.sample.images[0].load()], text=[text], return_tensors="pt"
        )
        with torch.no_grad():
            scores = answerer.model(**inputs).logits[0].double().log_softmax(-1)
        ids = inputs["input_ids"][0]
        count = len(candidate) + 2  # byte by byte, the space before and the end token
        wanted = sum(float(scores[i - 1, ids[i]]) for i in range(len(ids) - count, len(ids)))
        assert numbers["whole"][place] == pytest.approx(wanted, abs=1e-4)
    assert said.output == each.candidates[int(np.argmax(numbers["whole"]))]


def test_a_folder_of_a_foreign_model_is_evaluated(llava, tmp_path):
    spec = EvaluationSpec(baseline_limit=4, samples=100, max_new_tokens=4)
    results = evaluate_target(
        f"hf:{llava}", lambda folder: load_answerer(str(llava)), tmp_path / "out", spec,
        ["attribute", "boxes"], 6,
    )  # fmt: skip
    assert {name: task["n"] for name, task in results["tasks"].items()} == {
        "attribute": 6,
        "boxes": 6,
    }
    assert results["tasks"]["attribute"]["baselines"]["removed"]["n"] == 4
    assert "How it was asked" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(ModelError, match="no image-text-to-text model"):
        load_answerer(encoder_folder("siglip"))


def test_a_model_that_lucida_saved_is_asked_like_a_run(tmp_path):
    """An imported model is no run: it is measured as `hf:FOLDER`."""
    model, processor = tiny_model()
    save(model, processor, tmp_path / "saved")
    answerer = load_answerer(str(tmp_path / "saved"))
    examples = [example("what colour?", 1), example("how many in both?", 1, 3)]
    found = dict(answerer.stream(examples, "generate", 6))
    own = dict(LucidaAnswerer(model, processor).stream(examples, "generate", 6))
    assert {place: said.output for place, said in found.items()} == {
        place: said.output for place, said in own.items()
    }
    assert answerer.identity["model"] == str(tmp_path / "saved")
    assert len(answerer.identity["weights"]) == 16


def test_the_tokens_of_a_box_stay_in_the_answer(llava):
    """Qwen's and Kosmos' box tokens are special ones, which decoding usually leaves out."""
    processor = load_answerer(str(llava)).processor
    added = ["<|box_start|>", "<|box_end|>", "<loc0010>", "<|other|>"]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": added})
    model = LlavaForConditionalGeneration.from_pretrained(llava)
    answerer = TransformersAnswerer(model, processor, "tiny")
    said = "<|other|><|box_start|>(1,2),(3,4)<|box_end|>"
    row = torch.tensor([processor.tokenizer(said + "<eos>", add_special_tokens=False)["input_ids"]])
    model.generate = lambda input_ids, **more: torch.cat([input_ids, row], 1)
    ((_, found),) = answerer.stream([example("where?", 1)], "generate", 9)
    assert found.output == "<|box_start|>(1,2),(3,4)<|box_end|>"
    assert answerer.boxes == "shares"  # LLaVA's; an option decides otherwise
    assert answerer.read_box("[1, 2, 3, 4]", 100, 100) is None
    told = TransformersAnswerer(model, processor, "tiny", boxes="thousandths")
    assert told.read_box("[100, 200, 300, 400]", 100, 50) == (10, 10, 30, 20)
    with pytest.raises(ModelError, match="thousandths"):
        TransformersAnswerer(model, processor, "tiny", boxes="thousandth")


def test_pictures_and_boxes_of_demonstrations_follow_the_turns():
    """The second picture is shown first; a box is written in the unit that the model writes."""
    sources = tuple(image_source(picture(seed), seed) for seed in (1, 2))
    width, height = sources[1].load().size
    turn = Turn("user", (ImagePart(1), "look", ImagePart(0)))
    box = Turn("assistant", (BoxPart(1, 0, 0, width / 2, height / 4),))
    sample = Sample("test", sources, (), ((turn, box),))
    assert [source.key for source in list_images(sample)] == [s.key for s in sources[::-1]]
    for unit, words in (
        ("shares", "[0.000, 0.000, 0.500, 0.250]"), ("thousandths", "[0, 0, 500, 250]"),
        ("thousandths-yx", "[0, 0, 250, 500]"), ("hundredths", "[0, 0, 50, 25]"),
        ("form", f"[0, 0, {width / 2:.0f}, {height / 4:.0f}]"),
    ):  # fmt: skip
        assert messages(sample, unit)[-1]["content"] == [{"type": "text", "text": words}]
        assert read_written_box(words, width, height, unit) == (0, 0, width / 2, height / 4)


def test_a_lucida_model_says_the_same_alone_and_in_company():
    model, processor = tiny_model()
    answerer = LucidaAnswerer(model, processor)
    examples = benchmark("attribute").examples(9)
    for way in ("generate", "likelihood"):
        together = dict(answerer.stream(examples, way, 4))
        for index, each in enumerate(examples):
            ((_, alone),) = answerer.stream([each], way, 4)
            assert together[index].output == alone.output


def test_training_does_not_notice_an_evaluation():
    def trained(evaluated: bool) -> list[torch.Tensor]:
        model, processor = tiny_model()
        model.train()
        model.vision.eval()
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        inputs = processor(images=[picture(1)], text=["<image> what colour? red"])
        for step in range(3):
            noise = torch.randn(1) + np.random.rand() + random.random()  # noqa: NPY002
            loss = model(**inputs, labels=inputs["input_ids"]).loss * noise.abs()
            loss.backward()
            if evaluated:
                spec = EvaluationSpec(tasks=["attribute", "presence"], limit=4)
                with leave_untouched(model):
                    found = Scores(spec).look(model, processor, step)
                assert found["step"] == step
                assert set(found["tasks"]) == {"attribute", "presence"}
                assert found["tasks"]["presence"]["n"] == 4
                assert model.training
                assert not model.vision.training
            optimizer.step()
            optimizer.zero_grad()
        return [weight.detach().clone() for weight in model.parameters()]

    for one, other in zip(trained(False), trained(True), strict=True):
        assert torch.equal(one, other)


def test_losses_of_documents_are_those_of_plain_logits(tmp_path):
    model, processor = tiny_model()
    texts = ["once upon a time", "x", "a much longer text. " * 12]  # the last needs windows
    samples = [Sample("t", branches=((Turn("text", (text,)),),)) for text in texts]
    found = dict(document_losses(model, processor, samples))
    ids = processor.tokenizer(texts[0])["input_ids"]
    ids = ids if ids[0] == 1 else [1, *ids]
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    wanted = -sum(float(scores[i, token]) for i, token in enumerate(ids[1:]))
    assert found[0] == (pytest.approx(wanted, abs=1e-4), len(texts[0]))
    assert [found[n][1] for n in range(3)] == [len(text) for text in texts]
    file = tmp_path / "text.txt"
    file.write_text(texts[0])
    assert perplexity(model, processor, file) == pytest.approx(
        math.exp(wanted / len(texts[0])), rel=1e-4
    )
    with pytest.raises(RunError, match="cannot be read"):
        perplexity(model, processor, tmp_path / "no.txt")


def test_the_gate_for_forgotten_text():
    assert lost(20, 22, higher_is_better=False) == pytest.approx(0.1)
    assert lost(0.5, 0.4, higher_is_better=True) == pytest.approx(0.2)
    spec = RetentionSpec(file="a.txt", max_loss=0.05)
    require(compared(spec, 20.0, 20.9), "run")
    with pytest.raises(RunError, match=r"too much text.*at most 5.0% lost, got 10.0%"):
        require(compared(spec, 20.0, 22.0), "run")
    require(compared(RetentionSpec(task="mmlu", max_loss=0.2), 0.5, 0.41), "run")
    with pytest.raises(ValueError, match="exactly one"):
        RetentionSpec(file="a", task="b")
