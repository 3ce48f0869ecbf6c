"""Base64 as people write it, through every reader that takes pictures from records."""

import base64
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lucida.core.errors import DataError
from lucida.data.images import open_image
from lucida.data.sources.interleaved import InterleavedSource
from lucida.data.sources.llava import LlavaSource
from lucida.data.sources.messages import MessagesSource
from lucida.data.sources.parquet import ParquetSource
from lucida.eval.benchmarks.annotations import Record, embedded_picture

stream = io.BytesIO()
Image.effect_noise((16, 12), 50).save(stream, "PNG")
PNG = stream.getvalue()
PLAIN = base64.b64encode(PNG).decode()
WRAPPED = base64.encodebytes(PNG).decode()
ADDRESSED = base64.urlsafe_b64encode(PNG).decode().rstrip("=")
WRITTEN = (PLAIN, WRAPPED, ADDRESSED, f"data:image/png;base64,{WRAPPED}")


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def shown(source, count):
    samples = [source[number] for number in range(count)]
    return [image.load().tobytes() for sample in samples for image in sample.images]


def test_messages(tmp_path):
    def record(part):
        content = [part, {"type": "text", "text": "what?"}]
        said = [{"role": "user", "content": content}, {"role": "assistant", "content": "noise"}]
        return {"messages": said}

    parts = [{"type": "image_url", "image_url": {"url": text}} for text in WRITTEN]
    parts += [{"type": "image", "image": text} for text in WRITTEN]
    parts += [{"type": "image", "base64": text} for text in WRITTEN]
    source = MessagesSource(path=lines(tmp_path / "a.jsonl", *map(record, parts)))
    assert shown(source, 12) == [open_image(PNG).tobytes()] * 12


def test_llava(tmp_path):
    said = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "noise"}]
    records = [{"image": text, "conversations": said} for text in WRITTEN]
    source = LlavaSource(path=lines(tmp_path / "a.jsonl", *records), images=str(tmp_path))
    assert shown(source, 4) == [open_image(PNG).tobytes()] * 4


def test_tables(tmp_path):
    for name, values in (("text", list(WRITTEN)), ("bytes", [t.encode() for t in WRITTEN])):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": values, "text": ["noise"] * 4}), path)
        assert shown(ParquetSource(str(path)), 4) == [open_image(PNG).tobytes()] * 4


def test_pages(tmp_path):
    infos = [{"matched_text_index": 0, "image_base64": text} for text in WRITTEN]
    pages = [{"text_list": ["A page."], "image_info": [info]} for info in infos]
    source = InterleavedSource(lines(tmp_path / "a.jsonl", *pages), min_bytes=len(PNG))
    assert shown(source, 4) == [open_image(PNG).tobytes()] * 4


def test_benchmarks():
    record = Record("1", {}, "file.tsv: row 1")
    for text in WRITTEN:
        source = embedded_picture(text, record)
        assert source.load().tobytes() == open_image(PNG).tobytes()
        assert source.key == embedded_picture(PLAIN, record).key
    with pytest.raises(DataError, match="row 1: bad base64"):
        embedded_picture("%%", record)
