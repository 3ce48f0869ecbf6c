"""Who adapts a language model to words that it lacks, and leaves its embeddings frozen, is told."""

import pytest
from tiny_training import tiny_recipe

from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.model.checkpoint import build
from lucida.model.language import load_language
from lucida.model.parts import part_path
from lucida.training.loop import train_alone
from lucida.training.words import count_words, embeddings_of, is_lacking


@pytest.fixture(scope="module")
def base():
    return load_language(part_path("lucida:base-mini"))


def test_words_of_the_world_are_known_and_others_lacking(base):
    _, tokenizer = base
    assert not any(is_lacking(tokenizer, word) for word in ("circle", "yellow", "background"))
    assert all(is_lacking(tokenizer, word) for word in ("giraffe", "zygote", "Ökologie"))


def test_an_answer_is_counted_by_its_words(parts):
    _, processor = build(tiny_recipe(parts).model)
    from lucida.data.sample import Sample, Turn

    turns = (Turn("user", ("which?",)), Turn("assistant", ("red and green, 12",)))
    tokens = processor.encode(Sample("one", (), turns, ()))
    found = count_words(processor.tokenizer, [tokens], ["r"])
    assert found.words == 3
    assert found.lacking == {"red": 1, "and": 1, "green": 1}  # a byte a token
    assert found.share == 1.0
    assert found.new == {"r": 2}


def test_both_ends_of_a_language_model(parts):
    model, _ = build(tiny_recipe(parts).model)
    assert embeddings_of(model) == {"language.model.embed_tokens.weight"}


@pytest.mark.parametrize("trained", [False, True])
def test_it_is_told_with_the_option_that_helps(parts, tmp_path, capsys, trained):
    pytest.importorskip("peft")
    values = tiny_recipe(parts).model_dump(mode="json")
    stage = values["stages"][-1]
    stage |= {"train": {}, "lora": {"rate": 1e-3, "rank": 2}, "budget": {"steps": 1}}
    values["stages"] = [stage]
    told = "stages.sft.train.language.model.embed_tokens=0.001"
    if trained:
        key = told.partition("train.")[2].partition("=")[0]
        stage["train"] = {key: 1e-3}
    run = train_alone(Recipe.model_validate(values), tmp_path / "run")
    said = capsys.readouterr().err
    assert (told in said) is not trained
    assert ("100% of the" in said) is not trained
    assert RunFolder(run).exists
