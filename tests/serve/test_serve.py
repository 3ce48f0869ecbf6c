"""A served model: OpenAI's library unchanged, answers as if asked directly, bad requests."""

import asyncio
import json
import socket
import threading
import time
from functools import partial
from pathlib import Path

import openai
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from served import CHAT, KEY, TEXT, answer_directly, ask, wait_for
from served import prompt_of as prompt_by
from tiny import picture

from lucida.core.errors import LucidaError
from lucida.model.messages import sample_of
from lucida.serve.batching import Engine
from lucida.serve.chat import stream_chat
from lucida.serve.job import Event, count_safe
from lucida.serve.requests import MOST_IMAGES, Options
from lucida.serve.server import make_app
from lucida.serve.start import listen, write_address


def prompt_of(engine, text, *images):
    return prompt_by(engine.processor, text, *images)


def test_the_library_gets_what_the_model_says(client, parts):
    assert [each.id for each in client.models.list()] == ["tiny"]
    messages = ask("what?", picture(1), picture(2))
    found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
    assert found.choices[0].message.content == answer_directly(parts, messages, 6)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 6
    pieces = client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_completion_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    for piece in pieces:
        usage = piece.usage or usage
        text += "".join(choice.delta.content or "" for choice in piece.choices)
    assert text.strip() == found.choices[0].message.content
    assert usage.total_tokens == found.usage.total_tokens


def test_a_conversation_is_the_one_that_was_sent(client, parts):
    messages = [
        {"role": "developer", "content": "be short"},
        *ask("what?", picture(1)),
        {"role": "assistant", "content": "a thing"},
        *ask("and this?", picture(2)),
    ]
    found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    messages[0] = {"role": "system", "content": "be short"}
    assert found.choices[0].message.content == answer_directly(parts, messages, 4)


def test_log_probabilities_are_the_models(client, parts):
    model, processor = parts
    messages = ask("what?", picture(3))
    found = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=2, logprobs=True, top_logprobs=3
    )
    first, second = found.choices[0].logprobs.content
    inputs = processor.batch([processor.prompt(sample_of(messages))])
    with torch.no_grad():
        logs = model(**inputs).logits[0, -1].log_softmax(-1)
    tops = [each.logprob for each in first.top_logprobs]
    assert tops == pytest.approx(logs.topk(3).values.tolist(), abs=1e-4)
    assert second.logprob <= 0


def test_likelihoods_of_a_text(client, parts):
    model, processor = parts
    found = client.completions.create(
        model="tiny", prompt="a b", max_tokens=0, echo=True, logprobs=1
    )
    tokens = processor.raw("a b", ())
    with torch.no_grad():
        logs = model(input_ids=torch.from_numpy(tokens.input_ids)[None]).logits[0].log_softmax(-1)
    shown = found.choices[0].logprobs.token_logprobs
    expected = [float(logs[k, word]) for k, word in enumerate(tokens.input_ids[1:].tolist())]
    assert shown[0] is None
    assert shown[1:] == pytest.approx(expected, abs=1e-4)


def test_drawn_answers_follow_the_seed(client):
    def draw(**options):
        found = client.chat.completions.create(
            model="tiny", messages=ask("say"), max_tokens=8, **options
        )
        return found.choices[0].message.content

    assert draw(temperature=1.5, seed=1) == draw(temperature=1.5, seed=1)
    assert len({draw(temperature=1.5, seed=seed) for seed in range(6)}) > 1
    assert draw(temperature=1.0, top_p=1e-9, seed=3) == draw()


def test_an_answer_ends_before_a_stop(client):
    def say(**options):
        return client.chat.completions.create(
            model="tiny", messages=ask("say"), max_tokens=8, **options
        ).choices[0]

    text = say().message.content
    stop = text[len(text) // 2 :][:2]
    found = say(stop=[stop])
    assert found.message.content == text[: text.find(stop)].strip()
    assert found.finish_reason == "stop"


@given(
    st.text("abc\ufffd", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)
)
@settings(max_examples=200, deadline=None)
def test_nothing_is_told_that_may_be_taken_back(text, stops):
    told = text[: count_safe(text, stops)]
    assert told != text or not told.endswith("\ufffd")
    for stop in stops:  # whatever comes next, a stop that begins in what is kept back is whole
        for size in range(1, len(stop)):
            if text.rstrip("\ufffd").endswith(stop[:size]):
                assert len(told) <= len(text.rstrip("\ufffd")) - size


BAD = {
    "no model": ({"model": "other"}, 404, "model"),
    "several answers": ({"n": 2}, 400, "n"),
    "other sampling": ({"min_p": 0.1}, 400, "min_p"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "tools"),
    "tokens of vLLM's": ({"min_tokens": 5}, 400, "min_tokens"),
    "an echo": ({"echo": True}, 400, "echo"),
    "a number to stop at": ({"stop": 3}, 400, "stop"),
    "one of the messages": ({"messages": [*ask("a"), 7]}, 400, "messages.1"),
    "a form": ({"response_format": {"type": "json_schema"}}, 400, "response_format"),
    "no messages": ({"messages": []}, 400, "messages"),
    "a role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
    "no text": ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
    "a text and a picture in one": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "x", "image_url": {"url": "data:,"}}],
                }
            ]
        },
        400,
        "messages[0].content[0]",
    ),
    "hot": ({"temperature": 3}, 400, "temperature"),
    "not a number": ({"max_tokens": "many"}, 400, "max_tokens"),
    "nothing": ({"max_tokens": 0}, 400, "max_tokens"),
    "endless": ({"max_tokens": 10**9}, 400, "messages"),
    "long": ({"messages": [{"role": "user", "content": "a " * 5000}]}, 400, "messages"),
    "empty stop": ({"stop": [""]}, 400, "stop"),
    "an answer last": ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_client_does_wrong_is_named(web, case):
    changes, status, param = BAD[case]
    found = web.post(CHAT, json={"model": "tiny", "messages": ask("what?")} | changes)
    error = found.json()["error"]
    assert (found.status_code, error["param"], bool(error["message"])) == (status, param, True)


@pytest.mark.parametrize("words", [150, 5000])  # beyond the model's positions, and its recipe's
def test_a_context_that_is_too_long_has_openais_code(web, words):
    found = web.post(CHAT, json={"model": "tiny", "messages": ask("a " * words)})
    assert found.json()["error"]["code"] == "context_length_exceeded", found.text


@pytest.mark.parametrize(
    "more",
    [
        {"stream": None, "seed": None, "stop": None, "n": 1},
        {"stream_options": {"include_usage": None}, "skip_special_tokens": True, "min_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "what?"}]}]},
    ],
)
def test_what_asks_for_nothing_is_no_mistake(web, more):
    body = {"model": "tiny", "messages": ask("what?"), "max_tokens": 1}
    found = web.post(CHAT, json=body | more)
    assert found.status_code == 200, found.text
    assert "x-lucida-ignored" not in found.headers


def test_a_body_that_is_not_sent_as_json_says_so(web):
    body = json.dumps({"model": "tiny", "messages": ask("what?")})
    found = web.post(CHAT, content=body, headers={"content-type": "text/plain"})
    assert found.status_code == 400
    assert "Content-Type: application/json" in found.json()["error"]["message"]


def test_a_body_that_is_no_json_says_where(web):
    found = web.post(CHAT, content=b'{"model":', headers={"content-type": "application/json"})
    assert (found.status_code, found.json()["error"]["param"]) == (400, None)
    assert found.json()["error"]["message"] == "the body is no JSON: Expecting value, at 9"


@pytest.mark.parametrize(
    "place", ["http://169.254.169.254/x.png", "/etc/passwd", "file:///etc/passwd", "data:,AA"]
)
def test_nothing_is_fetched_or_opened(web, place):
    part = {"type": "image_url", "image_url": {"url": place}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}
    assert web.post(CHAT, json=body).status_code == 400


def test_limits_of_body_and_pictures(web):
    found = web.post(CHAT, json={"model": "tiny", "messages": ask("x" * 300_000)})
    assert (found.status_code, found.json()["error"]["type"]) == (413, "invalid_request_error")
    many = ask("what?", *[picture(1)] * (MOST_IMAGES + 1))
    assert web.post(CHAT, json={"model": "tiny", "messages": many}).status_code == 400


WORDS = ["model", "messages", "role", "content", "type", "text", "image_url", "stop", "prompt"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_no_request_is_the_servers_fault(web, content):
    for path in (CHAT, TEXT):
        found = web.post(path, content=content, headers={"content-type": "application/json"})
        assert 400 <= found.status_code < 500
        assert found.json()["error"]["message"]


def test_unknown_fields_are_ignored_and_named(web):
    body = {"model": "tiny", "messages": ask("what?"), "max_tokens": 1, "colour": 1, "user": "me"}
    found = web.post(CHAT, json=body)
    assert (found.status_code, found.headers["x-lucida-ignored"]) == (200, "colour")
    part = {"type": "text", "text": "what?", "cache_control": {}}
    message = {"role": "user", "content": [part], "name": "me", "mood": "good"}
    body |= {"messages": [message], "stream": True, "stream_options": {"include_obfuscation": True}}
    found = web.post(CHAT, json=body)
    assert found.headers["x-lucida-ignored"].split(", ") == [
        "colour",
        "messages.content.cache_control",
        "messages.mood",
        "stream_options.include_obfuscation",
    ]


def test_a_failure_that_nobody_foresaw_is_openais_object(engine, monkeypatch):
    def fail(*args, **more):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("lucida.serve.chat.read_options", fail)
    with TestClient(make_app({"tiny": engine}), raise_server_exceptions=False) as web:
        found = web.post(CHAT, json={"model": "tiny", "messages": ask("what?")})
    error = found.json()["error"]
    assert (found.status_code, error["type"]) == (500, "server_error")
    assert error["message"] == "the server failed: ZeroDivisionError"


def test_a_model_is_looked_up_by_its_name(client, web):
    assert client.models.retrieve("tiny").id == "tiny"
    found = web.get("/v1/models/tiny/blind")
    assert (found.status_code, found.json()["error"]["code"]) == (404, "model_not_found")


def test_a_full_queue_is_told_before_a_picture_is_decoded(parts):
    engine = Engine("full", *parts, most_waiting=0)
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    bodies = {
        CHAT: {"messages": [{"role": "user", "content": [part]}]},
        TEXT: {"prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 1},
    }
    with TestClient(make_app({"full": engine})) as web:
        found = [web.post(path, json={"model": "full"} | body) for path, body in bodies.items()]
    engine.close()
    assert [each.status_code for each in found] == [429, 429]


@pytest.mark.parametrize("field", ["model", "text", "stop", "prompt"])
def test_half_a_character_is_refused(web, field):
    half = "\ud800"
    body = {"model": half if field == "model" else "tiny"}
    body |= {"stop": half} if field == "stop" else {}
    asked = {"prompt": half if field == "prompt" else "a"}
    if field == "text":
        asked = {"messages": [{"role": "user", "content": half}]}
    path = CHAT if field == "text" else TEXT
    found = web.post(path, content=json.dumps(body | asked))
    assert found.status_code == 400


def test_half_characters_never_leave(client):
    found = client.chat.completions.create(
        model="tiny",
        messages=ask("say"),
        max_tokens=40,
        temperature=2.0,
        seed=5,
        logprobs=True,
        top_logprobs=20,
    )
    tokens = found.choices[0].logprobs.content
    every = [one for token in tokens for one in (token, *token.top_logprobs)]
    assert not any("\ufffd" in one.token for one in every)
    assert any(one.token.startswith("bytes:\\x") for one in every)
    text = bytes(byte for token in tokens for byte in token.bytes).decode("utf-8", "replace")
    assert found.choices[0].message.content == text.rstrip("\ufffd").strip()


class Said:
    """An answer whose events are given."""

    def __init__(self, *texts):
        self.texts = texts

    async def pieces(self):
        for text in self.texts:
            yield Event(text)
        yield Event(finish="stop")


@pytest.mark.parametrize(
    "texts", [(" ", " a", " \n", "b ", " "), ("a",), (" ",), ("a  b", "\n c\n"), ()]
)
def test_pieces_joined_are_the_whole_answer(texts):
    async def read():
        return [piece async for piece in stream_chat(Said(*texts), "m", False, lambda text: [])]

    events = [json.loads(each[6:]) for each in asyncio.run(read())[:-1]]
    told = "".join(each["choices"][0]["delta"].get("content", "") for each in events)
    assert told == "".join(texts).strip()


def test_the_coldest_draw_is_the_likeliest(client):
    def say(**options):
        return (
            client.chat.completions.create(
                model="tiny", messages=ask("say"), max_tokens=6, **options
            )
            .choices[0]
            .message.content
        )

    assert say(temperature=5e-324, seed=1) == say()


def test_a_text_has_no_place_for_a_picture(client):
    with pytest.raises(openai.BadRequestError, match="a picture's place"):
        client.completions.create(model="tiny", prompt="a <image> b", max_tokens=2)


def test_texts_as_ids_and_as_streams(client, parts):
    tokenizer = parts[1].tokenizer
    ids = [tokenizer.bos_token_id, *tokenizer.encode("a b", add_special_tokens=False)]
    options = {"model": "tiny", "max_tokens": 5, "logprobs": 2}
    texts = client.completions.create(prompt=["a b", "c"], **options).choices
    numbers = client.completions.create(prompt=ids, echo=True, **options).choices[0]
    assert numbers.text == "a b" + texts[0].text
    assert numbers.logprobs.text_offset[:4] == [0, 0, 1, 2]
    told = {0: "", 1: ""}
    tokens = {0: [], 1: []}
    for piece in client.completions.create(
        prompt=["a b", "c"], stream=True, stream_options={"include_usage": True}, **options
    ):
        usage = piece.usage
        for choice in piece.choices:
            told[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
    assert told == {0: texts[0].text, 1: texts[1].text}
    assert tokens == {0: texts[0].logprobs.tokens, 1: texts[1].logprobs.tokens}
    assert usage.completion_tokens == 10


@pytest.mark.parametrize("prompt", [[10**6], [-1], [], [[]], ["a", ""], [[1], []]])
def test_prompts_that_are_none(web, prompt):
    found = web.post(TEXT, json={"model": "tiny", "prompt": prompt, "max_tokens": 1})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "prompt")


def test_without_the_key_nothing_is_answered(client):
    stranger = openai.OpenAI(base_url=str(client.base_url), api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="tiny", messages=ask("what?"))


def test_too_many_get_429_and_may_come_back(parts):
    engine = Engine("full", *parts, most_waiting=0)
    with TestClient(make_app({"full": engine})) as web:
        found = web.post(CHAT, json={"model": "full", "messages": ask("what?")})
    engine.close()
    assert (found.status_code, found.headers["retry-after"]) == (429, "1")


def test_who_leaves_ends_the_answer(engine):
    heard = threading.Event()
    job = engine.submit(prompt_of(engine, "say"), Options(most=100), lambda event: heard.set())
    job.left.set()
    deadline = time.monotonic() + 30
    after = engine.submit(prompt_of(engine, "next"), Options(most=1), lambda event: None)
    while not after.done and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after.done
    assert len(job.ids) < 100


def test_one_that_fails_costs_the_others_nothing(parts, monkeypatch):
    from lucida.serve import rows

    real = rows.prefill

    def prefill(model, processor, batch, *rest):
        if any(len(each.prompt) == bad for row in batch for each in row):
            raise RuntimeError("no")
        return real(model, processor, batch, *rest)

    monkeypatch.setattr(rows, "prefill", prefill)
    engine = Engine("fails", *parts)
    bad = len(prompt_of(engine, "three"))
    heard = {}
    with engine.lock:  # so that all wait together
        jobs = [
            engine.submit(
                prompt_of(engine, text), Options(most=2), partial(heard.__setitem__, text)
            )
            for text in ("a", "three", "to")
        ]
    wait_for(jobs)
    engine.close()
    assert {text: event.finish for text, event in heard.items()} == {
        "a": "length",
        "three": None,
        "to": "length",
    }
    assert isinstance(heard["three"].failure, RuntimeError)


def test_a_strangers_body_is_not_read(engine):
    with TestClient(make_app({"tiny": engine}, KEY)) as web:
        found = web.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")


def test_page_health_and_counts(web):
    assert "<title>Lucida</title>" in web.get("/").text
    assert web.get("/health").json() == {"status": "ok"}
    assert web.get("/nowhere").json()["error"]["message"]
    counts = web.get("/metrics").text
    assert 'lucida_requests_total{path="/health",code="200"}' in counts
    if Path("/proc/self/statm").exists():
        (told,) = (line for line in counts.splitlines() if line.startswith("process_resident"))
        assert int(told.split()[1]) > 10e6


def test_counts_name_every_folder(engine):
    with TestClient(make_app({'a "b"\\c': engine})) as web:
        assert 'lucida_steps_total{model="a \\"b\\"\\\\c"} ' in web.get("/metrics").text


def test_an_address_is_one_that_browsers_know():
    assert write_address("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert write_address("::1", 8000) == "http://[::1]:8000"


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LucidaError, match="cannot listen"):
            listen("127.0.0.1", taken.getsockname()[1])
