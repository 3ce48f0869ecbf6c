"""`POST /look`: what `lucida look` finds, within limits, one at a time, between others' tokens."""

import base64
import json
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient
from served import CHAT, KEY, LOOK, ask, prompt_of, wait_for
from tiny import picture

import lucida
from lucida.serve import looks
from lucida.serve.batching import Engine
from lucida.serve.refused import Refused
from lucida.serve.requests import Options
from lucida.serve.server import make_app


def request(*images, **more):
    return {"model": "tiny", "messages": ask("what?", *images), **more}


def test_the_map_is_the_one_of_lucida_look(web, parts):
    image = picture(2, 48, 24)
    found = web.post(LOOK, json=request(image, cells=4, answer="a b")).json()
    expected = lucida.look(parts, image, "what?", "a b", show=["occlusion"], cells=4)
    (seen,) = found["pictures"]
    assert np.allclose(seen["drops"], expected.pictures[0].occlusion.sum(-1), atol=1e-3)
    assert (seen["width"], seen["height"], np.shape(seen["drops"])) == (48, 24, (2, 4))
    assert np.allclose(seen["seen"], expected.pictures[0].places.seen, atol=0.01)
    assert [each["token"] for each in found["tokens"]] == list(expected.tokens)
    bare = [each["covered"] for each in found["tokens"]]
    assert np.allclose(bare, expected.covered, atol=1e-3)


def test_the_answer_is_the_models_own_and_the_talk_before_counts(web, parts):
    first = ask("what?", picture(1, 32, 32))
    said = {"role": "assistant", "content": "a"}
    talk = [*first, said, *ask("and here?", picture(3, 32, 32))]
    found = web.post(LOOK, json={"model": "tiny", "messages": talk, "cells": 2}).json()
    assert len(found["pictures"]) == 2
    whole = web.post(CHAT, json={"model": "tiny", "messages": talk, "max_tokens": looks.LONGEST})
    mine, theirs = found["answer"], whole.json()["choices"][0]["message"]["content"]
    assert mine.rstrip("\ufffd").strip() == theirs


def read_data(page):
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_the_page_of_lucida_look_has_everything(web, parts, monkeypatch):
    image = picture(2, 32, 32)
    asked = request(image, cells=2, answer="a b", page=True)
    answered = web.post(LOOK, json=asked)
    assert answered.headers["content-type"].startswith("text/html")
    found, expected = read_data(answered.text), lucida.look(parts, image, "what?", "a b", cells=2)
    heads = np.frombuffer(base64.b64decode(found["heads"]["data"]), "<f4")
    assert np.allclose(heads, expected.heads.ravel(), atol=1e-3)
    assert found["attention"]["mean"]["shape"] == list(expected.attention.mean(1).shape)
    assert found["lens"]["words"]["shape"] == list(expected.lens.words.shape)
    windows = sum((1 + span) ** 2 for span in looks.SPANS)
    length = len(prompt_of(parts[1], "what?", image)) + len(parts[1].tokenizer("a b").input_ids) + 1
    monkeypatch.setattr(looks, "MOST_POSITIONS", windows * length)
    without = web.post(LOOK, json=asked).text
    assert read_data(without)["heads"] is None and "leaves out so many heads" in without


CASES = {
    "no picture": (request(), 400, "messages"),
    "an empty answer": (request(picture(1), answer=" "), 400, "messages"),
    "half a character": (request(picture(1), answer="\ud800"), 400, "answer"),
    "no cells": (request(picture(1), cells=0), 400, "cells"),
    "too many cells": (request(picture(1), cells=1000), 400, "cells"),
    "another cover": (request(picture(1), cover="paint"), 400, "cover"),
    "an unknown model": (request(picture(1)) | {"model": "none"}, 404, "model"),
    "a place in files": (
        {
            "model": "tiny",
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": "/etc/passwd"}]}
            ],
        },
        400,
        "messages[0].content[0].image_url",
    ),
    "the model spoke last": (
        {"model": "tiny", "messages": [{"role": "assistant", "content": "a"}]},
        400,
        "messages",
    ),
    "too long": (request(picture(1), answer="word " * 3000), 400, "messages"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_client_does_wrong_is_named(web, case):
    body, status, place = CASES[case]
    found = web.post(LOOK, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (found.status_code, found.json()["error"]["param"]) == (status, place), found.text


def test_a_blind_model_and_a_cost_too_high_are_refused(make, web, monkeypatch):
    engine = Engine("blind", *make(vision=None))
    with TestClient(make_app({"tiny": engine})) as other:
        found = other.post(LOOK, json=request(picture(1)))
    engine.close()
    assert found.status_code == 400
    monkeypatch.setattr(looks, "MOST_POSITIONS", 100)
    found = web.post(LOOK, json=request(picture(1)))
    assert found.status_code == 400 and "fewer `cells`" in found.json()["error"]["message"]


def test_the_key_is_asked_for(engine):
    with TestClient(make_app({"tiny": engine}, KEY)) as web:
        assert web.post(LOOK, json=request(picture(1))).status_code == 401


def test_one_at_a_time_and_others_go_on(engine, monkeypatch):
    begun, held = threading.Event(), threading.Event()
    real = engine.use

    def use(work):
        begun.set()
        assert held.wait(30)
        return real(work)

    monkeypatch.setattr(engine, "use", use)
    app, found = make_app({"tiny": engine}), []
    with TestClient(app) as web:
        first = threading.Thread(
            target=lambda: found.append(web.post(LOOK, json=request(picture(1), cells=1)))
        )
        first.start()
        assert begun.wait(30)
        second = web.post(LOOK, json=request(picture(1), cells=1))
        answered = web.post(CHAT, json={**request(picture(1)), "max_tokens": 2})
        held.set()
        first.join(30)
        third = web.post(LOOK, json=request(picture(1), cells=1))
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert answered.status_code == found[0].status_code == third.status_code == 200


def test_errands_have_turns_between_tokens_and_failures_are_told(parts):
    engine = Engine("busy", *parts)
    heard = threading.Event()
    prompt = parts[1].prompt(lucida.model.messages.sample_of(ask("say", picture(1))))
    job = engine.submit(prompt, Options(most=60), lambda event: heard.set())
    assert heard.wait(30)
    assert engine.use(lambda: len(job.ids)) < 60  # the answer is still under way
    with pytest.raises(ZeroDivisionError):
        engine.use(lambda: 1 / 0)
    wait_for([job])
    engine.close()
    with pytest.raises(Refused) as problem:
        engine.use(lambda: None)
    assert problem.value.status == 503
