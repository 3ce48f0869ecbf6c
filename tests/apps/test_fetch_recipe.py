"""What a recipe needs, from a stub of the Hub on this machine."""

import hashlib
import io
import json
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.apps.fetch.fetching import fetch
from lucida.apps.fetch.hub import load
from lucida.apps.fetch.needs import Need, needs_of, read_published
from lucida.core.errors import LucidaError
from lucida.core.recipe import load_recipe, presets

COMMIT = "0" * 40
FULL_SCALE = [name for name in presets() if not name.startswith("mini") and "-mini" not in name]


class FileHub(BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for. `server.files`: by kind/repo/name; of `server.cut`
    the first answer breaks off after so many bytes; `server.gated` repositories are refused."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/"):
            return self.describe(*path.split("/")[1:4], path)
        kind, path = ("datasets", path[9:]) if path.startswith("datasets/") else ("models", path)
        repo, _, rest = path.partition("/resolve/")
        name = f"{kind}/{repo}/{rest.partition('/')[2]}"
        if repo in self.server.gated:
            return self.send(403, b"no", {"X-Error-Code": "GatedRepo"}, body)
        if name not in self.server.files:
            return self.send(404, b"no", {"X-Error-Code": "EntryNotFound"}, body)
        content = self.server.files[name]
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        told = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if begin:
            told["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        cut = self.server.cut.pop(name, None) if body else None
        return self.send(206 if begin else 200, content[begin:], told, body, cut)

    def describe(self, kind, org, repo, path):
        begin = f"{kind}/{org}/{repo}/"
        names = [each.removeprefix(begin) for each in self.server.files if each.startswith(begin)]
        if not names:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, True)
        tree = [{"type": "file", "path": n, "size": 1, "oid": COMMIT} for n in names]
        info = {"id": f"{org}/{repo}", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
        return self.send(200, json.dumps(tree if "/tree/" in path else info).encode(), {}, True)

    def send(self, status, content, headers, body, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants, file_download, hf_api

    monkeypatch.setenv("HF_TOKEN", "hf_of_tests")  # else it is looked for in the user's home
    server = ThreadingHTTPServer(("127.0.0.1", 0), FileHub)
    server.files, server.cut, server.gated, server.asked = {}, {}, set(), []
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for module in (constants, file_download, hf_api):
        for name, value in {
            "ENDPOINT": address,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", address)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, picture())
    return buffer.getvalue()


@pytest.fixture
def llava(hub):
    """The Hub has all that LLaVA-1.5 needs of it."""
    hub.files |= {
        "models/lmsys/vicuna-7b-v1.5/pytorch_model-00001-of-00001.bin": b"weights",
        "models/lmsys/vicuna-7b-v1.5/config.json": b"{}",
        "models/lmsys/vicuna-7b-v1.5/tokenizer.model": b"pieces",
        "models/lmsys/vicuna-7b-v1.5/README.md": b"# card",
        "models/openai/clip-vit-large-patch14-336/model.safetensors": b"weights",
        "models/openai/clip-vit-large-patch14-336/pytorch_model.bin": b"the same again",
        "models/openai/clip-vit-large-patch14-336/config.json": b"{}",
        "datasets/liuhaotian/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json": b"[1]" * 5000,
        "datasets/liuhaotian/LLaVA-Pretrain/images.zip": zipped("00000/1.jpg", "00001/2.jpg"),
        "datasets/liuhaotian/LLaVA-Instruct-150K/llava_v1_5_mix665k.json": b"[]",
    }
    return hub


def test_what_the_hub_has_is_loaded_and_the_rest_is_told(llava, tmp_path, capfd):
    recipe = load_recipe("llava-1.5-7b")
    left = fetch(recipe)
    pretrain = Path("data/llava-pretrain")
    assert (pretrain / "blip_laion_cc_sbu_558k.json").read_bytes() == b"[1]" * 5000
    assert (pretrain / "images/00001/2.jpg").read_bytes() == picture()
    assert not (pretrain / "images.zip").exists()
    assert Path("data/llava-instruct/llava_v1_5_mix665k.json").read_bytes() == b"[]"
    cached = {file.name for file in (tmp_path / "hub").rglob("*") if file.is_file()}
    assert {"model.safetensors", "pytorch_model-00001-of-00001.bin", "tokenizer.model"} <= cached
    assert not {"pytorch_model.bin", "README.md"} & cached
    told = capfd.readouterr().err
    assert "http://images.cocodataset.org/zips/train2017.zip" in told
    assert "to data/llava-instruct/images/coco/train2017" in told
    places = {str(need.place) for need in left}
    assert "data/llava-instruct/images/gqa/images" in places
    # Again: nothing of it is loaded twice.
    asked = len(llava.asked)
    fetch(recipe)
    again = [path for way, path, _ in llava.asked[asked:] if way == "GET" and "/resolve/" in path]
    assert again == []


@pytest.mark.parametrize("name", ["{00000..00003}.tar", "*.tar", "00001.tar", "0000[12].tar"])
def test_shards_that_are_there_are_not_to_be_fetched(tmp_path, name):
    need = Need("shards", "own", tmp_path / "shards" / name)
    assert not need.here
    need.place.parent.mkdir()
    (need.place.parent / "00001.tar").touch()
    assert need.here


def test_a_download_that_was_cut_off_goes_on(llava, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    name = "datasets/liuhaotian/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
    llava.cut[name] = 9000
    (need,) = [n for n in needs_of(load_recipe("llava-1.5-7b")) if n.file.startswith("blip")]
    assert load(need).read_bytes() == llava.files[name]
    ranges = [
        each for way, path, each in llava.asked if way == "GET" and path.endswith("558k.json")
    ]
    assert ranges[-1] == "bytes=9000-"


def test_unpacking_that_was_cut_off_is_not_taken_for_whole(llava):
    place = Path("data/llava-pretrain/images")
    (place / "00000").mkdir(parents=True)
    (place / "00000/1.jpg").write_bytes(b"half")
    (need,) = [n for n in needs_of(load_recipe("llava-1.5-7b")) if n.file == "images.zip"]
    assert need.here  # a folder of somebody's own is left alone
    need.unfinished.touch()
    assert not need.here
    load(need)
    assert (place / "00000/1.jpg").read_bytes() == picture() and need.here


def test_what_the_hub_refuses_says_what_to_do_after_the_rest_was_loaded(llava):
    llava.gated.add("liuhaotian/LLaVA-Pretrain")
    with pytest.raises(LucidaError, match=r"2 of 5 could not be loaded.*accept it there"):
        fetch(load_recipe("llava-1.5-7b"))
    assert Path("data/llava-instruct/llava_v1_5_mix665k.json").exists()


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (Need("model a/b", "", repo="a/b"), "has no model there"),
        (Need("c.json", "", Path("d/c.json"), "a/b", "c.json"), "has no c.json there"),
    ],
)
def test_what_the_hub_has_not(hub, need, words):
    with pytest.raises(LucidaError, match=words):
        load(need)


def test_a_hub_that_is_not_there(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the attempts of the client
    hub.shutdown()
    hub.server_close()
    with pytest.raises(LucidaError, match="goes on where it was cut off"):
        load(Need("c.json", "", Path("d/c.json"), "a/b", "c.json"))


def test_a_disk_without_room(llava):
    need = Need("x", "", Path("d/x.json"), "a/b", "x.json", gigabytes=1e9)
    with pytest.raises(LucidaError, match="no room for x"):
        load(need)
    assert not llava.asked


@pytest.mark.parametrize("name", FULL_SCALE)
def test_every_need_of_a_preset_is_known(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUCIDA_DATA", raising=False)
    needs = needs_of(load_recipe(name))
    assert sum(bool(need.repo and not need.file) for need in needs) >= 2
    for need in needs:
        assert need.licence not in ("", "unknown here"), need
        assert need.repo or need.address.startswith(("http", "https")), need


def test_no_entry_of_the_table_is_unused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = [
        source
        for name in FULL_SCALE
        for stage in load_recipe(name).stages
        for source in stage.mixture.sources.values()
    ]
    paths = {Path(source.path) for source in sources}
    known = {path.name for path in paths} | {f"{path.parent.name}/{path.name}" for path in paths}
    assert read_published().keys() - {"pictures"} <= known


def test_the_verb_tells_and_loads_nothing_with_list(llava, capfd):
    done = CliRunner().invoke(app, ["fetch", "llava-1.5-7b", "--list"])
    assert done.exit_code == 0, done.output
    assert "of the Hub: model lmsys/vicuna-7b-v1.5" in done.stderr
    assert not llava.asked and not Path("data").exists()
    done = CliRunner().invoke(app, ["fetch", "llava-1.5-7"])
    assert done.exit_code == 1 and "did you mean `llava-1.5-7b`?" in done.stderr


def test_a_recipe_of_shipped_parts_needs_nothing(capsys):
    assert fetch(load_recipe("mini")) == []
    assert capsys.readouterr().err == "mini needs nothing from elsewhere\n"
