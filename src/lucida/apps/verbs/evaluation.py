"""The verb eval: measure a run, any other model, or the difference between two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from lucida.apps.command import FewBits, app, guarded, must_exist
from lucida.core.errors import RunError, suggestion

if TYPE_CHECKING:
    from lucida.core.results import Results
    from lucida.core.spec import FewerTokensSpec, OwnTaskSpec
    from lucida.eval.plan import Options
    from lucida.model.few_bits import Weights

PROTOCOLS = ("generate", "likelihood", "loss")

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|hf:MODEL|URL|diff A B",
        help="A run folder; `hf:` and a folder or Hub id of a transformers model; the address of "
        "an OpenAI-compatible endpoint; or `diff` and two evaluated folders.",
    ),
]


Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "--tasks",
        metavar="NAME",
        help="Only this task, or several with commas; may be repeated.",
        show_default="all",
    ),
]

Protocols = Annotated[
    list[str] | None,
    typer.Option(
        metavar="|".join(PROTOCOLS),
        help="How to ask; may be repeated, the first gives the score.",
        show_default="each task's own",
    ),
]


Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The wording of questions: plain, prismatic, llava, openflamingo or lmms.",
        show_default="the recipe's, or each task's own",
    ),
]

Data = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|FILE",
        help="Folder with the published files of benchmarks; with --metric, your own records.",
        show_default="the recipe's, or LUCIDA_DATA",
    ),
]

Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Measure on your own records: --data is their file, of any format that a recipe reads "
        "(KEY=VALUE behind the run are fields of its source), and this is how an output is "
        "compared: exact, vqa, anls, relaxed, iou, cider, letter, contains, regex or judge-export.",
        show_default="published files",
    ),
]

By = Annotated[
    str | None, typer.Option(metavar="FIELD", help="Your records: scores by this field, too.")
]

Answers = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="Your records: the field with all right answers."),
]

Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Your records: what they are called.", show_default="their file's name"
    ),
]

Skip = Annotated[
    bool,
    typer.Option(
        "--skip", help="Your records: leave those out that cannot be asked; they are counted."
    ),
]

Boxes = Annotated[
    str | None,
    typer.Option(
        metavar="UNIT",
        help="What the boxes of a model that is no run are in: pixels, shares, hundredths, "
        "thousandths, thousandths-yx, or form (by how they are written; bare numbers are pixels).",
        show_default="what its kind writes, else form",
    ),
]


Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Largest number of examples per task; scores of more examples stay.",
        show_default="all",
    ),
]

Shots = Annotated[
    str | None,
    typer.Option(metavar="0,4", help="Also with so many demonstrations, over several seeds."),
]

Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the model at an endpoint.")
]

Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for the results of what is no run.")
]

VisualTokens = Annotated[
    str | None,
    typer.Option(
        metavar="WAY:KEEP",
        help="Ask a run with fewer visual tokens of each picture: attention:0.25, random:0.5, "
        "grid:16 or merge:0.5, a share or a number; into RUN/WAY-KEEP, or --out.",
        show_default="the recipe's",
    ),
]

JUDGE = "An OpenAI-compatible endpoint that reads what a task's rule cannot, beside the score."
Judge = Annotated[str | None, typer.Option(metavar="URL", help=JUDGE, show_default="nobody")]
JudgeModel = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the judging model.")]

Suite = Annotated[
    str | None, typer.Option(metavar="NAME", help="vila-fewshot, world-fewshot, world-in-context.")
]


@app.command("eval")
@guarded
def evaluate(
    target: Targets,
    task: Tasks = None,
    limit: Limit = None,
    protocol: Protocols = None,
    shots: Shots = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for demonstrations.")] = 3,
    think: Annotated[
        bool, typer.Option("--think", help="Ask to think step by step; score the conclusion.")
    ] = False,
    suite: Suite = None,
    prompts: Prompts = None,
    data: Data = None,
    metric: Metric = None,
    by: By = None,
    answers: Answers = None,
    name: Name = None,
    skip: Skip = False,
    boxes: Boxes = None,
    model: Model = None,
    out: Out = None,
    weights: FewBits = None,
    visual_tokens: VisualTokens = None,
    judge: Judge = None,
    judge_model: JudgeModel = None,
) -> None:
    """Measure a model: results.json, report.html."""
    if target[0] == "diff":
        from lucida.apps.compare import compare_folders

        compare_folders(target[1:], out)
        return
    fields = [word for word in target[1:] if "=" in word]
    if len(target) > 1 + len(fields):
        raise RunError(
            "one model is measured at a time",
            given=" ".join(target),
            remedy="to compare two evaluated runs: `lucida eval diff A B`",
        )
    own = _own_task(data, fields, (metric, by, answers, name), skip)
    names: list | None = _names(task)
    if own is not None:
        _refuse(task, "--task", "is for benchmarks with names; --name names your own")
        _refuse(suite, "--suite", "is of benchmarks with names")
        _refuse(prompts, "--prompts", "rewords benchmarks; your questions are asked as written")
        names, data = [own], None
    counts = _counts(shots)
    if suite is not None:
        names, counts, seeds = _suite(suite, names, counts, seeds)
    options = _options(protocol or [], counts, seeds, think, prompts, data, (judge, judge_model))
    from lucida.apps.answering import read_visual_tokens

    fewer = read_visual_tokens(visual_tokens)
    results = _measured(target[0], names, limit, options, model, out, boxes, weights, fewer)
    from lucida.apps.demo import show_scores, show_shots

    show_scores(results)
    if counts:
        show_shots(results, names)


def _names(task: list[str] | None) -> list[str] | None:
    """The tasks that were named, or None where --task was not given."""
    if not task:
        return None
    names = [name.strip() for given in task for name in given.split(",") if name.strip()]
    if not names:
        raise RunError(
            "--task names no task",
            given=" ".join(map(repr, task)),
            remedy="name one (`lucida benchmarks` lists them), or leave --task out",
        )
    return names


def _own_task(
    data: str | None,
    fields: list[str],
    given: tuple[str | None, str | None, str | None, str | None],
    skip: bool,
) -> OwnTaskSpec | None:
    """The task over own records that --metric asks for, None where it is not given."""
    metric, by, answers, name = given
    if metric is None:
        others = {"--by": by, "--answers": answers, "--name": name, "--skip": skip or None}
        for option, value in others.items():
            _refuse(value, option, "goes with --metric, over your own records")
        if data is not None and Path(data).expanduser().is_file():
            raise RunError(
                "this is a file, and published benchmarks are a folder of files",
                origin=data,
                remedy="if these are records of your own, add how answers are compared with them: "
                "--metric exact; `lucida eval --help` lists the metrics",
            )
        if fields:
            raise RunError(
                "fields of a source go with --metric, over your own records", given=fields[0]
            )
        return None
    from lucida.core.spec.evaluation import OwnMetric

    if metric not in get_args(OwnMetric):
        raise RunError(f"unknown metric `{metric}`", remedy=suggestion(metric, get_args(OwnMetric)))
    if data is None:
        raise RunError("--metric compares answers with your own records", remedy="add --data FILE")
    from lucida.apps.data.guess import find_source
    from lucida.core.spec import OwnTaskSpec

    spec, _ = find_source(data, fields)
    way = "skip" if skip else "error"
    return OwnTaskSpec(source=spec, metric=metric, by=by, answers=answers, on_error=way, name=name)


def _measured(
    target: str,
    names: list | None,
    limit: int | None,
    options: Callable[[], Options] | None,
    model: str | None,
    out: Path | None,
    boxes: str | None,
    weights: Weights | None,
    fewer: FewerTokensSpec | None,
) -> Results:
    """The results of one target."""
    from lucida.apps.answering import ELSEWHERE, check_named, make_loader, measure_otherwise

    foreign = target.startswith(ELSEWHERE)
    if not foreign:
        must_exist(Path(target))
        _must_be_a_run(Path(target))
        _refuse(model, "--model", "names the model of an endpoint")
        _refuse(boxes, "--boxes", "is for models that are no run, which write boxes in words")
        if weights is not None or fewer is not None:
            return measure_otherwise(Path(target), names, limit, options, out, weights, fewer)
        _refuse(out, "--out", "is for models that are no run; a run has its own folder")
    elif weights is not None:
        raise RunError("only the weights of runs are held in fewer bits", given=target)
    elif fewer is not None:
        raise RunError("only runs are asked with fewer visual tokens", given=target)
    elif out is None or names is None:
        missing = "--out DIR" if out is None else "--task NAME, or --data FILE and --metric NAME"
        raise RunError(
            "a model that is no run needs to be told where results go and what to ask",
            origin=target,
            remedy=f"add {missing}",
        )
    check_named(target, model)
    from lucida.core.runs import RunFolder
    from lucida.eval.run import evaluate_run

    if not foreign:
        more = () if options is None else (options(),)
        evaluate_run(Path(target), names, limit, *more)
        return RunFolder(target).results
    from lucida.core.spec import EvaluationSpec
    from lucida.eval.run import evaluate_target

    asked = None if options is None else options()
    evaluate_target(
        target, make_loader(target, model, boxes), out, EvaluationSpec(), names, limit, asked
    )
    return RunFolder(out).results


def _options(
    protocol: list[str],
    counts: tuple[int, ...],
    seeds: int,
    think: bool,
    prompts: str | None,
    data: str | None,
    judge: tuple[str | None, str | None],
) -> Callable[[], Options] | None:
    """What makes the options, or None when nothing beyond the recipe was asked for."""
    for name in protocol:
        if name not in PROTOCOLS:
            raise RunError(f"unknown protocol `{name}`", remedy=suggestion(name, PROTOCOLS))
    from lucida.apps.answering import check_judge

    check_judge(*judge)
    if not protocol and not counts and not think and (prompts, data, judge[0]) == (None,) * 3:
        return None

    def make() -> Options:  # importing it takes a second, and mistakes are told before
        from lucida.apps.answering import open_answerer
        from lucida.eval.plan import Options

        asked = None if judge[0] is None else open_answerer(*judge)
        return Options(tuple(protocol), counts, seeds, think, prompts, data, asked)

    return make


def _counts(shots: str | None) -> tuple[int, ...]:
    """Numbers of demonstrations from "0,4"."""
    words = [word.strip() for word in (shots or "").split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise RunError(
            "--shots takes numbers of demonstrations", expected="such as 0,1,2,4,8", given=shots
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def _suite(
    name: str, names: list[str] | None, counts: tuple[int, ...], seeds: int
) -> tuple[list[str], tuple[int, ...], int]:
    """A suite's tasks, numbers of demonstrations and seeds, where nothing else was asked for."""
    from lucida.eval.few_shot import SUITES

    if name not in SUITES:
        raise RunError(f"unknown suite `{name}`", remedy=suggestion(name, SUITES))
    suite = SUITES[name]
    return names or list(suite.tasks), counts or suite.shots, max(seeds, suite.seeds)


def _must_be_a_run(folder: Path) -> None:
    """Say how the folder of an imported or downloaded model is measured."""
    if (folder / "config.json").is_file() and not (folder / "recipe.yaml").is_file():
        raise RunError(
            "this folder holds a model, but no run with a recipe that names its tasks",
            origin=folder,
            remedy=f"`lucida eval hf:{folder} --task NAME --out DIR`",
        )


def _refuse(value: object, option: str, why: str) -> None:
    if value is not None:
        raise RunError(f"{option} {why}", given=value, remedy=f"leave {option} out")
