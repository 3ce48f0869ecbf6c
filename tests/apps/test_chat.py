"""Talking: streams equal whole answers, sessions remember, mistakes are said and survived."""

import io
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import picture, tiny_model

from lucida.apps.chat import HELP, Chat, Session, converse, main, speak
from lucida.core.errors import DataError, LucidaError
from lucida.model.checkpoint import save

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parts():
    model, processor = tiny_model()
    model.generation_config.suppress_tokens = [*range(3), *model.generation_config.suppress_tokens]
    return model, processor


@pytest.fixture
def chat(parts):
    return Chat(*parts, max_new_tokens=6)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a picture.png"
    picture(3).save(path)
    return path


def asked(text, *images):
    content = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def expected(parts, messages, count=6):
    """What `generate` writes without a stream."""
    model, processor = parts
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    ids = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]).strip()


def test_pieces_join_to_what_generate_writes(parts, chat):
    messages = [asked("what?", picture(1), picture(2))]
    pieces = list(chat.stream(messages))
    assert "".join(pieces).strip() == chat.answer(messages) == expected(parts, messages)
    assert chat.answer([asked("no picture")]) == expected(parts, [asked("no picture")])


def test_temperature_draws_and_zero_does_not(parts):
    messages = [asked("what?", picture(1))]
    torch.manual_seed(0)
    hot = {Chat(*parts, max_new_tokens=6, temperature=5.0).answer(messages) for _ in range(4)}
    assert len(hot) > 1
    with pytest.raises(DataError, match="temperature"):
        Chat(*parts, temperature=-1.0)


def test_leaving_early_stops_the_model(parts, monkeypatch):
    model, processor = parts
    steps = []

    def endless(input_ids, streamer, stopping_criteria, **rest):
        streamer.put(input_ids)
        for _ in range(2000):
            streamer.put(torch.tensor(processor.tokenizer.encode("a ", add_special_tokens=False)))
            steps.append(stopping_criteria(input_ids, None))
            if bool(steps[-1].all()):
                break
            time.sleep(0.001)
        streamer.end()

    monkeypatch.setattr(model, "generate", endless)
    pieces = Chat(model, processor).stream([asked("what?")])
    assert next(pieces) == "a "
    pieces.close()
    assert len(steps) < 2000
    assert steps[-1].tolist() == [True]


def test_an_error_of_the_model_reaches_the_caller(parts, monkeypatch):
    model, processor = parts

    def broken(**inputs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        Chat(model, processor).answer([asked("what?")])


def test_a_session_remembers_and_forgets(parts, chat, file):
    session = Session(chat)
    assert session.show(file) == "a picture.png, 20 x 16 pixels"
    first = "".join(session.ask("what?")).strip()
    assert session.waiting == []
    assert first
    second = "".join(session.ask("and?")).strip()
    conversation = [
        asked("what?", session.messages[0]["content"][0]["image"]),
        {"role": "assistant", "content": first},
        asked("and?"),
    ]
    assert second == expected(parts, conversation)
    session.reset()
    assert (session.messages, session.waiting) == ([], [])


def test_bytes_that_are_no_text_are_replaced(parts, chat):
    """What a pipe hands on of Latin-1: halves of characters, which no tokenizer takes."""
    session = Session(chat)
    said = "".join(session.ask("caf\udce9?")).strip()
    assert said == "".join(Session(chat).ask("caf\ufffd?")).strip()
    out = io.StringIO()
    lines = iter(["\udcff\udcfe", None])
    converse(session, lambda: next(lines), out)
    assert "unexpected" not in out.getvalue()


def test_a_question_that_fails_leaves_the_session_as_it_was(chat, file):
    session = Session(chat)
    session.show(file)
    with pytest.raises(DataError, match="longer than the context"):
        list(session.ask("word " * 100))
    assert session.messages == []
    assert len(session.waiting) == 1


def test_the_terminal_understands_its_commands(chat, file):
    lines = iter(
        [
            "/help",
            "/image",
            f"/image '{file}'",
            "/image nowhere.png",
            "",
            "what?",
            "word " * 100,
            "/rest",
            "/reset",
            "/quit",
            "never read",
        ]
    )
    session, out = Session(chat), io.StringIO()
    converse(session, lambda: next(lines), out)
    said = out.getvalue()
    assert said.startswith(HELP)
    assert "which file?" in said
    assert "a picture.png, 20 x 16 pixels" in said
    assert "nowhere.png: cannot read the image" in said
    assert "longer than the context" in said
    assert "there is no /rest" in said
    assert said.endswith("forgotten\n")
    assert next(lines) == "never read"
    assert session.messages == []


def test_a_conversation_that_grew_too_long_can_be_forgotten(chat):
    hint = "/reset forgets"
    talked, fresh = Session(chat), Session(chat)
    list(talked.ask("what?"))
    for session, told in ((talked, 1), (fresh, 0)):
        lines, out = iter(["word " * 100, "/image nowhere.png", None]), io.StringIO()
        converse(session, lambda lines=lines: next(lines), out)
        assert "longer than the context" in out.getvalue()
        assert out.getvalue().count(hint) == told


def test_speak_strips_the_start_and_says_when_there_is_nothing():
    out = io.StringIO()
    speak(iter([" ", " red", " star"]), out)
    speak(iter([]), out)
    assert out.getvalue() == "red star\n(no answer)\n"


def test_one_question_from_the_command_line(parts, tmp_path, file, capsys):
    run = tmp_path / "run"
    save(*parts, run)
    main(run, [file], "what?", 6, 0.0)
    assert capsys.readouterr().out.strip()
    with pytest.raises(LucidaError, match="cannot read the image"):
        main(run, [tmp_path / "none.png"], "what?", 6, 0.0)
    with pytest.raises(LucidaError, match="no finished model"):
        main(tmp_path, [], "what?", 6, 0.0)
