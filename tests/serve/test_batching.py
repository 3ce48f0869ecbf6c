"""Prompts that are answered together: as alone, whoever joins, leaves or fails."""

import threading
from functools import partial

import pytest
import torch
from served import prompt_of, wait_for
from tiny import greedy_tokens, picture
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lucida.model.decode import State
from lucida.serve import rows as rows_module
from lucida.serve.batching import Engine
from lucida.serve.job import Job
from lucida.serve.prefixes import Prefixes
from lucida.serve.requests import Options
from lucida.serve.rows import Rows
from lucida.serve.spelling import Spelling

DESIGNS = {
    "causal": {},
    "images see themselves": {"mask": "image_block"},
    "images see later ones": {"mask": "all_images"},
    "prompts see themselves": {"mask": "prefix"},
    "gated": {"cross_attention": {"every": 1}},
}


def make_rows(parts, most_bytes=2**20):
    model, processor = parts
    return Rows(model, processor, Spelling(processor.tokenizer), Prefixes(most_bytes))


def make_jobs(processor, questions):
    return [
        Job(prompt_of(processor, text, *images), Options(most=most), most, lambda event: None)
        for text, images, most in questions
    ]


def run_to_end(rows, coming=()):
    """Steps until all have ended; `coming`: (step, jobs) that join as soon as they may."""
    waiting = list(coming)
    for step in range(200):
        if waiting and step >= waiting[0][0] and rows.may_join:
            rows.join(waiting.pop(0)[1])
        if len(rows):
            rows.step()
        elif not waiting:
            return
    raise AssertionError("no end")


QUESTIONS = [
    ("what is it?", [picture(1)], 12),
    ("a", [picture(2)], 3),
    ("and this, what may it be?", [picture(1)], 5),
    ("no picture", [], 9),
    ("two", [picture(2), picture(3)], 7),
    ("what is it?", [picture(1)], 4),
]


@pytest.mark.parametrize("design", DESIGNS)
def test_who_joins_and_leaves_changes_no_answer(make, design):
    model, processor = parts = make(**DESIGNS[design])
    jobs = make_jobs(processor, QUESTIONS)
    alone = [greedy_tokens(model, processor, [job.prompt], job.most)[0] for job in jobs]
    rows = make_rows(parts)
    with torch.no_grad():
        run_to_end(rows, [(0, jobs[:1]), (2, jobs[1:4]), (4, jobs[4:5]), (5, jobs[5:])])
    assert [job.ids for job in jobs] == alone
    assert not rows.jobs


def test_a_picture_is_read_once_and_kept_within_bounds(parts, monkeypatch):
    model, processor = parts
    read = []
    real = rows_module.prefill

    def prefill(model, processor, batch, *rest):
        read.append(len(batch))
        return real(model, processor, batch, *rest)

    monkeypatch.setattr(rows_module, "prefill", prefill)
    jobs = make_jobs(processor, [(f"q {k % 3}", [picture(k // 3)], 2 + k) for k in range(6)])
    alone = [greedy_tokens(model, processor, [job.prompt], job.most)[0] for job in jobs]
    rows = make_rows(parts)
    with torch.no_grad():
        for job in jobs:
            run_to_end(rows, [(0, [job])])
    assert [job.ids for job in jobs] == alone
    assert read == [1, 1]  # one for each picture
    assert rows.prefixes.taken == 4
    one = rows.prefixes.bytes // 2
    small = make_rows(parts, most_bytes=one)
    with torch.no_grad():
        for job in make_jobs(processor, [("q", [picture(k)], 1) for k in (0, 1, 0)]):
            run_to_end(small, [(0, [job])])
    assert (len(small.prefixes.kept), small.prefixes.bytes, small.prefixes.taken) == (1, one, 0)


def test_requests_that_wait_are_answered_together_and_alike(parts):
    engine, heard = Engine("waits", *parts), {}
    prompts = [prompt_of(parts[1], f"what {k}?", picture(k % 2)) for k in range(6)]
    alone = greedy_tokens(*parts, prompts, 5)
    with engine.lock:
        jobs = [
            engine.submit(
                each, Options(most=5), lambda event, k=k: heard.setdefault(k, []).append(event)
            )
            for k, each in enumerate(prompts)
        ]
    wait_for(jobs)
    engine.close()
    assert [job.ids for job in jobs] == alone
    told = ["".join(event.text for event in heard[k]) for k in range(6)]
    decode = parts[1].tokenizer.decode
    assert told == [decode(ids, skip_special_tokens=True).rstrip("\ufffd") for ids in alone]
    assert engine.counts["steps"] <= 4 + 4  # the first may be read before the others


def test_a_short_answer_does_not_wait_for_a_long_one(parts):
    engine = Engine("joins", *parts)
    order, begun, go = [], threading.Event(), threading.Event()

    def hear_long(event):
        begun.set()
        go.wait(20)
        if event.finish:
            order.append("long")

    long = engine.submit(prompt_of(parts[1], "long"), Options(most=90), hear_long)
    assert begun.wait(20)
    short = engine.submit(
        prompt_of(parts[1], "short"),
        Options(most=2),
        lambda event: event.finish and order.append("short"),
    )
    go.set()
    wait_for([long, short])
    engine.close()
    assert order == ["short", "long"]
    assert len(long.ids) == 90


def test_where_rows_fail_together_each_is_answered_alone(parts, monkeypatch):
    model, processor = parts
    real, failed = State.forward, []

    def forward(self, ids, *rest, **more):
        if len(ids) > 1:
            failed.append(len(ids))
            self.cache.layers[0].show(self.cache.layers[0].keys.shape[2] + 1)  # half a step done
            raise RuntimeError("no memory")
        return real(self, ids, *rest, **more)

    engine = Engine("fails", *parts)
    prompts = [prompt_of(processor, text) for text in ("one", "two", "three")]
    alone = greedy_tokens(model, processor, prompts, 6)
    monkeypatch.setattr(State, "forward", forward)
    with engine.lock:  # so that all wait together
        jobs = [engine.submit(each, Options(most=6), lambda event: None) for each in prompts]
    wait_for(jobs)
    engine.close()
    assert failed
    assert [job.ids for job in jobs] == alone
    assert engine.counts["prompt_tokens"] == sum(map(len, prompts))


def test_prompts_that_cannot_be_read_together_are_counted_once(parts, monkeypatch):
    real, engine = Rows.join, Engine("fails", *parts)
    prompts = [prompt_of(parts[1], text) for text in ("one", "two")]

    def join(self, jobs):
        if len(jobs) > 1:
            raise RuntimeError("no memory")
        return real(self, jobs)

    monkeypatch.setattr(Rows, "join", join)
    with engine.lock:  # so that both wait together
        jobs = [engine.submit(each, Options(most=2), lambda event: None) for each in prompts]
    wait_for(jobs)
    engine.close()
    assert all(job.ids for job in jobs)
    assert engine.counts["prompt_tokens"] == sum(map(len, prompts))


def test_log_probabilities_of_a_text_come_in_blocks(parts, monkeypatch):
    engine, heard = Engine("scores", *parts), []
    for size in (256, 3):
        monkeypatch.setattr(rows_module, "AT_ONCE", size)
        options = Options(most=0, top=2)
        wait_for([engine.submit(parts[1].raw("a text of words", ()), options, heard.append)])
    engine.close()
    whole, blocks = ([token.log_probability for token in event.tokens] for event in heard)
    assert whole[1:] == pytest.approx(blocks[1:], abs=1e-5)
    assert len(whole) == 16  # the start token and 15 bytes


def test_every_place_in_the_queue_is_given_back(parts):
    engine = Engine("counts", *parts, most_waiting=3)
    engine.reserve(2)
    engine.release(2)
    jobs = [
        engine.submit(prompt_of(parts[1], "x"), Options(most=2), lambda event: None)
        for _ in range(3)
    ]
    wait_for(jobs)
    engine.close()
    assert engine.held == 0


def byte_fallback():
    """A tokenizer as SentencePiece writes them: spaces as a letter, bytes by their number."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b"]
    words = {piece: number for number, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True, unk_token="<unk>"))
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def test_tokens_are_told_by_their_bytes(parts):
    tokenizer = parts[1].tokenizer
    ids = tokenizer.encode("é € 😀", add_special_tokens=False)
    spelling = Spelling(tokenizer)
    assert b"".join(map(spelling.bytes_of, ids)) == "é € 😀".encode()
    pieces = Spelling(byte_fallback())
    names = ["▁a", "<0xC3>", "<0xA9>", "b"]
    told = map(pieces.bytes_of, pieces.tokenizer.convert_tokens_to_ids(names))
    assert b"".join(told) == " aéb".encode()
    assert pieces.bytes_of(10**6) == b""


def test_a_failure_in_a_listener_is_that_jobs_own(parts):
    engine, heard = Engine("hears", *parts), {}
    prompt = prompt_of(parts[1], "x")
    with engine.lock:
        gone = engine.submit(prompt, Options(most=3), lambda event: None)
        stays = engine.submit(prompt, Options(most=3), partial(heard.__setitem__, 0))
        gone.left.set()
    wait_for([stays])
    engine.close()
    assert heard[0].finish == "length"
    assert not gone.ids
