"""What a file holds and a sample would lack is counted or refused."""

import base64
import io
import json
import os
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_files import opened, png, tar

from lucida.core.errors import DataError
from lucida.data.mixture import fetch
from lucida.data.sources.questions import BLIND
from lucida.data.sources.rows import LOW_TURNS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_pictures_of_a_table_are_never_left_out_silently(folder):
    row = {"question": "Colour?", "answers": [{"answer": "red"}, {"answer": "blue"}] * 2}
    row["answers"].append({"answer": "red"})

    def read(**more):
        pq.write_table(pa.Table.from_pylist([row | more]), folder / "rows.parquet")
        return opened("parquet", folder / "rows.parquet")[0]

    assert read().images == () and read(embedding=b"1234").images == ()
    assert read(image=None).images == ()
    sample = read(images=None, image={"bytes": png("red")})
    assert len(sample.images) == 1 and sample.branches[0][-1].parts == ("red",)
    for cell in (png("red"), {"bytes": png("red")}, [png("red")]):
        with pytest.raises(DataError, match=r"column that is not read .* got `img`"):
            read(img=cell)


def test_questions_and_answers_that_do_not_belong_together(folder):
    asked = [{"question_id": n, "image_id": 7, "question": "Colour?"} for n in (1, 2)]
    (folder / "questions.json").write_text(json.dumps({"questions": asked}))
    fields = {"images": str(folder), "layout": "vqav2", "questions": str(folder / "questions.json")}
    path = folder / "answers.json"
    for numbers, dropped in (((1, 2), {}), ((1, 2, 3, 4), {"answers without a question": 2})):
        said = [{"question_id": n, "multiple_choice_answer": "red"} for n in numbers]
        path.write_text(json.dumps({"annotations": said}))
        source = opened("annotations", path, **fields)
        assert (len(source), source.dropped) == (2, dropped)
    path.write_text(json.dumps({"annotations": said[:1]}))
    with pytest.raises(DataError, match="question 2 has no answer"):
        opened("annotations", path, **fields)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n"
NO_TEXTS = {
    "LFS": (POINTER, "Git LFS pointer"),
    "packed": (b"\x1f\x8b\x08\0\0", "compressed"),
    **{name: ("A kite.\n".encode(name), "not UTF-8 .UTF-16 or UTF-32")
       for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")},
    "latin-1": (b"caf\xe9", "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_TEXTS)
def test_a_file_that_is_no_text_is_no_document_and_no_caption(folder, name):
    content, words = NO_TEXTS[name]
    (folder / "in").mkdir()
    (folder / "in" / "a.png").write_bytes(png())
    (folder / "in" / "a.txt").write_bytes(content)
    tar(folder / "0.tar", {"a.png": png(), "a.txt": content})
    for kind, path, more in (
        ("folder", folder / "in", {}),
        ("webdataset", folder / "0.tar", {}),
        ("text", folder / "in" / "a.txt", {"documents": "file"}),
        ("text", folder / "in" / "a.txt", {}),
    ):
        with pytest.raises(DataError, match=rf"(a\.txt|0\.tar).*{words}"):
            opened(kind, path, **more)[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_text_beside_a_picture_is_a_file_of_the_folder(folder):
    (folder / "out.txt").write_text("secret")
    (folder / "in").mkdir()
    for name in "ab":
        (folder / "in" / f"{name}.png").write_bytes(png())
    (folder / "in" / "a.txt").symlink_to(folder / "out.txt")
    os.mkfifo(folder / "in" / "b.txt")
    source = opened("folder", folder / "in")
    with pytest.raises(DataError, match="leaves the image folder"):
        source[0]
    with pytest.raises(DataError, match="it is no file"):  # and is not waited for
        source[1]
    allowed = opened("folder", folder / "in", allow_outside=True)
    assert allowed[0].branches[0][0].parts[-1] == "secret"


def saved(kind):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(file, kind)
    return file.getvalue()


def table(folder, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "rows.parquet")
    return folder / "rows.parquet"


def lines(folder, *records):
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return folder / "rows.jsonl"


def test_every_format_and_form_of_a_picture_in_another_column_is_met(folder):
    encoded = base64.b64encode(png()).decode()
    kinds = [saved(kind) for kind in ("BMP", "WEBP", "AVIF", "TIFF", "PPM", "GIF")]
    for cell in (*kinds, encoded, encoded.encode(), [None, png()], [{"bytes": png()}]):
        with pytest.raises(DataError, match="column that is not read"):
            opened("parquet", table(folder, {"question": "q", "answer": "a", "seen": cell}))[0]
    sound = {"question": "q", "answer": "a", "sound": b"RIFF\x24\0\0\0WAVEfmt "}
    assert opened("parquet", table(folder, sound))[0].images == ()


def test_a_list_of_pictures_has_no_holes(folder):
    (folder / "a.png").write_bytes(png())
    asked = {"question": "Alike?", "answer": "no"}
    for kind, make, image in (("parquet", table, png()), ("questions", lines, "a.png")):
        for held in ([image, None, image], [None, image]):
            with pytest.raises(DataError, match="list of pictures with empty places"):
                opened(kind, make(folder, asked | {"images": held}))[0]
        for held in ([None], []):
            # The first row tells parquet the type of the column.
            rows = (asked | {"images": [image]}, asked | {"images": held})
            sample, told = fetch(opened(kind, make(folder, *rows)), 1)
            assert (sample.images, dict(told)) == ((), {BLIND: 1})
    with pytest.raises(DataError, match="zero bytes"):
        opened("parquet", table(folder, asked | {"image": b""}))[0].images[0].load()


def test_ratings_of_a_table_that_are_no_plain_numbers(folder):
    pair = {"image": png(), "text": "A kite."}

    def rate(*values):
        path = table(folder, *(pair | {"score": value} for value in values))
        source = opened("parquet", path, at_least={"score": 3})
        return len(source), source.dropped

    assert rate("5", "2", None, "") == (1, {"score below 3": 3})
    assert rate(Decimal("5.5"), Decimal("2.5")) == (1, {"score below 3": 1})
    assert rate("good", "4") == (1, {"score is no number": 1})
    assert rate(True) == (0, {"score is no number": 1})
    assert rate(float("inf"), float("nan")) == (1, {"score below 3": 1})


def test_turns_are_left_out_by_a_rating_each_and_told(folder):
    texts = [{"user": f"{n}?", "assistant": f"{n}."} for n in range(3)]

    def read(**row):
        return fetch(opened("parquet", table(folder, row), at_least={"score": 3}), 0)

    sample, told = read(texts=texts, score=[5, 1, 4])
    assert [turn.parts for turn in sample.branches[0]] == [("0?",), ("0.",), ("2?",), ("2.",)]
    assert told == {LOW_TURNS: 1}
    for wrong in ([5, 1], [5, 5, 5, 5]):
        with pytest.raises(DataError, match=f"not rate each turn .* 3 numbers, got {len(wrong)}"):
            read(texts=texts, score=wrong)
    with pytest.raises(DataError, match="turns are rated"):
        read(question="q", answer="a", score=[1, 5])


def test_two_columns_of_one_name_are_refused(folder):
    made = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(made, folder / "rows.parquet")
    with pa.ipc.new_file(folder / "rows.arrow", made.schema) as writer:
        writer.write_table(made)
    for name in ("rows.parquet", "rows.arrow"):
        with pytest.raises(DataError, match="two columns of one name"):
            opened("parquet", folder / name)
        with pytest.raises(DataError, match="two columns of one name"):
            opened("parquet", folder / name, skip=True)[0]


def test_a_cell_that_is_a_list_is_read_as_one_or_refused(folder):
    (folder / "a.png").write_bytes(png())

    def read(cell):
        quoted = cell.replace('"', '""')
        (folder / "rows.csv").write_text(f'image,question,answers\na.png,q,"{quoted}"\n')
        return opened("questions", folder / "rows.csv")[0].branches[0][-1].parts

    assert read('["a", "b", "b"]') == read('[ "a", "b", "b"]') == ("b",)
    assert read("[1, 2] is an interval") == ("[1, 2] is an interval",)
    with pytest.raises(DataError, match="holds a JSON list"):
        read("['a', 'b']")
    with pytest.raises(DataError, match="has no answer"):
        read("[]")


def test_zero_is_something_to_ask_about(folder):
    said = {"instruction": "Double it.", "input": 0, "output": "0"}
    for kind in ("text", "questions"):
        with pytest.raises(DataError, match="bad `input`"):
            opened(kind, lines(folder, said | {"image": ""}))[0]


def test_a_part_is_a_text_or_a_picture(folder):
    (folder / "a.png").write_bytes(png())
    shown = {"type": "image", "image": "a.png"}
    for part in (shown | {"text": "lost"}, {"type": "text", "text": "What?", "image": "a.png"}):
        said = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "x"}]
        with pytest.raises(DataError, match="one part with a text and a picture"):
            opened("messages", lines(folder, {"messages": said}))[0]


def test_records_and_captions_without_a_key_do_not_match(folder):
    for name in "ab":
        (folder / f"{name}.png").write_bytes(png())
    talk = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A pirate."}]
    shown = [{"from": "human", "value": "<image>Who?"}, {"from": "gpt", "value": "A kite."}]
    path = lines(
        folder,
        {"id": None, "conversations": talk},
        {"id": 7, "image": "a.png", "conversations": shown},
    )
    more = folder / "more.jsonl"
    for by, none, key in (("name", "", "a.png"), ("id", None, 7)):
        new = [{"key": none, "caption": "wrong"}, {"key": key, "caption": "right"}]
        more.write_text("".join(json.dumps(each) + "\n" for each in new))
        captions = {"path": str(more), "by": by, "key": "key", "missing": "keep"}
        source = opened("llava", path, captions=captions)
        said = [source[number].branches[0][-1].parts[0] for number in range(2)]
        assert said == ["A pirate.", "right"]


def annotated(folder, layout, value, **fields):
    (folder / "said.json").write_text(json.dumps(value))
    return opened("annotations", folder / "said.json", layout=layout, images=str(folder), **fields)


def test_annotations_that_would_be_read_as_others(folder):
    one = {"image_id": "a", "question": "Which?", "answers": ["red", "red"]}
    with pytest.raises(DataError, match="expected a list of answers"):  # not the letter e
        annotated(folder, "textvqa", {"data": [one | {"answers": "deer"}]})
    with pytest.raises(DataError, match="names one picture for all"):
        annotated(folder, "textvqa", {"data": [one]}, pattern="a.png")
    (folder / "a.png").write_bytes(png())
    source = annotated(folder, "textvqa", {"data": [one | {"question": " "}]}, pattern="{}.png")
    with pytest.raises(DataError, match="the question is empty"):
        source[0]
    asked = [{"question_id": 1, "image_id": n, "question": "Which?"} for n in (1, 2)]
    (folder / "asked.json").write_text(json.dumps({"questions": asked}))
    said = {"annotations": [{"question_id": 1, "multiple_choice_answer": "red"}]}
    with pytest.raises(DataError, match="two questions of one id"):
        annotated(folder, "vqav2", said, questions=str(folder / "asked.json"))
    images = [{"filename": f"{n}.png", "split": "train", "sentences": []} for n in range(2)]
    images[0]["sentences"] = [{"raw": "A kite."}]
    source = annotated(folder, "flickr30k", {"images": images})
    assert source.noted == {"images without a caption": 1}


def test_boxes_in_another_unit_are_refused(folder):
    (folder / "a.png").write_bytes(png(size=(60, 40)))

    def read(box, **more):
        row = {"sent": "a kite", "image": "a.png", "bbox": box} | more
        fields = {"layout": "refcoco", "images": str(folder)}
        return opened("annotations", lines(folder, row), **fields)[0]

    size = {"width": 60, "height": 40}
    assert read([10, 10, 60.4, 40], **size) and read([0, 0, 1, 1]) and read([0.5, 0.5, 40, 30])
    for box in ([0.1, 0.2, 0.5, 0.6], [0, 0, 1, 0.5]):
        with pytest.raises(DataError, match="in pixels and not in shares"):
            read(box)
    with pytest.raises(DataError, match="pixels of a picture of 60 x 40"):
        read([100, 200, 500, 600], **size)
    with pytest.raises(DataError, match="two keys that mean the same"):
        read([0, 0, 9, 9], phrase="the other one")


def test_what_a_folder_of_tables_holds_beside_them_is_noted(folder):
    (folder / "in").mkdir()
    table(folder, {"image": png(), "question": "q", "answer": "a", "score": 5})
    (folder / "rows.parquet").rename(folder / "in" / "a.parquet")
    (folder / "in" / "b.csv").write_text("image,question,answer\n")
    (folder / "in" / "c.png").write_bytes(png())  # records may name it
    for more in ({}, {"at_least": {"score": 3}}):
        source = opened("questions", folder / "in", **more)
        assert source.noted == {"files that are not read (.csv)": 1}


def test_names_of_columns_are_for_files_without_any(folder):
    made = {"image": "a.png", "text": "A kite."}
    for path in (lines(folder, made), table(folder, made)):
        with pytest.raises(DataError, match="a CSV or TSV alone"):
            opened("pairs", path, columns=["image", "text"])


@pytest.mark.parametrize("kind", ["text", "pairs", "questions"])
def test_lines_that_end_in_carriage_returns_alone_are_refused(folder, kind):
    name = "a.txt" if kind == "text" else "a.csv"
    (folder / "a.png").write_bytes(png())
    rows = [b"image,text,question,answer", b"a.png,A kite.,What?,a kite", b"a.png,B.,What?,b"]
    for end, refused in ((b"\n", False), (b"\r\n", False), (b"\r", True)):
        for last in (end, b""):
            (folder / name).write_bytes(end.join(rows) + last)
            if refused:
                with pytest.raises(DataError, match="end in carriage returns alone"):
                    opened(kind, folder / name)
            else:
                assert len(opened(kind, folder / name)) == 3 - (kind != "text")
    (folder / "one.txt").write_bytes(b"one line\r")
    assert opened("text", folder / "one.txt")[0].branches[0][0].parts == ("one line",)


def test_a_part_with_two_pictures_is_refused(folder):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png())

    def read(**more):
        part = {"type": "image", "image": "a.png"} | more
        spoken = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A."}]
        return opened("messages", lines(folder, {"messages": spoken}))[0]

    assert len(read().images) == len(read(url="a.png").images) == len(read(path=None).images) == 1
    for more in ({"url": "b.png"}, {"image_url": {"url": "b.png"}}, {"path": "b.png"}):
        with pytest.raises(DataError, match=r"record 0.*a part with two pictures"):
            read(**more)
