"""Models of others behind the same addresses."""

import sys
from pathlib import Path

import openai
import pytest
import torch
from served import KEY, ask, serve_in_thread
from tiny import picture

sys.path.insert(0, str(Path(__file__).parent.parent / "apps"))
from tiny_designs import make

from lucida.core.errors import LucidaError
from lucida.eval.answerers.transformers_model import load_answerer
from lucida.model.checkpoint import save
from lucida.model.conversion import llava
from lucida.model.messages import sample_of
from lucida.serve.batching import load_engines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llava's folder, as others would have it."""
    folder = tmp_path_factory.mktemp("hub") / "llava"
    folder.mkdir()
    model, processor = make()
    model.generation_config.suppress_tokens = [0, 1, 2]
    llava.write_llava(model, processor, folder)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    engines = load_engines([f"hf:{folder}"], 8)
    with (
        serve_in_thread(engines, KEY) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as library,
    ):
        yield library
    engines["llava"].close()


def test_a_model_of_others_answers_as_transformers_has_it(client, folder):
    answerer = load_answerer(str(folder))
    messages = ask("what is it?", picture(1))
    inputs = answerer.inputs([answerer.prompt(sample_of(messages))], [sample_of(messages)])
    with torch.no_grad():
        row = answerer.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    ids = row[0, inputs["input_ids"].shape[1] :]
    expected = answerer.processor.tokenizer.decode(ids, skip_special_tokens=True)
    found = client.chat.completions.create(
        model="llava", messages=messages, max_tokens=8, logprobs=True, top_logprobs=2
    )
    choice = found.choices[0]
    assert choice.message.content == expected.rstrip("\ufffd").strip()
    assert (choice.finish_reason, found.usage.completion_tokens) == ("length", 8)
    assert found.usage.prompt_tokens == inputs["input_ids"].shape[1]
    assert all(each.logprob == each.top_logprobs[0].logprob for each in choice.logprobs.content)
    pieces = client.chat.completions.create(
        model="llava", messages=messages, max_tokens=8, stream=True
    )
    told = "".join(one.delta.content or "" for piece in pieces for one in piece.choices)
    assert told == choice.message.content


def test_options_are_the_same_for_all(client):
    def say(**options):
        found = client.chat.completions.create(
            model="llava", messages=ask("say"), max_tokens=8, **options
        )
        return found.choices[0]

    text = say().message.content
    stop = text[len(text) // 2 :][:1]
    assert say(stop=[stop]).message.content == text[: text.find(stop)].strip()
    drawn = [say(temperature=1.5, seed=seed).message.content for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["a", "b"]}}}
    assert say(response_format=form).message.content in ('"a"', '"b"')


def test_texts_are_scored_as_they_are(client, folder):
    answerer = load_answerer(str(folder))
    found = client.completions.create(
        model="llava", prompt="a b", max_tokens=0, echo=True, logprobs=0
    )
    ids = answerer.processor.tokenizer("a b", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = answerer.model(input_ids=ids).logits[0].log_softmax(-1)
    expected = [float(logs[place, word]) for place, word in enumerate(ids[0, 1:].tolist())]
    assert found.choices[0].logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)


def test_what_lucida_wrote_is_its_own_again(parts, tmp_path):
    save(*parts, tmp_path / "own")
    engines = load_engines([f"hf:{tmp_path / 'own'}"], 8)
    engines["own"].close()
    assert type(engines["own"].model) is type(parts[0])
    with pytest.raises(LucidaError, match="one name"):
        load_engines([str(tmp_path / "own"), str(tmp_path / "own")], 8)
