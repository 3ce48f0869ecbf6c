"""LLaVA files good and bad, and samples of the miniature world."""

import json
import pickle

import pytest
from PIL import Image

from lucida.core.errors import DataError
from lucida.core.spec import LlavaSourceSpec, WorldSourceSpec
from lucida.data.sample import BoxPart, ImagePart, Turn
from lucida.data.sources import open_source
from lucida.data.sources.llava import LlavaSource
from lucida.data.sources.world import WorldSource
from lucida.world.tasks import TASKS


def record(image="a.png", *turns):
    turns = turns or ("<image>\nWhat is it?", "A kite.")
    said = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(turns)
    ]
    return {"id": "7", "conversations": said} | ({} if image is None else {"image": image})


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    return tmp_path


def written(folder, records, kind="json", **style):
    path = folder / f"data.{kind}"
    if kind == "json":
        path.write_text(json.dumps(records, **style), encoding="utf-8")
    else:
        lines = [json.dumps(r, **style) for r in records]
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize(
    "style", [{}, {"ensure_ascii": False}, {"indent": 2, "ensure_ascii": False}]
)
def test_records_are_read_where_they_stand(folder, kind, style):
    if kind == "jsonl":
        style = {key: value for key, value in style.items() if key != "indent"}
    records = [
        record(),
        record(None, "Schön, ça va? 凧", "Ja ✓"),
        record(["a.png", "b.png"], "Is <image> like <image>?", "No, see <image>", "Why?", "It is."),
    ]
    source = LlavaSource(written(folder, records, kind, **style))
    assert len(source) == 3
    first, second, third = (source[number] for number in range(3))
    assert first.stem == (Turn("user", (ImagePart(0),)),)
    assert first.branches == ((Turn("user", ("\nWhat is it?",)), Turn("assistant", ("A kite.",))),)
    assert first.images[0].load().size == (6, 4)
    assert "record 0" in first.origin
    assert second.images == second.stem == ()
    assert second.branches[0][0].parts == ("Schön, ça va? 凧",)
    assert third.branches[0][0].parts == ("Is ", ImagePart(0), " like ", ImagePart(1), "?")
    assert third.branches[0][1].parts == ("No, see <image>",)
    assert pickle.loads(pickle.dumps(third)).images[1].load().size == (6, 4)


def test_a_byte_order_mark_and_windows_lines(folder):
    content = json.dumps(record()) + "\r\n" + json.dumps(record()) + "\r\n"
    (folder / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [len(s.images) for s in map(LlavaSource(folder / "data.jsonl").__getitem__, (0, 1))] == [
        1,
        1,
    ]
    (folder / "data.json").write_bytes(b"\xef\xbb\xbf[" + json.dumps(record()).encode() + b"]")
    assert len(LlavaSource(folder / "data.json")[0].images) == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (record("a.png", "What?", "A kite."), "another number of images"),
        (record(None), "another number of images"),
        (record(["a.png"], "<image><image>", "x"), "another number of images"),
        (record("../a.png"), "leaves the image folder"),
        (record("/etc/a.png"), "leaves the image folder"),
        (record("C:\\a.png"), "leaves the image folder"),
        (record("x/..\\..\\a.png"), "leaves the image folder"),
        (record("missing.png"), "cannot find the image"),
        (record(7), "bad `image`"),
        ({"image": "a.png"}, "no conversation"),
        (["a"], "no object"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "unknown speaker"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "bad `value`"),
        ({"conversations": ["x"]}, "unknown speaker"),
    ],
)
def test_bad_records_are_named(folder, bad, words):
    source = LlavaSource(written(folder, [record(), bad]))
    assert len(source[0].images) == 1
    with pytest.raises(DataError, match=words) as caught:
        source[1]
    assert "data.json: record 1" in str(caught.value)


@pytest.mark.parametrize("cut", [-1, -4, -30])
def test_a_cut_array_is_named_with_its_line(folder, cut):
    path = written(folder, [record(), record()], indent=1)
    path.write_text(path.read_text()[:cut])
    with pytest.raises(DataError, match=r"broken JSON.*line \d+"):
        LlavaSource(path)


def test_a_broken_line_spoils_only_itself(folder):
    path = written(folder, [record()] * 3, "jsonl")
    lines = path.read_text().split("\n")
    lines[2] = lines[2][:-9]
    path.write_text("\n".join(lines))
    source = LlavaSource(path)
    assert source[0].images
    assert source[2].images
    with pytest.raises(DataError, match=r"record 1 \(line 3\): broken JSON"):
        source[1]


@pytest.mark.parametrize("content", [b"", b" \n ", b"[]", b"[ ]"])
def test_a_file_without_records(folder, content):
    (folder / "data.json").write_bytes(content)
    with pytest.raises(DataError, match="no records"):
        LlavaSource(folder / "data.json")


def test_files_that_are_no_data(folder):
    with pytest.raises(DataError, match="cannot read"):
        LlavaSource(folder / "missing.json")
    (folder / "latin.json").write_bytes(b'[{"conversations": "\xe9"}]')
    with pytest.raises(DataError, match="UTF-8"):
        LlavaSource(folder / "latin.json")
    with pytest.raises(DataError, match="image folder"):
        LlavaSource(written(folder, [record()]), folder / "nowhere")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_the_world_makes_samples(task):
    source = WorldSource([task], count=40, questions=4)
    for index in range(0, 40, 3):
        sample = source[index]
        parts = [p for b in (sample.stem, *sample.branches) for t in b for p in t.parts]
        shown = [p.index for p in parts if isinstance(p, ImagePart)]
        assert sorted(shown) == list(range(len(sample.images)))
        assert sample.branches
        for image in sample.images:
            assert image.load().mode == "RGB"
        for box in parts:
            if isinstance(box, BoxPart):
                width, height = sample.images[box.index].load().size
                assert 0 <= box.x0 < box.x1 <= width
                assert 0 <= box.y0 < box.y1 <= height


def test_the_world_is_the_same_each_time_and_keys_are_content():
    make = WorldSource(["attribute"], count=30), WorldSource(["presence"], count=30)
    keys = {}
    for source in make:
        for index in range(30):
            one, two = source[index], source[index]
            assert one.branches == two.branches
            for image in one.images:
                pixels = image.load().tobytes()
                assert keys.setdefault(image.key, pixels) == pixels
    assert WorldSource(["attribute"])[0].images[0].key in keys
    with pytest.raises(IndexError):
        make[0][30]


def test_a_scene_without_a_question_is_replaced():
    source = WorldSource(["spatial", "reading"], count=600, questions=1)
    assert all(source[index].branches for index in range(600))


def test_an_unknown_task_gets_a_suggestion():
    with pytest.raises(DataError, match="attribute"):
        WorldSource(["atribute"])


def test_sources_open_from_their_specs(folder):
    path = written(folder, [record()] * 5)
    file = open_source(LlavaSourceSpec(path=str(path)))
    assert isinstance(file, LlavaSource)
    assert len(file) == 5
    world = open_source(WorldSourceSpec(tasks=["caption"], count=9, weight=3.0))
    assert isinstance(world, WorldSource)
    assert len(world) == 9
