"""Pictures from allowed hosts: every way around the rule is closed."""

import http.client
import http.server
import io
import socket
import threading
import time

import pytest
from tiny import picture

from lucida.serve import fetching
from lucida.serve.fetching import fetch, is_public
from lucida.serve.refused import Refused
from lucida.serve.requests import read_messages

HOST = "pictures.example"


class Pages(http.server.BaseHTTPRequestHandler):
    """A picture, a redirect, something endless, something slow."""

    def do_GET(self):
        content = io.BytesIO()
        picture(1).save(content, "PNG")
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/a.png?size=1":
            self.wfile.write(content.getvalue())
        for _ in range(10**6 if self.path in ("/endless", "/slow") else 0):
            try:
                self.wfile.write(b"x" * (1 if self.path == "/slow" else 4096))
            except OSError:
                return
            time.sleep(0.05 if self.path == "/slow" else 0)

    def log_message(self, *args):
        pass


@pytest.fixture
def local(monkeypatch):
    """A server here that stands for the host, behind the checks of its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def open_connection(host, address):
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
        connection.connect()
        return connection

    monkeypatch.setattr(fetching, "open_connection", open_connection)
    monkeypatch.setattr(fetching, "find_public", lambda host, where: "192.0.2.1")
    yield
    server.shutdown()
    server.server_close()


def ask_for(address):
    part = {"type": "image_url", "image_url": {"url": address}}
    return [{"role": "user", "content": [part]}]


def test_an_allowed_picture_is_shown(local):
    messages = read_messages(ask_for(f"https://{HOST.title()}/a.png?size=1"), {HOST.upper()})
    shown = messages[0]["content"][0]["image"].load()
    assert shown.tobytes() == picture(1).convert("RGB").tobytes()


@pytest.mark.parametrize(
    "address",
    [
        f"http://{HOST}/a.png",
        f"https://other.{HOST}/a.png",
        f"https://{HOST}.other/a.png",
        f"https://{HOST}@other/a.png",
        f"https://other@{HOST}/a.png",
        f"https://{HOST}:8443/a.png",
        f"https://{HOST}:port/a.png",
        "https://127.0.0.1/a.png",
        f"https://{HOST}/a b\r\nHost: other",
        f"https://{HOST}/é.png",
        f"//{HOST}/a.png",
        "file:///etc/passwd",
        "https://[::1",
    ],
)
def test_other_addresses_are_not_asked(monkeypatch, address):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail("looked up"))
    with pytest.raises(Refused) as refused:
        read_messages(ask_for(address), {HOST})
    assert (refused.value.status, "image_url" in refused.value.body["error"]["param"]) == (
        400,
        True,
    )


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "100.64.0.1"),
        *("::1", "::ffff:127.0.0.1", "fe80::1%eth0", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("224.0.0.1", "ff02::1"),
    ],
)
def test_a_name_that_leads_inside_is_refused(monkeypatch, address):
    assert not is_public(address)
    found = [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    monkeypatch.setattr(socket, "create_connection", lambda *args: pytest.fail("connected"))
    with pytest.raises(Refused, match="not public"):
        fetch(f"https://{HOST}/a.png", {HOST}, "here")


def test_the_address_that_was_checked_is_connected_to(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise ConnectionRefusedError("no")

    found = [(0, 0, 0, "", ("93.184.215.14", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Refused, match="does not give"):
        fetch(f"https://{HOST}/a.png", {HOST}, "here")
    assert asked == [("93.184.215.14", 443)]


@pytest.mark.parametrize(
    ("path", "reason"), [("/away", "answers 302"), ("/endless", "bytes"), ("/slow", "not whole")]
)
def test_size_time_and_redirects_have_an_end(local, monkeypatch, path, reason):
    monkeypatch.setattr(fetching, "MOST_BYTES", 100_000)
    monkeypatch.setattr(fetching, "SECONDS", 0.5)
    with pytest.raises(Refused, match=reason):
        fetch(f"https://{HOST}{path}", {HOST}, "here")
