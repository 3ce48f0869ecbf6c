"""lucida inspect: what it shows is what training reads, on a page and on a terminal."""

from __future__ import annotations

import io
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lucida.apps.cli import main
from lucida.apps.inspect.look import look
from lucida.apps.inspect.page import page
from lucida.apps.inspect.terminal import SIGHT, mask_image, show
from lucida.core.errors import DataError, RecipeError
from lucida.core.recipe import load_recipe
from lucida.data.loader import Loader
from lucida.data.mixture import fetch
from lucida.data.sample import IGNORED
from lucida.data.stage import StageData, open_mixtures
from lucida.model.checkpoint import build
from lucida.training.engine import Engine
from lucida.training.feed import stage_feed
from lucida.training.precision import Precision
from lucida.training.stage import plan_stage

torch.set_num_threads(1)
SMALL = ["stages.sft.batch.samples=6", "stages.sft.mixture.sources.world.questions=2"]


@pytest.fixture(scope="module")
def seen():
    return look(load_recipe("mini", SMALL), None, 3)


def test_the_samples_are_those_of_the_first_step(seen):
    mixture, _ = open_mixtures(seen.stage.mixture, seen.recipe.seed)
    origins = []
    for number in range(3):
        draw = mixture.draw(number)
        origins.append(mixture.sources[draw.source][draw.index].origin)
    assert [each.tokens.origin for each in seen.samples] == origins
    assert seen.counts["samples"] == 6


@pytest.mark.parametrize(
    "batch",
    [
        "{tokens: 1536, row: 768}",
        "{tokens: 1600, accumulate: 2}",
        "{samples: 6, accumulate: 2}",
        "{samples: 6, order: length}",
        "{samples: 6, order: modality}",
    ],
)
def test_every_way_to_fill_a_batch_shows_what_training_reads(batch):
    """Token for token the batches of the loader, which measures every record first."""
    changes = [f"stages.sft.batch={batch}", "stages.sft.mixture.sources.world.count=90"]
    changes += [
        "stages.sft.mixture.sources.more={kind: world, tasks: [text], count: 40, weight: 2}"
    ]
    recipe = load_recipe("mini", [*SMALL[1:], *changes])
    stage = recipe.stages[0]
    _, processor = build(recipe.model)
    mixture, _ = open_mixtures(stage.mixture, recipe.seed)
    encode = partial(processor.encode, loss=stage.loss)
    loader = Loader(StageData(mixture, encode, stage.batch), pad_id=0)
    stream = loader.batches()
    expected = [ids[segment > 0].tolist() for batch in next(stream)
                for ids, segment in zip(batch.input_ids, batch.segment, strict=True)]  # fmt: skip
    stream.close()
    rows = [
        [each.tokens for each in row] for row in StageData(mixture, encode, stage.batch).step()[0]
    ]
    assert [[i for tokens in row for i in tokens.input_ids.tolist()] for row in rows] == expected

    seen = look(recipe, None, 99)
    assert [each.tokens.origin for each in seen.samples] == [
        tokens.origin for row in rows for tokens in row
    ]
    assert [each.row for each in seen.samples] == [
        number for number, row in enumerate(rows, start=1) for _ in row
    ]
    if stage.batch.tokens is not None:
        room = stage.batch.row or 800
        assert seen.counts["positions of a row"] == room
        assert all(sum(len(tokens) for tokens in row) <= room for row in rows)
    if stage.batch.row is not None:
        assert seen.counts["padding"] == 1536 - seen.counts["tokens"]


def test_a_record_longer_than_a_row_is_refused_or_skipped():
    changes = ["stages.sft.batch={tokens: 200}", "stages.sft.mixture.sources.world.count=50"]
    with pytest.raises(DataError, match="longer than a row"):
        look(load_recipe("mini", changes))
    shorter = [*changes, "stages.sft.mixture.on_error=skip", SMALL[1]]
    counts = look(load_recipe("mini", shorter)).counts
    assert counts["tokens"] <= 200
    with pytest.raises(DataError, match="no record of the source"):
        look(load_recipe("mini", [*shorter, "stages.sft.batch={tokens: 20}"]))
    with pytest.raises(RecipeError, match="each rank needs a sample"):
        look(load_recipe("mini", ["stages.sft.batch={samples: 2, accumulate: 4}"]))


def test_positions_add_up_to_the_tokens_and_their_labels(seen):
    for each in seen.samples:
        tokens = each.tokens
        assert sum(place.run for place in each.positions) == len(tokens)
        learnt = [place for place in each.positions if place.learnt]
        assert len(learnt) == int((tokens.target != IGNORED).sum())
        runs = [place for place in each.positions if place.image]
        assert [place.run for place in runs] == [64] * len(tokens.images)
        starts = [place.index for place in each.positions]
        assert starts == sorted(set(starts))


def test_a_token_that_is_predicted_is_the_one_that_follows(seen):
    for each in seen.samples:
        for before, after in zip(each.positions, each.positions[1:], strict=False):
            if before.target is not None:
                assert after.learnt
                assert after.text == before.target


def test_pictures_are_what_the_encoder_gets(seen):
    shown = seen.samples[0].images[0]
    assert [view.size for view in shown.views] == [(64, 64)]
    assert shown.original.size != (0, 0)


@pytest.mark.parametrize("decoding", ["exact", "scaled"])
def test_pictures_are_decoded_as_the_stage_decodes_them(tmp_path, decoding):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("noise")
    sources = json.dumps({"one": {"kind": "folder", "path": str(tmp_path)}})
    changes = [f"stages.sft.mixture.sources={sources}", f"stages.sft.batch.decoding={decoding}"]
    sample = look(load_recipe("mini", changes), None, 1).samples[0]
    _, processor = build(load_recipe("mini").model)
    [view] = sample.images[0].views
    pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1) / 255
    ways = {way: processor.pixels(sample.tokens.images, way == "scaled").images()[0][0] for way in
            ("exact", "scaled")}  # fmt: skip
    mean, std = (torch.tensor(getattr(processor.image_policy, each))[:, None, None]
                 for each in ("mean", "std"))  # fmt: skip
    near = {way: (values * std + mean - pixels).abs().max() < 1e-3 for way, values in ways.items()}
    assert near == {way: way == decoding for way in ways}


def test_the_mask_keeps_samples_and_branches_apart(seen):
    first, second = seen.borders[0], seen.borders[1]
    assert not seen.mask[second:, first:second].any()
    tokens = seen.samples[0].tokens
    one, two = (np.flatnonzero(tokens.branch == branch) for branch in (1, 2))
    assert not seen.mask[np.ix_(two, one)].any()
    assert seen.mask[np.ix_(one, one)].any()


def test_the_page_holds_pictures_tokens_and_mask(seen):
    text = page(seen)
    assert text.count("data:image/png;base64,") == 1 + sum(2 * len(s.images) for s in seen.samples)
    assert "http" not in text.replace("http-equiv", "")
    supervised = sum(place.learnt for s in seen.samples for place in s.positions)
    assert len(re.findall(r'class="t learn"', text)) == supervised
    assert "text sees image" in text
    assert f"{seen.counts['tokens']:,}" in text


def test_text_of_the_data_cannot_write_html(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    turns = [
        {"from": "human", "value": "<image>\n<script>x</script>"},
        {"from": "gpt", "value": "b"},
    ]
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    source = f"stages.sft.mixture.sources={{d: {{kind: llava, path: '{path}'}}}}"
    text = page(look(load_recipe("mini", [source, "stages.sft.batch.samples=1"])))
    assert "<script" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_shows_the_same(seen, terminal):
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=terminal, highlight=False)
    show(seen, console, positions=20)
    said = out.getvalue()
    assert ("▀" in said) == terminal
    for word in ("template qa", "mask causal", "image 1 x 64", "supervised", "more (--tokens"):
        assert word in said


def test_a_mask_is_drawn_in_its_colours():
    image = mask_image(np.array([[1, 0], [2, 4]]), [0, 1], pixel=1)
    assert image.getpixel((0, 0)) == tuple(SIGHT[1])
    assert image.getpixel((1, 0)) == tuple(SIGHT[0])
    assert image.getpixel((0, 1)) == tuple(SIGHT[2])
    assert mask_image(np.zeros((2, 2), int), [0, 1], pixel=4).size == (8, 8)


def test_a_record_that_cannot_be_used_is_reported_or_ends_it(tmp_path):
    records = []
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        answer = "" if number == 1 else "a"
        turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": answer}]
        records.append({"image": f"{number}.png", "conversations": turns})
    path = tmp_path / "d.json"
    path.write_text(json.dumps(records))
    source = f"stages.sft.mixture.sources={{d: {{kind: llava, path: '{path}'}}}}"
    small = [source, "stages.sft.batch.samples=4"]
    with pytest.raises(DataError, match="record 1"):
        look(load_recipe("mini", small))
    skipping = look(load_recipe("mini", [*small, "stages.sft.mixture.on_error=skip"]))
    assert len(skipping.dropped) == 1
    assert "record 1" in skipping.dropped[0]
    assert skipping.counts["samples"] == 4


def test_an_unknown_stage_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean `sft`"):
        look(load_recipe("mini"), "stf")


def test_the_command_writes_a_page(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "mini", *SMALL, "--samples", "1", "--html", str(tmp_path / "p.html")])
    assert ended.value.code == 0
    assert "One batch as the model sees it" in (tmp_path / "p.html").read_text()


def pictures(folder, damaged):
    """A recipe's change: six pictures, of which one file is cut in the middle."""
    records = []
    for number in range(6):
        path = folder / f"{number}.png"
        Image.effect_noise((40, 40), 50).convert("RGB").save(path)
        if number == damaged:
            path.write_bytes(path.read_bytes()[:900])
        turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
        records.append({"image": path.name, "conversations": turns})
    (folder / "d.json").write_text(json.dumps(records))
    return f"stages.sft.mixture.sources={{d: {{kind: llava, path: '{folder / 'd.json'}'}}}}"


@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_damaged_picture_is_replaced_as_training_replaces_it(tmp_path, cached):
    """Its record encodes well; only opening the picture shows what is wrong."""
    small = [
        pictures(tmp_path, 2),
        "stages.sft.batch.samples=6",
        "stages.sft.mixture.max_dropped=1",
    ]
    small += [f"stages.sft.batch.cache_features={cached}"]
    with pytest.raises(DataError, match=r"2\.png"):
        look(load_recipe("mini", small))
    recipe = load_recipe("mini", [*small, "stages.sft.mixture.on_error=skip"])
    model, processor = build(recipe.model)
    plan = plan_stage(model, {"language": 1e-3}, "stage")
    precision = Precision("fp32", torch.device("cpu"), "")
    dropped = tmp_path / "dropped.jsonl"
    feed = stage_feed(recipe, 0, plan, model, processor, precision, dropped, Engine())
    stream = feed.batches(0)
    [batch] = next(stream)
    stream.close()
    seen = look(recipe, None, 6)
    assert [each.tokens.origin for each in seen.samples] == batch.origins
    assert [line.split(": ", 1)[1] for line in seen.dropped] == [
        line["reason"] for line in feed.loader._limit.file.read()
    ]
    assert "2.png" in seen.dropped[0] and all(len(each.images) == 1 for each in seen.samples)


def test_what_pages_leave_out_is_counted(tmp_path):
    """As training counts it: a page of four pictures of which one is used."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    page = {"texts": [None, "one", None, "two", None, "three"]}
    page["images"] = ["a.png", None, "a.png", None, "a.png", None]
    (tmp_path / "pages.jsonl").write_text(json.dumps(page) + "\n")
    source = {"kind": "interleaved", "path": str(tmp_path / "pages.jsonl"), "layout": "obelics"}
    source |= {"images": str(tmp_path), "max_images": 1}
    recipe = load_recipe(
        "mini",
        [
            f"stages.sft.mixture.sources={json.dumps({'pages': source})}",
            "stages.sft.batch.samples=2",
        ],
    )
    mixture, _ = open_mixtures(recipe.stages[0].mixture, recipe.seed)
    left_out = fetch(mixture.sources["pages"], 0)[1]
    assert sum(left_out.values()) > 0
    counts = look(recipe, None, 1).counts
    for reason, count in left_out.items():
        assert counts[reason.replace("_", " ")] == 2 * count
