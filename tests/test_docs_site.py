"""The site of the documentation: whole, and with no link that leads nowhere."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lucida
from lucida.core.recipe import presets

ROOT = Path(__file__).parent.parent
MADE = {
    "index.md", "architecture.md", "log.md", "recipes.md",
    "reference/options.md", "reference/commands.md", "studies/RESULTS.md",
}  # fmt: skip


class AnyTag(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags for Python names mean nothing here."""


AnyTag.add_multi_constructor("", lambda loader, suffix, node: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), AnyTag)


def pages_of(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages_of(value)


def test_every_page_is_in_the_menu():
    written = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    books = {f"notebooks/{p.stem}.md" for p in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    assert sorted(pages_of(SITE["nav"])) == sorted(written | MADE | books)


def test_links_between_files_lead_somewhere():
    for file in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in link:
                assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_names_in_the_reference_exist():
    for file in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, last = name.rpartition(".")
            found = importlib.util.find_spec(module)
            beside = Path(found.origin).parent / last
            text = Path(found.origin).read_text(encoding="utf-8")
            known = re.search(rf"^(def|class) {last}\b", text, re.MULTILINE)
            assert known or beside.with_suffix(".py").is_file() or beside.is_dir(), name


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"heading: lucida\.(\w+)", text)) == set(lucida.__all__)


def test_pages_made_from_the_code_are_made_without_mkdocs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    pages = importlib.import_module("docs_pages")
    gallery = "".join(pages.list_recipes())
    assert all(f"\n### {name} " in gallery for name in presets())
    for task in pages.drawn_tasks():
        picture, question, answer = pages.draw_example(task)
        assert f'<img src="{task}.png"' in gallery
        assert picture.startswith(b"\x89PNG") and question and str(answer), task
    assert "lucida train" in "".join(pages.list_commands())
    assert "\n## model.image\n" in "".join(pages.list_options())


@pytest.mark.slow
def test_it_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "-d",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    gallery = (tmp_path / "site" / "recipes" / "index.html").read_text(encoding="utf-8")
    assert all(f"{name}<a" in gallery or f">{name}" in gallery for name in presets())
    shown = set(re.findall(r'<img src="([\w-]+\.png)"', gallery))
    assert {"attribute.png", "counting.png"} <= shown
    assert all((tmp_path / "site" / "recipes" / name).stat().st_size > 200 for name in shown)
    commands = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text("utf-8")
    assert "lucida data split" in commands and "lucida train" in commands
    reference = (tmp_path / "site" / "reference" / "python" / "index.html").read_text("utf-8")
    assert "stream_answers" in reference
    book = (tmp_path / "site" / "notebooks" / "ask" / "index.html").read_text("utf-8")
    assert "data:image/png;base64," in book and 'href="../ask.ipynb"' in book
    assert (tmp_path / "site" / "notebooks" / "ask.ipynb").is_file()
