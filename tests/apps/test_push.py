"""A model on the Hub: a stub of it, on this machine."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lucida.apps.push import push
from lucida.core.errors import LucidaError


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload asks for; what it was sent stands in `server`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if "Bearer" not in self.headers.get("Authorization", ""):
            return self.tell(401, {"error": "who are you?"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.made:
                return self.tell(409, {"error": "exists", "url": "there"})
            self.server.made[name] = asked
            return self.tell(200, {"url": f"{self.server.address}/{name}", "name": name})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self.tell(200, {"files": modes})
        if "/commit/" in self.path:
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    value = row["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.address}/org/name/commit/{'0' * 40}"
            told = {"commitUrl": url, "commitOid": "0" * 40, "success": True}
            return self.tell(200, told)
        return self.tell(200, {})

    def do_GET(self):
        self.server.asked.append(self.path)
        self.tell(200, {"sha": "0" * 40, "id": "org/name", "siblings": []})

    def tell(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.made, server.files, server.asked = {}, {}, []
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    import huggingface_hub
    from huggingface_hub import constants

    real = huggingface_hub.HfApi
    monkeypatch.setattr(
        huggingface_hub, "HfApi", lambda: real(endpoint=server.address, token=server.token)
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.token = "hf_secret"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    files = {"README.md": b"# a model", "config.json": b"{}", "model.safetensors": b"weights"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder, files


def is_private(asked):
    """What a new repository was asked for, in the older words or the newer."""
    return asked.get("visibility", "private" if asked.get("private") else "public") == "private"


def test_an_export_is_uploaded_whole_and_private(hub, exported):
    folder, files = exported
    assert push(folder, "org/name").endswith("/org/name")
    assert is_private(hub.made["org/name"])
    assert hub.files == files


def test_public_only_when_asked(hub, exported):
    push(exported[0], "org/open", public=True)
    assert not is_private(hub.made["org/open"])


def test_nothing_is_written_over(hub, exported):
    hub.made["org/name"] = {}
    with pytest.raises(LucidaError, match="exists"):
        push(exported[0], "org/name")
    assert not hub.files


@pytest.mark.parametrize("name", ["name", "a/b/c", "org/na me", "org/..", ""])
def test_names_that_are_none(hub, exported, name):
    with pytest.raises(LucidaError, match="no name"):
        push(exported[0], name)
    assert not hub.asked


def test_who_is_not_logged_in_is_told_how(hub, exported):
    hub.token = False
    with pytest.raises(LucidaError, match=r"refuses|logged"):
        push(exported[0], "org/name")


def test_a_hub_that_is_not_there(hub, exported):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(LucidaError, match=r"cannot be reached|refuses"):
        push(exported[0], "org/name")


def test_what_is_no_model_is_not_uploaded(hub, tmp_path):
    with pytest.raises(LucidaError, match="neither a run nor an export"):
        push(tmp_path, "org/name")
    assert not hub.asked
