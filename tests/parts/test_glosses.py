"""WordNet as text, questions about it, and a language model that reads it: a few steps."""

import random

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from lucida.core.errors import DataError
from lucida.core.spec import TextSourceSpec
from lucida.data.sources import open_source
from lucida.parts import language
from lucida.parts.glosses import ask_choice, read_glosses, write_glosses
from lucida.parts.reading import build_wordnet

SYNSETS = [
    ("00000001", "03", "entity", "", "that which is"),
    ("00000002", "05", "animal", "00000001", 'a living thing that moves; "a wild animal"'),
    ("00000003", "05", "duck", "00000002", 'small wading bird; "a duck swims"'),
    ("00000004", "05", "Anas", "00000002", "a genus"),
    ("00000005", "14", "biological_group", "00000001", "a group"),
    ("00000006", "05", "duck_family", "00000005", "all ducks"),
    ("00000007", "07", "shape", "00000001", "how it looks"),
    ("00000008", "06", "very_long_fire_engine_ladder", "00000001", "too many words"),
]


def write_nouns(file, more=0):
    """As wndb(5) has them, with its licence in front."""
    found = [*SYNSETS]
    for number in range(more):
        place = f"1{number:07}"
        found.append((place, "05", f"beast{number}", "00000002", f"an animal of {number} legs"))
    lines = ["  1 This software and database is being provided to you"]
    for place, lexicon, name, above, text in found:
        pointer = f"001 @ {above} n 0000" if above else "000"
        lines.append(f"{place} {lexicon} n 01 {name} 0 {pointer} | {text}  ")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_things_are_read_and_the_rest_is_left_out(tmp_path):
    (duck,) = read_glosses(write_nouns(tmp_path / "data.noun"))
    assert duck.name == "duck" and duck.text == "small wading bird" and duck.kinds == ("animal",)
    told = write_glosses(tmp_path / "data.noun", tmp_path)
    assert told == ["1 things"]
    source = open_source(TextSourceSpec(path=str(tmp_path / "glosses.jsonl")))
    assert source[0].branches[0][0].parts == ("duck: small wading bird",)
    with pytest.raises(DataError, match="no WordNet here"):
        read_glosses(tmp_path / "none")
    (tmp_path / "other").write_text("1 2 3\n")
    with pytest.raises(DataError, match="no line of"):
        read_glosses(tmp_path / "other")


def test_a_choice_has_the_right_name_once_at_any_place():
    names = ["Duck", "bus", "moon", "rose", "moon"]
    asked = {ask_choice(random.Random(seed), "duck", names) for seed in range(40)}
    for question in asked:
        said = question.removeprefix("Which of these is it: ").removesuffix("?")
        assert sorted(said.replace(" or ", ", ").split(", ")) == ["bus", "duck", "moon", "rose"]
    assert len({question.split(": ")[1].split(", ")[0] for question in asked}) == 4
    with pytest.raises(DataError, match="too few names"):
        ask_choice(random.Random(0), "duck", ["duck", "bus", "moon"])


def test_a_model_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(language.shutil, "which", lambda name: None)  # nothing is compiled
    card = build_wordnet(
        tmp_path / "made", write_nouns(tmp_path / "data.noun", 120), steps=2, things=2
    )
    assert card["data"] == {"glosses": 116, "read": 4}
    assert all(0 <= value <= 100 for value in card["measured"].values())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 192)
    text = "Which of these is it: beast7, animal or fire engine?"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
