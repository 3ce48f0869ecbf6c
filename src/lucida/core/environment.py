"""What a result depends on besides the recipe: versions, machine, source revision, command."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "lucida",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
    "pydantic",
)


def describe(command: str) -> dict:
    """Versions, machine and source revision, without importing any of the packages."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_revision(Path(__file__).parent),
    }


def describe_packages(more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, and of `more`."""
    versions = {name: str(_version(name)) for name in (*PACKAGES, *more)}
    return {"python": platform.python_version(), **versions}


def usable_cores() -> int:
    """Cores that this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def git_revision(folder: Path) -> dict | None:
    """Commit of the source tree and whether files differ from it; None outside a git checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    # A wheel installed below someone's repository is not part of that repository.
    if commit is None or _git(folder, "ls-files", "--error-unmatch", "environment.py") is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
