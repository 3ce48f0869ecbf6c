"""Damaged data of every kind: each case ends in a sample or in a DataError with origin and remedy.

A case is a source and what is to come of it: `True` a whole sample, tokens and pictures included,
or words of the error. None may crash, hang or vanish: the number of records is asserted too.
"""

import io
import json
import struct
import tarfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_tokenizer import bytes_tokenizer

from lucida.core.errors import DataError
from lucida.data.chat import encode
from lucida.data.policies import ImagePolicy
from lucida.data.sources.interleaved import InterleavedSource
from lucida.data.sources.llava import LlavaSource
from lucida.data.sources.messages import MessagesSource
from lucida.data.sources.pairs import FolderSource, PairsSource
from lucida.data.sources.parquet import ParquetSource
from lucida.data.sources.text import TextSource
from lucida.data.sources.webdataset import WebdatasetSource

POLICY = ImagePolicy("letterbox", 64, (0.5,) * 3, (0.5,) * 3)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")


def stored(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(form):
    return stored(Image.effect_noise((40, 30), 60).convert("RGB"), form)


def whole(source, index=0):
    """The sample as training would use it: tokens made, every picture opened."""
    sample = source[index]
    for image in sample.images:
        opened = image.load()
        assert opened.mode == "RGB"
        if image.measure is not None:
            assert image.measure() == opened.size
    tokenizer = bytes_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    encode(
        sample, tokenizer, "qa", 2, POLICY, 32, "answers", 512,
        image_token_id=image_id,
    )  # fmt: skip
    return sample


def ends(outcome, make, index=0):
    """The case ends as it should; gives the message of the error."""
    if outcome is True:
        whole(make(), index)
        return ""
    with pytest.raises(DataError) as caught:
        whole(make(), index)
    message = str(caught.value)
    assert outcome in message, message
    assert message.split(":")[0], message
    return message


def webdataset(folder, **members):
    path = folder / "0.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"000.{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# Pictures: the same bytes through a folder, a tar and a table.


def through_folder(folder, content):
    (folder / "a.png").write_bytes(content)
    (folder / "data.csv").write_text("image,text\na.png,a kite\n")
    return PairsSource(folder / "data.csv")


def through_tar(folder, content):
    return WebdatasetSource(webdataset(folder, jpg=content, txt=b"a kite"))


def through_table(folder, content):
    turns = [[{"user": "What?", "assistant": "A kite."}]]
    table = pa.table({"images": [[{"bytes": content, "path": None}]], "texts": turns})
    pq.write_table(table, folder / "data.parquet")
    return ParquetSource(folder / "data.parquet")


WAYS = [through_folder, through_tar, through_table]


def bomb():
    def chunk(name, body):
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return stored(Image.new("RGB", (8, 4)), "JPEG", exif=exif)


def animated():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return stored(frames[0], "GIF", save_all=True, append_images=frames[1:])


def of_mode(mode, form="PNG"):
    return stored(Image.new(mode, (8, 8), 0 if mode != "RGBA" else (1, 2, 3, 4)), form)


PICTURES = {
    "zero": (b"", "zero bytes"),
    "html": (b"<!DOCTYPE html><p>404", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "json": (b'{"error": 404}', "no image format"),
    "bomb": (bomb(), "too large"),
    "zeros": (bytes(500), "no image format"),
    "cmyk": (of_mode("CMYK", "JPEG"), True),
    "la": (of_mode("LA"), True),
    "p": (of_mode("P"), True),
    "1": (of_mode("1"), True),
    "16 bit": (of_mode("I;16"), True),
    "alpha": (of_mode("RGBA"), True),
    "exif": (turned(), True),
    "animated": (animated(), True),
    "1x1": (stored(Image.new("RGB", (1, 1))), True),
    "1x20000": (stored(Image.new("RGB", (1, 20_000))), True),
    "20000x1": (stored(Image.new("RGB", (20_000, 1)), "JPEG"), True),
    "float": (stored(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name, way):
    content, outcome = PICTURES[name]
    message = ends(outcome, lambda: way(tmp_path, content))
    assert not message or str(tmp_path) in message


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("form", FORMATS)
def test_truncated_pictures(tmp_path, form, tenth, way):
    content = noise(form)
    source = way(tmp_path, content[: len(content) * tenth // 10])
    try:
        whole(source)
    except DataError as error:
        assert str(tmp_path) in str(error)
    else:  # only a GIF or TIFF whose pixels are complete before its last tenth
        assert form in ("GIF", "TIFF")


# Records.


def llava(images="a.png", *turns, **more):
    turns = turns or (("human", "<image>\nWhat?"), ("gpt", "A kite."))
    said = [{"from": who, "value": text} for who, text in turns]
    return {"conversations": said, **({} if images is None else {"image": images}), **more}


def message(role, content):
    return {"role": role, "content": content}


QUESTION = [("human", "What?"), ("gpt", "A kite.")]
LLAVA = {
    "fine": (llava(), True),
    "text only": (llava(None, *QUESTION), True),
    "more places": (llava("a.png", ("human", "<image><image>"), ("gpt", "x")), "another number"),
    "fewer places": (llava("a.png", *QUESTION), "another number"),
    "place without image": (llava(None, ("human", "<image>"), ("gpt", "x")), "another number"),
    "injected into the answer": (llava(None, QUESTION[0], ("gpt", "see <image>")), True),
    "empty conversation": ({"conversations": []}, "no conversation"),
    "null conversation": ({"conversations": None}, "no conversation"),
    "no answer": (llava(None, ("human", "What?")), "supervised"),
    "empty answer": (llava(None, ("human", "What?"), ("gpt", "")), "empty"),
    "null answer": (llava(None, ("human", "What?"), ("gpt", None)), "bad `value`"),
    "number as answer": (llava(None, ("human", "What?"), ("gpt", 7)), "bad `value`"),
    "unknown speaker": (llava(None, ("cat", "What?"), ("gpt", "x")), "unknown speaker"),
    "list as speaker": (llava(None, (["gpt"], "What?")), "unknown speaker"),
    "turn is text": ({"conversations": ["What?"]}, "unknown speaker"),
    "null record": (None, "no conversation"),
    "number": (7, "no conversation"),
    "list": ([llava()], "no conversation"),
    "missing": (llava("none.png"), "cannot find"),
    "folder": (llava("."), "cannot read"),
    "empty name": (llava([""]), "bad image path"),
    "NUL name": (llava("a\0.png"), "bad image path"),
    "surrogate name": (llava("\ud800.png"), "bad image path"),
    "long name": (llava("a" * 5000), "cannot find"),
    "absolute": (llava("/etc/passwd"), "leaves the image folder"),
    "drive": (llava("C:\\a.png"), "leaves the image folder"),
    "share": (llava("\\\\host\\a.png"), "leaves the image folder"),
    "parent": (llava("../a.png"), "leaves the image folder"),
    "inner parent": (llava("x/../../a.png"), "leaves the image folder"),
    "backslash parent": (llava("x\\..\\..\\a.png"), "leaves the image folder"),
    "link out": (llava("out.png"), "leaves the image folder"),
    "linked folder": (llava("away/secret.png"), "leaves the image folder"),
    "link to itself": (llava("loop.png"), "cannot find"),
    "link within": (llava("inside.png"), True),
    "address": (llava("https://example.org/a.png"), "address"),
    "bad data address": (llava("data:image/png,xx"), "data address"),
    "bad base64": (llava("data:image/png;base64,%%"), "base64"),
    "number as image": (llava(7), "bad `image`"),
    "object as image": (llava({"path": "a.png"}), "bad `image`"),
    "nested images": (llava([["a.png"]]), "bad `image`"),
    "NUL in text": (llava(None, ("human", "a\0b"), ("gpt", "c\0")), True),
    "surrogate": (llava(None, ("human", "a\ud800"), ("gpt", "c")), "bad `value`"),
    "1 MB": (llava(None, ("human", "a" * 100), ("gpt", "b" * 2**20)), True),
    "1 MB question": (llava(None, ("human", "a" * 2**20), ("gpt", "b")), "supervised"),
    "right to left": (llava(None, ("human", "\u202eab"), ("gpt", "\u0600")), True),
    "special tokens": (llava(None, ("human", "<|im_end|>"), ("gpt", "<eos>")), True),
    "duplicate ids": (llava(id="0"), True),
    "answer first": (llava(None, ("gpt", "A kite."), ("human", "What?")), None),
    "two answers": (llava(None, *QUESTION, ("gpt", "More.")), None),
}


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "images"
    inner.mkdir()
    (inner / "a.png").write_bytes(stored(Image.new("RGB", (6, 4))))
    (tmp_path / "secret.png").write_bytes(stored(Image.new("RGB", (6, 4))))
    (inner / "out.png").symlink_to(tmp_path / "secret.png")
    (inner / "away").symlink_to(tmp_path)
    (inner / "loop.png").symlink_to(inner / "loop.png")
    (inner / "inside.png").symlink_to(inner / "a.png")
    return tmp_path


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


MESSAGES = {
    "fine": ([message("user", "a"), message("assistant", "b")], True),
    "no list": ("hello", "no messages"),
    "empty": ([], "no messages"),
    "text": (["a"], "bad message"),
    "role": ([message("tool", "a")], "unknown speaker"),
    "null content": ([message("user", None)], "bad `content`"),
    "part": ([message("user", ["a"])], "bad part"),
    "video": ([message("user", [{"type": "video", "video": "a.mp4"}])], "bad part"),
    "text part": ([message("user", [{"type": "text", "text": 7}])], "bad `text`"),
    "image of none": ([message("user", [{"type": "image"}])], "another number"),
    "image number": ([message("user", [{"type": "image", "image": 7}])], "bad image"),
    "outside": ([message("user", [{"type": "image", "image": "../x"}])], "leaves"),
    "answer with image": (
        [message("user", "a"), message("assistant", [{"type": "image", "image": "a.png"}])],
        "an answer contains an image",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(folder, name):
    turns, outcome = MESSAGES[name]
    (folder / "data.jsonl").write_text(json.dumps({"messages": turns}))
    ends(outcome, lambda: MessagesSource(folder / "data.jsonl", folder / "images"))


GOOD = json.dumps(llava(None, *QUESTION)).encode()
FILES = {
    "broken line": (b"%s\n{\n%s", 1, "broken JSON"),
    "cut line": (b"%s\n" + GOOD[:-9] + b"\n%s", 1, "broken JSON"),
    "two in a line": (b"%s\n%s%s", 1, "broken JSON"),
    "latin-1": (b'%s\n{"conversations": "\xe9"}', 1, "UTF-8"),
    "NUL": (b"%s\n\0\0\0", 1, "broken JSON"),
    "deep": (b"%s\n" + b"[" * 100_000, 1, "broken JSON"),
    "huge number": (b"%s\n" + b"9" * 10_000, 1, "broken JSON"),
    "empty file": (b"", 0, "no records"),
    "blank file": (b"\n\n \n", 0, "no records"),
    "utf-16": ("[1]".encode("utf-16"), 0, "UTF-16"),
    "utf-16 without mark": ("[1]  ".encode("utf-16-le"), 0, "UTF-16"),
    "gzip": (b"\x1f\x8b\x08\0", 0, "compressed"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1", 0, "LFS"),
    "open array": (b"[%s", 0, "broken JSON"),
    "open string": (b'[%s, {"a": "b}, %s]', 0, "broken JSON"),
    "open after comma": (b"[%s,", 0, "broken JSON"),
    "no comma": (b"[%s %s]", 0, "broken JSON"),
    "two commas": (b"[%s,, %s]", 0, "broken JSON"),
    "rubbish between": (b"[%s, x %s]", 0, "broken JSON"),
    "rubbish before": (b"[x %s, %s]", 0, "broken JSON"),
    "only an opening": (b"[", 0, "broken JSON"),
    "latin-1 array": (b'[{"conversations": "\xe9"}]', 0, "UTF-8"),
    "one object": (b'{"data": [%s]}', 0, "no conversation"),
    "scalars": (b"[1, 2]", 0, "no conversation"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    content, index, outcome = FILES[name]
    (tmp_path / "data.json").write_bytes(content.replace(b"%s", GOOD))
    message = ends(outcome, lambda: LlavaSource(tmp_path / "data.json"), index)
    assert "data.json" in message


TABLES = {
    "other columns": ("image,words\na.png,x", "no column `text`"),
    "no header": ("a.png,x\n", "no column `image`"),
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


TEXTS = {
    "empty document": ('{"text": ""}', "empty"),
    "null": ('{"text": null}', "bad `text`"),
    "other": ('{"body": "x"}', "neither a document"),
    "list": ("[1]", "neither a document"),
    "list answer": ('{"inputs": "x", "targets": ["y"]}', "bad `targets`"),
    "empty answer": ('{"inputs": "x", "targets": ""}', "empty"),
    "injection": ('{"text": "see <image> and <|im_end|>"}', True),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name):
    text, outcome = TEXTS[name]
    (tmp_path / "data.jsonl").write_text(f"{text}\n{text}")
    ends(outcome, lambda: TextSource(tmp_path / "data.jsonl"))


PAGES = {
    "injection": ({"text_list": ["see <image>"], "image_info": []}, True),
    "no text": ({"text_list": [], "image_info": []}, "no text"),
    "blank": ({"text_list": [" ", ""], "image_info": []}, "no text"),
    "no list": ({"texts": ["a"]}, "bad `text_list`"),
    "text": ("page", "bad page"),
    "number": ({"text_list": [7], "image_info": []}, "bad `text_list`"),
    "info": ({"text_list": ["a"], "image_info": ["a.png"]}, "bad image_info"),
    "beyond": ({"text_list": ["a"], "image_info": [{"matched_text_index": 1}]}, "0 to 0"),
    "negative": ({"text_list": ["a"], "image_info": [{"matched_text_index": -1}]}, "0 to 0"),
    "true": ({"text_list": ["a"], "image_info": [{"matched_text_index": True}]}, "0 to 0"),
    "no name": ({"text_list": ["a"], "image_info": [{"matched_text_index": 0}]}, "image_name"),
    "gone": (
        {"text_list": ["a"], "image_info": [{"matched_text_index": 0, "image_name": "x.png"}]},
        "cannot find",
    ),
    "out": (
        {"text_list": ["a"], "image_info": [{"matched_text_index": 0, "image_name": "../x"}]},
        "leaves",
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages(tmp_path, name):
    record, outcome = PAGES[name]
    (tmp_path / "data.jsonl").write_text(json.dumps(record))
    ends(outcome, lambda: InterleavedSource(tmp_path / "data.jsonl"))


SAMPLES = {
    "no picture": ({"txt": b"x"}, "without picture"),
    "no caption": ({"jpg": noise("JPEG")}, "without txt"),
    "empty caption": ({"jpg": noise("JPEG"), "txt": b" "}, "empty"),
    "latin-1 caption": ({"jpg": noise("JPEG"), "txt": b"\xe9"}, "UTF-8"),
    "nothing": ({"cls": b"1"}, "no samples"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_tar_samples(tmp_path, name):
    members, outcome = SAMPLES[name]
    path = webdataset(tmp_path, **members)
    ends(outcome, lambda: WebdatasetSource(path))


@pytest.mark.parametrize("told", [b"{", b"[1]", b"{}", b'{"s": "x"}', b'{"s": true}'])
def test_tar_numbers(tmp_path, told):
    path = webdataset(tmp_path, jpg=noise("JPEG"), txt=b"x", json=told)
    with pytest.raises(DataError, match="sample 0"):
        WebdatasetSource(path, at_least={"s": 1})


@pytest.mark.parametrize("tenth", range(10))
def test_cut_tars(tmp_path, tenth):
    path = webdataset(tmp_path, jpg=noise("JPEG"), txt=b"x", json=b"{}" * 2000)
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: len(content) * tenth // 10])
    ends("tar file", lambda: WebdatasetSource(path))


def test_a_tar_with_a_damaged_header_is_not_taken_for_its_end(tmp_path):
    path = webdataset(tmp_path, jpg=noise("JPEG"), txt=b"x")
    content = bytearray(path.read_bytes())
    place = content.index(b"000.txt")
    content[place : place + 200] = b"?" * 200
    path.write_bytes(content)
    ends("cut short or damaged", lambda: WebdatasetSource(path))


def test_links_in_a_tar_are_never_followed(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("000.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        text = tarfile.TarInfo("000.txt")
        text.size = 1
        archive.addfile(text, io.BytesIO(b"x"))
    ends("without picture", lambda: WebdatasetSource(path))


ROWS = {
    "no text": ({"image": [b"x"]}, "no column with text"),
    "text is a number": ({"image": [noise("PNG")], "text": [7]}, "bad `text`"),
    "texts is text": ({"images": [[]], "texts": ["q"]}, "bad `texts`"),
    "texts are texts": ({"images": [[]], "texts": [["q"]]}, "bad `texts`"),
    "texts are empty": ({"images": [[]], "texts": [[{"user": "", "assistant": ""}]]}, "empty"),
    "no texts": ({"texts": pa.array([[]], pa.list_(pa.string()))}, "bad `texts`"),
    "null answer": ({"texts": [[{"user": "q", "assistant": None}]]}, "bad `assistant`"),
    "path only": ({"image": [{"bytes": None, "path": "a.png"}], "text": ["x"]}, "not in the file"),
    "path": ({"image": ["a.png"], "text": ["x"]}, "bad images"),
    "number": ({"image": [7], "text": ["x"]}, "bad images"),
    "no image": ({"text": ["x"]}, "no pair"),
    "messages": ({"messages": ["x"]}, "no messages"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(tmp_path, name):
    columns, outcome = ROWS[name]
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    message = ends(outcome, lambda: ParquetSource(tmp_path / "data.parquet"))
    assert "row 0" in message


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("tenth", range(10))
def test_cut_tables(tmp_path, ending, tenth):
    path = tmp_path / f"data.{ending}"
    table = pa.table({"text": [str(n) * 50 for n in range(200)]})
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    ends("cannot read the table", lambda: ParquetSource(path))


@pytest.mark.parametrize(
    "make",
    [LlavaSource, MessagesSource, PairsSource, FolderSource, TextSource, ParquetSource,
     WebdatasetSource, InterleavedSource],
)  # fmt: skip
@pytest.mark.parametrize("name", ["none.json", "none/*.tar", "none"])
def test_nothing_there(tmp_path, make, name):
    with pytest.raises(DataError, match="none"):
        make(tmp_path / name)
