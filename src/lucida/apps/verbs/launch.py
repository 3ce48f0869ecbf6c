"""The verb that starts a training on several processes: launch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Overrides, RecipeName, app, guarded
from lucida.core.errors import RunError

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
    run: Folder = None,
    port: Port = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="As for `lucida train`.")
    ] = False,
) -> None:
    """Train a recipe on several processes or nodes.

    Without --local or --ssh it prints torchrun's command for the nodes. The same command again
    goes on from the last checkpoint, also on another number of processes.
    """
    if local and ssh is not None:
        raise RunError("--local and --ssh are two ways to start it; choose one")
    from lucida.apps.launch.commands import read_hosts, ssh_lines, torchrun_words
    from lucida.apps.launch.job import count_gpus, make_job

    hosts = []
    if ssh is not None:
        hosts, gpus = read_hosts(ssh, gpus)
        if nodes not in (None, len(hosts)):
            raise RunError(
                "--nodes is not the number of hosts", expected=len(hosts), given=nodes, origin=ssh
            )
    elif local and (nodes or 1) > 1:
        raise RunError("--local starts the processes of one node", expected=1, given=nodes)
    if gpus is None:
        gpus = count_gpus(here=local)
    size = (len(hosts) or nodes or 1, gpus)
    job = make_job(recipe, overrides or [], run, *size, port, accept_changes)
    if local:
        from lucida.apps.launch.here import run_here

        raise typer.Exit(run_here(job))
    if hosts:
        lines = ssh_lines(job, hosts)
    else:
        if job.nodes > 1:
            typer.echo("on every node, with the name of one of them for FIRST_NODE:", err=True)
        lines = [shlex.join(torchrun_words(job, "FIRST_NODE"))]
    for line in lines:
        typer.echo(line)
