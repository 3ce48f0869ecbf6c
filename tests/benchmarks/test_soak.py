"""What the soak sends is broken in many ways, and the same for a seed."""

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("openai")
soak = pytest.importorskip("soak")


def whole():
    content = [{"type": "text", "text": "what?"}]
    return {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 4}


def test_broken_requests():
    sent = [soak.spoil(whole(), random.Random(seed)) for seed in range(300)]
    assert sent == [soak.spoil(whole(), random.Random(seed)) for seed in range(300)]
    assert all(each != json.dumps(whole()).encode() for each in sent)
    assert len(set(sent)) > 150
    readable = 0
    for each in sent:
        try:
            json.loads(each)
            readable += 1
        except ValueError:
            pass
    assert 100 < readable < 290  # some no JSON at all, most JSON that says something else
