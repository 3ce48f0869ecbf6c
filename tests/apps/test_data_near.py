"""Near-duplicates: found when they were planted, not where there are none; splits and leaks."""

import io
import json
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

from lucida.apps.command import app
from lucida.apps.data.duplicates import group, read_prints
from lucida.apps.data.near import (
    LIKE,
    list_runs,
    make_fingerprint,
    near_pictures,
    near_texts,
)
from lucida.apps.data.split import divide, read_shares, resolve, split_file
from lucida.apps.verbs import data
from lucida.core.errors import DataError, LucidaError
from lucida.core.spec import QuestionsSourceSpec
from lucida.data.sources import open_source
from lucida.eval.benchmarks import benchmark
from lucida.world.drawing import draw
from lucida.world.scenes import make_scene

assert data.data is not None
SCENES = [draw(make_scene(0, "train", number)) for number in range(60)]


def as_jpeg(image, quality=40):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cut(image):
    width, height = image.size
    return image.crop((round(0.05 * width), 0, width, round(0.95 * height)))


COPIES = {
    "resized": lambda image: image.resize((100, 80), Image.Resampling.BICUBIC),
    "encoded again": as_jpeg,
    "cut": cut,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "all of it": lambda image: as_jpeg(cut(ImageEnhance.Brightness(image).enhance(0.85)), 60),
}


@pytest.mark.parametrize("name", COPIES)
def test_planted_copies_are_found_and_nothing_else(name):
    originals = [make_fingerprint(image) for image in SCENES]
    copies = [make_fingerprint(COPIES[name](image)) for image in SCENES]
    found = set(near_pictures(originals, copies))
    right = {(number, number) for number in range(len(SCENES))}
    assert len(found & right) >= 58
    assert found <= right


def test_different_pictures_are_different():
    assert not list(near_pictures([make_fingerprint(image) for image in SCENES]))
    turned = [make_fingerprint(image.rotate(180)) for image in SCENES[:20]]
    assert not list(near_pictures([make_fingerprint(image) for image in SCENES[:20]], turned))


def test_blank_sheets_are_alike_when_their_colour_is():
    sheets = [Image.new("RGB", size, colour) for size, colour in
              [((9, 9), "white"), ((40, 30), (254, 255, 254)), ((9, 9), "blue")]]  # fmt: skip
    assert list(near_pictures([make_fingerprint(sheet) for sheet in sheets])) == [(0, 1)]


def test_of_two_lists_each_pair_once():
    prints = [make_fingerprint(SCENES[number]) for number in (0, 1, 0, 2, 1)]
    assert set(near_pictures(prints)) == {(0, 2), (1, 4)}
    assert set(near_pictures(prints[:2], prints[2:])) == {(0, 0), (1, 2)}
    assert not list(near_pictures([], prints))


words = st.lists(st.sampled_from(["a", "kite", "flies", "over", ",", "x"]), max_size=9)
texts = st.lists(words.map(" ".join), max_size=9)


@settings(max_examples=80, deadline=None)
@given(texts, texts, st.sampled_from([0.3, LIKE, 0.9, 1.0]))
def test_every_pair_of_near_texts_is_found(first, second, limit):
    runs = [[list_runs(text) for text in each] for each in (first, second)]
    exact = {
        (one, other)
        for one, mine in enumerate(runs[0])
        for other, theirs in enumerate(runs[1])
        if mine and len(mine & theirs) >= limit * len(mine | theirs)
        and theirs not in runs[1][:other]
    }  # fmt: skip
    assert set(near_texts(first, second, limit)) == exact


def test_texts_of_the_docstring():
    asked = ["What flies over the old trees?", "what flies over the old trees", "", "..."]
    assert list(near_texts(asked)) == [(0, 1)]
    shared = list_runs(asked[0]) & list_runs("What sits over the old trees?")
    assert len(shared) == 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(0, 5))
def test_parts_hold_every_group_once_and_come_near_their_shares(sizes, seed):
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    groups = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    parts = divide(groups, read_shares("80/10/10"), seed)
    held = sorted(place for part in parts.values() for members in part for place in members)
    assert held == list(range(sum(sizes)))
    assert parts == divide(groups, read_shares("8/1/1"), seed)
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(sum(map(len, parts[name])) - share * sum(sizes)) <= 2 * max(sizes)


def test_shares_and_what_they_resolve():
    assert read_shares("80/0/20") == [0.8, 0.0, 0.2]
    assert 0.0995 < resolve(97) < 0.09955
    for written in ("80", "80/20", "a/b/c", "0/50/50", "-1/1/1", "nan/1/1"):
        with pytest.raises(LucidaError, match="no shares"):
            read_shares(written)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """40 pictures, 20 of them as a copy too, with two questions each; as a CSV."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    rows = []
    for number, image in enumerate(SCENES[:40]):
        image.save(f"in/{number}.png")
        rows += [(f"{number}.png", f"What is {number}?", "x"), (f"{number}.png", "A\nB?", "y")]
        if number < 20:
            as_jpeg(image).save(f"in/copy{number}.png")
            rows.append((f"copy{number}.png", "And this?", "z"))
    random.Random(0).shuffle(rows)
    text = "".join(f'{name},"{asked}",{said}\n' for name, asked, said in rows)
    (tmp_path / "in" / "all.csv").write_text("image,question,answer\n" + text)
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def numbers_of(part):
    """Which scenes a part shows."""
    source = open_source(QuestionsSourceSpec(path=str(part), images="in"))
    names = [source.key(number, None) for number in range(len(source))]
    return {int(name.removeprefix("copy").removesuffix(".png")) for name in names}, len(names)


def test_split_shares_no_picture_and_no_copy(folder):
    words = ["--shares", "50/25/25", "--widest", 35, "--seed", 3]
    result = call("split", "in/all.csv", "--out", "parts", *words)
    assert result.exit_code == 0, result.output
    assert "40 groups" in result.output and "60 different pictures" in result.output
    found = {name: numbers_of(f"parts/{name}.csv") for name in ("train", "validation", "test")}
    shown = [scenes for scenes, _ in found.values()]
    assert set.union(*shown) == set(range(40)) and sum(map(len, shown)) == 40
    assert sum(many for _, many in found.values()) == 100
    told = json.loads((folder / "parts" / "split.json").read_text())
    assert told["near_pictures"] == 20
    assert told["source"] == {"kind": "questions", "images": "in"}
    assert told["parts"]["test"]["groups"] == len(found["test"][0])
    again = call("split", "in/all.csv", "--out", "again", *words)
    assert again.exit_code == 0
    for name in ("train.csv", "validation.csv", "test.csv"):
        assert (folder / "again" / name).read_bytes() == (folder / "parts" / name).read_bytes()
    assert call("leaks", "parts/train.csv", "images=in", "--against", "in/all.csv").exit_code == 1
    result = call("leaks", "parts/train.csv", "--against", "parts/test.csv", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "0 were seen" in result.output
    shutil.move("in", "elsewhere")
    result = call("leaks", "elsewhere/all.csv", "--against", "parts/test.csv", "--workers", 1)
    said = " ".join(result.output.split())
    assert result.exit_code == 1 and "no record of it can be used" in said and "cannot find" in said
    shutil.move("elsewhere", "in")
    assert call("split", "in/all.csv", "--out", "parts").exit_code == 1


def test_a_split_that_cannot_be_measured_says_what_it_could(folder):
    with pytest.raises(DataError) as caught:
        split_file("in/all.csv", [], folder / "parts", read_shares("80/10/10"))
    message = str(caught.value)
    assert "±10.0 points" in message and "97 groups" in message and "970 in all" in message
    assert "resolve ±" in message
    assert not (folder / "parts").exists()


@pytest.mark.parametrize("form", ["jsonl", "array", "parquet", "talk"])
def test_every_format_stays_as_it_is_written(folder, form):
    rows = [
        {"image": f"in/{n}.png", "question": f"Q {n}", "answer": "ä", "note": {"deep": n}}
        for n in range(12)
    ]
    path = folder / "rows.jsonl"
    if form == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    elif form == "array":
        path = folder / "rows.json"
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    else:
        if form == "talk":
            rows = [{"text": f"{n} " + "a b c d e f g h i j k l m n o p"} for n in range(6)]
            rows += [{"text": f"sheet {n} of {n} things"} for n in range(12)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = split_file(str(path), [], folder / "parts", read_shares("60/20/20"), widest=0.9)
    found = []
    for part in done.parts:
        if form == "parquet":
            some = pq.read_table(part.path).to_pylist()
        elif form == "array":
            some = json.loads(part.path.read_text(encoding="utf-8"))
        else:
            some = [json.loads(line) for line in part.path.read_text().splitlines()]
        assert len(some) == part.records
        found.append(some)
    assert sorted(repr(row) for some in found for row in some) == sorted(map(repr, rows))
    if form == "talk":
        near = [sum("a b c d" in row["text"] for row in some) for some in found]
        assert sorted(near) == [0, 0, 6]


def test_what_cannot_be_split_is_refused(folder):
    (folder / "in" / "all.csv").write_text("image,question,answer\n0.png,a,b\ngone.png,a,b\n")
    with pytest.raises(DataError, match=r"1 of 2 records cannot be used .*gone\.png"):
        split_file("in/all.csv", [], folder / "parts", read_shares("1/0/1"))
    with pytest.raises(LucidaError, match="CSV, TSV"):
        split_file("in", [], folder / "parts", read_shares("1/1/1"))
    with pytest.raises(LucidaError, match="got a recipe"):
        split_file("mini", [], folder / "parts", read_shares("1/1/1"))
    (folder / "in" / "all.csv").write_text("image,question,answer,a\n0.png,a,b,3\n")
    with pytest.raises(LucidaError, match="`at_least` is not split"):
        split_file("in/all.csv", ['at_least={"a": 1}'], folder / "p", read_shares("1/1/1"))


def test_unusable_records_can_be_left_out_of_every_part(folder):
    with (folder / "in" / "all.csv").open("a") as file:
        file.write("gone.png,a,b\n")
    shares = read_shares("50/25/25")
    done = split_file("in/all.csv", [], folder / "parts", shares, widest=0.4, skip=True)
    assert [number for number, _ in done.lost] == [100]
    assert sum(part.records for part in done.parts) == 100
    assert json.loads((folder / "parts" / "split.json").read_text())["unusable"][0][0] == 100


def line(name, asked, said="x"):
    return json.dumps({"image": name, "question": asked, "answer": said}) + "\n"


def test_near_shows_what_is_alike_inside_and_between_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (0, 1, 2, 3):
        SCENES[number].save(f"{number}.png")
    for number, name in ((0, "resized"), (1, "darker")):
        COPIES[name](SCENES[number]).save(f"copy{number}.png")
    ask = "What colour is the star?"
    asked = [("0", ask), ("0", "How many?"), ("1", ask), ("2", ask), ("copy1", "Is there a ring?")]
    rows = [{"image": f"{n}.png", "question": q, "answer": "yes"} for n, q in asked]
    asked = [("3", ask), ("copy0", "what colour is the star")]
    more = [{"image": f"{n}.png", "question": q, "answer": "no"} for n, q in asked]
    for name, records in (("a", rows), ("b", more)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    said = ["Name three old trees in the wood.", "name three old trees in the wood!", "Count."]
    (tmp_path / "c.jsonl").write_text(
        "\n".join(json.dumps({"instruction": each, "output": "ä"}) for each in said)
    )
    assert call("near", "a.jsonl").exit_code == 0
    told = json.loads((tmp_path / "near.json").read_text())
    assert told["counts"] == {"both": 0, "picture": 1, "text": 0}  # 0.png twice is one picture
    recipe = {
        "base": "mini",
        "changes": {
            "stages.sft.mixture.sources": {
                "one": {"kind": "questions", "path": "a.jsonl"},
                "two": {"kind": "questions", "path": "b.jsonl"},
                "words": {"kind": "text", "path": "c.jsonl"},
            }
        },
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    result = call("near", "r.yaml", "--html", "page.html")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "page.json").read_text())
    found = [(g["what"], [m["record"] for m in g["members"]], g["records"]) for g in told["groups"]]
    # The copy in the other source is asked the first record's question, not the second's.
    assert found == [("both", [0, 1], 3), ("picture", [2, 4], 2), ("text", [0, 1], 2)]
    assert [m["source"] for m in told["groups"][0]["members"]] == ["sft/one", "sft/two"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img") == 4 and "Nearly the same picture" in page and "sft/two" in page


@pytest.mark.parametrize(
    "words", [["near", "a.jsonl", "--html", "o.json"],
              ["leaks", "a.jsonl", "--against", "a.jsonl", "--report", "o.html"],
              ["hardest", "run", "--html", "o.jsonl"]],
)  # fmt: skip
def test_a_page_and_what_stands_beside_it_are_two_files(words):
    result = call(*words)
    assert result.exit_code == 1 and "is written beside this one" in " ".join(result.output.split())


def test_leaks_name_both_sides_the_worst_first(folder):
    asked = "How many red kites fly over the old trees in this picture?"
    (folder / "train.jsonl").write_text(
        line("in/0.png", "What?") + line("in/1.png", asked) + line("in/2.png", "Hm?")
        + line("in/30.png", "Is it red?") + line("in/gone.png", "?")
    )  # fmt: skip
    (folder / "test.jsonl").write_text(
        line("in/copy1.png", asked.lower()) + line("in/copy2.png", "Other words?")
        + line("in/31.png", "Is it red?") + line("in/32.png", "New?")
    )  # fmt: skip
    result = call("leaks", "train.jsonl", "--against", "test.jsonl", "--workers", 1)
    assert result.exit_code == 1, result.output
    assert "4 training records against 4 examples: 2 were seen (50.0%)" in result.output
    told = json.loads((folder / "leaks.json").read_text())
    assert told["counts"] == {"both": 1, "picture": 1, "text": 0}
    assert told["questions_about_other_pictures"] == 1
    assert len(told["unusable"]) == 1 and "gone.png" in told["unusable"][0]
    first, second = told["leaks"]
    assert first["what"] == "both" and second["what"] == "picture"
    assert "test.jsonl: record 0" in first["evaluation"]
    assert "train.jsonl: record 1" in first["training"][0]
    assert [place[0].rpartition(": ")[2] for place in first["pictures"]] == [
        "in/copy1.png",
        "in/1.png",
    ]
    assert first["questions"] == [asked.lower(), asked]
    page = (folder / "leaks.html").read_text()
    assert page.count("<img") == 4 and page.index("nearly the same question") < page.index("Hm?")


def test_leaks_of_texts_and_of_a_benchmark(folder):
    text = "the quick brown fox jumps over the lazy dog and runs into the old wood"
    (folder / "train.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (folder / "test.jsonl").write_text(
        json.dumps({"text": text.replace("wood", "forest")}) + "\n" + json.dumps({"text": "x y z"})
    )
    result = call("leaks", "train.jsonl", "--against", "test.jsonl", "--workers", 1)
    assert "1 were seen" in result.output
    assert json.loads((folder / "leaks.json").read_text())["leaks"][0]["what"] == "text"
    (folder / "other.jsonl").write_text(line("in/0.png", "What?"))
    result = call("leaks", "other.jsonl", "--against", "counting", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "0 were seen" in result.output and "Nothing" in (folder / "leaks.html").read_text()
    example = benchmark("counting").examples()[0]
    example.sample.images[0].load().save(folder / "in" / "leak.png")
    (folder / "other.jsonl").write_text(line("in/leak.png", "What?"))
    result = call("leaks", "other.jsonl", "--against", "counting", "--workers", 1)
    assert result.exit_code == 1, result.output
    assert f"asked: {example.id}" in (folder / "leaks.html").read_text()


def test_records_group_by_chains(folder):
    source = open_source(QuestionsSourceSpec(path="in/all.csv", images="in"))
    printed = [record for block, _ in read_prints(source) for record in block]
    found = group(printed)
    assert sorted(map(len, found.members)) == [2] * 20 + [3] * 20
    assert found.pictures == 60
