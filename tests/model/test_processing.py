"""Messages and images become tensors exactly as training writes them."""

from __future__ import annotations

import io

import pytest
import torch
from tiny import picture, tiny_model
from transformers import pipeline

from lucida.core.errors import DataError
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.model.messages import image_source, sample_of
from lucida.model.registration import register

torch.set_num_threads(1)
register()
ASK = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


def user(*content: object) -> dict:
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in content
    ]
    return {"role": "user", "content": parts}


@pytest.fixture(scope="module")
def parts():
    return tiny_model()


def test_a_question_is_written_as_in_training(parts):
    _, processor = parts
    given = processor.apply_chat_template([user(picture(), "what colour?")], **ASK)
    trained = processor.encode(
        Sample(
            "test",
            (image_source(picture(), 1),),
            (Turn("user", (ImagePart(0),)),),
            ((Turn("user", ("what colour?",)), Turn("assistant", ("red",))),),
        )
    )
    length = given["input_ids"].shape[1]
    assert given["input_ids"][0].tolist() == trained.input_ids[:length].tolist()
    assert (trained.target[: length - 1] == -100).all() and trained.target[length - 1] != -100
    assert given["pixel_values"].shape == (1, 3, 16, 16)
    text = processor.apply_chat_template(
        [user(picture(), "what colour?")], add_generation_prompt=True
    )
    assert text == "<bos><image>\nQuestion: what colour?\nAnswer:"
    whole = [user("a?"), {"role": "assistant", "content": "yes"}]
    written = processor.apply_chat_template(whole)
    assert written == "<bos>\nQuestion: a?\nAnswer: yes<eos>"


def test_text_that_is_written_out_already(parts):
    _, processor = parts
    text = processor.apply_chat_template([user(picture(), "what?")], add_generation_prompt=True)
    given = processor(images=picture(), text=text)
    expected = processor.apply_chat_template([user(picture(), "what?")], **ASK)
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)
    several = processor(images=[[picture(1)], [picture(2), picture(3)]],
                        text=["<image>a", "<image><image> longer"])  # fmt: skip
    assert several["pixel_values"].shape[0] == 3
    assert several["attention_mask"].sum(1).tolist() == [1 + 4 + 1, 1 + 8 + 7]
    assert several["input_ids"][0, 0] == processor.tokenizer.pad_token_id
    with pytest.raises(DataError, match="expected 2, got 1"):
        processor(images=[picture()], text="<image><image>")
    with pytest.raises(DataError, match="return_tensors"):
        processor(text="a", return_tensors="np")
    with pytest.raises(DataError, match="truncation"):
        processor(text="a", truncation=True)


def test_several_conversations_are_padded_on_the_left(parts):
    model, processor = parts
    conversations = [[user(picture(), "what?")], [user("a longer one without an image")]]
    given = processor.apply_chat_template(conversations, **ASK)
    assert given["attention_mask"][:, -1].tolist() == [1, 1]
    answers = processor.batch_decode(
        model.generate(**given, max_new_tokens=3)[:, given["input_ids"].shape[1] :],
        skip_special_tokens=True,
    )
    assert len(answers) == 2
    texts = processor.apply_chat_template(conversations)
    assert [text.count("<image>") for text in texts] == [1, 0]


def test_images_beside_the_messages_fill_their_places():
    shown = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    made = sample_of([{"role": "user", "content": shown}], [picture(1), picture(2)])
    assert [type(part) for part in made.branches[0][0].parts] == [ImagePart, str, ImagePart]
    assert made.images[0].key != made.images[1].key
    assert made.images[0].key == image_source(picture(1), 5).key
    with pytest.raises(DataError, match="fewer images"):
        sample_of([{"role": "user", "content": shown}], [picture(1)])
    with pytest.raises(DataError, match="more images than places"):
        sample_of([{"role": "user", "content": "text"}], [picture(1)])


def test_a_message_that_calls_a_tool_is_refused():
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]}
    with pytest.raises(DataError, match="`tool_calls` is not read"):
        sample_of([{"role": "user", "content": "what?"}, said])
    empty = {"role": "user", "content": "what?", "tool_calls": None, "name": "Ann"}
    assert sample_of([empty]).branches[0][0].parts == ("what?",)


def test_images_from_bytes_and_files(tmp_path):
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(stream.getvalue())
    for given in (picture(), stream.getvalue(), file, str(file)):
        assert image_source(given, 1).load().tobytes() == picture().tobytes()
    with pytest.raises(DataError, match="download"):
        image_source("https://example.org/a.png", 1)
    with pytest.raises(DataError, match="no image"):
        image_source(3, 1)


def test_pictures_belong_to_their_texts(parts):
    _, processor = parts
    one, two, three = picture(1), picture(2), picture(3)
    texts = ["<image>one?", "<image><image>two?"]
    flat = processor(images=[one, two, three], text=texts)
    nested = processor(images=[[one], [two, three]], text=texts)
    assert torch.equal(flat["pixel_values"], nested["pixel_values"])
    assert torch.equal(flat["input_ids"], nested["input_ids"])
    alone = processor(images=[[three, one]], text=texts[1])
    assert torch.equal(alone["pixel_values"], processor([three, one], texts[1])["pixel_values"])
    for images in ([None, [one]], [[], (one,)]):
        made = processor(images=images, text=["none?", "<image>one?"])
        assert len(made["pixel_values"]) == 1
    for images in (
        [[one, two], [three]], [[one, two, three], []], [[], [one, two, three]],
        [one, [two, three]], [[one], two, three], [[one, two, three]], [[one], [two, three], []],
        [[one], [two]], [one, two], one, None, [[one], None],
    ):  # fmt: skip
        with pytest.raises(DataError, match=r"another number|one list"):
            processor(images=images, text=texts)


def test_bad_messages_name_what_is_wrong(parts):
    _, processor = parts
    with pytest.raises(DataError, match="got robot"):
        processor.apply_chat_template([{"role": "robot", "content": "a"}])
    with pytest.raises(DataError, match="got video"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    for content in ([7], 7, [{"type": "text"}], [{"type": "text", "text": None}]):
        with pytest.raises(DataError, match=r"message|text"):
            sample_of([{"role": "user", "content": content}])
    with pytest.raises(DataError, match="no object"):
        sample_of(["hello"])
    branches = ((Turn("user", ("a",)),), (Turn("user", ("b",)),))
    with pytest.raises(DataError, match="several branches"):
        processor.batch([processor.prompt(Sample("test", (), (), branches))])


def test_end_tokens_are_those_of_the_template(parts):
    model, processor = parts
    assert processor.end_tokens() == [processor.tokenizer.eos_token_id]
    assert model.generation_config.eos_token_id == [2]
    assert model.generation_config.suppress_tokens == [processor.image_token_id]


def test_the_pipeline_of_transformers(parts, tmp_path):
    model, processor = parts
    from lucida.model.checkpoint import save

    save(model, processor, tmp_path)
    ask = pipeline("image-text-to-text", model=str(tmp_path), device="cpu")
    answer = ask(text=[user(picture(), "what?")], max_new_tokens=3, return_full_text=False)
    assert isinstance(answer[0]["generated_text"], str)
