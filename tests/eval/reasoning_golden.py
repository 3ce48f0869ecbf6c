"""What the publishers' own functions make of the outputs in tests/golden/eval/reasoning.json.

    python tests/eval/reasoning_golden.py MMMU MATHVISTA tests/golden/eval/reasoning.json

MMMU and MATHVISTA are folders with what github.com/MMMU-Benchmark/MMMU (a76d44bd0a63) and
github.com/lupantech/MathVista (e999481e7c42) hold.
The functions are taken out of their files as they stand, since the files import what they do not
need (openai, pandas, datasets), and run; outputs, options and choices are those of the file, which
was begun with made-up ones. It needs `pip install levenshtein`, which MathVista's script names.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

CHOICE, EXTRACTION, COMPARISON = (
    "mmmu-pro/evaluate.py",
    "evaluation/extract_answer.py",
    "evaluation/calculate_score.py",
)


def take_functions(file: Path, names: list[str], known: dict[str, object]) -> list[Callable]:
    """Functions of a file by their names, with nothing of it but what is `known`."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    space = dict(known)
    exec(compile(tree, str(file), "exec"), space)
    return [space[name] for name in names]


def make_golden(mmmu: Path, mathvista: Path, given: dict) -> dict:
    """The rows of `given`, their last place by the publishers: null where MMMU-Pro's script guesses
    at random, and where MathVista's asks a language model or gives back an empty output."""
    from Levenshtein import distance

    guess = SimpleNamespace(choice=lambda known: None)
    letters, names = take_functions(
        mmmu / CHOICE,
        ["parse_multi_choice_response", "get_multi_choice_info"],
        {"random": guess, "np": np},
    )
    extract, _ = take_functions(
        mathvista / EXTRACTION,
        ["extract_answer", "create_test_prompt"],
        {"re": re, "logging": logging, "demo_prompt": ""},
    )
    normalise, _ = take_functions(
        mathvista / COMPARISON,
        ["normalize_extracted_answer", "get_most_similar"],
        {"re": re, "distance": distance},
    )
    judge = SimpleNamespace(get_response=lambda user_prompt: None)

    def make_problem(kind: str, choices: list[str]) -> dict:
        form = "multi_choice" if choices else "free_form"
        asked = {"question_type": form, "answer_type": kind, "choices": choices}
        return asked | {"query": "", "pid": ""}

    def read_letter(text: str, options: list[str]) -> str | None:
        known, all_letters = names(options)
        return letters(text, all_letters, known)

    def read_answer(text: str, kind: str, choices: list[str]) -> str | None:
        return extract(judge, text, make_problem(kind, choices), quick_extract=True) or None

    def compare(text: str, kind: str, choices: list[str], precision: int | None) -> str | None:
        form = make_problem(kind, choices)["question_type"]
        return normalise(text, choices, form, kind, precision)

    rules = {
        "mmmu_pro": read_letter,
        "mathvista_extract": read_answer,
        "mathvista_normalise": compare,
    }
    golden = {"note": given["note"]}
    for name, rule in rules.items():
        golden[name] = [[*row[:-1], rule(*row[:-1])] for row in given[name]]
    return golden


def write_golden(golden: dict, file: Path) -> None:
    """A row a line."""
    blocks = [f' "note": {json.dumps(golden["note"], ensure_ascii=False)}']
    for name, rows in golden.items():
        if name != "note":
            lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
            blocks.append(f' "{name}": [\n{lines}\n ]')
    file.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    mmmu, mathvista, file = map(Path, sys.argv[1:])
    write_golden(make_golden(mmmu, mathvista, json.loads(file.read_text("utf-8"))), file)
