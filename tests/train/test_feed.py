"""Held-out samples stay out of training; cached features do not depend on their company."""

from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.spec import BatchSpec, HubSourceSpec, MixtureSpec, WorldSourceSpec
from lucida.data.sources import open_source
from lucida.data.stage import Spread, open_mixtures, parts
from lucida.model.checkpoint import build
from lucida.training.engine import Engine
from lucida.training.feed import FrozenFeatures, stage_feed
from lucida.training.precision import Precision
from lucida.training.stage import plan_stage

FP32 = Precision("fp32", torch.device("cpu"), "")


@given(st.integers(0, 300), st.integers(2, 50))
def test_the_two_parts_of_a_source_share_no_record_and_miss_none(size, apart):
    records = list(range(size))
    training, held = (Spread(records, apart, held_out=which) for which in (False, True))
    assert len(held) == size // apart
    both = [training[i] for i in range(len(training))] + [held[i] for i in range(len(held))]
    assert sorted(both) == records


def test_the_world_is_validated_on_its_own_split():
    spec = WorldSourceSpec(tasks=["attribute"], count=300)
    training, held = parts(spec, "world")
    assert (len(training), len(held)) == (300, 64)
    keys = [{image.key for i in range(64) for image in part[i].images} for part in (training, held)]
    assert keys[0].isdisjoint(keys[1])


def test_a_hub_source_has_a_split_but_is_held_out_by_records_and_tells_what_it_filters(
    tmp_path, monkeypatch, capsys
):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    texts = [[{"user": f"question {n}?", "assistant": "yes"}] for n in range(50)]
    rows = {"texts": texts, "rating": [n % 5 for n in range(50)]}
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "set" / "train.parquet")
    spec = HubSourceSpec(path=str(tmp_path / "set"), at_least={"rating": 1})
    training, held = parts(spec, "rated")
    assert (len(training), len(held)) == (38, 2)
    said = "".join(capsys.readouterr())
    assert "source rated: 10 rows left out by its filters: rating below 1" in said


@pytest.mark.parametrize(
    ("own", "common", "found"),
    [("own", "common", "own"), ("", "common", "common/lucida"), ("", "", "home/.cache/lucida")],
)
def test_features_are_kept_where_the_user_keeps_caches(
    own, common, found, recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for variable, folder in (("LUCIDA_CACHE", own), ("XDG_CACHE_HOME", common)):
        monkeypatch.setenv(variable, folder and str(tmp_path / folder))
    cache = FrozenFeatures(*build(recipe.model), FP32).open()
    assert cache.path.parent == tmp_path / found / "features"


def test_without_a_cache_that_can_be_written_features_are_kept_for_the_process_and_this_is_said(
    recipe, tmp_path, monkeypatch, capfd
):
    """Not even root can make a folder below a file."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "file" / "cache"))
    caches = [FrozenFeatures(*build(recipe.model), FP32).open() for _ in range(2)]
    assert caches[0].path == caches[1].path and caches[0].path.is_dir()
    said = capfd.readouterr().err
    assert said.count("cannot be written (Not a directory)") == 1
    assert "LUCIDA_CACHE" in said and str(caches[0].path.parent) in said


def test_a_source_that_is_too_small_holds_nothing_out(recipe, parts):
    spec = recipe.stages[0].mixture
    training, held = open_mixtures(spec, seed=0)
    assert (len(training), len(held)) == (23, 1)
    short = parts / "pictures" / "short.json"
    whole = (parts / "pictures" / "pictures.json").read_text()
    short.write_text(whole[: whole.index("}]}") + 3] + "]")
    one = {"kind": "llava", "path": str(short)}
    assert open_mixtures(MixtureSpec.model_validate({"sources": {"one": one}}), 0)[1] is None


@pytest.mark.kernels
def test_the_features_of_an_image_do_not_depend_on_its_company(recipe):
    """Nor on its place in the group: a group has always the same shape, and kernels treat the rows
    of one product alike. No arithmetic promises that, so it is looked at on every machine."""
    model, processor = build(recipe.model)
    source = open_source(recipe.stages[0].mixture.sources["pictures"])
    images = [source[i].images[0] for i in range(20)]
    features = FrozenFeatures(model, processor, FP32)
    together = features.compute(images).images()
    for number in (0, 7, 19):
        (alone,) = features.compute([images[number]]).images()
        assert torch.equal(alone, together[number])


def test_pixels_when_the_encoder_trains_features_when_it_is_frozen(recipe, tmp_path):
    model, processor = build(recipe.model)
    for pattern, frozen in (("projector", True), ("vision", False)):
        plan = plan_stage(model, {pattern: 1e-3}, "stage")
        feed = stage_feed(
            recipe, 0, plan, model, processor, FP32, tmp_path / "dropped.jsonl", Engine()
        )
        stream = feed.batches(0)
        batch = next(stream)[0]
        stream.close()
        assert (batch.features is not None) == frozen
        assert (batch.pixel_values is not None) != frozen


def test_what_was_cut_is_told(recipe, tmp_path):
    language = recipe.model.language.model_copy(update={"max_length": 40})
    short = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"language": language})}
    )
    model, processor = build(short.model)
    plan = plan_stage(model, {"projector": 1e-3}, "stage")
    feed = stage_feed(short, 0, plan, model, processor, FP32, tmp_path / "dropped.jsonl", Engine())
    stream = feed.batches(0)
    next(stream)
    stream.close()
    assert feed.newly_lost()["pictures", "samples cut"] == 4
    assert not feed.newly_lost()


def test_the_cache_knows_other_weights_of_the_same_encoder(recipe, tmp_path):
    model, processor = build(recipe.model)
    first = FrozenFeatures(model, processor, FP32).open().path
    assert FrozenFeatures(model, processor, FP32).open().path == first
    with torch.no_grad():
        next(model.vision.parameters()).add_(0.1)
    assert FrozenFeatures(model, processor, FP32).open().path != first


def test_scaled_decoding_has_features_of_its_own(recipe):
    model, processor = build(recipe.model)
    exact = FrozenFeatures(model, processor, FP32, BatchSpec()).open().path
    scaled = FrozenFeatures(model, processor, FP32, BatchSpec(decoding="scaled")).open().path
    assert FrozenFeatures(model, processor, FP32).open().path == exact != scaled
    asked = processor.pixels = Mock(side_effect=KeyError)
    for decoding in ("exact", "scaled"):
        with pytest.raises(KeyError):
            FrozenFeatures(model, processor, FP32, BatchSpec(decoding=decoding)).compute([])
    assert asked.call_args_list == [call([], False), call([], True)]


def test_the_cache_keeps_to_its_limit(recipe):
    model, processor = build(recipe.model)
    source = open_source(recipe.stages[0].mixture.sources["pictures"])
    images = [source[i].images[0] for i in range(6)]
    features = FrozenFeatures(model, processor, FP32, BatchSpec(cache_limit=3e-7))
    first = features(images)
    assert torch.equal(features(images).values, first.values)
    assert len(features.cache) < 6 and features.cache.unstored > 0
    size = (features.cache.path / "features.bin").stat().st_size
    assert 0 < size <= 300
    assert str(features.cache).endswith("at most 300 bytes")
