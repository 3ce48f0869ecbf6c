"""Damaged tables, tars and parquet files in a stream that skips them, beside rows that are fine."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import noise
from test_damaged_loader import epoch, loader, survives
from tiny_files import opened, tar

from lucida.core.dropped import Dropped
from lucida.core.errors import DataError

FINE = noise("PNG")
JPEG = noise("JPEG")

ROWS = {
    "more fields": ("a.png,x,y", "number of fields"),
    "fewer fields": ("a.png", "number of fields"),
    "empty text": ("a.png,", "empty"),
    "no picture": ("b.png,x", "cannot find"),
    "empty picture": (",x", "bad image path"),
    "outside": ("/etc/passwd,x", "leaves"),
    "parent": ("../a.png,x", "leaves"),
    "a quote inside": ('a.png,"x"y', "broken CSV"),
    "not UTF-8": (b"a.png,\xe9", "not UTF-8"),
    "NUL": ("a.png,\0x", True),
    "injected": ("a.png,see <image>", True),
}


def test_rows_of_csv(tmp_path):
    lines, outcomes = [b"image,text"], []
    for damage, outcome in ROWS.values():
        lines += [b"a.png,fine", damage if isinstance(damage, bytes) else damage.encode()]
        outcomes += [True, outcome]
    (tmp_path / "a.png").write_bytes(FINE)
    (tmp_path / "data.csv").write_bytes(b"\n".join(lines))
    survives(opened("pairs", tmp_path / "data.csv"), outcomes, tmp_path / "dropped.jsonl")


def test_an_open_quote_takes_the_rest_of_a_csv_with_it(tmp_path):
    (tmp_path / "a.png").write_bytes(FINE)
    (tmp_path / "data.csv").write_text('image,text\na.png,fine\na.png,"x\na.png,y\n')
    source = opened("pairs", tmp_path / "data.csv")
    survives(source, [True, "broken CSV"], tmp_path / "dropped.jsonl")


MEMBERS = {
    "no picture": ({"txt": b"x"}, "without picture"),
    "no caption": ({"jpg": JPEG}, "without txt"),
    "empty caption": ({"jpg": JPEG, "txt": b" "}, "empty"),
    "latin-1 caption": ({"jpg": JPEG, "txt": b"\xe9"}, "UTF-8"),
    "no image at all": ({"jpg": b"<html>404", "txt": b"x"}, "web page"),
}
NUMBERS = {
    "broken JSON": (b"{", "broken JSON"),
    "a list": (b"[1]", "bad json member"),
    "no number": (b"{}", "no number `s`"),
    "text": (b'{"s": "x"}', "is no number"),
    "fine": (b'{"s": 2}', True),
}


def members(cases, **more):
    found = {}
    for number, (inside, _) in enumerate(cases.values()):
        found |= {f"{2 * number:03}.{end}": v for end, v in {"jpg": JPEG, "txt": b"a"}.items()}
        found |= {f"{2 * number:03}.{end}": v for end, v in more.items()}
        found |= {f"{2 * number + 1:03}.{end}": v for end, v in inside.items()}
    return found


def test_samples_of_tars(tmp_path):
    path = tar(tmp_path / "0.tar", members(MEMBERS))
    outcomes = [each for _, outcome in MEMBERS.values() for each in (True, outcome)]
    survives(opened("webdataset", path), outcomes, tmp_path / "dropped.jsonl")


def test_numbers_that_filters_go_by(tmp_path):
    cases = {name: ({"jpg": JPEG, "json": told, "txt": b"x"}, out) for name, (told, out) in
             NUMBERS.items()}  # fmt: skip
    path = tar(tmp_path / "0.tar", members(cases, json=b'{"s": 5}'))
    outcomes = [each for _, outcome in cases.values() for each in (True, outcome)]
    fields = {"at_least": {"s": 1}, "rank_by": "s", "top_share": 1.0}
    with pytest.raises(DataError, match="sample 1"):
        opened("webdataset", path, **fields)
    source = opened("webdataset", path, skip=True, **fields)
    survives(source, outcomes, tmp_path / "dropped.jsonl")


def cut_shard(folder, name, share):
    path = tar(folder / f"{name}.tar", members({n: ({"jpg": JPEG, "txt": b"b"}, True) for n in
                                                range(4)}))  # fmt: skip
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * share)])


def shards(folder, share):
    for name in ("0", "2"):
        tar(folder / f"{name}.tar", members({n: ({"jpg": JPEG, "txt": b"b"}, True) for n in
                                             range(4)}))  # fmt: skip
    cut_shard(folder, "1", share)
    return folder


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.72, 0.99])
def test_a_cut_shard_costs_what_stands_behind_the_cut(tmp_path, share):
    folder = shards(tmp_path, share)
    with pytest.raises(DataError, match=r"1\.tar"):
        opened("webdataset", folder)
    source = opened("webdataset", folder, skip=True)
    assert 17 <= len(source) <= 25
    file = tmp_path / "dropped.jsonl"
    stream = loader(source, file)
    epoch(stream, len(source))
    lost = Dropped(file).read()
    assert 1 <= len(lost) <= 2  # the rest, and the sample that was cut in two
    assert all("1.tar" in line["reason"] for line in lost)
    assert any("cannot read the tar file" in line["reason"] for line in lost)
    # A filter does not hide what cannot be read.
    chosen = opened("webdataset", folder, skip=True, min_bytes=1)
    assert any("1.tar" in line["reason"] for line in dropped(chosen, tmp_path / "more.jsonl"))


def dropped(source, file):
    epoch(loader(source, file), len(source))
    return Dropped(file).read()


COLUMNS = {
    "null text": ({"image": FINE, "text": None}, "no column with text"),
    "empty text": ({"image": FINE, "text": ""}, "empty"),
    "no picture": ({"image": None, "text": "x"}, "no pair"),
    "cut picture": ({"image": FINE[:60], "text": "x"}, "damaged"),
    "html": ({"image": b"<html>", "text": "x"}, "web page"),
    "fine": ({"image": FINE, "text": "x"}, True),
}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_rows_of_parquet_and_arrow(tmp_path, ending):
    rows = [each for row, _ in COLUMNS.values() for each in ({"image": FINE, "text": "y"}, row)]
    outcomes = [each for _, outcome in COLUMNS.values() for each in (True, outcome)]
    store(tmp_path / f"data.{ending}", pa.Table.from_pylist(rows))
    survives(opened("parquet", tmp_path / f"data.{ending}"), outcomes, tmp_path / "dropped.jsonl")


def store(path, table):
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=4)
        return
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_table_that_cannot_be_read_is_one_lost_record(tmp_path, ending):
    fine = pa.Table.from_pylist([{"image": FINE, "text": f"{n}", "score": n} for n in range(9)])
    for name in "abc":
        store(tmp_path / f"{name}.{ending}", fine)
    cut = tmp_path / f"b.{ending}"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read the table"):
        opened("parquet", tmp_path)
    for fields, many in (({}, 19), ({"at_least": {"score": 3}}, 13)):
        source = opened("parquet", tmp_path, skip=True, **fields)
        file = tmp_path / f"{many}.jsonl"
        lost = dropped(source, file)
        assert len(source) == many and len(lost) == 1
        assert "cannot read the table" in lost[0]["reason"] and f"b.{ending}" in lost[0]["reason"]


def test_a_damaged_row_group_is_lost_and_no_other(tmp_path):
    rows = [{"image": FINE, "text": f"{n}" * 50} for n in range(12)]
    path = tmp_path / "data.parquet"
    store(path, pa.Table.from_pylist(rows))
    begin = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 12] = b"\xff" * 12
    path.write_bytes(content)
    source = opened("parquet", path)
    survives(source, [True] * 4 + ["cannot read the table"] * 4 + [True] * 4, tmp_path / "d.jsonl")


def test_a_run_that_skips_opens_damaged_files_and_one_that_does_not_refuses(tmp_path):
    from lucida.core.spec import MixtureSpec
    from lucida.data.stage import open_mixtures

    folder = shards(tmp_path, 0.3)
    spec = {"sources": {"web": {"kind": "webdataset", "path": str(folder)}}}
    with pytest.raises(DataError, match=r"1\.tar"):
        open_mixtures(MixtureSpec.model_validate(spec), 0, None)
    stream, _ = open_mixtures(MixtureSpec.model_validate(spec | {"on_error": "skip"}), 0, None)
    assert len(stream) > 15
