"""Damaged records of every source of text: each ends in a sample or in a named error.

None may crash, hang or vanish: the number of records is asserted too.
"""

import json

import pytest
from damaged import FILES, GOOD, LLAVA, MESSAGES, PAGES, TEXTS, ends, llava, whole

from lucida.core.errors import DataError
from lucida.data.sources.interleaved import InterleavedSource
from lucida.data.sources.llava import LlavaSource
from lucida.data.sources.messages import MessagesSource
from lucida.data.sources.pairs import PairsSource
from lucida.data.sources.text import TextSource


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("name", LLAVA)
def test_llava(folder, name, ending):
    record, outcome = LLAVA[name]
    records = [llava(id="0"), record, llava(id="0")]
    path = folder / f"data.{ending}"
    text = json.dumps(records) if ending == "json" else "\n".join(map(json.dumps, records))
    path.write_text(text)
    source = LlavaSource(path, folder / "images")
    assert len(source) == 3
    whole(source, 0)
    whole(source, 2)
    if outcome is None:  # either is right; it may not end in anything else
        try:
            whole(source, 1)
        except DataError as error:
            assert "record 1" in str(error)
        return
    message = ends(outcome, lambda: source, 1)
    assert not message or "record 1" in message


@pytest.mark.parametrize("name", ["/", "../secret.png", "out.png", "away/secret.png"])
def test_pictures_outside_when_they_are_allowed(folder, name):
    name = str(folder / "secret.png") if name == "/" else name
    (folder / "data.json").write_text(json.dumps([llava(name)]))
    whole(LlavaSource(folder / "data.json", folder / "images", allow_outside=True))


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(folder, name):
    turns, outcome = MESSAGES[name]
    (folder / "data.jsonl").write_text(json.dumps({"messages": turns}))
    ends(outcome, lambda: MessagesSource(folder / "data.jsonl", folder / "images"))


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    content, index, outcome = FILES[name]
    (tmp_path / "data.json").write_bytes(content.replace(b"%s", GOOD))
    message = ends(outcome, lambda: LlavaSource(tmp_path / "data.json"), index)
    assert "data.json" in message


TABLES = {
    "other columns": ("image,words\na.png,x", "no column `text`"),
    "no header": ("a.png,x\nb.png,y\n", "no column `image`"),
    "a header alone": ("image,text\n", "a header and no rows"),
    "more fields": ("image,text\na.png,x,y", "number of fields"),
    "fewer fields": ("image,text\na.png", "number of fields"),
    "open quote": ('image,text\na.png,"x\n', "broken CSV"),
    "empty text": ("image,text\na.png,", "empty"),
    "no picture": ("image,text\nb.png,x", "cannot find"),
    "empty picture": ("image,text\n,x", "bad image path"),
    "outside": ("image,text\n/etc/passwd,x", "leaves"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(folder, name):
    text, outcome = TABLES[name]
    path = folder / "images" / "data.csv"
    path.write_text(text)
    ends(outcome, lambda: PairsSource(path))


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name):
    text, outcome = TEXTS[name]
    # A first line with a bracket would be an array, and what follows it a mistake of its own.
    (tmp_path / "data.jsonl").write_text(f'{{"text": "first"}}\n{text}')
    ends(outcome, lambda: TextSource(tmp_path / "data.jsonl"), 1)


@pytest.mark.parametrize("name", PAGES)
def test_pages(tmp_path, name):
    record, outcome = PAGES[name]
    (tmp_path / "data.jsonl").write_text(json.dumps(record))
    ends(outcome, lambda: InterleavedSource(tmp_path / "data.jsonl"))
