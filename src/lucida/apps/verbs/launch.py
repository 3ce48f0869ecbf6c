"""The verb that starts a training on several processes: launch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucida.apps.command import Overrides, RecipeName, app, guarded
from lucida.core.errors import RunError

if TYPE_CHECKING:
    from lucida.apps.launch.job import Job

Nodes = Annotated[
    int | None, typer.Option(min=1, help="Machines.", show_default="1, or all hosts of --ssh")
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes on each node: one for each GPU; on CPUs as many as you like.",
        show_default="with --local, the GPUs of this machine",
    ),
]
Hosts = Annotated[
    Path | None,
    typer.Option(metavar="HOSTFILE", help="Print an ssh command for each host of a file."),
]
Slurm = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=VALUE,…",
        help="Submit a job: time, and what else sbatch takes, such as partition=gpu.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Train on a Ray cluster; `auto` finds it."),
]
Folder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Run folder, which all nodes see.", show_default="runs/NAME"),
]
Port = Annotated[int | None, typer.Option(min=1024, max=65535, help="Where the processes meet.")]


@app.command()
@guarded
def launch(
    recipe: RecipeName,
    overrides: Overrides = None,
    nodes: Nodes = None,
    gpus: Processes = None,
    local: Annotated[bool, typer.Option("--local", help="Start the processes here.")] = False,
    ssh: Hosts = None,
    slurm: Slurm = None,
    ray: Ray = None,
    run: Folder = None,
    port: Port = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="As for `lucida train`.")
    ] = False,
) -> None:
    """Train a recipe on several processes or nodes.

    Without --local, --slurm or --ray it prints torchrun's command for each node. The same command
    again goes on from the last checkpoint, also on another number of processes.
    """
    ways = {"--local": local, "--ssh": ssh, "--slurm": slurm, "--ray": ray}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise RunError(f"{' and '.join(chosen)} are {len(chosen)} ways to start it; choose one")
    if local and (nodes or 1) > 1:
        raise RunError("--local starts the processes of one node", expected=1, given=nodes)
    from lucida.apps.launch.commands import read_hosts
    from lucida.apps.launch.job import count_gpus, make_job

    hosts = []
    if ssh is not None:
        hosts, gpus = read_hosts(ssh, gpus)
        if nodes not in (None, len(hosts)):
            raise RunError(
                "--nodes is not the number of hosts", expected=len(hosts), given=nodes, origin=ssh
            )
    size = len(hosts) or nodes or 1, gpus or count_gpus(here=local)
    job = make_job(recipe, overrides or [], run, *size, port, accept_changes)
    if local:
        from lucida.apps.launch.here import run_here

        raise typer.Exit(run_here(job))
    if ray:
        from lucida.apps.launch.on_ray import run_on_ray

        raise typer.Exit(run_on_ray(job, ray))
    if slurm:
        from lucida.apps.launch.slurm import split_options, submit

        number, log = submit(job, split_options(slurm))
        typer.echo(f"job {number}; it writes to {log}", err=True)
    else:
        _print_commands(job, hosts)


def _print_commands(job: Job, hosts: list[str]) -> None:
    """What is to be typed: for each host, or on every node."""
    from lucida.apps.launch.commands import ssh_lines, torchrun_words

    if hosts:
        lines = ssh_lines(job, hosts)
    else:
        if job.nodes > 1:
            typer.echo("on every node, with the name of one of them for FIRST_NODE:", err=True)
        lines = [shlex.join(torchrun_words(job, "FIRST_NODE"))]
    for line in lines:
        typer.echo(line)
