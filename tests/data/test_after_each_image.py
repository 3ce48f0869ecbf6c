"""The loss on the sentence right behind each image alone: its marks against a plain account."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_tokenizer import bytes_tokenizer, words_tokenizer
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from lucida.core.errors import DataError
from lucida.data.chat import encode
from lucida.data.policies import make_policy
from lucida.data.sample import IGNORED, BoxPart, ImagePart, ImageSource, Sample, Turn
from lucida.data.transforms import Shown, arrange_items, document, match_sentences

POLICY = make_policy("letterbox", 64, (0.5,) * 3, (0.5,) * 3)
BYTES = bytes_tokenizer()
SENTENCES = st.text("abc. ", min_size=1, max_size=6).filter(str.strip)


def picture(number):
    return ImageSource(f"picture {number}", f"beside{number}", lambda: Image.new("RGB", (10, 10)))


def page(*parts):
    """A document; a number is a picture."""
    shown = [part for part in parts if isinstance(part, int)]
    told = tuple(ImagePart(part) if isinstance(part, int) else part for part in parts)
    return Sample("page 3", tuple(map(picture, range(len(shown)))), (), ((Turn("text", told),),))


def encoded(sample, tokenizer=BYTES, loss="after_each_image", visual=2, max_length=999):
    marker = tokenizer.convert_tokens_to_ids("<image>")
    return encode(
        sample, tokenizer, "qa", visual, POLICY, 32, loss, max_length, image_token_id=marker
    )


def told(tokens, tokenizer=BYTES):
    """The supervised text, with a bar wherever something stands between."""
    where = np.flatnonzero(tokens.target != IGNORED)
    runs = np.split(where, np.flatnonzero(np.diff(where) != 1) + 1)
    return "|".join(tokenizer.decode(tokens.target[run]) for run in runs)


def test_only_the_sentence_behind_each_image_is_supervised():
    sample = page("Hi. ", 0, "A kite.", " It flies.", " High.", 1, "Bye.")
    assert told(encoded(sample)) == "A kite.|Bye.<eos>"
    assert told(encoded(sample, loss="after_image")) == "A kite. It flies. High.|Bye.<eos>"
    assert told(encoded(page(0, "A kite.", " It flies."))) == "A kite."
    assert told(encoded(page("Both: ", 0, 1, "two kites.", " Bye."))) == "two kites."
    shared = Sample(
        "r", (picture(0),), (Turn("user", (ImagePart(0),)),), ((Turn("text", ("A.", " B.")),),) * 2
    )
    assert told(encoded(shared)) == ".|."  # what a branch begins with has no position before it
    assert told(encoded(sample, visual=0)) == "A kite.|Bye.<eos>"  # a blind model learns the same


def test_a_caption_is_supervised_whole_and_so_is_text_without_pictures():
    assert told(encoded(page(0, "A kite. It flies."))) == "A kite. It flies.<eos>"
    assert told(encoded(page("Just.", " Text."))) == "Just. Text.<eos>"


def test_of_a_conversation_the_answers_are():
    turns = (Turn("user", (ImagePart(0), "What?")), Turn("assistant", ("A kite.", " It flies.")))
    sample = Sample("r", (picture(0),), (), (turns,))
    assert told(encoded(sample)) == told(encoded(sample, loss="answers"))


def test_a_box_does_not_end_the_sentence():
    with_box = page(0, "a kite at ", BoxPart(0, 0, 0, 5, 5), " flies.", " Bye.")
    text = told(encoded(with_box))
    assert text.startswith("a kite at <b00>") and text.endswith(" flies.")


def test_a_page_that_ends_in_front_of_every_sentence_is_refused():
    with pytest.raises(DataError, match="nothing of this sample is supervised"):
        encoded(page("long words before", 0, "A kite."), max_length=12)


def test_words_of_two_sentences_may_share_a_token():
    alphabet = {name: i for i, name in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merged = BPE(vocab=alphabet | {".Ċ": len(alphabet)}, merges=[(".", "Ċ")])
    backend = Tokenizer(merged)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<image>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    sample = page(0, "one.", "\n\ntwo")
    assert told(encoded(sample, tokenizer), tokenizer) == "one.\n"
    pieces = page(0, "a red one.", " a red two.")
    assert told(encoded(pieces, words_tokenizer()), words_tokenizer()) == "a red one."


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(SENTENCES, min_size=1, max_size=5),
    places=st.lists(st.integers(0, 4), max_size=4),
    order=st.sampled_from(["matched", "images_first", "pairs"]),
)
def test_of_any_page_exactly_the_matched_sentences(sentences, places, order):
    places = [place % len(sentences) for place in places]
    found = [(Shown(number), place) for number, place in enumerate(places)]
    items, _ = arrange_items(match_sentences(sentences, found), order)
    parts, numbers = document(items)
    images = tuple(map(picture, range(len(numbers))))
    sample = Sample("r", images, (), ((Turn("text", parts),),))
    if not any(isinstance(part, str) for part in parts):
        return
    tokens = encoded(sample)
    wanted, end = [], ""
    for before, item in zip([None, *items], items, strict=False):
        if isinstance(item, Shown):
            continue
        if isinstance(before, Shown) or not images:
            wanted.append(item.strip())
            end = "<eos>" if item is items[-1] else ""
        else:
            end = ""
    if images:
        assert told(tokens) == "|".join(wanted) + end
    else:
        assert told(tokens) == " ".join(wanted) + "<eos>"
    for loss in ("answers", "all"):  # what is supervised changes no token
        assert np.array_equal(encoded(sample, loss=loss).input_ids, tokens.input_ids)
    inside = encoded(sample, loss="after_image").target != IGNORED
    assert not ((tokens.target != IGNORED) & ~inside).any()
