"""The command line: verbs that say what they do and import what they need when they need it.

Exit codes: 0 done, 1 a mistake that is explained in one message, 2 a command line that cannot be
understood, 130 stopped by a signal. A traceback is shown only with `--debug`.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from lucida import __version__
from lucida.core.errors import LucidaError, RunError
from lucida.train.stopping import Interrupted

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
        case Interrupted():
            typer.echo(f"lucida: {problem}", err=True)
            return STOPPED
        case LucidaError():
            typer.echo(f"lucida: {problem}", err=True)
            return 1
        case KeyboardInterrupt():
            typer.echo(f"\nlucida: stopped. {_resumable()}", err=True)
            return STOPPED
        case BrokenPipeError():
            sys.stderr.close()  # the reader has gone; nothing more can be said to it
            return 1
        case _:
            place = traceback.extract_tb(problem.__traceback__)[-1]
            typer.echo(
                f"lucida: unexpected {type(problem).__name__}: {problem} "
                f"({place.filename}, line {place.lineno}). This is a bug in Lucida or in a package "
                "it uses; run the command again with --debug for the traceback",
                err=True,
            )
            return 1


def _resumable() -> str:
    if sys.argv[1:2] in (["train"], ["demo"], ["eval"]):
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


@app.command()
@guarded
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder.", show_default="runs/NAME"),
    ] = None,
) -> None:
    """Train a recipe; a stopped run continues by itself."""
    from lucida.core.recipe import load_recipe

    value = load_recipe(recipe, overrides or [])
    folder = run or Path("runs") / value.name
    from lucida.train.loop import train_run

    train_run(value, folder, command_line())
    typer.echo(f"next: {shlex.join(['lucida', 'eval', str(folder)])}", err=True)


@app.command("eval")
@guarded
def evaluate(
    run: Run,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this task; may be repeated.", show_default="all"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of examples per task.", show_default="all"),
    ] = None,
) -> None:
    """Measure a trained run: results.json, report.html."""
    _must_exist(run)
    from lucida.apps.demo import show_scores
    from lucida.eval.run import evaluate_run

    show_scores(evaluate_run(run, task, limit))


@app.command()
@guarded
def chat(
    run: Run,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Show this image; may be repeated.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this once and leave.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always gives the likeliest answer.")
    ] = 0.0,
) -> None:
    """Talk with a trained model about images."""
    _must_exist(run)
    from lucida.apps.chat import main as talk

    talk(run, image or [], prompt, max_new_tokens, temperature)


@app.command()
@guarded
def show(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Without it: all presets.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print a whole recipe, or list the presets."""
    from lucida.core.recipe import dump_recipe, load_recipe, presets, recipe_hash

    if recipe is None:
        from lucida.core.progress import table

        known = [load_recipe(name) for name in presets()]
        table("presets", ["name", "description"], [[each.name, each.description] for each in known])
        return
    value = load_recipe(recipe, overrides or [])
    typer.echo(f"# hash {recipe_hash(value)}\n{dump_recipe(value)}", nl=False)


@app.command()
@guarded
def explain(
    key: Annotated[
        str, typer.Argument(metavar="[KEY]", help="A dotted key, such as model.projector.")
    ] = "",
) -> None:
    """Say what may stand in a recipe, and its defaults."""
    from lucida.core.recipe import explain as words

    typer.echo(words(key))


@app.command()
@guarded
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from lucida.core.recipe import schema as recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


@app.command()
@guarded
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs"),
) -> None:
    """List runs with their state and scores."""
    from lucida.core.progress import table
    from lucida.core.runs import list_runs

    found = list_runs(folder)
    if not found:
        typer.echo(f"no runs in {folder}; `lucida train mini` makes one")
        return
    tasks = sorted({task for each in found for task in each.scores})
    rows = [
        [str(each.path), each.recipe, each.state, each.step, *(each.scores.get(t) for t in tasks)]
        for each in found
    ]
    table("runs", ["run", "recipe", "state", "step", *tasks], rows)
    for each in found:
        if each.problem:
            typer.echo(f"{each.path}: {each.problem}", err=True)


@app.command()
@guarded
def demo(
    overrides: Overrides = None,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="What to train.")] = "mini",
) -> None:
    """Train, measure and show answers, in minutes."""
    from lucida.apps.demo import main as run_demo

    run_demo(run, recipe, overrides or [])


parts_app = typer.Typer(help="The tiny pretrained parts of the miniature world.")
app.add_typer(parts_app, name="parts", invoke_without_command=True)


@parts_app.callback(invoke_without_command=True)
@guarded
def parts(context: typer.Context) -> None:
    """List the parts that ship with Lucida, with what was measured on them."""
    if context.invoked_subcommand is None:
        from lucida.core.progress import table
        from lucida.parts.table import card_rows

        columns = ["part", "parameters", "what", "measured (held out)", "made by"]
        table("pretrained parts", columns, card_rows())


@parts_app.command("build")
@guarded
def build_part(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A part, as `lucida parts` lists.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; it must be new.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps.", show_default="own")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Make a part from nothing: text and pictures of the world, no download."""
    from lucida.parts.table import build_part as build

    build(name, out, seed=seed, **({} if steps is None else {"steps": steps}))
    typer.echo(f"wrote {out}; its measurements are in {out / 'card.json'}", err=True)


def _must_exist(run: Path) -> None:
    # Said here, before seconds of imports, and before a mistyped folder is looked up on the Hub.
    if not run.is_dir():
        raise RunError(
            "there is no such run folder", origin=run, remedy="`lucida runs` lists the runs"
        )


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `lucida` command."""
    given = sys.argv[1:] if arguments is None else arguments
    # One place for --debug wherever it was typed.
    rest = [word for word in given if word != "--debug"]
    app(args=["--debug", *rest] if len(rest) < len(given) else rest, prog_name="lucida")


if __name__ == "__main__":
    main()
