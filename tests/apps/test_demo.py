"""The demo from end to end on tiny parts: every phase, what it prints, and a second time."""

import io
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import encoder_folder, language_folder

from lucida.apps.chat import main as chat
from lucida.apps.demo import command, main, show_pictures
from lucida.apps.drawn import half_blocks
from lucida.core.results import TaskScores
from lucida.core.runs import RunFolder
from lucida.eval.gallery import Shot

torch.set_num_threads(1)

TASKS = ["counting", "boxes", "caption"]


@pytest.fixture
def overrides(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    values = {
        "model.vision.path": encoder_folder("siglip"),
        "model.language.path": language_folder(),
        "stages.sft.mixture.sources.world.tasks": TASKS,
        "stages.sft.mixture.sources.world.count": 8,
        "stages.sft.mixture.sources.world.questions": 2,
        "stages.sft.budget.steps": 3,
        "stages.sft.batch.samples": 2,
        "evaluation.tasks": TASKS,
        "evaluation.limit": 6,
        "evaluation.max_new_tokens": 4,
        "evaluation.samples": 100,
        "blind.steps": 2,
    }
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def test_the_demo_trains_measures_and_shows(tmp_path, overrides, capsys):
    folder = tmp_path / "run"
    main(folder, "mini", overrides)
    said = capsys.readouterr().out
    results = RunFolder(folder).results
    assert list(results.tasks) == TASKS
    assert all(task.blind is not None for task in results.tasks.values())
    phases = {"train", "train_blind", "evaluate", "evaluate_blind"}
    assert phases <= set(results.seconds)
    assert (folder / "report.html").is_file()
    for word in (*TASKS, "blind", "chance", "question  how many", "truth     "):
        assert word in said
    assert f"report  {folder / 'report.html'}" in said

    typed = next(line for line in said.splitlines() if line.startswith("chat    "))
    words = shlex.split(typed.removeprefix("chat    "))
    start = len(command())
    assert words[:start] == command()
    assert words[start : start + 3] == ["chat", str(folder), "--image"]
    chat(Path(words[start + 1]), [Path(words[start + 3])], "how many?", 3, 0.0)
    assert capsys.readouterr().out

    trained = (folder / "model.safetensors").stat().st_mtime_ns
    main(folder, "mini", overrides)
    assert (folder / "model.safetensors").stat().st_mtime_ns == trained
    assert RunFolder(folder).results.seconds == results.seconds
    assert RunFolder(folder).results.tasks == results.tasks


def test_half_blocks_show_two_pixels_in_a_character():
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 1, 4, 2))
    drawn = half_blocks(image, 4)
    assert drawn.plain == "▀▀▀▀\n▀▀▀▀"
    assert {str(span.style) for span in drawn.spans} == {
        "#ff0000 on #0000ff",
        "#ff0000 on #ff0000",
    }
    wide = half_blocks(Image.new("RGB", (64, 32)), 32)
    assert [len(line) for line in wide.plain.split("\n")] == [32] * 8


def test_pictures_stand_beside_the_words_on_a_terminal_only():
    image = Image.new("RGB", (64, 48), (9, 9, 9))
    shot = Shot(
        "id", (image,), "where is it?", "(1, 2) to (3, 4)", "", 0.0, None, None, (1, 2, 9, 9), 0
    )
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=100, highlight=False)
        show_pictures([("boxes", TaskScores(score=0.5, metric="IoU ≥ 0.5"), shot)], console)
        assert ("▀" in out.getvalue()) == terminal
        assert "where is it?" in out.getvalue()
        assert "(1, 2) to (9, 9)" in out.getvalue()
        assert "✗" in out.getvalue()
