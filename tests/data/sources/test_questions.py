"""Pictures, questions and answers in rows: which columns are read, in every file format alike."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_files import opened, png

from lucida.core.errors import DataError
from lucida.data.mixture import fetch
from lucida.data.sample import ImagePart, Turn
from lucida.data.sources.questions import ANSWERS, BLIND, IMAGES, QUESTIONS

RED, BLUE = (255, 0, 0), (0, 0, 255)
ROWS = [
    {"image": "a.png", "question": "What, then?", "answer": "A kite."},
    {"image": "b.png", "question": "Two\nlines?", "answer": 'He said "no".'},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        (tmp_path / name).write_bytes(png(colour))
    return tmp_path


def write(folder, ending, rows):
    path = folder / f"data.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0], delimiter="," if ending == "csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    return path


def colours(sample):
    return [image.load().getpixel((0, 0)) for image in sample.images]


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_samples(folder, ending):
    source = opened("questions", write(folder, ending, ROWS))
    assert len(source) == 2
    for number, (row, colour) in enumerate(zip(ROWS, (RED, BLUE), strict=True)):
        sample, lost = fetch(source, number)
        assert sample.stem == (Turn("user", (ImagePart(0),)),)
        asked, said = Turn("user", (row["question"],)), Turn("assistant", (row["answer"],))
        assert sample.branches == ((asked, said),)
        assert colours(sample) == [colour]
        assert not lost
        assert source.key(number, None) == row["image"]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_csv_of_another_delimiter_is_read_by_its_header(folder, sign):
    rows = [f'"{row["image"]}"{sign}"{row["question"]}"{sign}a, b' for row in ROWS]
    path = folder / "data.csv"
    path.write_text("\ufeff" + "\r\n".join([sign.join(ROWS[0]), *rows]), encoding="utf-8")
    source = opened("questions", path)
    asked = [source[number].branches[0] for number in range(len(source))]
    assert asked == [
        (Turn("user", (row["question"],)), Turn("assistant", ("a, b",))) for row in ROWS
    ]


def test_a_semicolon_beside_a_comma_is_text(folder):
    row = {"image": "a.png", "question": "what?", "answer": "a; b", "id;of": "1;2"}
    source = opened("questions", write(folder, "csv", [row]))
    assert source[0].branches[0][1].parts == ("a; b",)


def test_tables_of_two_delimiters_are_no_source(folder):
    for name, sign in (("one", ","), ("two", ";")):
        rows = [sign.join(ROWS[0]), sign.join(["a.png", "what?", "red"])]
        (folder / f"{name}.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"two\.csv: tables of different delimiters.*',', got ';'"):
        opened("questions", folder / "*.csv")


def test_a_header_without_rows_is_no_data(folder):
    path = folder / "data.csv"
    path.write_text("image,question,answer\n")
    with pytest.raises(DataError, match=r"data\.csv: the table has a header and no rows.*'answer'"):
        opened("questions", path)


def test_an_answer_that_is_null_is_not_looked_for_under_its_own_name(folder):
    row = {"image": "a.png", "question": "what?", "answer": None}
    with pytest.raises(DataError, match=r"this row has no answer.*; `answer` is empty; fill it in"):
        opened("questions", write(folder, "jsonl", [row]))[0]


@pytest.mark.parametrize("image", IMAGES)
def test_aliases_of_the_picture(folder, image):
    row = {image: "b.png", "question": "a", "answer": "b", "category": "x", "id": 3}
    sample, lost = fetch(opened("questions", write(folder, "jsonl", [row])), 0)
    assert (colours(sample), lost) == ([BLUE], {})


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_aliases_of_question_and_answer(folder, question, answer):
    row = {"image": "b.png", question: "a", answer: "b"}
    sample, lost = fetch(opened("questions", write(folder, "jsonl", [row])), 0)
    assert [turn.parts for turn in sample.branches[0]] == [("a",), ("b",)]
    assert not lost


def test_named_columns_and_those_that_are_not_read(folder):
    row = {"pic": "a.png", "q": "?", "a": "!", "question": "no", "note": "x"}
    path = write(folder, "csv", [row])
    source = opened("questions", path, image="pic", question="q", answer="a")
    sample, lost = fetch(source, 0)
    assert [turn.parts for turn in sample.branches[0]] == [("?",), ("!",)]
    assert set(lost) == {"key `note` is not read", "key `question` is not read"}
    with pytest.raises(DataError, match="no column with the picture"):
        opened("questions", path)
    with pytest.raises(DataError, match=r"no column with the answer.*expected ans"):
        opened("questions", path, image="pic", answer="ans")


def test_the_second_of_two_answers_is_told(folder):
    row = {"image": "a.png", "question": "?", "answer": "kite", "answers": ["kite", "bird"]}
    _, lost = fetch(opened("questions", write(folder, "jsonl", [row])), 0)
    assert lost == {"key `answers` is not read": 1}


def test_several_answers_and_numbers(folder):
    rows = [
        {"image": "a.png", "question": "?", "answers": ["bird", "kite", "kite"]},
        {"image": "a.png", "question": "?", "answers": [{"answer": "kite"}]},
        {"image": "a.png", "question": "?", "answer": 0},
        {"image": "a.png", "question": "?", "answer": 0.5},
        {"image": "a.png", "question": "?", "answer": True},
    ]
    source = opened("questions", write(folder, "jsonl", rows))
    said = [source[number].branches[0][1].parts[0] for number in range(3)]
    assert said == ["kite", "kite", "0"]
    for number in (3, 4):
        with pytest.raises(DataError, match=rf"data\.jsonl: record {number} .*a whole number"):
            source[number]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_several_pictures(folder, ending):
    listed = ["a.png", "b.png"] if ending != "csv" else '["a.png", "b.png"]'
    row = {"images": listed, "question": "Is <image> like <image>?", "answer": "No."}
    sample = opened("questions", write(folder, ending, [row]))[0]
    assert colours(sample) == [RED, BLUE]
    parts = ("Is ", ImagePart(0), " like ", ImagePart(1), "?")
    assert sample.branches[0][0].parts == parts
    row = {"image_2": "b.png", "image_1": "a.png", "image_3": "", "question": "?", "answer": "x"}
    sample, lost = fetch(opened("questions", write(folder, ending, [row])), 0)
    assert colours(sample) == [RED, BLUE]
    assert sample.stem == (Turn("user", (ImagePart(0), ImagePart(1))),)
    assert not lost


def test_pictures_in_the_rows_themselves(folder):
    row = {"image": {"bytes": png("blue"), "path": "gone.png"}, "question": "?", "answer": "x"}
    assert colours(opened("questions", write(folder, "parquet", [row]))[0]) == [BLUE]


def test_an_instruction_and_what_it_is_about(folder):
    row = {"instruction": "Translate.", "input": "Drachen", "output": "kite", "image": "a.png"}
    sample, lost = fetch(opened("questions", write(folder, "jsonl", [row])), 0)
    assert sample.branches[0][0].parts == ("Translate.\n\nDrachen",)
    assert not lost


def test_wordings(folder):
    path = write(folder, "csv", ROWS)
    sample = opened("questions", path, prompts=["Q: {} A:"])[0]
    assert sample.branches[0][0].parts == ("Q: What, then? A:",)
    with pytest.raises(DataError, match="one place for the question"):
        opened("questions", path, prompts=["What?"])


def test_a_row_without_a_picture_is_counted(folder):
    source = opened("questions", write(folder, "csv", [ROWS[0], ROWS[1] | {"image": ""}]))
    assert fetch(source, 0)[1] == {}
    sample, lost = fetch(source, 1)
    assert sample.images == ()
    assert lost == {BLIND: 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": ""}, "this row has no question"),
        ({"answer": None}, "this row has no answer"),
        ({"question": 7}, "bad `question`"),
        ({"question": "<image> or <image>?"}, "another number of images"),
        ({"image": "gone.png"}, "gone.png"),
        ({"image": "../a.png"}, "leaves the image folder"),
        ({"image": 7}, "bad image"),
        ({"images": ["b.png"]}, "two keys that mean the same"),
        ({"image_1": "b.png"}, "two kinds of columns"),
        ({"tools": ["x"]}, "`tools` is not read"),
    ],
)
def test_bad_rows_are_named_with_file_and_row(folder, change, words):
    source = opened("questions", write(folder, "jsonl", [ROWS[0], ROWS[0] | change]))
    assert source[0]
    with pytest.raises(DataError) as caught:
        source[1]
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(folder / "data.jsonl")) or "record 1" in str(
        caught.value
    )


def test_ratings(folder):
    rows = [ROWS[0] | {"score": 1}, ROWS[1] | {"score": 5}]
    source = opened("questions", write(folder, "jsonl", rows), at_least={"score": 3})
    assert len(source) == 1
    assert colours(source[0]) == [BLUE]


SAYS = {"role": "assistant", "content": "No."}


def talk(text, *images, **more):
    return {"messages": [{"role": "user", "content": text}, SAYS], "images": list(images), **more}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_messages_with_placeholders_and_a_list(folder, ending):
    rows = [talk("<image>Is it like <image>?", "b.png", "a.png"), talk("Hello")]
    kind = "messages"
    if ending == "parquet":
        kind, rows[0]["images"] = "parquet", [{"bytes": png("blue")}, {"bytes": png()}]
    source = opened(kind, write(folder, ending, rows))
    sample = source[0]
    assert colours(sample) == [BLUE, RED]
    assert sample.stem[0].parts == (ImagePart(0),)
    assert sample.branches[0][0].parts == ("Is it like ", ImagePart(1), "?")
    assert source[1].images == ()


def test_pictures_over_several_messages_and_as_objects(folder):
    record = talk("<image>", "a.png", {"path": "b.png"})
    record["messages"] += [{"role": "user", "content": "and <image>"}, SAYS]
    sample = opened("messages", write(folder, "jsonl", [record]))[0]
    assert colours(sample) == [RED, BLUE]
    assert sample.branches[0][1].parts == ("and ", ImagePart(1))


@pytest.mark.parametrize(
    "record",
    [
        talk("no place", "a.png"),
        talk("<image><image>", "a.png"),
        talk("<image>", "a.png", "b.png"),
        {"messages": [{"role": "user", "content": "?"}, SAYS | {"content": "<image>"}],
         "images": ["a.png"]},
    ],
)  # fmt: skip
def test_messages_with_more_or_fewer_places_are_refused(folder, record):
    with pytest.raises(DataError, match="another number of images than `images` has"):
        opened("messages", write(folder, "jsonl", [record]))[0]


def test_beside_parts_a_placeholder_is_text(folder):
    parts = [{"type": "image"}, {"type": "text", "text": "say <image>"}]
    sample = opened("messages", write(folder, "jsonl", [talk(parts, "a.png")]))[0]
    assert sample.branches[0][0].parts == ("say <image>",)
