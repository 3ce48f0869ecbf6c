"""Rows of CSV and TSV are those of Python's csv over the whole file; JSON is read strictly."""

import csv
import io
import json
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import opened, png

from lucida.core.errors import DataError, shorten, suggestion
from lucida.data.sources import lines, scanning, zipped
from lucida.data.sources.published import read_json_lines, read_pickle, read_table
from lucida.data.sources.values import json_value, number_in, rating_in


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))


def rows_of_file(path, delimiter=","):
    """Every row, None for one that is refused, with the text and line that it begins in."""
    content, found = path.read_bytes(), []
    for begin, end, line in lines.row_places(path, delimiter).tolist():
        assert line == 1 + content[:begin].count(b"\n")
        try:
            found.append(lines.fields_of(content[begin:end].decode(), delimiter, "row"))
        except DataError:
            found.append(None)
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from('"",a\n\r\t\u2028'), max_size=30),
    st.sampled_from([",", "\t"]),
    st.sampled_from([1, 2, 3, 7, 1 << 20]),
)
def test_rows_are_those_of_csv(tmp_path_factory, text, delimiter, chunk):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "CHUNK", chunk)
        found = rows_of_file(path, delimiter)
    try:
        wanted = [
            row for row in csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter) if row
        ]
    except csv.Error:  # a lone carriage return
        assert None in found
        return
    assert len(found) == len(wanted)
    assert all(mine is None or mine == its for mine, its in zip(found, wanted, strict=True))
    if '"' not in text:
        assert None not in found


SIGNS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\0"


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("sign", [*SIGNS, '5" ', '""', "'", "\\"])
def test_signs_that_end_no_row(tmp_path, ending, sign):
    (tmp_path / "a.png").write_bytes(png())
    between = "," if ending == "csv" else "\t"
    path = tmp_path / f"a.{ending}"
    for end in ("\n", "\r\n"):
        rows = [("image", "text"), *[("a.png", f"{n} one{sign}two") for n in range(3)]]
        text = "".join(f"{image}{between}{said}{end}" for image, said in rows)
        path.write_text(f"\ufeff{text}", newline="", encoding="utf-8")
        source = opened("pairs", path)
        said = [source[n].branches[0][0].parts[1] for n in range(len(source))]
        assert said == [f"{n} one{sign}two" for n in range(3)]
        assert [each["text"] for each in read_table(path, between)] == said


def test_a_lone_carriage_return_is_an_error_of_its_row(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    path = tmp_path / "a.csv"
    path.write_bytes(b'image,text\na.png,one\rtwo\na.png,"one\rtwo"\na.png,last\n')
    source = opened("pairs", path)
    with pytest.raises(DataError, match=r"record 1 \(line 2\): broken CSV"):
        source[0]
    assert [source[n].branches[0][0].parts[1] for n in (1, 2)] == ["one\rtwo", "last"]
    with pytest.raises(DataError, match="damaged"):
        read_table(path)


def test_a_quote_that_nothing_closes_says_how_many_lines_it_takes_in(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('image,text\na.png,"x\n' + "a.png,y\n" * 7)
    with pytest.raises(DataError, match="with the 8 lines behind it"):
        opened("pairs", path)[0]


def test_columns_of_one_name_and_rows_of_tabs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,text,text\na.png,x,y\n")
    with pytest.raises(DataError, match="two columns of one name"):
        opened("pairs", path)
    path = tmp_path / "a.tsv"
    path.write_text("image\ttext\n\t\n")
    with pytest.raises(DataError, match="bad image path"):
        opened("pairs", path)[0]


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "a"}]\n[{"text": "b"}]\n', '[{"text": "a"}]}} garbage', '["a"]\n{"text": "b"}',
        '["a"]["b"]', "[]x", '[{"text": "a"}],', '[{"text": "a"}]\0', '["a"] ]',
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_nothing_stands_behind_an_array(tmp_path, text, chunk, monkeypatch):
    monkeypatch.setattr(scanning, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="goes on behind it"):
        opened("text", tmp_path / "a.json")
    (tmp_path / "a.json").write_text('[{"text": "a"}]' + " \n\t\r" * 9)
    assert len(opened("text", tmp_path / "a.json")) == 1


def test_lines_of_json_hold_any_separator(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b\x85"}\n{"text": "c"}\n', encoding="utf-8")
    source = opened("text", path)
    assert [source[n].branches[0][0].parts for n in (0, 1)] == [("a\u2028b\x85",), ("c",)]
    assert read_json_lines(path) == [{"text": "a\u2028b\x85"}, {"text": "c"}]


def test_json_that_two_readers_understand_differently_is_refused():
    twice = '{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'
    for text in (*twice, "[" * 9000, "9" * 9000, "{", b"\xff"):
        with pytest.raises(DataError, match="here: broken JSON"):
            json_value(text, "here")
    assert json_value(b"\xef\xbb\xbf[1]", "here") == [1]
    assert json_value('{"a": {"b": 1}, "b": 1}', "here") == {"a": {"b": 1}, "b": 1}


def test_numbers_that_are_none():
    for value in (10**400, True, "1", None, float("nan"), float("inf"), [1], -(10**9000)):
        with pytest.raises(DataError, match=r"here: bad `x` \(expected a finite number"):
            number_in(value, "x", "here")
    assert number_in(2**70, "x", "here") == float(2**70)
    assert all(np.isnan(rating_in(value, "x", "")) for value in (None, "", "nan", float("nan")))
    assert rating_in(" 2.5 ", "x", "") == 2.5
    for value in (10**400, True, "many", "inf", [1]):
        with pytest.raises(DataError, match="finite"):
            rating_in(value, "x", "")


def test_messages_show_little_of_much(tmp_path):
    value = ["x" * 100]
    for _ in range(30):
        value = [value] * 10
    assert len(shorten(value)) == 81 and len(shorten({"a": value}, 30)) == 31
    assert shorten({"a": [1, "b", None], (2,): {}}) == "{'a': [1, 'b', None], (2,): {}}"
    assert shorten(10**99999) == "a whole number of 332,190 bits"
    error = DataError("no", given=value, origin="half \ud800 a pair")
    assert len(str(error)) < 500 and str(error).encode()
    assert len(str(DataError("no", given="x" * 10**6))) < 3000
    assert len(suggestion("x" * 10**6, (f"{n}" * 500 for n in range(10**6)))) < 6000


def test_pickles_whose_hash_takes_for_ever_are_refused(tmp_path):
    key = ("x",)
    for _ in range(40):
        key = (key,) * 10
    path = tmp_path / "a.pkl"
    # Written by hand: to make such a dictionary takes as long as to read it.
    body = b"}(" + pickle.dumps(key, 2)[2:-1]
    for content in (body + b"K\x01u.", body + b"K\x01d.", b"}" + body[2:] + b"K\x01s."):
        path.write_bytes(b"\x80\x02" + content)
        with pytest.raises(DataError, match="damaged"):
            read_pickle(path)
    path.write_bytes(pickle.dumps([{"a": 1, 2: [None]}]))
    assert read_pickle(path) == [{"a": 1, 2: [None]}]


def test_a_zip_is_read_in_24_bytes_a_line_and_bombs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"a\n" * (1 << 20))
    code = f"""
import resource
from pathlib import Path
from lucida.data.sources.zipped import line_places_of_zip
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = used()
places = line_places_of_zip(Path({str(path)!r}))
assert len(places) == 1 << 20 and places.nbytes == 24 << 20
assert used() - before < 150 << 10, used() - before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"\n" * (2 << 20))
    monkeypatch.setattr(zipped, "HARMLESS", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than text does"):
        opened("text", path)
    inner = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", inner)
    with pytest.raises(DataError, match="compressed"):
        opened("text", path)


DAMAGED_ARROW = """
import random, sys
from pathlib import Path
from lucida.core.errors import DataError
from lucida.data.sources.arrow import TableRows
path, draws = Path(sys.argv[1]), random.Random(0)
whole, refused = path.read_bytes(), 0
signs = [b"\\xff\\xff\\xff\\x7f", b"\\x80\\0\\0\\0", b"\\0\\0\\0\\x80", b"\\xff" * 4]
for number in range(150):
    content = bytearray(whole)
    at = draws.randrange(len(content) - 4)
    content[at : at + 4] = draws.choice(signs)
    path.write_bytes(content)
    try:
        rows = TableRows([path])
        for index in range(min(len(rows), 5)):
            rows[index]
    except DataError:
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_a_damaged_arrow_file_does_not_end_the_process(tmp_path, new):
    row = {"images": [{"bytes": png(), "path": None}], "texts": [{"user": "q", "assistant": "a"}]}
    table = pa.Table.from_pylist([row] * 4)
    path = tmp_path / "a.arrow"
    with new(str(path), table.schema) as writer:
        writer.write_table(table)
    command = [sys.executable, "-c", DAMAGED_ARROW, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert int(done.stdout) > 20
    path.write_bytes(json.dumps([1]).encode())
    with pytest.raises(DataError, match="cannot read the table"):
        opened("parquet", path)
