"""`lucida benchmarks` as a user types it."""

import subprocess
import sys

import pytest

from lucida.apps.cli import main
from lucida.eval.benchmarks import BENCHMARKS


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["benchmarks", *words])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("LUCIDA_DATA", raising=False)


def test_the_list_names_every_benchmark(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for name, task in ((name, BENCHMARKS[name]()) for name in BENCHMARKS):
        assert f" {name} " in out, name
        assert not task.count or f"{task.count:,}" in out


def test_the_list_counts_the_files_it_found(capsys, published):
    _, out, _ = run(capsys, "--family", "vizwiz", "--data", str(published))
    assert "2 of 2" in out
    assert "none needed" in out
    _, out, _ = run(capsys, "--family", "vizwiz", "--data", str(published / "nowhere"))
    assert "0 of 2" in out


def test_one_family_and_an_unknown_one(capsys):
    _, out, _ = run(capsys, "--family", "world")
    assert " boxes " in out and " vqav2 " not in out
    _, out, _ = run(capsys, "--family", "published")
    assert " boxes-novel " not in out and " vqav2 " in out
    code, _, err = run(capsys, "--family", "bx")
    assert code == 1
    assert "did you mean `box`" in err


def test_all_files_with_where_they_are_offered(capsys, published):
    code, out, _ = run(capsys, "--files", "--data", str(published))
    assert code == 0
    for name in BENCHMARKS:
        for file in BENCHMARKS[name]().files:
            assert file.path in out
            assert file.source in out
    assert "missing" not in out.replace("missing: mmmu/", "")


def test_one_benchmark_with_a_question_as_the_model_sees_it(capsys, published):
    code, out, _ = run(capsys, "textvqa-ocr", "--data", str(published), "--prompts", "llava")
    assert code == 0
    assert "found: textvqa/TextVQA_0.5.1_val.json" in out
    assert "prompts: llava (version 1)" in out
    assert "<image: " in out
    assert "\nAnswer the question using a single word or phrase.\n" in out
    assert "truth: " in out
    code, out, _ = run(capsys, "boxes")
    assert "truth: box (" in out
    code, out, _ = run(capsys, "perplexity", "--data", str(published))
    assert "It was a bright cold day in April." in out


def test_a_missing_file_ends_with_an_explanation(capsys, tmp_path):
    code, out, err = run(capsys, "gqa", "--data", str(tmp_path))
    assert code == 1
    assert "missing: gqa/testdev_balanced_questions.json" in out
    assert "gqa needs gqa/testdev_balanced_questions.json, which is not there" in err
    code, _, err = run(capsys, "gqa")
    assert code == 1
    assert "LUCIDA_DATA" in err
    code, _, err = run(capsys, "gqqa")
    assert "did you mean `gqa`" in err


def test_it_does_not_import_torch():
    words = "import sys; from lucida.apps.cli import main\ntry: main(['benchmarks', 'boxes'])\n"
    check = "finally: assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", words + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
