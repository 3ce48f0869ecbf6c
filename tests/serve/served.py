"""What the tests of a served model share."""

import base64
import io
import threading
import time
from contextlib import contextmanager

import uvicorn

from lucida.model.decode import greedy
from lucida.model.messages import sample_of
from lucida.serve.server import make_app
from lucida.serve.start import listen

KEY = "a secret"
CHAT, TEXT, LOOK = "/v1/chat/completions", "/v1/completions", "/look"


@contextmanager
def serve_in_thread(engines, key=None):
    """A server that listens at a free port; gives its address."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(engines, key), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def data_address(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def ask(text, *images):
    parts = [{"type": "image_url", "image_url": {"url": data_address(each)}} for each in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def answer_directly(parts, messages, count):
    # A character that is half written at the end never leaves a server.
    return greedy(*parts, [sample_of(messages)], count)[0].strip().rstrip("\ufffd").strip()


def prompt_of(processor, text, *images):
    return processor.prompt(sample_of(ask(text, *images)))


def wait_for(jobs, seconds=60):
    deadline = time.monotonic() + seconds
    while not all(job.done for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.01)
