"""Serving as it is lived: a process that is told to end, clients that hang up, a measured model."""

import json
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser

import pytest
from served import CHAT, answer_directly, ask, serve_in_thread, wait_for
from tiny import picture
from typer.testing import CliRunner

from forking import run_command, start
from lucida.apps.cli import app
from lucida.core.spec import EvaluationSpec
from lucida.eval.answerers.endpoint import EndpointAnswerer, Patience
from lucida.eval.answerers.lucida_model import LucidaAnswerer
from lucida.eval.run import evaluate_target
from lucida.model.checkpoint import load, save
from lucida.serve.batching import Engine, load_engines
from lucida.serve.rows import Rows
from lucida.serve.start import open_page


def post(address, **body):
    content = json.dumps({"model": "tiny", "messages": ask("say"), "max_tokens": 90} | body)
    headers = {"content-type": "application/json"}
    return urllib.request.Request(address + CHAT, content.encode(), headers)


def read_address(told):
    """The address that a server says in the file `told`."""
    deadline, found = time.monotonic() + 120, None
    while found is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        found = re.search(r"at (http://\S+)\s", told.read_text() if told.exists() else "")
    return found[1]


def test_told_to_end_it_ends_what_it_has_begun(parts, tmp_path):
    save(*parts, tmp_path / "tiny")
    said = tmp_path / "said"
    process = start(said, run_command, "serve", str(tmp_path / "tiny"), "--port", "0")
    try:
        address = read_address(said)
        with urllib.request.urlopen(post(address, stream=True), timeout=60) as response:
            begun = response.readline()
            process.terminate()
            rest = response.read().decode()
        process.join(60)
        assert process.exitcode == 0, said.read_text()
    finally:
        process.kill()
        process.join()
    told = said.read_text()
    assert begun.startswith(b"data: ")
    assert rest.endswith("data: [DONE]\n\n")
    assert '"finish_reason": "length"' in rest
    assert "served for" in told
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(post(address), timeout=5)


BROWSER = """#!{python}
import os, signal, sys, urllib.request
page = urllib.request.urlopen(sys.argv[1], timeout=30).read()
open({told!r}, "w").write(sys.argv[1] + " " + str(b"<title>Lucida</title>" in page))
os.kill(os.getppid(), signal.SIGTERM)
"""


def test_web_opens_a_page_that_is_there(parts, tmp_path, monkeypatch, capsys):
    """The browser asks at once, before the server runs; at last it ends it."""
    save(*parts, tmp_path / "tiny")
    browser, told = tmp_path / "browser", tmp_path / "told"
    browser.write_text(BROWSER.format(python=sys.executable, told=str(told)))
    browser.chmod(0o755)
    monkeypatch.setattr(
        "webbrowser.open", lambda address: webbrowser.GenericBrowser(str(browser)).open(address)
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        found = CliRunner().invoke(app, ["web", str(tmp_path / "tiny")])
    finally:
        signal.signal(signal.SIGTERM, before)
    address = re.search(r"at (http://127.0.0.1:\d+)", found.output)[1]
    assert (found.exit_code, told.read_text()) == (0, f"{address} True")


def test_where_no_browser_can_be_opened_the_address_is_said(monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    open_page("http://127.0.0.1:1")
    assert "go to http://127.0.0.1:1" in "".join(capsys.readouterr())


def test_fewer_bits_without_their_package_name_the_command(parts, tmp_path, monkeypatch):
    save(*parts, tmp_path / "tiny")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    found = CliRunner().invoke(app, ["serve", str(tmp_path / "tiny"), "--weights", "int8"])
    assert found.exit_code == 1
    assert "pip install 'lucida[quantize]'" in found.output


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_model_in_fewer_bits_is_served_as_it_answers_at_home(weights, make, tmp_path):
    pytest.importorskip("bitsandbytes")
    save(*make(language={"path": "lucida:base-mini"}, coordinate_bins=32), tmp_path / "tiny")
    messages = ask("what?", picture(1))
    expected = answer_directly(load(tmp_path / "tiny", weights=weights), messages, 6)
    engines = load_engines([str(tmp_path / "tiny")], 4, weights=weights)
    with serve_in_thread(engines) as address:
        asked = post(address, messages=messages, max_tokens=6)
        with urllib.request.urlopen(asked, timeout=60) as response:
            said = json.load(response)["choices"][0]["message"]["content"]
    engines["tiny"].close()
    assert said == expected


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_is_answered_no_further(parts, monkeypatch, stream):
    step, jobs = Rows.step, []

    def slow(rows):
        time.sleep(0.03)
        step(rows)

    monkeypatch.setattr(Rows, "step", slow)
    engine = Engine("tiny", *parts)
    submit = engine.submit

    def noted(*args, **more):
        jobs.append(submit(*args, **more))
        return jobs[-1]

    monkeypatch.setattr(engine, "submit", noted)
    body = json.dumps({"model": "tiny", "messages": ask("say"), "max_tokens": 90, "stream": stream})
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with serve_in_thread({"tiny": engine}) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 30) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            deadline = time.monotonic() + 30
            while not (jobs and len(jobs[0].ids) > 2):
                assert time.monotonic() < deadline
                time.sleep(0.005)
        wait_for(jobs)
    engine.close()
    assert len(jobs[0].ids) < 80


def test_a_served_model_scores_as_it_does_at_home(parts, tmp_path):
    spec = EvaluationSpec(
        tasks=["attribute", "boxes"], limit=6, samples=100, baselines=[], max_new_tokens=8
    )
    engine = Engine("tiny", *parts)
    found = {}
    with serve_in_thread({"tiny": engine}) as address:
        answerers = {
            "home": LucidaAnswerer(*parts),
            "served": EndpointAnswerer(f"{address}/v1", "tiny", patience=Patience(timeout=60)),
        }
        for name, answerer in answerers.items():
            folder = tmp_path / name
            evaluate_target(name, lambda path, own=answerer: own, folder, spec, spec.tasks)
            rows = {}
            for file in sorted(folder.glob("predictions/*.jsonl")):
                for line in file.read_text().splitlines():
                    row = json.loads(line)
                    rows[file.name.split("-")[0], row["id"]] = row
            found[name] = rows, json.loads((folder / "results.json").read_text())
    engine.close()
    (home, scores), (served, their_scores) = found["home"], found["served"]
    assert home.keys() == served.keys()
    for key, row in home.items():
        assert row["score"] == served[key]["score"]
        if key[0] == "attribute":  # a box is told in pixels in place of tokens
            assert row["output"].strip().rstrip("\ufffd").strip() == served[key]["output"]
    assert len({row["output"] for row in served.values()}) > 2
    for task, each in scores["tasks"].items():
        assert each["score"] == their_scores["tasks"][task]["score"], task


def test_boxes_reach_who_measures():
    from lucida.eval.answerers.endpoint import content

    message = {"content": "<b01><b02><b03><b04>", "lucida_boxes": [[1.5, 2.0, 30.25, 40.0]]}
    said = content(json.dumps({"choices": [{"message": message}]}).encode())
    answerer = EndpointAnswerer("http://127.0.0.1:9/v1", "tiny")
    assert answerer.read_box(said, 64, 64) == (1.5, 2.0, 30.25, 40.0)


def test_clients_that_come_at_once_are_all_answered(parts):
    engine, found = Engine("tiny", *parts), {}
    with serve_in_thread({"tiny": engine}) as address:

        def come(number):
            body = {"messages": ask(f"what {number % 3}?", picture(number % 2)), "max_tokens": 6}
            with urllib.request.urlopen(post(address, **body), timeout=60) as response:
                found[number] = json.load(response)["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=come, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    engine.close()
    assert len(found) == 24
    assert all(found[number] == found[number % 6] for number in found)
