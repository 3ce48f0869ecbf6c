"""A tiny random model that is served, and what the tests ask it."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))
from fastapi.testclient import TestClient
from served import KEY, serve_in_thread
from tiny import tiny_model

from lucida.serve.batching import Engine
from lucida.serve.server import make_app

torch.set_num_threads(1)


def make_parts(*args, **kwargs):
    """A model that writes texts: none of its special tokens, which end or hide what follows."""
    model, processor = tiny_model(*args, **kwargs)
    model.generation_config.suppress_tokens = [*range(3), *model.generation_config.suppress_tokens]
    return model.eval(), processor


@pytest.fixture(scope="session")
def make():
    return make_parts


@pytest.fixture(scope="session")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def engine(parts):
    engine = Engine("tiny", *parts)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def web(engine):
    with TestClient(make_app({"tiny": engine}, most_bytes=200_000)) as client:
        yield client


@pytest.fixture(scope="module")
def client(engine):
    """OpenAI's own library, over a real connection."""
    import openai

    with (
        serve_in_thread({"tiny": engine}, KEY) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as library,
    ):
        yield library
