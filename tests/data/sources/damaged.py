"""Damage of every kind, shared by the tests of sources and of the loader.

A case is some data and what is to come of it: `True` a whole sample, tokens and pictures included,
words of the error, or None where either is right.
"""

import io
import json
import struct
import zlib
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_files import tar
from tiny_tokenizer import bytes_tokenizer

from lucida.core.errors import DataError
from lucida.data.chat import encode
from lucida.data.policies import make_policy
from lucida.data.sources.pairs import PairsSource
from lucida.data.sources.parquet import ParquetSource
from lucida.data.sources.webdataset import WebdatasetSource

POLICY = make_policy("letterbox", 64, (0.5,) * 3, (0.5,) * 3)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")


def stored(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(form):
    return stored(Image.effect_noise((40, 30), 60).convert("RGB"), form)


def tokens(sample, counts=None):
    """The sample as training would tokenise it."""
    tokenizer = bytes_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    return encode(
        sample, tokenizer, "qa", 2, POLICY, 32, "answers", 512,
        image_token_id=image_id, counts=Counter() if counts is None else counts,
    )  # fmt: skip


def whole(source, index=0):
    """The sample as training would use it: tokens made, every picture opened."""
    sample = source[index]
    for image in sample.images:
        opened = image.load()
        assert opened.mode == "RGB"
        if image.measure is not None:
            assert image.measure() == opened.size
    tokens(sample)
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
    return tar(folder / "0.tar", {f"000.{name}": content for name, content in members.items()})


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
    "null record": (None, "no object"),
    "number": (7, "no object"),
    "list": ([llava()], "no object"),
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
    "scalars": (b"[1, 2]", 0, "no object"),
}


TEXTS = {
    "empty document": ('{"text": ""}', "empty"),
    "null": ('{"text": null}', "bad `text`"),
    "other": ('{"body": "x"}', "neither a document"),
    "list": ("[1]", "neither a document"),
    "list answer": ('{"inputs": "x", "targets": ["y"]}', "bad `targets`"),
    "empty answer": ('{"inputs": "x", "targets": ""}', "empty"),
    "injection": ('{"text": "see <image> and <|im_end|>"}', True),
}


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
