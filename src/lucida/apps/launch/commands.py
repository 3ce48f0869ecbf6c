"""torchrun's command lines, for nodes that Lucida cannot reach by itself.

One line for each node, to be typed there or sent by ssh. All nodes need the same folder of the
run, Lucida and its recipe at the same place.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lucida.apps.launch.job import Job
from lucida.core.errors import RunError

PORT = 29500
"""Where nodes meet unless --port says otherwise; torchrun's own default."""


def torchrun_words(job: Job, first: str) -> list[str]:
    """The same words for every node; `first`: the name of the one where all meet.

    `--` keeps torchrun from reading `--run` as short for its own `--run-path`.
    """
    if job.nodes == 1:
        place = ["--standalone"]
    else:
        meeting = f"{first}:{job.port or PORT}"
        place = ["--nnodes", str(job.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting]
        place += ["--rdzv-id", job.folder.name]
    start = ["torchrun", *place, "--nproc-per-node", str(job.processes)]
    return [*start, "-m", "--", "lucida", *job.words]


def ssh_lines(job: Job, hosts: list[str]) -> list[str]:
    """A line for each host, to be typed on any machine that reaches it."""
    there = f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(torchrun_words(job, hosts[0]))}"
    return [shlex.join(["ssh", host, there]) for host in hosts]


def read_hosts(file: Path, processes: int | None) -> tuple[list[str], int]:
    """The hosts of a file and the processes for each of them.

    A line is a name, and may have `slots=N` behind it, as OpenMPI and DeepSpeed write it; `#`
    begins a remark. RunError for another line, a name that comes twice, no name at all, or slots
    that differ from each other or from `processes`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as problem:
        raise RunError(f"the hosts cannot be read: {problem}", origin=file) from problem
    hosts: dict[str, int | None] = {}
    for number, line in enumerate(lines, start=1):
        name, *more = line.partition("#")[0].split() or [None]
        if name is None:
            continue
        slots = [word.removeprefix("slots=") for word in more]
        good = len(slots) < 2 and all(word.isdigit() and int(word) > 0 for word in slots)
        if not good or name in hosts or name.startswith("-"):
            raise RunError(
                "not a host, or one that came before",
                expected="NAME or NAME slots=N",
                given=line.strip(),
                origin=f"{file}, line {number}",
            )
        hosts[name] = int(slots[0]) if slots else None
    wanted = {each for each in (*hosts.values(), processes) if each is not None}
    if not hosts or len(wanted) != 1:
        raise RunError(
            "no host is named" if not hosts else "every node needs the same number of processes",
            expected="slots=N behind every host, or --gpus N",
            given=", ".join(map(str, sorted(wanted))) or "no number",
            origin=file,
        )
    return list(hosts), wanted.pop()
