"""`lucida data caption|ask|rate`: what comes back is read, kept, counted, and is a source again."""

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from pydantic import TypeAdapter
from typer.testing import CliRunner

from lucida.apps import answering
from lucida.apps.cli import app
from lucida.apps.data.making import describe, make_data, make_wish, read_prices
from lucida.apps.data.writing import is_refusal, read_caption, read_questions, read_rating
from lucida.core.errors import DataError, RecipeError, RunError
from lucida.core.spec import SourceSpec
from lucida.data.sources import open_source
from lucida.eval.answerers.endpoint import EndpointAnswerer, Patience
from lucida.eval.asking import Response


class Scripted:
    """Answers by a function of prompt and first pixel; counts what it was asked."""

    def __init__(self, answer, name="scripted"):
        self.answer, self.identity, self.asked = answer, {"model": name}, 0

    def stream(self, examples, protocol, max_new_tokens):
        assert protocol == "generate"
        for place in reversed(range(len(examples))):  # in another order than they were asked
            self.asked += 1
            sample = examples[place].sample
            red = sample.images[0].load().getpixel((0, 0))[0]
            said = self.answer(examples[place].question, red)
            yield place, said if isinstance(said, Response) else Response(said)


@pytest.fixture
def table(tmp_path):
    """Four pictures, the first asked about twice; a fifth row whose picture is not there."""
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"photos/{number}.png")
        rows.append([f"photos/{number}.png", f"What is number {number}?", f"thing {number}"])
    rows += [["photos/0.png", "And this?", "It."], ["photos/9.png", "Where?", "Nowhere."]]
    path = tmp_path / "all.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["image", "question", "answer"], *rows])
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def opened(done, **more):
    fields = {**done.fields, "path": str(done.out), **more}
    return open_source(TypeAdapter(SourceSpec).validate_python(fields))


def texts(sample):
    turns = [turn for branch in (sample.stem, *sample.branches) for turn in branch]
    return ["".join(p for p in t.parts if isinstance(p, str)) for t in turns if t.role != "system"]


def test_ratings_are_filtered_by(table, tmp_path):
    grades = {"thing 0": "5", "thing 1": "2/5", "thing 2": "I'm sorry, I can't.", "It.": "4"}

    def answer(prompt, red):
        assert prompt.startswith("Question: ")
        return next((say for words, say in grades.items() if words in prompt), "3 or 4, say")

    out = tmp_path / "rated" / "all.jsonl"
    done = make_data(make_wish("rate", None), str(table), [], Scripted(answer), out)
    assert [row["rating"] for row in read(out)] == [5, 2, None, None, 4]
    assert (done.usable, done.asked, done.written) == (3, 5, 5)
    assert done.trouble["refusal"] == done.trouble["answer that is no rate"] == 1
    assert sum(many for why, many in done.trouble.items() if "cannot be asked" in why) == 1
    kept = opened(done)
    assert len(kept) == 2
    assert [texts(kept[place])[-1] for place in range(2)] == ["thing 0", "It."]
    assert kept[0].images[0].load().size == (8, 8)
    assert kept.dropped == {"rating below 4": 3}


def test_a_stopped_one_goes_on_and_only_failures_are_asked_again(table, tmp_path):
    failing = {2}

    def answer(prompt, red):
        return Response("", failed="HTTP 500") if red in failing else f"A thing with {red} red."

    out, first = tmp_path / "captions.jsonl", Scripted(answer)
    wish = make_wish("caption", None)
    done = make_data(wish, str(table), [], first, out)
    assert first.asked == 4, "two rows of one picture share a request"
    assert [row["image"] for row in read(out)] == [f"photos/{n}.png" for n in (0, 1, 3, 0)]
    assert done.trouble["request that failed: HTTP 500"] == 1
    assert any("asks the failed ones again" in line for line in describe(done))
    failing.clear()
    again = Scripted(answer)
    done = make_data(wish, str(table), [], again, out)
    assert (again.asked, done.kept, done.written) == (1, 3, 5)
    assert texts(opened(done)[2]) == ["A thing with 2 red."]
    other = Scripted(answer, "another")
    make_data(wish, str(table), [], other, out)
    assert other.asked == 4, "another model answers anew"
    report = json.loads((tmp_path / "captions.jsonl.report.json").read_text(encoding="utf-8"))
    assert report["by"] == {"model": "another"} and report["usable"] == 4


def test_a_folder_of_pictures_becomes_questions(table, tmp_path):
    def answer(prompt, red):
        assert prompt.startswith("Write 2 short")
        return "no idea" if red == 3 else f"1. How red? | {red}\n2. Is it a cat? | no\nnonsense"

    out = tmp_path / "asked.jsonl"
    wish = make_wish("ask", None, many=2)
    done = make_data(wish, str(tmp_path / "photos"), [], Scripted(answer), out)
    assert (done.records, done.written, done.usable) == (4, 6, 3)
    source = opened(done)
    assert texts(source[2]) == ["", "How red?", "1"] or texts(source[2]) == ["How red?", "1"]
    assert source[2].images[0].load().getpixel((0, 0)) == (1, 0, 0)
    with pytest.raises(RecipeError, match="cannot be rated"):
        make_data(make_wish("rate", None), str(tmp_path / "photos"), [], Scripted(answer), out)
    with pytest.raises(DataError, match="4 x refusal"):
        refuses = Scripted(lambda prompt, red: "As an AI I cannot see pictures.")
        make_data(wish, str(tmp_path / "photos"), [], refuses, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("said", "expected"),
    [("4", 4), (" Rating: 3/5.", 3), ("5 out of 5", 5), ("4.5", None), ("4 or 5", None),
     ("10", None), ("", None), ("four", None), ("**2**", 2), ("3/10", None), ("1,5", None)],
)  # fmt: skip
def test_ratings_are_read(said, expected):
    assert read_rating(said) == ([] if expected is None else [{"rating": expected}])


def test_questions_and_captions_are_read():
    pairs = [("What flies?", "A kite."), ("Is it red?", "No")]
    expected = [{"question": q, "answer": a} for q, a in pairs]
    for said in (
        "What flies? | A kite.\nIs it red? | No",
        "Sure!\n1. What flies? | A kite.\n\n2) Is it red? No\n2) Is it red? Yes",
        "Q: What flies?\nA: A kite.\nQuestion 2: Is it red?\nAnswer: No",
        "- What flies? - A kite.\n- Q: Is it red? A: No\nWhy?",
    ):
        assert read_questions(said) == expected, said
    assert read_questions("no questions here") == []
    assert read_caption(' "A kite." ') == [{"caption": "A kite."}]
    assert read_caption("Caption: A kite.") == [{"caption": "A kite."}]
    assert read_caption(" ... ") == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [("I’m sorry, but I can't help with that.", True), ("Sorry, I cannot see it.", True),
     ("I cannot identify people.", True), ("As an AI, I see nothing.", True),
     ("A sorry sight: a dog in the rain.", False), ("A man who cannot swim.", False)],
)  # fmt: skip
def test_refusals_are_known(said, expected):
    assert is_refusal(said) is expected


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        if self.server.broken:
            self.server.broken -= 1
            self.send_error(503)
            return
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        message = {"role": "assistant", "content": "A red thing."}
        text = json.dumps({"choices": [{"message": message}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.seen, server.broken = [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_and_what_it_costs_is_told(endpoint, table, tmp_path, monkeypatch):
    quick = Patience(timeout=5, attempts=2, pause=0.01, longest=0.02)
    monkeypatch.setattr("lucida.eval.answerers.endpoint.Patience", lambda: quick)
    endpoint.broken = 1
    address = f"http://127.0.0.1:{endpoint.server_address[1]}/v1"
    out = tmp_path / "captions.jsonl"
    words = ["data", "caption", str(table), "--by", address, "--model", "m", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--price", "1,10"])
    assert done.exit_code == 0, done.output
    assert "400 tokens read and 40 written, which cost 0.0008" in done.output
    assert "HTTP 503 1 times" in done.output
    parts = [part["type"] for part in endpoint.seen[0]["messages"][-1]["content"]]
    assert parts == ["image_url", "text"]
    assert len(read(out)) == 5
    unnamed = CliRunner().invoke(app, [part for part in words if part not in ("--model", "m")])
    assert unnamed.exit_code == 1 and "add --model NAME" in unnamed.output
    answerer = EndpointAnswerer(address, "other", patience=quick)
    endpoint.broken = 100
    with pytest.raises(DataError, match="4 x request that failed: HTTP 503"):
        make_data(make_wish("caption", None), str(table), [], answerer, tmp_path / "no.jsonl")


def test_mistakes_are_told_before_a_model_is_loaded(table, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("no model is needed to see this")

    monkeypatch.setattr(answering, "open_answerer", refuse)
    out = ["--by", "runs/none", "--out", str(tmp_path / "o.jsonl")]
    for words, message in (
        (["data", "caption", str(tmp_path / "nothing.csv"), *out], "nothing.csv"),
        (["data", "rate", str(table), *out, "--prompt", "How good?"], "show what is rated"),
        (["data", "ask", str(table), *out, "--price", "cheap"], "no prices"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1 and message in done.output, done.output
    monkeypatch.undo()
    with pytest.raises(RunError, match="--model names"):
        answering.open_answerer("runs/none", "m")
    assert read_prices(None) is None
