"""The command line: verbs that say what they do and import what they need when they need it.

Exit codes: 0 done, 1 a mistake that is explained in one message, 2 a command line that cannot be
understood, 130 stopped by a signal. A traceback is shown only with `--debug`.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, ParamSpec

import typer

from lucida import __version__
from lucida.core.errors import LucidaError, RunError
from lucida.training.stopping import Interrupted

P = ParamSpec("P")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STOPPED = 130
"""What shells expect of a program that Ctrl-C ended."""

_debug = False

RecipeName = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A preset's name, a recipe file or a run folder.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[key=value]…",
        help="Changes to the recipe, such as stages.sft.budget.steps=10; "
        "`lucida explain` lists the keys.",
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="v100-32g, a100-80g, h100, l4, 4090 or cpu (this).")
]
Devices = Annotated[int, typer.Option(min=1, help="How many of them.")]
FewBits = Annotated[
    Literal["int8", "int4"] | None,
    typer.Option("--weights", help="Hold the language model's matrices in fewer bits."),
]


def guarded(verb: Callable[P, None]) -> Callable[P, None]:
    """Turns whatever goes wrong into one message and an exit code."""

    @functools.wraps(verb)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            verb(*arguments, **options)
        except (Exception, KeyboardInterrupt) as problem:
            if _debug and not isinstance(problem, typer.Exit):
                traceback.print_exc()
            raise typer.Exit(_explain_exit(problem)) from problem

    return run


def _explain_exit(problem: BaseException) -> int:
    """Says what happened on standard error; gives the exit code."""
    match problem:
        case typer.Exit():
            return problem.exit_code
        case LucidaError():
            if not problem.told:
                typer.echo(f"{_name_speaker()}: {problem}", err=True)
            return STOPPED if isinstance(problem, Interrupted) else 1
        case KeyboardInterrupt():
            if os.environ.get("RANK", "0") == "0":
                typer.echo(f"\nlucida: stopped. {_resumable()}", err=True)
            return STOPPED
        case BrokenPipeError():
            sys.stderr.close()  # the reader has gone; nothing more can be said to it
            return 1
        case _:
            place = traceback.extract_tb(problem.__traceback__)[-1]
            typer.echo(
                f"{_name_speaker()}: unexpected {type(problem).__name__}: {problem} "
                f"({place.filename}, line {place.lineno}). This is a bug in Lucida or in a package "
                "it uses; run the command again with --debug for the traceback",
                err=True,
            )
            return 1


def _name_speaker() -> str:
    """Who says it: of several processes also which one."""
    rank = os.environ.get("RANK", "0")
    return "lucida" if rank == "0" else f"lucida, rank {rank}"


def _resumable() -> str:
    if sys.argv[1:2] in (["train"], ["launch"], ["demo"], ["eval"], ["ask"]):
        return f"`{command_line()}` continues from what is saved"
    return ""


def command_line() -> str:
    """What the user typed, as it can be typed again."""
    return shlex.join(["lucida", *sys.argv[1:]])


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Lucida: train, measure and talk with vision-language models."""
    global _debug
    _debug = debug


def must_exist(run: Path) -> None:
    """Refuses a folder that is not there."""
    # Said here, before seconds of imports, and before a mistyped folder is looked up on the Hub.
    if not run.is_dir():
        raise RunError(
            "there is no such run folder", origin=run, remedy="`lucida runs` lists the runs"
        )


def command() -> list[str]:
    """How `lucida` is called from here: by name where it is on the path, otherwise by its file."""
    beside = Path(sys.executable).parent / "lucida"
    found = shutil.which("lucida")
    # The first `lucida` of the path may be that of another environment.
    if found is not None and (not beside.exists() or beside.samefile(found)):
        return ["lucida"]
    if beside.exists():
        return [os.path.relpath(beside)]
    return [sys.executable, "-m", "lucida.apps.cli"]
