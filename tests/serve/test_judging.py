"""A served model as the judge of what a rule cannot read."""

import json
import time

import pytest
from served import serve_in_thread
from tiny import language_folder, picture

from lucida.core.errors import ModelError, RunError
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.eval.answerers.endpoint import EndpointAnswerer, Patience
from lucida.eval.asking import Response
from lucida.eval.plan import Options
from lucida.eval.run import evaluate_target
from lucida.serve.batching import Engine
from lucida.serve.rows import Rows


class Rambles:
    """Answers every question so that the rule for letters finds none."""

    protocols, identity = ("generate",), {"name": "rambles"}

    def stream(self, examples, protocol, most):
        yield from ((n, Response(f"perhaps, or not: {n}")) for n in range(len(examples)))

    def read_box(self, text, width, height):
        return None


def judged(folder, source, address, model="tiny", patience=None):
    """What a judge at an address made of four replies that give no letter."""
    task = OwnTaskSpec.model_validate({"source": source, "metric": "letter"})
    judge = EndpointAnswerer(f"{address}/v1", model, 2, patience or Patience(timeout=60))
    spec = EvaluationSpec(baselines=[], samples=100)
    options = Options(judge=judge)
    found = evaluate_target("x", lambda _: Rambles(), folder, spec, [task], None, options)
    return found["tasks"]["held"]


def test_a_served_model_judges(make, tmp_path, monkeypatch):
    """What a random model says is no verdict: that is counted, and so are answers that come too
    late; a key or a model that the server refuses is told. The official score is there always."""
    rows = []
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
        asked = f"question {number}?\nA. crimson\nB. azure"
        rows.append({"image": f"{number}.png", "question": asked, "answer": "A"})
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "questions", "path": str(tmp_path / "held.jsonl")}
    model, processor = make(language={"path": language_folder(), "max_length": 600})
    model.language.config.max_position_embeddings = 600
    engine = Engine("tiny", model, processor)
    step = Rows.step
    with serve_in_thread({"tiny": engine}, "secret") as address:
        with pytest.raises(ModelError, match="HTTP 401"):
            judged(tmp_path / "no-key", source, address)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with pytest.raises(ModelError, match="HTTP 404"):
            judged(tmp_path / "other", source, address, "large")
        found = judged(tmp_path / "asked", source, address)
        counts = {name: found["judge"][name] for name in ("asked", "read", "nonsense", "failed")}
        assert counts == {"asked": 4, "read": 0, "nonsense": 4, "failed": 0}
        assert found["judge"]["score"] == found["score"] == 0.0
        monkeypatch.setattr(Rows, "step", lambda rows: time.sleep(0.05) or step(rows))
        late = Patience(timeout=0.2, attempts=2, pause=0.01, longest=0.05)
        with pytest.raises(RunError, match=r"answered none of 4 replies to held.*in time"):
            judged(tmp_path / "late", source, address, patience=late)
        kept = json.loads((tmp_path / "late" / "results.json").read_text())["tasks"]["held"]
        assert kept["score"] == 0.0 and kept.get("judge") is None
    engine.close()
