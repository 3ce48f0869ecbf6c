"""A job of SLURM, written and submitted by submitit (extra `slurm`).

    submit ─▶ sbatch, one task for each rank ─▶ Rank ─▶ `lucida train`
                 ▲                               │ SIGUSR2: preempted, or its time is nearly over
                 └───── queued again ◀── a checkpoint at the end of the step

A job that is queued again goes on from that checkpoint. Logs stand in `slurm/` of the run folder.
"""

from __future__ import annotations

import re
import signal
import time

from lucida.apps.command import STOPPED
from lucida.apps.launch.job import Job, run_rank
from lucida.core.errors import RunError

TIMES = 1000
"""How often a job may be queued again because its time was over."""

NOTICE = 300
"""Seconds between SIGUSR2 and the end, for a step and a checkpoint; of short jobs a quarter."""

GRACE = 3600
"""Seconds that a rank which got SIGTERM waits for SLURM to kill it: longer than any grace time."""

OWN = ("nodes", "ntasks-per-node", "signal", "requeue", "output", "error", "open-mode")
"""What the job itself says."""


class Rank:
    """One task of the job; submitit pickles it, and finds its way by the task's environment."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> None:
        """Train; RunError when that failed, so that submitit knows."""
        from submitit.helpers import TorchDistributedEnvironment

        place = TorchDistributedEnvironment()
        place.export(set_cuda_visible_devices=False, overwrite=True)
        status, problem = run_rank(self.job)
        asked = getattr(problem, "signal", None) if status == STOPPED else None
        if asked == signal.SIGTERM:
            # Cancelled, or preempted without notice: SLURM queues again only what it had to kill.
            time.sleep(GRACE)
        if asked == signal.SIGUSR2 and place.rank == 0:
            signal.raise_signal(signal.SIGUSR2)  # submitit's handler is back, and queues it again
        elif status and not (status == STOPPED and place.rank):
            # Any other rank that was stopped ends well: SLURM would end the first one with it.
            raise RunError(f"rank {place.rank} ended with status {status}; its log says why")

    def checkpoint(self) -> object:
        """What is queued again: the same, because the checkpoint stands in the run folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(job: Job, options: dict[str, str], cluster: str | None = None) -> tuple[str, str]:
    """Submit the job; its number, and where its logs will be. `options`: what sbatch is told as
    well, by its long names; `cluster`: submitit's name of one, None for SLURM.

    RunError when submitit or SLURM is missing or refuses.
    """
    try:
        import submitit
    except ImportError as problem:
        raise RunError(
            "submitit is not installed", remedy="pip install 'lucida[slurm]'"
        ) from problem
    minutes, rest = read_options(options)
    folder = job.folder / "slurm"
    gpus = {} if {"gres", "gpus-per-node"} & rest.keys() else {"gpus_per_node": job.processes}
    if rest.get("gpus-per-node") == "0":  # for tests of CPU clusters, and for them
        del rest["gpus-per-node"]
    try:
        executor = submitit.AutoExecutor(
            folder=folder, cluster=cluster or "slurm", slurm_max_num_timeout=TIMES
        )
        executor.update_parameters(
            name=job.folder.name,
            nodes=job.nodes,
            tasks_per_node=job.processes,
            timeout_min=minutes,
            # A quarter of the job: 60 * minutes / 4.
            slurm_signal_delay_s=min(NOTICE, 15 * minutes),
            slurm_srun_args=["--kill-on-bad-exit=1"],
            slurm_additional_parameters={"requeue": True} | rest,
            **gpus,
        )
        submitted = executor.submit(Rank(job))
    except (RuntimeError, ValueError, OSError, submitit.core.utils.FailedJobError) as problem:
        raise RunError(
            f"SLURM did not take the job: {problem}",
            remedy="`lucida launch` without --slurm prints torchrun's commands",
        ) from problem
    return submitted.job_id, str(submitted.paths.stderr)


def read_options(options: dict[str, str]) -> tuple[int, dict[str, str]]:
    """The job's time in minutes, and all other options. RunError when there is no time, or an
    option is the job's own."""
    if clash := [name for name in options if name in OWN]:
        raise RunError(
            f"--slurm {clash[0]}=… is what the launcher sets",
            remedy="use --nodes and --gpus, and leave it out",
        )
    rest = dict(options)
    return read_minutes(rest.pop("time", "")), rest


def read_minutes(text: str) -> int:
    """SLURM's ways to write a time: minutes, minutes:seconds, hours:minutes:seconds, and
    days-hours[:minutes[:seconds]]; rounded up.

    Worked example: 1-02:30 is 24 * 60 + 2 * 60 + 30 = 1590.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise RunError(
            "the job needs a time", expected="time=HH:MM:SS, D-HH or minutes", given=text or "none"
        )
    days, *numbers = found.groups()
    numbers = [int(each) for each in numbers if each is not None]
    if days is None and len(numbers) < 3:
        # Minutes, or minutes and seconds: no hours were said.
        numbers = [0, *numbers]
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    whole = (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)
    if whole == 0:
        raise RunError("the job needs a time", expected="more than none", given=text)
    return whole


def split_options(text: str) -> dict[str, str]:
    """`partition=gpu,time=12:00:00` by name. RunError for a part without `=`, or a name twice."""
    options: dict[str, str] = {}
    for part in text.split(","):
        name, equal, value = part.partition("=")
        name = name.strip().replace("_", "-")
        if not equal or not name or not value or name in options:
            raise RunError(
                "not an option of sbatch, or one that came before",
                expected="NAME=VALUE, such as partition=gpu,time=12:00:00",
                given=part,
                origin="--slurm",
            )
        options[name] = value
    return options
