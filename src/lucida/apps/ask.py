"""Ask a run the questions of a file: a row in, a row out.

    FILE  {"image": "cat.png", "question": "what is it?"}
    OUT   {"row": 1, "answer": "a cat", "log_probability": -0.2, "ended": true,
           "model": which weights, "input": the row of FILE}

Rows of OUT are written as answers come, so that what was stopped goes on; at the end they stand in
the order of FILE. A row that cannot be asked has `error` in place of an answer and is asked again
the next time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucida.apps.answering import WEB
from lucida.core.errors import DataError, RunError
from lucida.core.progress import Progress, say
from lucida.core.runs import JsonLines, atomic_write, plain

if TYPE_CHECKING:
    from lucida.data.sources.tables import Rows
    from lucida.eval.questions import Answer, Model, Question

CHUNK = 512
"""Rows that are held in memory at once."""
FIELDS = ("question", "image", "images")


def main(run: Path, questions: Path, out: Path, max_new_tokens: int = 64) -> None:
    """Write an answer for every row of `questions` to `out`.

    RunError before anything is asked: `out` holds answers of another model or to other questions.
    DataError after everything is written: rows that could not be asked, how many and the first.
    """
    from lucida.data.sources.tables import rows_of
    from lucida.eval.store import weights_hash
    from lucida.model.checkpoint import load
    from lucida.training.precision import choose_device

    rows = rows_of(questions)
    model = f"{weights_hash(run)}, at most {max_new_tokens} tokens"
    file = JsonLines(out)
    answered = _stored(file, model, rows)
    file.keep(lambda row: "error" not in row)
    loaded = None
    with Progress("ask", len(rows), "question", done=len(answered)) as progress:
        for start in range(0, len(rows), CHUNK):
            asked: list[tuple[int, Any, Question]] = []
            for number in range(start + 1, min(start + CHUNK, len(rows)) + 1):
                if number in answered:
                    continue
                try:
                    given, origin = rows[number - 1]
                    question = read_question(given, origin, questions.parent)
                except DataError as problem:
                    file.append({"row": number, "error": str(problem)})
                    progress.advance()
                else:
                    asked.append((number, given, question))
            if not asked:
                continue
            # Only once something is left to ask: an answered file needs no model.
            loaded = loaded or load(run, choose_device())
            for place, answer in ask_each(loaded, [each[2] for each in asked], max_new_tokens):
                number, given, _ = asked[place]
                row = {"row": number, "model": model, "input": _as_json(given)}
                file.append(row | _columns(answer))
                progress.advance()
    _finish(file, out, len(rows))


def read_question(given: Mapping[str, Any], origin: str, folder: Path) -> Question:
    """The question of a row: `question`, and `image` or `images` (paths start from the folder of
    the file). DataError for a row without a question."""
    text = given.get("question")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            "a row has no question",
            expected=f"fields {', '.join(FIELDS)}",
            given=", ".join(map(str, given)) or "no field",
            origin=origin,
        )
    images = given.get("images") if given.get("images") not in (None, "") else given.get("image")
    if images in (None, ""):
        return text
    several = images if isinstance(images, list | tuple) else [images]
    return [_place(image, folder) for image in several], text


def _place(image: object, folder: Path) -> object:
    from lucida.data.encoded import looks_encoded

    if not isinstance(image, str) or looks_encoded(image) or image.lower().startswith(WEB):
        return image
    return folder / Path(image).expanduser()


def ask_each(
    model: Model | None, questions: Sequence[Question], max_new_tokens: int
) -> Iterator[tuple[int, Answer | DataError]]:
    """Every question's answer, or why it has none: where one of several cannot be asked, those that
    have no answer yet are halved until it is alone."""
    from lucida.eval.questions import stream_answers

    if not questions:
        return
    done = set()
    try:
        for number, answer in stream_answers(model, questions, max_new_tokens):
            done.add(number)
            yield number, answer
    except DataError as problem:
        left = [number for number in range(len(questions)) if number not in done]
        if len(left) == 1:
            yield left[0], problem
            return
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            for place, answer in ask_each(model, [questions[n] for n in half], max_new_tokens):
                yield half[place], answer


def _columns(answer: Answer | DataError) -> dict[str, object]:
    if isinstance(answer, DataError):
        return {"error": str(answer)}
    return {
        "answer": answer.text,
        "log_probability": answer.log_probability,
        "ended": answer.ended,
    }


def _as_json(given: Mapping[str, Any]) -> Any:
    """A row as it is read back from JSON; the bytes of a picture are left out."""
    return json.loads(json.dumps(plain(given), default=lambda value: type(value).__name__))


def _stored(file: JsonLines, model: str, rows: Rows) -> dict[int, dict]:
    """Rows that are answered already, by number; RunError where they answer something else."""
    found = {}
    for row in file.read():
        if "error" in row:
            continue
        number, same = row.get("row"), row.get("model") == model
        if same and number in range(1, len(rows) + 1):
            given, _ = rows[number - 1]
            same = row.get("input") == _as_json(given)
        else:
            same = False
        if not same:
            raise RunError(
                "this file holds answers of another model or to other questions",
                expected=f"answers of {model}",
                given=f"row {number} of {row.get('model')}",
                origin=file.path,
                remedy="name another --out, or remove the file",
            )
        found[number] = row
    return found


def _finish(file: JsonLines, out: Path, count: int) -> None:
    """Rows in order, and what could not be asked."""
    rows = sorted(file.read(), key=lambda row: row["row"])
    atomic_write(out, "".join(json.dumps(row) + "\n" for row in rows))
    failed = [row for row in rows if "error" in row]
    say(f"{len(rows) - len(failed):,} answers in {out}")
    if failed:
        raise DataError(
            f"{len(failed):,} of {count:,} rows could not be asked; the first: "
            f"{failed[0]['error']}",
            origin=f"{out}: row {failed[0]['row']}",
            remedy="correct them and run the command again: only they are asked",
        )
