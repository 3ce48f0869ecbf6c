"""Verbs that compare designs: study, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucida.apps.command import app, guarded, must_exist
from lucida.core.errors import LucidaError, RunError

if TYPE_CHECKING:
    from lucida.study.analysis import Analysis
    from lucida.study.design import Design
    from lucida.study.execute import StudyFolder
    from lucida.study.statistics import Components

study = typer.Typer(no_args_is_help=True, help="Put a design choice to the test, over seeds.")
app.add_typer(study, name="study")

Name = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A shipped study, a study file or its folder.")
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the study.", show_default="studies/N")
]


@study.command("list")
@guarded
def list_studies() -> None:
    """The studies that ship."""
    from lucida.core.progress import table
    from lucida.study.design import load_design, studies

    rows = []
    for name in studies():
        design = load_design(name)
        rows.append([name, len(design.arms), len(design.study.seeds), design.study.question])
    table("studies", ["name", "arms", "seeds", "question"], rows)


@study.command("plan")
@guarded
def plan(
    name: Name,
    out: Out = None,
    effect: Annotated[
        float, typer.Option(min=0.1, metavar="POINTS", help="A difference that must be found.")
    ] = 3.0,
) -> None:
    """Arms, their differences, what they cost, and what the study can find before it runs."""
    from lucida.apps.arms import plan_arms
    from lucida.core.progress import table
    from lucida.study.design import BASELINE
    from lucida.study.noise import known_noise, recall_seconds

    design, folder = _opened(name, out)
    given, library = design.study, folder.path.parent / "noise.json"
    costs, measured = plan_arms(design), recall_seconds(design, library)
    base = costs[BASELINE]
    rows, minutes = [], 0.0
    for arm in design.arms:
        share = costs[arm]["flops"] / base["flops"] if base["flops"] else 1.0
        each = (costs[arm]["seconds"] if measured is None else share * measured) / 60
        # Of what is trained once; an arm that only asks otherwise does so in a minute or two.
        left = 0.0 if arm in design.trained_by else 1 - costs[arm]["shared"]
        each, share = left * each, left * share
        minutes += each * len(given.seeds)
        rows.append([arm, f"{each:.1f}", f"{share:.2f}", "; ".join(design.differences(arm))])
    title = f"{given.name}: {len(rows)} arms × {len(given.seeds)} seeds"
    table(title, ["arm", "minutes a run", "FLOPs", "differs"], rows)
    typer.echo(
        f"in all {minutes:.0f} minutes of one core, "
        + (
            "as calculated for training on this machine now; start and evaluation come on top"
            if measured is None
            else f"as the runs of this baseline took before ({library})"
        )
    )
    typer.echo(
        f"primary: {given.primary.outcome}, arms {', '.join(design.contrasts)}, "
        f"margin ±{given.primary.margin:g} points; hash {design.hash}"
    )
    for note in design.notes:
        typer.echo(f"note: {note}")
    noise = known_noise(design, library)
    if noise is None:
        typer.echo(
            "the noise of this baseline is not known: finish a study of it, or say `noise` in the "
            "file; nothing can be said about what this study can find"
        )
        return
    _tell_power(design, *noise, effect)


def _tell_power(
    design: Design, parts: Components, origin: str, share: float, effect: float
) -> None:
    """What this study can find; `share`: pictures for each question."""
    from lucida.study.statistics import cheapest, smallest_effect

    given = design.study
    limit = given.evaluation.limit or 1000
    questions = limit * (len(given.evaluation.tasks) if given.primary.outcome == "mean" else 1)
    pictures = max(1, round(share * questions))
    arms = len(design.arms) if given.pooled else 2
    asked = {"alpha": (1 - given.primary.confidence) / len(design.contrasts), "arms": arms}
    smallest = smallest_effect(parts, len(given.seeds), pictures, **asked)
    typer.echo(
        f"noise in points: {parts.seed:.2f} between seeds, {parts.picture:.1f} between pictures, "
        f"{parts.rest:.1f} beyond both ({origin})"
    )
    typer.echo(
        f"found with 80% probability: a difference of {smallest:.1f} points or more, by "
        f"{questions:,} questions about {pictures:,} pictures"
    )
    best = cheapest(effect, parts, train=1.0, ask=0.0, most_pictures=pictures, **asked)
    typer.echo(
        f"for {effect:g} points: "
        + (f"{best[0]} seeds and {best[1] / share:.0f} questions" if best else "more than 30 seeds")
        + " are enough where a picture costs nothing beside a training"
    )


@study.command("run")
@guarded
def run(
    name: Name,
    out: Out = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 1,
    executor: Annotated[
        str, typer.Option(metavar="local|submitit|ray", help="Who starts the runs.")
    ] = "local",
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only the baseline and this arm; may be repeated."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Try failed runs once more.")] = False,
) -> None:
    """Train and evaluate every arm and seed; what was done is not done again."""
    from lucida.study.execute import EXECUTORS
    from lucida.study.looks import run_to_looks

    if executor not in EXECUTORS:
        raise RunError("unknown executor", expected=" or ".join(EXECUTORS), given=executor)
    design, folder = _opened(name, out)
    run_to_looks(design, folder, jobs, again, executor, arm or ())
    _report(design, folder)


@study.command("search")
@guarded
def search(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A search file (docs/studies.md).")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the search.", show_default="studies/N"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, one thread each.")] = 1,
) -> None:
    """Search over many values with Optuna, and write a study that puts the best to the test."""
    from lucida.core.progress import table
    from lucida.study.axes import load_search
    from lucida.study.search import CONFIRM, run_search, weigh_axes

    given, base = load_search(file)
    folder = out or Path("studies") / given.name
    rows = run_search(given, base, folder, jobs)
    columns = ["trial", given.outcome, *given.axes]
    shown = [
        [row["trial"], row["state"] if row["score"] is None else f"{row['score']:.1f}"]
        + [str(row["values"][key]) for key in given.axes]
        for row in rows
    ]
    table(f"{given.name}: {len(rows)} trials of seed {given.seed}", columns, shown)
    if shares := weigh_axes(given, folder):
        told = ", ".join(f"{key} {100 * share:.0f}%" for key, share in shares.items())
        typer.echo(f"what explains the scores: {told}")
    confirm = folder / CONFIRM
    typer.echo(
        f"the best of {len(rows)} is lucky as well as good; `lucida study run {confirm}` asks "
        "other seeds"
        if confirm.is_file()
        else "the best is the baseline itself"
    )


@study.command("status")
@guarded
def status(name: Name, out: Out = None) -> None:
    """How far every run is."""
    from lucida.core.progress import table
    from lucida.study.execute import states

    design, folder = _opened(name, out)
    columns = ["arm", "seed", "state", "step", "seconds", "why"]
    table(str(folder.path), columns, states(design, folder))


@study.command("report")
@guarded
def report(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE", help="As in `run`; none with --all.")
    ] = None,
    out: Out = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="RESULTS.md and summary.svg of all studies in a folder."),
    ] = False,
) -> None:
    """Verdicts in the terminal; report.html, report.md, results.csv, results.json."""
    if (name is None) != everything:
        raise RunError("name one study, or give --all")
    if name is not None:
        _report(*_opened(name, out))
        return
    from lucida.study.summary import write_summary

    typer.echo(f"page    {write_summary(out or Path('studies'))}")


@app.command()
@guarded
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN…", help="Evaluated run folders; the first's design is the "
                       "baseline, runs that differ in seed alone are one arm."),
    ],
    margin: Annotated[float, typer.Option(min=0.1, help="Points that do not matter.")] = 3.0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the report.")
    ] = Path("comparison"),
) -> None:  # fmt: skip
    """Compare runs that exist, over their seeds, with a report."""
    for folder in runs:
        must_exist(folder)
    from lucida.study.existing import compare_runs
    from lucida.study.report import write_report

    analysis = compare_runs(runs, margin)
    _tell(analysis)
    out.mkdir(parents=True, exist_ok=True)
    typer.echo(f"page    {write_report(analysis, out)}")


def _opened(name: str, out: Path | None) -> tuple[Design, StudyFolder]:
    from lucida.study.design import load_design
    from lucida.study.execute import StudyFolder

    design = load_design(name)
    if out is None:
        out = Path(name) if Path(name).is_dir() else Path("studies") / design.study.name
    return design, StudyFolder(out)


def _report(design: Design, folder: StudyFolder) -> None:
    from lucida.apps.arms import keep_costs
    from lucida.study.analysis import analyse, is_decided
    from lucida.study.noise import learn_noise
    from lucida.study.report import write_report

    analysis = analyse(design, folder)
    if not folder.to_do(design) or (analysis.look is not None and is_decided(analysis)):
        learn_noise(analysis, folder.path.parent / "noise.json")
    try:
        keep_costs(design, folder)
    except LucidaError as problem:  # an arm that cannot be built is among the results already
        typer.echo(f"floating-point operations are not known: {problem}")
    _tell(analysis)
    typer.echo(f"page    {write_report(analysis, folder.path)}")


def _tell(analysis: Analysis) -> None:
    from lucida.study.report import sentence

    margin = analysis.design.study.primary.margin
    for found in analysis.findings:
        typer.echo(sentence(found, margin) + ("" if found.primary else " (exploratory)"))
    for found in analysis.pairs:
        if found.outcome == analysis.design.study.primary.outcome:
            typer.echo(f"{sentence(found, margin)} (exploratory)")
    for each in analysis.lost:
        typer.echo(f"{each['arm']} seed {each['seed']} {each['state']}: {each.get('why', '')}")
    for task, why in analysis.flagged.items():
        typer.echo(f"{task} is left out of aggregates ({why})")
    for each in analysis.ends:
        if each["state"] in ("waiting", "begun"):
            typer.echo(f"{each['arm']} seed {each['seed']}: not finished")
