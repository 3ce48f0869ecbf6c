"""Answers in a form that is asked for: `response_format` as a grammar over tokens, by llguidance.

Before each token, those that no text of this form goes on with are ruled out; so an answer that
comes to its end has the form, and one that is cut by `max_tokens` is a beginning of it.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lucida.serve.refused import Refused

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerFast

FIELD = "response_format"

SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way of writing, Python's: where any number of spaces may stand, small models write nothing
else to the end."""


class Guide:
    """The form of one answer, and how far it has come."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def limit(self, scores: Tensor) -> None:
        """Rule out words that cannot come next, in scores [words]."""
        # A byte a token: 0 where it may not come. A model has more rows than its tokenizer has
        # tokens.
        allowed = torch.frombuffer(bytearray(self.matcher.compute_logit_bias()), dtype=torch.uint8)
        scores[: len(allowed)][allowed.to(scores.device) == 0] = -torch.inf
        scores[len(allowed) :] = -torch.inf

    def accept(self, token: int) -> bool:
        """Take a token; whether anything but the end may come behind it."""
        self.matcher.consume_token(token)
        return not self.matcher.is_stopped()


class Grammars:
    """What makes guides for one tokenizer. words: how many a model gives scores of; ends: those
    that end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, words: int, ends: list[int]) -> None:
        self.tokenizer, self.words, self.ends = tokenizer, words, ends

    @cached_property
    def spelled(self) -> LLTokenizer:
        """The tokenizer as llguidance has it; made once, which takes a second."""
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self.tokenizer, n_vocab=self.words, eos_token=self.ends)

    def make_guide(self, wanted: dict[str, Any]) -> Guide | None:
        """The guide of a `response_format`, None for plain text. Refused with the reason where it
        is none, or its schema is not supported."""
        schema = read_schema(wanted)
        if schema is None:
            return None
        try:
            from llguidance import LLMatcher
        except ImportError as problem:
            raise Refused(
                f"`{FIELD}` needs a package that this server lacks: pip install llguidance", FIELD
            ) from problem
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=SPACES)
        except ValueError as problem:
            raise Refused(f"`{FIELD}` holds no schema: {problem}", FIELD) from problem
        bad, told = LLMatcher.validate_grammar_with_warnings(grammar, self.spelled)
        if bad or told:  # a warning is a part of the schema that would be left out
            reason = " ".join(" ".join(told).split())[:300]
            raise Refused(f"`{FIELD}`: this schema is not supported: {reason}", FIELD)
        return Guide(LLMatcher(self.spelled, grammar))


def read_schema(wanted: dict[str, Any]) -> str | None:
    """The JSON schema of a `response_format`, None for plain text."""
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"type": "object"}'
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise Refused(
            '`response_format` is {"type": "text"}, {"type": "json_object"} or '
            '{"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}',
            FIELD,
        )
    return json.dumps(schema)
