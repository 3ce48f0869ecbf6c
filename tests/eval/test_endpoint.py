"""An endpoint that misbehaves in every way that endpoints do, and the answers all the same."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from lucida.core.errors import ModelError
from lucida.core.http import read_wait
from lucida.core.spec import EvaluationSpec
from lucida.eval.answerers.endpoint import EndpointAnswerer, Patience
from lucida.eval.benchmarks import benchmark
from lucida.eval.run import evaluate_target

QUICK = Patience(timeout=0.5, attempts=4, pause=0.01, longest=0.05)


class Server(ThreadingHTTPServer):
    """Answers with the question's own words; `troubles` say what goes wrong, one by one."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.troubles = []
        self.bodies = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.answer = lambda body: words(body).upper()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def words(body):
    parts = body["messages"][-1]["content"]
    return "".join(part["text"] for part in parts if part["type"] == "text")


class Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            trouble = self.server.troubles.pop() if self.server.troubles else None
        try:
            self.act(trouble, body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client had no more patience
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def act(self, trouble, body):
        if trouble == "slow":
            time.sleep(1.0)
        if trouble == "mute":  # an error that promises a reason and sends none
            self.send_response(500)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.flush()
            time.sleep(1.0)
            self.close_connection = True
            return
        if isinstance(trouble, int):
            self.send_response(trouble)
            if trouble == 429:
                self.send_header("Retry-After", "0.02")
            self.end_headers()
            self.wfile.write(b"no " + b"image\r\nis allowed " * 40 if trouble == 400 else b"no")
            return
        said = {
            "choices": [{"message": {"role": "assistant", "content": self.server.answer(body)}}]
        }
        whole = json.dumps(said).encode()
        if trouble == "drop":
            self.close_connection = True
            return
        whole = {"page": b"<html>", "deep": b"[" * 100_000}.get(trouble, whole)
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        if trouble == "drip":  # every byte comes in time, and the last one never
            for place in range(20):
                self.wfile.write(whole[place : place + 1])
                time.sleep(0.05)
        self.wfile.write(whole[: 20 if trouble == "cut" else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def asked(server, examples, patience=QUICK, at_once=4):
    answerer = EndpointAnswerer(server.address, "tiny", at_once, patience)
    found = list(answerer.stream(examples, "generate", 7))
    assert sorted(index for index, _ in found) == list(range(len(examples)))
    return dict(found), answerer


def test_pictures_and_words_arrive_whole_and_answers_find_their_questions(server):
    examples = benchmark("comparison").examples(12)
    server.answer = lambda body: time.sleep(0.02 * (len(words(body)) % 3)) or words(body)
    found, answerer = asked(server, examples)
    assert [found[n].output.strip() for n in range(12)] == [e.question for e in examples]
    assert 1 < server.most_at_once <= 4
    assert not answerer.troubles
    body = next(b for b in server.bodies if words(b).strip() == examples[0].question)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 7, 0)
    shown = [p["image_url"]["url"] for p in body["messages"][-1]["content"] if "image_url" in p]
    assert len(shown) == 2
    for url, source in zip(shown, examples[0].sample.images, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        assert image.convert("RGB").tobytes() == source.load().tobytes()


def test_every_trouble_is_tried_again_and_counted(server):
    server.troubles = ["slow", 429, 500, 503, "cut", "drop", "page"]
    examples = benchmark("attribute").examples(20)
    found, answerer = asked(server, examples)
    assert [found[n].failed for n in range(20)] == [None] * 20
    assert answerer.troubles == Counter(
        {"timeout": 1, "HTTP 429": 1, "HTTP 500": 1, "HTTP 503": 1, "cut answer": 1,
         "damaged answer": 1, "broken connection": 1}
    )  # fmt: skip
    assert sum(answerer.troubles.values()) == 7
    assert len(server.bodies) == 27


def test_an_answer_that_comes_byte_by_byte_is_late_at_last(server):
    server.troubles = ["drip"]
    found, answerer = asked(server, benchmark("attribute").examples(3))
    assert [found[n].failed for n in range(3)] == [None] * 3
    assert answerer.troubles == Counter({"timeout": 1})


def test_errors_whose_reason_is_cut_and_answers_without_end(server):
    server.troubles = ["mute", "deep"]
    found, answerer = asked(server, benchmark("attribute").examples(4))
    assert [found[n].failed for n in range(4)] == [None] * 4
    assert answerer.troubles == Counter({"HTTP 500": 1, "damaged answer": 1})


def test_what_never_comes_is_said_and_asked_again_later(server, tmp_path):
    bad = benchmark("attribute").examples(10)[3].question
    server.answer = lambda body: "red"
    calls = Counter()
    act = Answer.act

    def failing(self, trouble, body):
        calls[words(body)] += 1
        act(self, 500 if words(body).strip() == bad and server.troubles == [] else trouble, body)

    spec = EvaluationSpec(baselines=[], samples=100)

    def evaluate():
        return evaluate_target(
            server.address,
            lambda folder: EndpointAnswerer(server.address, "tiny", 4, QUICK),
            tmp_path / "out",
            spec,
            ["attribute"],
            10,
        )

    Answer.act = failing
    try:
        first = evaluate()["tasks"]["attribute"]
    finally:
        Answer.act = act
    missing = sum(e.question == bad for e in benchmark("attribute").examples(10))
    assert (first["n"], first["failed"]) == (10, missing)
    assert "never answered" in (tmp_path / "out" / "report.html").read_text()
    before = len(server.bodies)
    second = evaluate()["tasks"]["attribute"]
    assert (second["n"], second["failed"]) == (10, 0)
    assert len(server.bodies) - before == missing, "only what failed is asked again"


def test_the_reason_of_a_refused_question_is_kept_and_told(server, tmp_path, capsys):
    def evaluate():
        return evaluate_target(
            server.address,
            lambda folder: EndpointAnswerer(server.address, "tiny", 1, QUICK),
            tmp_path,
            EvaluationSpec(baselines=[], samples=100),
            ["attribute"],
            6,
        )["tasks"]["attribute"]

    server.troubles = [400] * 2
    assert evaluate()["failed"] == 2
    told = capsys.readouterr()
    reason = "HTTP 400: no image is allowed image is allowed"
    assert f"2 questions were never answered, 2 of them for: {reason}" in told.out + told.err
    stored = [json.loads(line) for line in (tmp_path / "predictions/attribute.jsonl").open()]
    kept = [row["failed"] for row in stored if "failed" in row]
    assert len(stored) == 6 and len(kept) == 2
    assert all(each.startswith(reason) and len(each) <= 200 for each in kept)
    assert not any("score" in row for row in stored if "failed" in row)
    before = len(server.bodies)
    assert evaluate()["failed"] == 0
    assert len(server.bodies) == before + 2
    assert "failed" not in (tmp_path / "predictions/attribute.jsonl").read_text()


def test_a_refusal_stops_everything(server):
    server.troubles = [401] * 50
    with pytest.raises(ModelError, match=r"HTTP 401.*check the address"):
        asked(server, benchmark("attribute").examples(3))
    with pytest.raises(ModelError, match="no likelihoods"):
        list(EndpointAnswerer(server.address, "x").stream([], "likelihood", 1))


def test_pauses_grow_and_servers_are_heard():
    patience = Patience(pause=1, longest=20)
    pauses = [patience.before(attempt, None) for attempt in (1, 2, 3, 4, 9)]
    for pause, most in zip(pauses, (1, 2, 4, 8, 20), strict=True):
        assert most / 2 <= pause <= most
    assert patience.before(1, 7.5) == 7.5
    assert read_wait("3") == 3
    assert read_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert read_wait("soon") is None
    assert read_wait(None) is None
