"""Talk with a trained model in the terminal, about any number of pictures.

Chat      messages in, pieces of text out; what a server needs
Session   one conversation: its messages and the pictures that wait for the next question
main      the terminal around them: /image, /reset, /help, /quit
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TextIO

from lucida.core.errors import DataError, LucidaError
from lucida.core.files import make_writable

if TYPE_CHECKING:
    from PIL import Image

    from lucida.model.few_bits import Weights
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

Message = dict[str, Any]

HELP = """/image FILE   show a picture with the next question (again for several)
/reset        forget the conversation and its pictures
/help         this list
/quit         leave (also Ctrl-D); Ctrl-C stops an answer"""


class Chat:
    """Answers messages with a model, piece by piece as the words are written.

    Messages are Hugging Face's: `{"role": "user", "content": [{"type": "image", "image": picture},
    {"type": "text", "text": question}]}`. Nothing is remembered between calls. Temperature 0 takes
    the likeliest token at every step; above it tokens are drawn.
    """

    def __init__(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
    ) -> None:
        if temperature < 0:
            raise DataError("temperature cannot be negative", given=temperature)
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """The answer in pieces. Closing the iterator stops the model at its next token.

        DataError when the conversation is longer than the model's context; what goes wrong in the
        model is raised here, not in its thread.
        """
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        inputs = self.processor.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
        ).to(self.model.device)
        streamer = TextIteratorStreamer(
            self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        left = Event()
        problems: list[Exception] = []

        class Left(StoppingCriteria):
            """Ends the generation once nobody listens."""

            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                return input_ids.new_full((len(input_ids),), left.is_set(), dtype=bool)

        def write() -> None:
            try:
                self.model.generate(
                    **inputs,
                    **self._sampling(),
                    max_new_tokens=self.max_new_tokens,
                    eos_token_id=self.processor.end_tokens(),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([Left()]),
                )
            except Exception as problem:  # noqa: BLE001 - raised again below, where it is seen
                problems.append(problem)
                # Nothing more comes: without this the reader would wait for ever.
                streamer.end()

        # `generate` comes back when all is written; beside it, this thread hands on what there is.
        writer = Thread(target=write, daemon=True)
        writer.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            left.set()
            writer.join()
        if problems:
            raise problems[0]

    def answer(self, messages: Sequence[Message]) -> str:
        """The whole answer."""
        return "".join(self.stream(messages)).strip()

    def _sampling(self) -> dict[str, Any]:
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "temperature": self.temperature}


@dataclass
class Session:
    """A conversation under way. `waiting` are pictures shown with the next question."""

    chat: Chat
    messages: list[Message] = field(default_factory=list)
    waiting: list[Image.Image] = field(default_factory=list)

    def show(self, file: Path) -> str:
        """Put a picture before the next question; says what it is. DataError when it is none."""
        from lucida.data.images import open_image

        image = open_image(file)
        self.waiting.append(image)
        blind = (
            "" if self.chat.processor.visual_tokens else "; this model is blind, it sees nothing"
        )
        return f"{file.name}, {image.width} x {image.height} pixels{blind}"

    def ask(self, question: str) -> Iterator[str]:
        """The answer in pieces; question and answer are remembered once it has ended.

        A question that could not be answered is forgotten and its pictures wait again. Bytes that
        are no UTF-8, which a terminal hands on as halves of characters, are replaced.
        """
        question = make_writable(question)
        content = [{"type": "image", "image": image} for image in self.waiting]
        asked = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        said = []
        for piece in self.chat.stream([*self.messages, asked]):
            said.append(piece)
            yield piece
        answer = "".join(said).strip()
        self.waiting.clear()
        if answer:  # templates refuse an empty answer, and there is nothing to remember
            self.messages += [asked, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Forget everything."""
        self.messages.clear()
        self.waiting.clear()


def main(
    run: Path,
    images: Sequence[Path] = (),
    prompt: str | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    weights: Weights | None = None,
) -> None:
    """Talk in the terminal, or answer `prompt` once and return.

    LucidaError when the run holds no model or an image cannot be read, before anything is asked.
    """
    from lucida.data.images import open_image

    for file in images:
        open_image(file)  # a wrong path is said at once, not after the model has loaded
    session = Session(open_chat(run, max_new_tokens, temperature, weights))
    for file in images:
        session.show(file)
    if prompt is not None:
        speak(session.ask(prompt), sys.stdout)
        return
    sys.stdout.write(f"{run.name}: ask about the picture, /help for commands\n")
    if session.waiting:
        sys.stdout.write(f"{len(session.waiting)} picture(s) shown with the first question\n")
    converse(session, _read_typed, sys.stdout)


def open_chat(
    run: Path,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    weights: Weights | None = None,
) -> Chat:
    """A chat with the model of a run folder, on the best device there is. weights: as in `load`."""
    from lucida.model.checkpoint import load
    from lucida.training.precision import choose_device

    model, processor = load(run, choose_device(), weights=weights)
    return Chat(model, processor, max_new_tokens, temperature)


def converse(session: Session, read: Callable[[], str | None], out: TextIO) -> None:
    """Read lines until None or /quit; commands act, everything else is a question."""
    while (line := read()) is not None:
        line = line.strip()
        command, _, rest = line.partition(" ")
        if not line:
            continue
        if command in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                out.write(f"{_command(session, command, rest.strip())}\n")
            else:
                speak(session.ask(line), out)
        except LucidaError as problem:
            out.write(f"{problem}\n")
            if isinstance(problem, DataError) and session.messages and not line.startswith("/"):
                out.write("/reset forgets what was said before, which leaves more room\n")
        except KeyboardInterrupt:
            out.write("\n(stopped)\n")


def speak(pieces: Iterator[str], out: TextIO) -> None:
    """Write pieces as they come, without white space before the first, and a line break."""
    started = False
    for piece in pieces:
        text = piece if started else piece.lstrip()
        started = started or bool(text)
        out.write(text)
        out.flush()
    out.write("\n" if started else "(no answer)\n")


def _command(session: Session, command: str, rest: str) -> str:
    """Do what a line with a slash says; gives the line to print."""
    if command == "/image":
        if not rest:
            return "which file? /image FILE"
        return session.show(Path(rest.strip("'\"")).expanduser())
    if command == "/reset":
        session.reset()
        return "forgotten"
    if command == "/help":
        return HELP
    return f"there is no {command}\n{HELP}"


def _read_typed() -> str | None:
    """One line of the user's; None at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        return None
