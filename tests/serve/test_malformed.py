"""Whatever is sent, nothing is the server's fault: the OpenAPI document, and broken requests."""

import asyncio
import base64
import copy
import io
import json
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import CHAT, LOOK, TEXT, ask, data_address
from tiny import picture

from lucida.serve.batching import Engine
from lucida.serve.server import make_app

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
from schemathesis.checks import negative_data_rejection, positive_data_acceptance  # noqa: E402


@pytest.fixture(scope="module")
def app(parts):
    engine = Engine("tiny", *parts)
    yield make_app({"tiny": engine}, most_bytes=100_000)
    engine.close()


def test_the_document_is_kept(app):
    """Every address of the OpenAPI document, asked what it allows and what it does not."""
    document, done = schemathesis.openapi.from_asgi("/openapi.json", app), Counter()

    for operation in document.get_all_operations():
        operation = operation.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def ask_it(case):
            # A body may fit the schema and still be refused (a template has rules of its own), or
            # not fit it and be answered (a number may come as a text).
            case.call_and_validate(
                excluded_checks=[positive_data_acceptance, negative_data_rejection]
            )
            done[case.path] += 1

        ask_it()
    assert done.keys() >= {CHAT, TEXT, LOOK, "/v1/models", "/health", "/metrics", "/"}


JUNK = [
    *(None, True, 0, -1, 10**30, 1e308, "", "\ud800", "x" * 3000, [], {}, [[]], {"": None}),
    *(
        [None],
        ["a", 1],
        "data:image/png;base64,",
        "data:,",
        "file:///etc/passwd",
        "\x00",
        "<image>",
    ),
]
BODIES = [
    (
        CHAT,
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "be short"},
                *ask("what?", picture(1)),
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
                *ask("and?", picture(2)),
            ],
            "max_tokens": 1,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 1,
            "stop": ["x"],
            "logprobs": True,
            "top_logprobs": 2,
            "stream": False,
            "stream_options": {"include_usage": True},
            "response_format": {"type": "text"},
            "n": 1,
            "user": "me",
        },
    ),
    (
        LOOK,
        {
            "model": "tiny",
            "messages": ask("what?", picture(1)),
            "answer": "a",
            "cells": 1,
            "cover": "grey",
        },
    ),
    (
        TEXT,
        {
            "model": "tiny",
            "prompt": ["a b", "c"],
            "max_tokens": 1,
            "echo": True,
            "logprobs": 1,
            "stream": False,
        },
    ),
]
PATHS = [CHAT, TEXT, LOOK, "/v1/models", "/v1/models/%00", "/", "/openapi.json", "/v1/../x", "/é"]


def places(value, path=()):
    """Every place in a body."""
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from places(inner, (*path, key))


def change(body, rng):
    """A body with one to three places replaced, left out or doubled."""
    body = copy.deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([each for each in places(body) if each] or [("x",)])
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        kind = rng.random()
        if kind < 0.2 and isinstance(holder, dict):
            holder.pop(path[-1], None)
        elif kind < 0.3 and isinstance(holder, list):
            holder *= rng.choice([0, 2, 40])
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return body


def damage(content, rng):
    """Bytes that are cut, changed, repeated or none of ours."""
    kind = rng.randrange(6)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        spoilt = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        return bytes(spoilt)
    if kind == 2:
        return rng.randbytes(rng.randrange(200))
    if kind == 3:
        return b"[" * rng.choice([10, 5000, 60_000])
    if kind == 4:
        return content.replace(b'"max_tokens": 1', b'"max_tokens": ' + b"9" * rng.choice([3, 5000]))
    start = rng.randrange(len(content))
    return content[:start] + content[start : start + 20] * rng.choice([2, 500]) + content[start:]


def make_request(rng):
    """Method, path, headers and body of a request that is probably wrong."""
    path, body = rng.choice(BODIES)
    content = json.dumps(change(body, rng) if rng.random() < 0.7 else body).encode()
    if rng.random() < 0.4:
        content = damage(content, rng)
    headers = [(b"content-type", rng.choice([b"application/json"] * 8 + [b"text/plain", b"\xff"]))]
    if rng.random() < 0.05:
        headers.append((b"content-length", rng.choice([b"-1", b"x", b"9" * 30])))
    method = "POST" if rng.random() < 0.95 else rng.choice(["GET", "PUT", "DELETE", "HEAD", "BREW"])
    return method, path if rng.random() < 0.95 else rng.choice(PATHS), headers, content


async def send(app, method, path, headers, content):
    """Status and body of one request, without a connection."""
    waiting = [{"type": "http.request", "body": content, "more_body": False}]
    heard = []

    async def receive():
        if waiting:
            return waiting.pop()
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def tell(message):
        heard.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("test", 1), "server": ("test", 80),
    }  # fmt: skip
    await app(scope, receive, tell)
    body = b"".join(message.get("body", b"") for message in heard[1:])
    return heard[0]["status"], body


async def send_many(app, count, seed):
    """What came of so many requests, by status; fails at the first that is the server's fault."""
    rng, statuses = random.Random(seed), {}
    for number in range(count):
        request = make_request(rng)
        status, body = await send(app, *request)
        statuses[status] = statuses.get(status, 0) + 1
        told = f"request {number} of seed {seed}: {request}"[:2000]
        assert 200 <= status < 500, told
        if status >= 400:
            error = json.loads(body)["error"]
            assert error["message"] and error["type"] != "server_error", told
        elif b'"error"' in body[:40]:
            raise AssertionError(told)
    return statuses


def test_broken_requests_are_the_clients_fault(app):
    statuses = asyncio.run(send_many(app, 1000, 0))
    assert statuses[400] > 400
    assert statuses[200] > 10


@pytest.mark.slow
def test_a_hundred_thousand_broken_requests(app):
    statuses = asyncio.run(send_many(app, 100_000, 1))
    assert statuses[400] > 40_000


def ask_about(app, address):
    part = {"type": "image_url", "image_url": {"url": address}}
    message = {"role": "user", "content": [part]}
    body = json.dumps({"model": "tiny", "messages": [message], "max_tokens": 1}).encode()
    return send(app, "POST", CHAT, [(b"content-type", b"application/json")], body)


@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5),
    end=st.integers(1, 4000),
)
@settings(max_examples=60, deadline=None)
def test_a_spoilt_picture_is_the_clients_fault(app, kind, changes, end):
    content = io.BytesIO()
    picture(1).save(content, kind)
    spoilt = bytearray(content.getvalue())
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    address = "data:image/x;base64," + base64.b64encode(spoilt[:end]).decode()
    status, body = asyncio.run(ask_about(app, address))
    assert status in (200, 400), body
    assert status == 200 or json.loads(body)["error"]["code"] == "invalid_image", body


def test_pictures_that_are_none(app):
    """Every cut of a picture, and one that claims to be huge."""
    whole = data_address(picture(1))
    bomb = bytearray(base64.b64decode(whole.partition(",")[2]))
    bomb[16:24] = b"\x00\xff\xff\xff" * 2
    huge = "data:image/png;base64," + base64.b64encode(bomb).decode()
    cuts = [whole[:end] for end in range(0, len(whole) - 40, 97)]

    async def ask_each():
        return [await ask_about(app, address) for address in [*cuts, huge]]

    for status, body in asyncio.run(ask_each()):
        assert status == 400
        assert "image_url" in json.loads(body)["error"]["param"]
