"""The command `lucida`: every verb, and the way in."""

from __future__ import annotations

import os
import sys

from lucida.apps.command import app
from lucida.apps.verbs import (
    asking,
    before,
    benchmarks,
    data,
    evaluation,
    export,
    launch,
    parts,
    recipes,
    runs,
    study,
)
from lucida.core.collector import rest_while_importing

VERBS = (
    runs,
    launch,
    evaluation,
    study,
    asking,
    recipes,
    before,
    data,
    benchmarks,
    export,
    parts,
)
"""Importing a file of verbs puts them on the command line, in this order."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `lucida` command."""
    given = sys.argv[1:] if arguments is None else arguments
    # Read when torch is imported. DDP, told to look for unused parameters, warns if all are used.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    rest_while_importing()
    # One place for --debug wherever it was typed.
    rest = [word for word in given if word != "--debug"]
    app(args=["--debug", *rest] if len(rest) < len(given) else rest, prog_name="lucida")


if __name__ == "__main__":
    main()
