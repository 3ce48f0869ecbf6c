"""PTB tokens: equal to the official tokenizer's, linear in the length of the text."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.eval.metrics.ptb import tokenize, tokenize_lines

GOLDEN = Path(__file__).parents[2] / "golden" / "eval"
rows = [json.loads(line) for line in (GOLDEN / "ptb_tokens.jsonl").open(encoding="utf-8")]
files = ["captions", "captions_fakecap", "captions_manyrefs"]


def test_equals_the_official_tokenizer_on_a_file():
    """As scores are computed: the original reads a file at once, one caption on each line."""
    found = tokenize_lines([row["text"] for row in rows])
    assert [" ".join(tokens) for tokens in found] == [row["tokens"] for row in rows]


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        (["12th Ave S.", "The dog"], ["12th ave s", "the dog"]),
        (["12th Ave S.", "the dog"], ["12th ave s.", "the dog"]),
        (["12th Ave S.", " ", "", "The dog"], ["12th ave s", "", "", "the dog"]),
        (["12th Ave S.", None, "The dog"], ["12th ave s", "", "the dog"]),
        (["Ave S.", "A"], ["ave s.", "a"]),
        (["Ave S.", "A", ""], ["ave s", "a", ""]),
        (["plan B.", "", "He is"], ["plan b", "", "he is"]),
        (["apartment no.", "5 dogs"], ["apartment no.", "5 dogs"]),
        (["apartment no.", "five dogs"], ["apartment no", "five dogs"]),
        (["in the U.S.", "The dog"], ["in the u.s.", "the dog"]),
        ([], []),
    ],
)
def test_the_next_line_decides_as_in_the_original(texts, tokens):
    """Every row was asked of CoreNLP 3.4.1 (None as an empty line)."""
    assert [" ".join(each) for each in tokenize_lines(texts)] == tokens


def test_by_itself_a_caption_differs_at_a_last_letter_only():
    different = [r for r in rows if " ".join(tokenize(r["text"])) != r["tokens"]]
    assert [r["text"][-3:] for r in different] == [" S.", ",l."]
    corpus = [row for row in rows if row["source"] != "authored"]
    assert len(different) / len(corpus) < 0.002


@pytest.mark.parametrize("name", files)
def test_equals_the_official_tokenizer_on_captions(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for image in golden["images"]:
        texts = [image["candidate"], *image["references"]]
        tokens = [image["tokenized_candidate"], *image["tokenized_references"]]
        assert [" ".join(tokenize(text)) for text in texts] == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's the dog's ball (isn't it?)", "it 's the dog 's ball -lrb- is n't it -rrb-"),
        ("at 5:30 p.m.", "at 5:30 p.m."),
        ("AT&T m&m", "at&t m & m"),
        ("A man on S. Main. In town B. The sign", "a man on s. main in town b the sign"),
        ("No. 5 or no. The end", "no. 5 or no the end"),
        ("U.S.-made 3.5-inch disk", "u.s.-made 3.5-inch disk"),
        ("1 1/2 cups", "1\u00a01/2 cups"),
        (
            "by Ann <ann@x.org> (see fig. 3): 10\u00b2 >> 9",
            "by ann <ann@x.org> -lrb- see fig. 3 -rrb- 10 \u00b2 >> 9",
        ),
        (None, ""),
        (" \n", ""),
    ],
)
def test_examples(text, tokens):
    assert " ".join(tokenize(text)) == tokens


@pytest.mark.parametrize("mark", ["\r", "\v", "\f", "\u2028", "\u2029", "\r\n", "\x85", "\n", "\t"])
def test_line_breaks_of_every_kind_are_spaces(mark):
    assert tokenize(f"a dog{mark}runs") == ["a", "dog", "runs"]
    assert tokenize(f"1{mark}1/2") == tokenize("1 1/2")


@given(st.text(max_size=60))
def test_any_text_gives_clean_tokens(text):
    tokens = tokenize(text)
    assert all(tokens) and not any(c in " \n\r\u2028" for token in tokens for c in token)
    assert not {".", ",", "!", "?", ":", ";", "-", "--", "...", "'", "''", "`", "``"} & set(tokens)
    assert tokenize(f" {text}\n") == tokens


words = st.text(alphabet="abcxyz'-.,!?()\"/&@#15 AS", max_size=12)


@given(st.lists(words, max_size=6))
def test_remembered_words_split_as_the_whole_text_does(parts):
    from lucida.eval.metrics.ptb import _split

    text = " ".join(" ".join(parts).split())
    assert tokenize(text) == list(_split(text))


@pytest.mark.parametrize(
    "unit",
    ["a", "a.", "a,", "-a", "+a", "o'", "a'", "1,", "a/", "a@", "www.", "<a", "é", "\U0001f600"],
)
def test_a_runaway_output_takes_linear_time(unit):
    started = time.process_time()
    tokenize(unit * 20_000)
    assert time.process_time() - started < 1.0


def test_at_least_15000_captions_a_second():
    texts = [row["text"] for row in rows if row["source"] == "coco_val2017"] * 20
    started = time.process_time()
    for text in texts:
        tokenize(text)
    assert len(texts) / (time.process_time() - started) > 15_000
