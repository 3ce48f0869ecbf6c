"""Processes that begin with everything imported: a server imports once and forks each of them.

What is killed, told to end or trained side by side needs processes of its own, whose imports would
take longer than all they do. The server has computed nothing itself, so that autograd can be used
on the other side of the fork.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from lucida.core.errors import LucidaError
from lucida.data.transport import keep_addresses_short

keep_addresses_short()
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "lucida.training.loop",
        "lucida.training.sharding",
        "lucida.eval.run",
        "peft",
        # What the tiny parts need, else imported on the way.
        "transformers.models.llama.modeling_llama",
        "transformers.models.siglip.modeling_siglip",
        "transformers.models.siglip.image_processing_pil_siglip",
    ]
    + ["deepspeed"] * (find_spec("deepspeed") is not None)
)


def start(
    told: Path, function: Callable, *arguments: object, environment: Mapping[str, str] | None = None
):
    """A process, begun, that calls a function of a module that can be imported by its name.

    What it says is appended to the file `told`; `environment` is beside this process's own. Exit
    status 1 where a LucidaError comes out, whose words are in the file.
    """
    whole = dict(os.environ) | dict(environment or {})
    process = SERVER.Process(target=call_there, args=(whole, told, function, arguments))
    process.start()
    return process


def call_there(environment: dict[str, str], told: Path, function: Callable, arguments: tuple):
    """What the new process does."""
    gc.freeze()  # looking through what was imported would copy its pages
    os.environ.clear()
    os.environ.update(environment)
    with told.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        function(*arguments)
        code = 0
    except LucidaError as error:
        print(error, file=sys.stderr, flush=True)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without
    sys.exit(code)


def run_command(*words: str) -> None:
    """`lucida WORDS`, as its entry point has it."""
    from lucida.apps.cli import main

    main(list(words))


class Asked:
    """A process of the server, asked as those of `subprocess` are."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self.process, self.pid = process, process.pid
        self.terminate, self.wait = process.terminate, process.join

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode


def exit_like_python(code: int) -> None:
    """End a process of multiprocessing with what Python does at its end."""
    atexit._run_exitfuncs()
    sys.exit(code)
