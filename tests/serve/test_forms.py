"""Answers in a form that is asked for."""

import json

import jsonschema
import pytest
from served import CHAT, TEXT, ask

pytest.importorskip("llguidance", reason="pip install llguidance")

SHAPE = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["circle", "star"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "seen": {"type": "boolean"},
    },
    "required": ["kind", "count", "seen"],
    "additionalProperties": False,
}


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 3}, {"stream": True}])
def test_an_answer_has_the_form(client, options):
    found = client.chat.completions.create(
        model="tiny", messages=ask("what?"), max_tokens=100, response_format=form(SHAPE), **options
    )
    if options.get("stream"):
        pieces = [choice for piece in found for choice in piece.choices]
        text, finish = (
            "".join(each.delta.content or "" for each in pieces),
            pieces[-1].finish_reason,
        )
    else:
        text, finish = found.choices[0].message.content, found.choices[0].finish_reason
    jsonschema.validate(json.loads(text), SHAPE)
    assert finish == "stop"


def test_a_cut_answer_is_a_beginning(web):
    body = {"model": "tiny", "messages": ask("what?"), "max_tokens": 4}
    choice = web.post(CHAT, json=body | {"response_format": form(SHAPE)}).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "grammar"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": "no"}},
        form({"type": "nothing"}),
        form({"not": {"type": "string"}}),
        {},
    ],
)
def test_forms_that_cannot_be_had(web, wanted):
    body = {"model": "tiny", "messages": ask("what?"), "max_tokens": 4}
    found = web.post(CHAT, json=body | {"response_format": wanted})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "response_format")


def test_texts_have_no_form(web):
    found = web.post(TEXT, json={"model": "tiny", "prompt": "a", "response_format": form(SHAPE)})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "response_format")
