"""Labels from structure, in every template; markers in data stay text; branches; truncation."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_tokenizer import (
    FORGETFUL_TEMPLATE,
    LLAMA_TEMPLATE,
    QWEN_TEMPLATE,
    bytes_tokenizer,
    words_tokenizer,
)
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lucida.core.errors import DataError
from lucida.data.chat import encode, encode_prompt
from lucida.data.policies import make_policy
from lucida.data.sample import IGNORED, BoxPart, ImagePart, ImageSource, Sample, Turn
from lucida.data.vocabulary import vocabulary

POLICY = make_policy("letterbox", 64, (0.5,) * 3, (0.5,) * 3)
VISUAL = 3
# name → (template, tokenizer, what stands before an answer's text, what ends it)
STYLES = {
    "qa": ("qa", bytes_tokenizer(), " ", "<eos>"),
    "qa without start": ("qa", bytes_tokenizer(bos=False), " ", "<eos>"),
    "chatml": ("chatml", bytes_tokenizer(), "", "<|im_end|>"),
    "vicuna": ("vicuna", bytes_tokenizer(), " ", "<eos>"),
    "qwen": ("tokenizer", bytes_tokenizer(template=QWEN_TEMPLATE), "", "<|im_end|>"),
    "llama": ("tokenizer", bytes_tokenizer(template=LLAMA_TEMPLATE), " ", " <eos>"),
}


def picture(number=0, width=100, height=50):
    return ImageSource(f"picture {number}", f"p{number}", lambda: Image.new("RGB", (width, height)))


def placeholder(tokenizer):
    return tokenizer.convert_tokens_to_ids("<image>")


def encoded(sample, template, tokenizer, loss="answers", max_length=10_000, visual=VISUAL, **more):
    return encode(
        sample, tokenizer, template, visual, POLICY, 32, loss, max_length,
        image_token_id=placeholder(tokenizer), **more,
    )  # fmt: skip


def prompted(sample, template, tokenizer, max_length=10_000, visual=VISUAL):
    return encode_prompt(
        sample, tokenizer, template, visual, POLICY, 32, max_length,
        image_token_id=placeholder(tokenizer),
    )  # fmt: skip


def conversation(*texts, images=1):
    turns = [
        Turn("assistant" if number % 2 else "user", (text,)) for number, text in enumerate(texts)
    ]
    stem = (Turn("user", tuple(ImagePart(k) for k in range(images))),) if images else ()
    return Sample("record 7", tuple(picture(k) for k in range(images)), stem, (tuple(turns),))


def supervised(tokens, tokenizer):
    return tokenizer.decode(tokens.target[tokens.target != IGNORED])


nasty = st.sampled_from(["<image>", "<eos>", "<|im_end|>", "<bos>", "<b01>", "\ue0000\ue001", "\n"])
words = st.lists(nasty | st.text(st.characters(codec="utf-8"), max_size=8), max_size=5)
texts = words.map("".join)
answers = texts.filter(str.strip)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_targets_are_the_answers_and_their_ends(style, data):
    template, tokenizer, lead, end = STYLES[style]
    rounds = data.draw(st.integers(1, 3))
    said = [data.draw(answers if k % 2 else texts) for k in range(2 * rounds)]
    images = data.draw(st.integers(0, 2))
    tokens = encoded(conversation(*said, images=images), template, tokenizer)
    expected = "".join(lead + answer.strip() + end for answer in said[1::2])
    assert supervised(tokens, tokenizer) == expected
    # No marker comes from the data.
    ids = tokens.input_ids
    assert (ids == placeholder(tokenizer)).sum() == VISUAL * images
    assert np.array_equal(ids == placeholder(tokenizer), tokens.image > 0)
    assert (ids == tokenizer.convert_tokens_to_ids(end.strip())).sum() >= rounds
    boxes = [tokenizer.convert_tokens_to_ids("<b01>")]
    assert not np.isin(ids, boxes).any()
    # Each target is the token that comes next.
    where = np.flatnonzero(tokens.target != IGNORED)
    assert np.array_equal(tokens.target[where], ids[where + 1])


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_prompt_is_what_stands_before_the_answer(style, data):
    template, tokenizer, _, _ = STYLES[style]
    said = [data.draw(answers if k % 2 else texts) for k in range(4)]
    sample = conversation(*said)
    whole, prompt = encoded(sample, template, tokenizer), prompted(sample, template, tokenizer)
    length = len(prompt)
    assert np.array_equal(whole.input_ids[:length], prompt.input_ids)
    assert np.array_equal(whole.position[:length], prompt.position)
    assert (prompt.target == IGNORED).all()
    # The last answer begins exactly where the prompt ends.
    assert (whole.target[length - 1 :] != IGNORED).any()
    assert whole.target[length - 1] == whole.input_ids[length]
    unanswered = replace(sample, branches=(sample.branches[0][:-1],))
    again = prompted(unanswered, template, tokenizer)
    assert np.array_equal(again.input_ids, prompt.input_ids)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(texts, answers), min_size=2, max_size=4))
def test_a_branch_is_the_question_asked_alone(style, asked):
    template, tokenizer, _, _ = STYLES[style]
    several = conversation("", "")
    branches = tuple((Turn("user", (q,)), Turn("assistant", (a,))) for q, a in asked)
    together = encoded(replace(several, branches=branches), template, tokenizer)
    stem = together.branch == 0
    for number, branch in enumerate(branches, start=1):
        alone = encoded(replace(several, branches=(branch,)), template, tokenizer)
        mine = stem | (together.branch == number)
        for name in ("input_ids", "position", "image"):
            assert np.array_equal(getattr(together, name)[mine], getattr(alone, name)), name
        assert np.array_equal(together.branch[mine] > 0, alone.branch > 0)
        assert np.array_equal(together.target[mine], alone.target)


def test_the_first_token_of_a_branch_is_no_target_when_there_are_several():
    _, tokenizer, _, _ = STYLES["qa"]
    two = conversation("a", "b")
    two = replace(two, branches=two.branches * 2)
    tokens = encoded(two, "qa", tokenizer, loss="all")
    last = np.flatnonzero(np.diff(tokens.branch, append=99))
    assert (tokens.target[last] == IGNORED).all()
    alone = encoded(conversation("a", "b"), "qa", tokenizer, loss="all")
    assert alone.target[np.flatnonzero(alone.branch == 0)[-1]] != IGNORED


def test_golden_qwen_text():
    tokenizer = bytes_tokenizer(bos=False)
    turns = (
        Turn("system", ("Be brief.",)),
        Turn("user", (ImagePart(0), "\nWhat is this? ")),
        Turn("assistant", ("A kite.",)),
        Turn("user", ("And where?",)),
        Turn("assistant", (BoxPart(0, 0, 0, 100, 50),)),
    )
    tokens = encoded(Sample("r", (picture(),), (), (turns,)), "chatml", tokenizer)
    assert tokenizer.decode(tokens.input_ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<image><image><image>\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\nA kite.<|im_end|>\n"
        "<|im_start|>user\nAnd where?<|im_end|>\n"
        "<|im_start|>assistant\n<b00><b08><b31><b24><|im_end|>\n"
    )
    assert supervised(tokens, tokenizer) == "A kite.<|im_end|><b00><b08><b31><b24><|im_end|>"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "<bos><image><image><image>\nA kite.<eos>"),
        ("qa", "<bos><image><image><image>\nQuestion: What?\nAnswer: A kite.<eos>"),
        (
            "vicuna",
            "<bos>A chat between a curious user and an artificial intelligence assistant. The "
            "assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
            "<image><image><image>\nWhat? ASSISTANT: A kite.<eos>",
        ),
    ],
)
def test_golden_texts(template, text):
    tokenizer = bytes_tokenizer()
    tokens = encoded(conversation("What?", "A kite."), template, tokenizer)
    assert tokenizer.decode(tokens.input_ids) == text


@pytest.mark.parametrize("chat_template", [QWEN_TEMPLATE, LLAMA_TEMPLATE])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_tokenizers_template_is_followed_to_the_letter(chat_template, rounds):
    tokenizer = bytes_tokenizer(template=chat_template)
    said = ["What is it?", "A kite.", "Where?", "Up.", "Why?", "Wind."][: 2 * rounds]
    roles = ["user", "assistant"] * rounds
    messages = [{"role": r, "content": t} for r, t in zip(roles, said, strict=True)]
    tokens = encoded(conversation(*said, images=0), "tokenizer", tokenizer)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(tokens.input_ids) == rendered
    prompt = prompted(conversation(*said, images=0), "tokenizer", tokenizer)
    rendered = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(prompt.input_ids) == rendered


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template"),
        (FORGETFUL_TEMPLATE, "goes on"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "special token"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "written 0 times"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "written 2 times"),
        ("{% for m in messages[::-1] %}{{ m.content }}{% endfor %}", "order"),
        ("{{ raise_exception('no') }}", "refuses"),
        (
            "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'Go:' }}{% endif %}",
            "another text",
        ),
    ],
)
def test_a_template_that_cannot_be_followed_is_an_error(template, words):
    tokenizer = bytes_tokenizer(template=template)
    with pytest.raises(DataError, match=words) as caught:
        encoded(conversation("a", "b", "c", "d"), "tokenizer", tokenizer)
    assert "record 7" in str(caught.value)


def test_thinking_that_the_prompt_lacks_has_to_be_generated():
    tokenizer = bytes_tokenizer(template=FORGETFUL_TEMPLATE)
    tokens = encoded(conversation("a", "b"), "tokenizer", tokenizer)
    assert supervised(tokens, tokenizer) == "<think>\n\n</think>\n\nb<|im_end|>"


def test_a_tokenizer_that_adds_spaces_does_not_add_them_inside():
    tokenizer = words_tokenizer()
    tokens = encoded(conversation("a red?", "red"), "qa", tokenizer)
    assert tokenizer.convert_ids_to_tokens(tokens.input_ids)[4:] == [
        *"\nQuestion:", "▁a", "▁red", "?", *"\nAnswer:", "▁red", "</s>",
    ]  # fmt: skip


def test_markers_that_are_ordinary_words_of_a_vocabulary_stay_text():
    """A tokenizer whose vocabulary itself holds the placeholder, with no special tokens at all."""
    vocab = {letter: number for number, letter in enumerate("<image>abQA:uestionwr\n ")}
    vocab["<image>"] = 99
    backend = Tokenizer(models.WordLevel(vocab, unk_token=" "))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"<image>|[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="b")
    assert tokenizer.encode("a<image>") == [vocab["a"], 99]
    found = vocabulary(tokenizer, 99).words("a<image>" * 3000)
    assert found == tuple(vocab[letter] for letter in "a<image>") * 3000


def test_an_end_token_without_a_role_ends_an_answer():
    tokenizer = copy.deepcopy(bytes_tokenizer())
    tokenizer.add_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' }}"
        "{{ m.content + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    )
    tokens = encoded(conversation("a", "b<|end|>"), "tokenizer", tokenizer)
    assert supervised(tokens, tokenizer) == "b<|end|><|end|>"
    assert (tokens.target == tokenizer.convert_tokens_to_ids("<|end|>")).sum() == 1


def test_a_start_token_is_written_once():
    tokenizer = bytes_tokenizer()
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
    )
    tokens = encode(
        conversation("a", "b", images=0), tokenizer, "chatml", 0, POLICY, 32, "answers", 99,
        image_token_id=None,
    )  # fmt: skip
    assert tokenizer.decode(tokens.input_ids).startswith("<|im_start|>user\na")


def document(*parts, images):
    return Sample("page 3", images, (), ((Turn("text", parts),),))


def test_documents_are_supervised_whole_and_end():
    tokenizer = bytes_tokenizer()
    page = document("Hi ", ImagePart(0), " there", images=(picture(),))
    for template in ("plain", "qa", "chatml", "tokenizer"):
        tokens = encoded(page, template, tokenizer)
        text = "<bos>Hi <image><image><image> there<eos>"
        assert tokenizer.decode(tokens.input_ids) == text
        assert supervised(tokens, tokenizer) == "Hi  there<eos>"
    late = encoded(page, "qa", tokenizer, loss="after_image")
    assert supervised(late, tokenizer) == " there<eos>"
    prompt = prompted(document("Hi", images=()), "qa", tokenizer)
    assert tokenizer.decode(prompt.input_ids) == "<bos>Hi"


def test_loss_modes_of_a_conversation():
    tokenizer = bytes_tokenizer()
    everything = encoded(conversation("What?", "A kite."), "qa", tokenizer, loss="all")
    assert supervised(everything, tokenizer) == "\nQuestion: What?\nAnswer: A kite.<eos>"
    turns = (Turn("user", ("See ", ImagePart(0), "!")), Turn("assistant", ("ok",)))
    sample = Sample("r", (picture(),), (), (turns,))
    late = encoded(sample, "qa", tokenizer, loss="after_image")
    assert supervised(late, tokenizer) == "!\nAnswer: ok<eos>"
    blind = encoded(sample, "qa", tokenizer, loss="after_image", visual=0)
    assert supervised(blind, tokenizer) == "!\nAnswer: ok<eos>"
    text_only = encoded(conversation("What?", "ok", images=0), "qa", tokenizer, loss="after_image")
    assert supervised(text_only, tokenizer) == "\nQuestion: What?\nAnswer: ok<eos>"


def test_a_blind_model_gets_the_same_without_images():
    tokenizer = bytes_tokenizer()
    tokens = encoded(conversation("What?", "A kite."), "qa", tokenizer, visual=0)
    assert tokenizer.decode(tokens.input_ids) == "<bos>\nQuestion: What?\nAnswer: A kite.<eos>"
    assert tokens.images == ()
    assert not tokens.image.any()


def test_images_are_numbered_in_the_order_they_are_shown():
    tokenizer = bytes_tokenizer()
    pictures = (picture(0), picture(1))
    page = document("a", ImagePart(1), "b", ImagePart(0), "c", images=pictures)
    tokens = encoded(page, "qa", tokenizer)
    assert [source.key for source in tokens.images] == ["p1", "p0"]
    assert [int(n) for n in dict.fromkeys(tokens.image[tokens.image > 0])] == [1, 2]


ALONE = conversation("a", "b")


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (conversation("a", " "), "empty"),
        (conversation("a"), "nothing of this sample"),
        (Sample("record 7"), "nothing of this sample"),
        (replace(conversation("a", "b"), images=()), "differ in number"),
        (replace(conversation("a", "b", images=0), images=(picture(),)), "differ in number"),
        (
            replace(
                conversation("a", "b"),
                images=(picture(), picture(1)),
                stem=(Turn("user", (ImagePart(0), ImagePart(0))),),
            ),
            "exactly once",
        ),
        (
            replace(ALONE, branches=((Turn("assistant", (BoxPart(3, 0, 0, 1, 1),)),),)),
            "lacks",
        ),
        *(
            (
                replace(ALONE, branches=((Turn("assistant", (BoxPart(0, *box),)),),)),
                "outside of its picture",
            )
            for box in ((4000, 0, 5000, 9), (-9, -9, -1, 4), (0, 0, float("nan"), 1))
        ),
        (
            replace(ALONE, stem=(), branches=((Turn("assistant", (ImagePart(0),)),),)),
            "contains an image",
        ),
        (
            replace(ALONE, branches=((Turn("text", ("a",)), Turn("user", ("b",))),)),
            "document and a conversation",
        ),
    ],
)  # fmt: skip
def test_bad_samples_are_named(sample, words):
    with pytest.raises(DataError, match=words) as caught:
        encoded(sample, "qa", bytes_tokenizer())
    assert "record 7" in str(caught.value)


def test_tokenizers_that_lack_something():
    box = replace(
        conversation("a", "b"), branches=((Turn("assistant", (BoxPart(0, 0, 0, 9, 9),)),),)
    )
    with pytest.raises(DataError, match="no box token <b000>"):
        encode(
            box, bytes_tokenizer(), "qa", VISUAL, POLICY, 500, "answers", 99,
            image_token_id=placeholder(bytes_tokenizer()),
        )  # fmt: skip
    with pytest.raises(DataError, match="im_start"):
        encoded(conversation("a", "b"), "chatml", words_tokenizer())
    with pytest.raises(DataError, match="no token for the template"):
        encoded(conversation("a", "b"), "vicuna", words_tokenizer())
    with pytest.raises(DataError, match="one assistant turn"):
        encoded(conversation("a", "b", "c", "d"), "plain", bytes_tokenizer())


def test_branches_are_dropped_before_anything_is_cut():
    tokenizer = bytes_tokenizer()
    sample = conversation("a", "b")
    sample = replace(sample, branches=sample.branches * 5)
    one = len(encoded(conversation("a", "b"), "qa", tokenizer))
    stem = 1 + VISUAL
    counts = Counter()
    room = stem + 3 * (one - stem) + 2
    tokens = encoded(sample, "qa", tokenizer, max_length=room, counts=counts)
    assert tokens.branch.max() == 3
    assert len(tokens) == room - 2
    assert counts == {"branches_dropped": 2, "images_dropped": 0}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_a_cut_keeps_images_whole(max_length, gaps):
    tokenizer = bytes_tokenizer()
    parts = []
    for number, gap in enumerate(gaps):
        parts += [ImagePart(number), "x" * gap]
    page = document("start", *parts, images=tuple(map(picture, range(len(gaps)))))
    whole = encoded(page, "qa", tokenizer)
    counts = Counter()
    try:
        tokens = encoded(page, "qa", tokenizer, max_length=max_length, counts=counts)
    except DataError as error:
        assert max_length <= 1, str(error)
        return
    assert len(tokens) <= max_length
    assert np.array_equal(tokens.input_ids, whole.input_ids[: len(tokens)])
    runs = np.bincount(tokens.image[tokens.image > 0], minlength=len(tokens.images) + 1)[1:]
    assert (runs == VISUAL).all()
    assert len(runs) == len(tokens.images)
    assert counts["images_dropped"] == len(gaps) - len(runs)
    assert counts["tokens_cut"] == len(whole) - len(tokens)
    assert counts["samples_cut"] == (len(tokens) < len(whole))
    # What is missing is missing only because it did not fit.
    assert len(whole) == len(tokens) or len(tokens) + VISUAL > max_length
    where = np.flatnonzero(tokens.target != IGNORED)
    assert (where < len(tokens) - 1).all()


def test_a_stem_that_fills_the_context_is_an_error():
    with pytest.raises(DataError, match="stem"):
        encoded(conversation("a", "b", images=2), "qa", bytes_tokenizer(), max_length=7)
    with pytest.raises(DataError, match="nothing of this sample"):
        encoded(conversation("a", "b", images=2), "qa", bytes_tokenizer(), max_length=9)


def test_a_prompt_longer_than_the_context_is_an_error():
    tokenizer = bytes_tokenizer()
    length = len(prompted(conversation("a", "b"), "qa", tokenizer))
    prompted(conversation("a", "b"), "qa", tokenizer, max_length=length + 1)
    with pytest.raises(DataError, match="longer than the context"):
        prompted(conversation("a", "b"), "qa", tokenizer, max_length=length)


def test_examples_in_the_stem_are_shared():
    """Few-shot: two answered examples, then isolated questions."""
    tokenizer = bytes_tokenizer()
    stem = (
        Turn("user", (ImagePart(0), "What?")),
        Turn("assistant", ("red",)),
        Turn("user", (ImagePart(1),)),
    )
    branches = tuple((Turn("user", (q,)), Turn("assistant", ("blue",))) for q in "ab")
    sample = Sample("r", (picture(0), picture(1)), stem, branches)
    tokens = encoded(sample, "qa", tokenizer)
    text = tokenizer.decode(tokens.input_ids[tokens.branch == 0])
    images = "<image>" * VISUAL
    assert text == f"<bos>{images}\nQuestion: What?\nAnswer: red<eos>{images}"
    assert supervised(tokens, tokenizer) == " red<eos> blue<eos> blue<eos>"


def test_candidate_answers_hang_from_one_question():
    tokenizer = bytes_tokenizer()
    stem = (Turn("user", (ImagePart(0), "What?")),)
    branches = tuple((Turn("assistant", (a,)),) for a in ("red", "blue"))
    tokens = encoded(Sample("r", (picture(),), stem, branches), "qa", tokenizer)
    assert supervised(tokens, tokenizer) == " red<eos> blue<eos>"
