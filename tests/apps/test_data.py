"""`lucida data`: what it guesses, shows, counts and finds wrong."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lucida.apps.command import app
from lucida.apps.data.figures import facts, shares
from lucida.apps.data.guess import open_sources
from lucida.apps.data.histogram import histogram, quantile, wide
from lucida.apps.data.survey import (
    PLAIN,
    Surveyed,
    choose_records,
    survey,
    survey_block,
    survey_sources,
    texts,
)
from lucida.apps.verbs import data
from lucida.core.errors import LucidaError, RecipeError
from lucida.core.recipe import dump_recipe, load_recipe
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.model.checkpoint import build


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", "red"), ("b", "blue"), ("twin", "red")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    return tmp_path


def pairs(folder, *names):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps({"image": n, "caption": "a kite"}) + "\n" for n in names))
    return path


def call(*words):
    assert data.data is not None
    return CliRunner().invoke(app, ["data", *map(str, words)])


GUESSES = {
    "llava.json": ('[{"conversations": []}]', "llava"),
    "talk.jsonl": ('{"messages": []}', "messages"),
    "page.jsonl": ('{"text_list": [], "image_info": []}', "interleaved"),
    "obelics.jsonl": ('{"texts": [], "images": []}', "interleaved"),
    "flan.jsonl": ('{"inputs": "a", "targets": "b"}', "text"),
    "pairs.jsonl": ('{"image": "a.png", "caption": "b"}', "pairs"),
    "pairs.csv": ("image,text\na.png,x", "pairs"),
    "named.tsv": ("file_name\ttitle\na.png\tx", "pairs"),
    "vqa.csv": ("image,question,answer\na.png,x,y", "questions"),
    "vqa.jsonl": ('{"image_1": "a.png", "query": "x", "response": "y"}', "questions"),
    "alpaca.json": ('[{"images": [], "instruction": "x", "output": "y"}]', "questions"),
    "plain.txt": ("hello", "text"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_kinds_are_guessed_and_said(folder, name):
    content, kind = GUESSES[name]
    (folder / name).write_text(content)
    (found,) = open_sources(name, []) if "/" in name else open_sources(str(folder / name), [])
    assert found.spec.kind == kind
    assert "because" in found.found


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"images": [None, "u"], "texts": ["a", None]}, "interleaved"),
        ({"images": [], "texts": [{"user": "a", "assistant": "b"}]}, "parquet"),
        ({"image": "a.png", "question": "a", "answer": "b"}, "questions"),
        ({"image": "a.png", "caption": "b"}, "pairs"),
        ({"image": b"bytes", "question": "a", "answer": "b"}, "parquet"),
        ({"image": {"bytes": b"x"}, "question": "a", "answer": "b"}, "parquet"),
    ],
)
def test_tables_are_told_apart_by_their_columns(folder, row, kind):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "set").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), folder / "set" / "x.parquet")
    for path in (folder / "set", folder / "set" / "x.parquet"):
        (found,) = open_sources(str(path), [])
        assert found.spec.kind == kind


def test_what_cannot_be_guessed(folder):
    (folder / "odd.jsonl").write_text('{"x": 1}')
    with pytest.raises(LucidaError, match="tells no kind"):
        open_sources(str(folder / "odd.jsonl"), [])
    for name in ("none.csv", "none.jsonl", "none.parquet"):
        with pytest.raises(LucidaError, match=f"^{name}: .*No such file"):
            open_sources(name, [])
    with pytest.raises(LucidaError, match="key=value"):
        open_sources(str(folder / "odd.jsonl"), ["kind"])
    with pytest.raises(LucidaError, match="colour"):
        open_sources(str(folder / "odd.jsonl"), ["kind=text", "colour=7"])


def test_an_array_within_one_object_is_pointed_at(folder):
    (folder / "odd.json").write_text('{"version": 1, "data": [{"image": "a.png"}]}')
    with pytest.raises(LucidaError, match=r"tells no kind.*of `data`, write that array alone"):
        open_sources(str(folder / "odd.json"), [])


def test_an_answer_of_blanks_is_empty_to_check_as_to_training(folder):
    record = {"image": "a.png", "question": "what?", "answer": " \n"}
    (folder / "d.jsonl").write_text(json.dumps(record))
    assert "an answer is empty; fill it in" in call("check", "d.jsonl").output


@pytest.mark.parametrize("indent", [None, 1, "\t"])
@pytest.mark.parametrize("key", ["images", "annotations", "questions"])
def test_annotation_files_name_their_kind(folder, indent, key):
    path = folder / "captions_val2014.json"
    path.write_text(json.dumps({"info": {"year": 2014}, key: [{"image_id": 7}]}, indent=indent))
    with pytest.raises(LucidaError, match="kind=annotations layout=") as error:
        open_sources(str(path), [])
    assert "broken" not in str(error.value)
    path.write_text('{"image": "a.png", "te\n{"image": "b.png", "text": "b"}')
    with pytest.raises(LucidaError, match="broken JSON"):
        open_sources(str(path), [])


def test_show(folder):
    path = pairs(folder, "a.png", "cut.png", "b.png")
    shown = call("show", path)
    assert shown.exit_code == 0, shown.output
    assert "kind pairs, because" in shown.output
    assert "<0>a kite" in shown.output
    assert "record 1 cannot be used" in shown.output
    page = folder / "page.html"
    assert call("show", path, "--html", page).exit_code == 0
    assert page.read_text().count("data:image/png") == 2


def test_show_beyond_the_end_names_the_number_of_records(folder):
    path = pairs(folder, "a.png", "b.png")
    assert "record 1" in call("show", path, "--from", 1).output
    for extra in ((), ("--html", folder / "page.html")):
        done = call("show", path, "--from", 2, *extra)
        assert done.exit_code and not (folder / "page.html").exists()
        assert "no record 2 (expected --from 0 to 1" in done.output
        assert "2 records" in done.output


def test_check_reads_everything_and_names_what_is_wrong(folder):
    path = pairs(folder, "a.png", "cut.png", "twin.png", "none.png", "b.png")
    done = call("check", path, "--workers", 1)
    assert done.exit_code == 1
    (report,) = json.loads((folder / "data-report.json").read_text())
    assert [error["record"] for error in report["errors"]] == [1, 3]
    assert "cut.png" in report["errors"][0]["reason"]
    assert report["records read"] == 5
    assert report["duplicates (picture, text)"] == 1
    assert "read pairs.jsonl  5/5" in done.output
    assert call("check", pairs(folder, "a.png", "b.png")).exit_code == 0


def test_processes_find_what_one_finds(folder, monkeypatch):
    monkeypatch.setattr("lucida.apps.data.survey.BLOCK", 2)
    monkeypatch.setattr("lucida.apps.data.survey.START", 0.0)  # worth a process at once
    (found,) = open_sources(
        str(pairs(folder, "a.png", "cut.png", "twin.png", "none.png", "b.png")), []
    )
    numbers = list(range(5))
    assert survey(found.source, numbers, PLAIN, 2) == survey_block(found.source, numbers)


def test_no_process_starts_for_what_is_soon_done(folder, monkeypatch):
    monkeypatch.setattr("lucida.apps.data.survey.BLOCK", 2)
    monkeypatch.setattr("lucida.apps.data.survey.ProcessPoolExecutor", None)
    (found,) = open_sources(str(pairs(folder, *["a.png", "b.png"] * 4)), [])
    assert survey(found.source, list(range(8)), PLAIN, 2).read == 8


def test_stats_of_a_recipe(folder):
    done = call("stats", "mini", "--samples", 20)
    assert done.exit_code == 0, done.output
    assert "tokens as in training: template qa, loss answers" in done.output
    assert "tokens of a sample: mean" in done.output
    assert "records read                 20" in done.output


CHANGES = {
    "square": [],
    "blind": ["model.vision=null"],
    "tiles": ["model.image.policy=split", "model.image.max_tiles=4"],
}


@pytest.mark.parametrize("design", CHANGES)
def test_tokens_are_those_that_training_makes(folder, design):
    Image.new("RGB", (150, 70), "red").save(folder / "wide.png")
    rows = [{"image": name, "text": "a red kite"} for name in ("a.png", "wide.png")]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = "stages.sft.mixture.sources"
    changes = [
        *CHANGES[design], f"{source}.world=null",
        f"{source}.p={{kind: pairs, path: {folder / 'p.jsonl'}}}",
    ]  # fmt: skip
    recipe = load_recipe("mini", changes)
    _, processor = build(recipe.model)
    (each,) = open_sources("mini", changes, every=True)
    found = survey_sources([each], None, None, 1)[0].found
    every = [processor.encode(each.source[number], loss="answers") for number in range(2)]
    assert found.tokens == Counter(len(tokens) for tokens in every)
    assert found.visual == Counter(int((tokens.image > 0).sum()) for tokens in every)
    assert found.supervised == Counter(int((tokens.target >= 0).sum()) for tokens in every)
    assert (found.visual[0] == 0) == (design != "blind")


RECIPE = """
base: mini
name: two
changes:
  model.language.max_length: 100
  stages.sft.mixture.by: token
  stages.sft.mixture.sources.world: null
  stages.sft.mixture.sources.pictures: {kind: pairs, path: pairs.jsonl, text: caption, weight: 3}
  stages.sft.mixture.sources.notes: {kind: text, path: notes.txt}
"""


@pytest.fixture
def recipe(folder):
    pairs(folder, "a.png", "none.png", "b.png", "a.png")
    lines = ["a kite " * 8] * 3 + ["a kite flies over a tree " * 40]
    (folder / "notes.txt").write_text("\n".join(lines))
    (folder / "two.yaml").write_text(RECIPE)
    return folder / "two.yaml"


def test_what_is_cut_and_met_again_is_counted(recipe):
    pictures, notes = survey_sources(open_sources(str(recipe), [], every=True), 100, None, 1)
    told = facts(notes)
    assert told["samples that are cut"] == "1 (25.00%)"
    assert max(notes.found.tokens) == 100
    assert told["tokens cut away"] > 0
    assert told["without pictures"] == "4 (100.00%)"
    told = facts(pictures)
    assert told["cannot be used"] == "1 (25.00%)"
    assert told["duplicates (picture, text)"] == told["pictures met again"] == 1
    assert told["answers met again"] == 2
    assert pictures.found.groups() == [[0, 3]]
    assert pictures.found.errors[0][0] == 1


def test_answers_are_counted_by_their_words_and_lengths(folder):
    said = ["red"] * 6 + ["blue"] * 3 + ["a kite over many old trees beside the wide river"]
    rows = [{"image": "a.png", "question": f"{n}?", "answer": each} for n, each in enumerate(said)]
    (folder / "vqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = survey_sources(open_sources("vqa.jsonl", [], every=True), None, None, 1)
    told = facts(found)
    assert told["different short answers"] == 2, "the sentence is none"
    assert told["the most usual"] == "red 6 (60.00%), blue 3 (30.00%)"
    assert found.found.lengths == {1: 9, 10: 1}
    assert "words of an answer" in call("stats", "vqa.jsonl").output


def test_shares_of_a_mixture(recipe):
    found = survey_sources(open_sources(str(recipe), [], every=True), 100, None, 1)
    pictures, notes = shares(found[0].each.stage, found)
    assert pictures.tokens == pytest.approx(0.75)
    assert notes.images == 0
    means = [
        sum(value * many for value, many in each.found.tokens.items()) / each.found.tokens.total()
        for each in found
    ]
    drawn = [3 / means[0], 1 / means[1]]
    assert pictures.samples == pytest.approx(drawn[0] / sum(drawn))
    assert pictures.epochs * 4 + notes.epochs * 4 == pytest.approx(8)


def test_the_page_holds_the_figures(recipe, folder):
    done = call("stats", recipe, "--html", folder / "page.html")
    assert done.exit_code == 0, done.output
    assert "mixture of sft, by token" in done.output
    assert "equal records: 0, 3" in done.output
    page = (folder / "page.html").read_text()
    for part in ("sft/pictures", "Mixture, by token", "75.0%", "none.png", "samples that are cut",
                 "records with equal pictures"):  # fmt: skip
        assert part in page, part
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_recipe_without_its_tokenizer_is_counted_in_words(recipe):
    (each, _) = open_sources(str(recipe), ["model.language.path=nobody/nothing"], every=True)
    (found,) = survey_sources([each], 100, None, 1)
    assert "words, because tokens cannot be counted" in found.counted
    assert found.found.words
    assert not found.found.tokens


def test_a_source_that_two_stages_read_alike_is_read_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(
        "lucida.apps.data.survey.survey",
        lambda *given: read.append(given) or survey_block(*given[:3]),
    )
    same = "{kind: world, tasks: [caption], count: 4}"
    changes = [
        "stages.align.mixture.sources.captions=" + same,
        "stages.sft.mixture.sources.world=" + same,
    ]
    found = survey_sources(open_sources("mini-two-stage", changes, every=True), 4, None, 1)
    assert [each.each.name for each in found] == ["align/captions", "sft/world"]
    assert len(read) == 1
    assert len(open_sources("mini-two-stage", changes)) == 1


def test_text_alone_is_counted_with_any_tokenizer(folder):
    path = pairs(folder, "a.png", "b.png")
    done = call("stats", path, "--tokenizer", "lucida:base-mini")
    assert "tokens of text alone, by lucida:base-mini" in done.output
    assert done.exit_code == 0, done.output
    assert "template" not in done.output


def test_a_picture_parts_the_words_beside_it():
    parts = ("a kite", ImagePart(0), "over ", ImagePart(1), ImagePart(2), "trees", "!")
    turns = (Turn("user", (ImagePart(0), "Why?")), Turn("text", parts))
    assert texts(Sample("", (), (), (turns,))) == ["Why?", "a kite over trees!"]


def test_figures():
    counts = Counter({1: 2, 2: 1, 9: 1})
    assert quantile(counts, 0.5) == 1
    assert quantile(counts, 0.99) == 9
    assert histogram("words", counts).summary == "mean 3.2, median 1, 99% 9, longest 9"
    assert choose_records(5, None) == choose_records(5, 9) == [0, 1, 2, 3, 4]
    assert len(set(choose_records(100, 10))) == 10
    assert histogram("words", Counter({7: 3})).summary == "always 7"
    far = histogram("words", Counter({10: 500, 19: 495, 9000: 5}))
    assert far.bars[-1].name == "20 and more"
    assert far.bars[-1].many == 5
    assert (wide(730), wide(7), wide(11)) == (80, 1, 2)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 10**6), st.integers(1, 50), min_size=2))
def test_every_value_stands_in_its_bar(counts):
    found = histogram("x", Counter(counts))
    assert sum(bar.many for bar in found.bars) == found.total == sum(counts.values())
    assert len(found.bars) <= 13
    for bar in found.bars:
        inside = (v for v in counts if bar.begin <= v and (bar.end is None or v <= bar.end))
        assert sum(counts[value] for value in inside) == bar.many


def test_facts_name_what_filters_left_out(folder):
    (each,) = open_sources(str(pairs(folder, "a.png", "b.png")), [])
    each.source.dropped = {"score below 3": 7}
    told = facts(Surveyed(each, survey_block(each.source, [0, 1])))
    assert told["filtered: score below 3"] == 7


def test_own_captions_that_stay_are_not_filtered(folder):
    (folder / "new.csv").write_text("image,caption\nb.png,new\n")
    captions = json.dumps({"path": str(folder / "new.csv"), "missing": "keep"})
    done = call("check", pairs(folder, "a.png", "b.png"), f"captions={captions}", "--workers", 1)
    assert done.exit_code == 0, done.output
    (report,) = json.loads((folder / "data-report.json").read_text())
    assert report["noted: no caption in the file (own caption kept)"] == 1
    assert not any(name.startswith("filtered") for name in report)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("kind=pears", "no kind `pears`; did you mean `pairs`?"),
        ("txt=caption", "a source of kind pairs has no field `txt`; did you mean `text`?"),
        ("columns=3", "`columns`: Input should be a valid list (got 3)"),
        ('captions={"file": "x.csv"}', "`captions.path`: Field required"),
    ],
)
def test_a_mistaken_field_is_named_with_the_nearest(folder, field, said):
    with pytest.raises(RecipeError) as error:
        open_sources(str(pairs(folder, "a.png")), [field])
    assert said in str(error.value)


def test_check_encodes_every_record_as_each_stage_does(folder, tmp_path):
    """Readable records that a stage cannot use: no answer in it, or longer than a row."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A kite."}]
    records = [{"image": "a.png", "conversations": turns} for _ in range(4)]
    records[2] = {
        "image": "a.png",
        "conversations": [turns[0], {"from": "gpt", "value": "kite " * 90}],
    }
    (folder / "records.json").write_text(json.dumps(records))
    recipe = tmp_path / "own.yaml"
    base = dump_recipe(load_recipe("mini", [
        "name=own", "stages.sft.batch={tokens: 200, row: 100}",
        f"stages.sft.mixture.sources={{own: {{kind: llava, path: '{folder / 'records.json'}'}}}}",
    ]))  # fmt: skip
    recipe.write_text(base)
    done = call("check", recipe, "--workers", 1)
    assert done.exit_code == 1
    assert done.output.count("record 2 (line 1): ") == 1, "by the file's own number, once"
    assert "longer than a row" in done.output
    assert "stage sft stops at the first of 1 records" in done.output
    skipping = ["stages.sft.mixture.on_error=skip", "stages.sft.mixture.max_dropped=0.5"]
    assert "stage sft replaces 1 of 4 records" in call("check", recipe, *skipping).output
    assert call("check", recipe, "stages.sft.batch={samples: 2}", "--workers", 1).exit_code == 0
