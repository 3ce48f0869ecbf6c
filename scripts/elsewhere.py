#!/usr/bin/env python3
"""Runs the test suite as on other machines: python3 scripts/elsewhere.py [PROFILE…] [-- PYTEST…]

    plain     another processor without bf16 and with other kernels (SSE, AVX2); 40 columns; a very
              long temporary folder with spaces; no locale, a time zone a day ahead; a home that
              nobody can write; no network but this machine's own
    avx2      AVX2 everywhere; 200 columns; UTF-8; a time zone of half hours
    rounding  products of other shapes differ in their last bits (tests/rounding.py)

Without a profile all of them, one after the other. What follows `--` goes to pytest: other tests
than the default ones, `-n 2` for two processes. One thread each. The exit code is that of the first
profile that fails. Needs the environment of `make setup`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USERS, NETWORKS = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of <sched.h>
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`: nobody listens


@dataclass(frozen=True)
class Profile:
    """Variables of one machine. `folder` is the last part of its temporary folder; `tests` are the
    paths that are worth running there, all when empty."""

    variables: dict[str, str]
    folder: str = "tmp"
    network: bool = True
    options: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


PROFILES = {
    "plain": Profile(
        {
            # torch knows default, avx2, avx512 …; oneDNN SSE41, AVX2, AVX512_CORE …, and emulates
            # bf16 below AVX512_CORE; MKL's COMPATIBLE is SSE2, the same on every processor.
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
            "COLUMNS": "40",
            "LC_ALL": "C",
            "TZ": "Pacific/Kiritimati",
            "HOME": os.devnull + "/home",
        },
        folder="a folder with spaces and " + "a very long name " * 8,
        network=False,
    ),
    "avx2": Profile(
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_CBWR": "AVX2",
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
            "TZ": "America/St_Johns",
        },
    ),
    "rounding": Profile(
        {},
        options=("-p", "rounding"),
        tests=("tests/model", "tests/contract", "tests/train", "tests/parts", "tests/benchmarks"),
    ),
}
"""Together they hold everything that has been seen to differ between machines."""


def main() -> int:
    """Run the profiles that the command line names."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help=", ".join(PROFILES))
    chosen = parser.parse_args(given[:cut]).profiles or list(PROFILES)
    if unknown := [name for name in chosen if name not in PROFILES]:
        parser.error(f"there is no profile {unknown[0]}; there are {', '.join(PROFILES)}")
    codes = [run(name, given[cut + 1 :]) for name in chosen]
    return next((code for code in codes if code), 0)


def run(name: str, options: list[str]) -> int:
    """The suite under one profile; pytest's exit code."""
    profile, begun = PROFILES[name], time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="elsewhere-"))
    environment = os.environ | profile.variables | {"OMP_NUM_THREADS": "1"}
    paths = (str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""))  # tests/rounding.py
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["TMPDIR"] = environment["TEMP"] = str(place / profile.folder.strip())
    Path(environment["TMPDIR"]).mkdir()
    isolate: Callable[[], None] | None = None
    if not profile.network:
        environment |= offline()
        isolate = leave_networks if can_leave_networks() else None
        how = "in a network of its own" if isolate else "proxies that lead nowhere"
        print(f"elsewhere {name}: no network ({how})", flush=True)
    named = any(Path(ROOT, each.partition("::")[0]).exists() for each in options)
    tests = () if named else profile.tests
    command = [sys.executable, "-m", "pytest", *profile.options, *tests, *options]
    told = " ".join(f"{key}={value!r}" for key, value in profile.variables.items())
    print(f"elsewhere {name}: {told}", flush=True)
    try:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, preexec_fn=isolate, check=False
        ).returncode
    finally:
        shutil.rmtree(place, ignore_errors=True)
    said = "passed" if code == 0 else f"failed (pytest's exit code {code})"
    print(f"elsewhere {name}: {said} after {time.monotonic() - begun:.0f} s", flush=True)
    return code


def offline() -> dict[str, str]:
    """Variables that lead every client but those of this machine nowhere."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), NOWHERE)
    proxies |= {name.upper(): value for name, value in proxies.items()}
    return proxies | {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}


def leave_networks() -> None:
    """Put this process into a network that has nothing but 127.0.0.1; OSError when not allowed."""
    import fcntl
    import socket
    import struct

    system = ctypes.CDLL(None, use_errno=True)
    own = NETWORKS if os.geteuid() == 0 else USERS | NETWORKS
    if system.unshare(own):
        raise OSError(ctypes.get_errno(), "unshare")
    set_flags, up = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP of <linux/sockios.h>, <net/if.h>
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, set_flags, struct.pack("16sh14x", b"lo", up))


def can_leave_networks() -> bool:
    """Whether this system lets a process leave its networks, tried in a child."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        tried = subprocess.run(
            [sys.executable, "-c", "pass"], preexec_fn=leave_networks, check=False
        )
        return tried.returncode == 0
    return False


if __name__ == "__main__":
    sys.exit(main())
