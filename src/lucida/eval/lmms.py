"""Lucida models inside lmms-eval: found through its entry point, no change to its code.

    lmms-eval --model lucida --model_args pretrained=runs/mini --tasks pope,gqa

lmms-eval 0.7 is no dependency: this module is imported by it, with its own package present. The
messages that its tasks write become samples as they are; requests of the same settings are answered
together, so questions about one picture share its work.

Reference: Zhang et al., LMMs-Eval, 2024, arXiv 2407.12772.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages

from lucida.core.errors import DataError, ModelError
from lucida.data.sample import Sample
from lucida.eval.asking import cut_at_stop
from lucida.model.messages import sample_of

NEW_TOKENS = 1024
"""Where a task does not say how long an answer may be, as lmms-eval's own models take it."""


def manifest() -> ModelManifest:
    """What lmms-eval's registry loads from the entry point group `lmms_eval.models`."""
    return ModelManifest("lucida", chat_class_path="lucida.eval.lmms.Lucida")


class Lucida(lmms):
    """A run folder or saved Lucida model. Arguments come from `--model_args` as text."""

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str = 1,
        batch_tokens: int | str = 16_384,
        **others: Any,
    ) -> None:
        """`batch_size` is accepted and not used: batches are made by length (`batch_tokens`)."""
        super().__init__()
        import torch

        from lucida.eval.ranks import rank, world
        from lucida.model.checkpoint import load
        from lucida.training.precision import choose_device

        if others:
            raise ModelError(
                "unknown --model_args",
                expected="pretrained, device, dtype, batch_size, batch_tokens",
                given=", ".join(others),
            )
        self.model, self.processor = load(
            pretrained, device or choose_device(), getattr(torch, dtype)
        )
        self.batch_tokens = int(batch_tokens)
        self._rank, self._world_size = rank(), world()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers, in the order of the requests."""
        from lucida.model.decode import greedy

        groups: dict[int, list[int]] = defaultdict(list)
        samples, stops = [], []
        for place, request in enumerate(requests):
            context, to_messages, settings, document, task, split = request.args
            refuse_sampling(settings)
            samples.append(sample_from(to_messages(self.task_dict[task][split][document]), context))
            until = settings.get("until") or []
            stops.append([until] if isinstance(until, str) else list(until))
            groups[int(settings.get("max_new_tokens", NEW_TOKENS))].append(place)
        said = [""] * len(requests)
        for limit, places in groups.items():
            chosen = [samples[place] for place in places]
            texts = greedy(self.model, self.processor, chosen, limit, self.batch_tokens)
            for place, text in zip(places, texts, strict=True):
                said[place] = cut_at_stop(text, stops[place]).strip()
                request = requests[place]
                key = (request.args[0], request.args[2])
                self.cache_hook.add_partial("generate_until", key, said[place])
        return said

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation with its end, whether greedy decoding writes it).

        Requests are (context, continuation, pictures of the document, document, task, split);
        continuations of one context are scored as branches behind it.
        """
        from lucida.eval.likelihood import likelihoods
        from lucida.model.decode import greedy

        asked: dict[tuple, list[int]] = defaultdict(list)
        samples: dict[tuple, Sample] = {}
        texts = []
        for place, request in enumerate(requests):
            context, target, to_pictures, document, task, split = request.args
            row = self.task_dict[task][split][document]
            texts.append((target if isinstance(target, str) else target(row)).strip())
            key = (context, task, split, document)
            asked[key].append(place)
            if key not in samples:
                pictures = to_pictures(row) or []
                parts = [{"type": "image", "image": each} for each in pictures]
                parts.append({"type": "text", "text": context})
                samples[key] = sample_of([{"role": "user", "content": parts}], (), f"{task}")
        order = list(asked)
        candidates = [[texts[place] for place in asked[key]] for key in order]
        chosen = [samples[key] for key in order]
        found = likelihoods(self.model, self.processor, chosen, candidates)
        # Greedy text is compared with the continuation, so it may not be cut before its end.
        longest = max((one.tokens for each in found for one in each), default=1)
        written = greedy(self.model, self.processor, chosen, longest, self.batch_tokens)
        result: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for key, scores, text in zip(order, found, written, strict=True):
            for place, one in zip(asked[key], scores, strict=True):
                result[place] = one.whole, text.strip() == texts[place]
        return result

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Tasks whose later questions depend on earlier answers are not supported."""
        raise ModelError(
            "lucida answers one question at a time; this task asks in several rounds",
            given=f"{len(requests)} requests",
            remedy="leave the task out",
        )


def refuse_sampling(settings: dict[str, Any]) -> None:
    """ModelError where a task wants anything but the likeliest answer."""
    sampled = settings.get("do_sample") and (settings.get("temperature") or 0) > 0
    if sampled or settings.get("num_beams", 1) not in (None, 1):
        raise ModelError(
            "lucida answers greedily in lmms-eval",
            expected="temperature 0 and one beam",
            given=settings,
            remedy="set --gen_kwargs temperature=0,num_beams=1",
        )


def sample_from(messages: list[dict[str, Any]], origin: str) -> Sample:
    """The sample of one document's messages; DataError for video and sound."""
    checked = ChatMessages(messages=messages)
    pictures, videos, sounds = checked.extract_media()
    if videos or sounds:
        raise DataError(
            "a Lucida model sees pictures only",
            given=f"{len(videos)} videos, {len(sounds)} sounds",
            origin=origin[:80],
            remedy="leave the task out",
        )
    written = checked.to_hf_messages()
    waiting = iter(pictures)
    for message in written:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = next(waiting)
    return sample_of(written, (), origin[:80])
