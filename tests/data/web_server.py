"""A web server for tests: serves a folder by ranges, and fails as it is told to."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image
from tiny_files import tar


def picture(number):
    noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, first, many):
    members = {}
    for number in range(first, first + many):
        told = {"caption": f"long {number}", "a": number / 10, "b": 0.5}
        members |= {
            f"{number:09d}.jpg": picture(number),
            f"{number:09d}.json": json.dumps(told).encode(),
            f"{number:09d}.txt": f"caption {number}".encode(),
        }
    tar(path, members)


class Server(ThreadingHTTPServer):
    """Serves a folder with ranges; `trouble` is what befalls the next requests, in their order."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.version = folder, True, "v1"
        self.trouble, self.asked, self.lock = [], [], threading.Lock()
        self.connections = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20  # head and body in one packet, or each answer takes 40 ms

    def setup(self):
        super().setup()
        self.server.connections.append(self.connection)

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked.append((self.path, self.headers.get("Range")))
            trouble = server.trouble.pop(0) if server.trouble else None
        path = self.path.partition("?")[0]
        if path.startswith("http://elsewhere.invalid/"):  # asked as a proxy
            path = path.removeprefix("http://elsewhere.invalid")
        if isinstance(trouble, int):
            return self.say(trouble)
        if path.startswith("/moved/"):
            return self.say(302, Location=path.removeprefix("/moved"))
        file = server.folder / path.lstrip("/")
        if not file.is_file():
            return self.say(404)
        content, total = file.read_bytes(), file.stat().st_size
        headers = {"ETag": server.version}
        wanted = self.headers.get("Range") if server.ranges else None
        if wanted:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            content = content[int(begin) : int(end) + 1]
            headers["Content-Range"] = f"bytes {begin}-{int(begin) + len(content) - 1}/{total}"
        self.send_response(206 if wanted else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if trouble is None:
            return self.wfile.write(content)
        self.wfile.write(content[: trouble[0]])  # ("cut after so many bytes",)
        self.wfile.flush()
        self.close_connection = True
        return self.connection.shutdown(2)

    def say(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == 429:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()
