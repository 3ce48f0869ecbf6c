#!/usr/bin/env python3
"""Sets up `.venv` so that Lucida runs: python3 scripts/bootstrap.py

Only the standard library; Linux, macOS, Windows and WSL. Running it again does nothing unless
pyproject.toml or constraints.txt changed. A torch that works is kept: the one in `.venv`, or the
one of the Python that runs this script (as in a GPU container). Otherwise torch comes from

    TORCH_INDEX=URL      the package index in that variable, when it is set;
    an NVIDIA GPU, macOS PyPI (on Windows PyPI has no CUDA build: set TORCH_INDEX there);
    anything else        a CPU build from your own pip configuration, then from PyTorch's CPU index,
                         then PyPI (on Linux about 3 GB larger than needed).

The syntax stays simple on purpose: an old Python must get far enough to say that it is too old.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

BIN = "Scripts" if os.name == "nt" else "bin"
ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
VENV = ROOT / ".venv"
STAMP = VENV / "lucida-stamp"
OLDEST, NEWEST = (3, 11), (3, 14)
TORCH_OLDEST, TORCH_BELOW = (2, 11), (2, 14)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ASK_TORCH = "import torch; assert torch.ones(2).sum().item() == 2; print(torch.__version__)"
CHECK = "import torch, transformers, lucida; lucida.load"


class Failure(Exception):
    """Something the user has to mend."""


def main():
    """Set up, or say in one message why not."""
    parser = argparse.ArgumentParser(description="Set up .venv for Lucida.")
    parser.add_argument("--force", action="store_true", help="install again even when up to date")
    force = parser.parse_args().force
    try:
        set_up(force)
    except Failure as problem:
        sys.exit("bootstrap: " + str(problem))
    except KeyboardInterrupt:
        sys.exit("\nbootstrap: stopped; run it again to continue")


def set_up(force):
    """Every step; each is skipped when its result is there."""
    wanted = fingerprint()
    if not force and read(STAMP) == wanted and works(python_of(VENV), "import lucida"):
        say("the environment is up to date (.venv)")
        STAMP.touch()  # make compares times, and a checkout may make every file look new
        return
    python = make_environment()
    torch = usable_torch(python)
    if torch:
        say("keeping torch " + torch)
    else:
        install_torch(python)
        torch = usable_torch(python)
        if not torch:
            raise Failure("torch is installed but cannot be imported:\n" + last_error(python))
    say("installing Lucida and what it needs")
    constraints = pinned(torch)
    pip(python, ["-e", f"{ROOT}[dev]", "-c", constraints], "Lucida's dependencies")
    if not works(python, CHECK):
        raise Failure("the installation does not import:\n" + last_error(python, CHECK))
    STAMP.write_text(wanted)
    say("ready. Next: make demo, or " + str(Path(".venv") / BIN / "lucida") + " --help")


def make_environment():
    """The Python of .venv, made when it is missing or broken."""
    python = python_of(VENV)
    if works(python, f"import sys, pip; assert sys.version_info >= {OLDEST}"):
        return python
    if VENV.exists():
        if not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir()):
            raise Failure(f"{VENV} is no virtual environment; move it away and run this again")
        say(".venv is broken or its Python is too old; making it anew")
        shutil.rmtree(str(VENV))
    base = find_python()
    command = [base, "-m", "venv", str(VENV)]
    torch = usable_torch(base)
    if torch:
        say("this Python has torch " + torch + "; .venv will see its packages")
        command.append("--system-site-packages")
    say(f"making .venv with {base}")
    if subprocess.call(command) != 0:
        shutil.rmtree(str(VENV), ignore_errors=True)
        raise Failure(
            "cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv. "
            "Elsewhere install Python from python.org"
        )
    return python


def find_python():
    """A Python of a version that Lucida and torch run on: this one if it will do."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in (12, 13, 11, 14):
        found = shutil.which(f"python3.{minor}")
        if found and works(found, "import venv, ensurepip"):
            return found
    this, oldest, newest = (
        ".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST, NEWEST)
    )
    raise Failure(f"Python {this} is not supported; run this with one from {oldest} to {newest}")


def usable_torch(python):
    """The version of torch there, or an empty string when there is none that will do."""
    done = run(python, ASK_TORCH)
    version = done.stdout.strip().split("\n")[-1] if done.returncode == 0 else ""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers:
        return ""
    return version if TORCH_OLDEST <= tuple(map(int, numbers.groups())) < TORCH_BELOW else ""


def install_torch(python):
    """torch from the first source that has it."""
    version = re.search(r"^torch==(\S+)", read(CONSTRAINTS), re.MULTILINE).group(1)
    index = os.environ.get("TORCH_INDEX")
    if index:
        say(f"installing torch {version} from TORCH_INDEX")
        pip(python, ["torch==" + version, "--index-url", index], "torch")
        return
    if sys.platform == "darwin" or shutil.which("nvidia-smi"):
        if os.name == "nt":
            say("PyPI's torch has no CUDA on Windows; for the GPU set TORCH_INDEX to the index")
            say("that pytorch.org names and run this again with --force")
        say(f"installing torch {version} from PyPI")
        pip(python, ["torch==" + version], "torch")
        return
    cpu = f"torch=={version}+cpu"
    say("no NVIDIA GPU; installing the CPU build of torch " + version)
    if try_pip(python, [cpu]):
        return
    say("your package index has no CPU build; trying " + CPU_INDEX)
    if try_pip(python, [cpu, "--index-url", CPU_INDEX, "--retries", "1", "--timeout", "15"]):
        return
    say("not reachable; taking PyPI's build, which on Linux brings about 3 GB of CUDA libraries")
    pip(python, ["torch==" + version], "torch")


def pinned(torch):
    """The constraints with the torch that is there in place of the tested one: nothing moves it."""
    path = VENV / "constraints.txt"
    path.write_text(re.sub(r"(?m)^torch==.*$", "torch==" + torch, read(CONSTRAINTS)))
    return str(path)


def pip(python, arguments, what):
    """Install or fail with the remedy."""
    if not try_pip(python, arguments, quiet=False):
        raise Failure(
            "pip could not install " + what + " (its message is above). Check the network, the "
            "proxy and pip's configuration (`pip config list`), then run this again"
        )


def try_pip(python, arguments, quiet=True):
    """Whether pip could install; quiet hides why not."""
    # Python compiles what is imported; compiling all of it now would double the CPU time.
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    command += [] if sys.stdout.isatty() and not quiet else ["--quiet"]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.call(command + arguments, stderr=output) == 0


def run(python, code):
    """Run a line of Python there, outside this folder so that nothing is imported from it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [python, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=str(ROOT / "scripts"),
        env=environment,
    )


def works(python, code):
    """Whether the line runs there."""
    return Path(python).exists() and run(python, code).returncode == 0


def last_error(python, code=ASK_TORCH):
    """The end of what Python says when the line fails."""
    return "\n".join(run(python, code).stderr.strip().split("\n")[-5:])


def fingerprint():
    """Changes when what must be installed changes."""
    content = read(ROOT / "pyproject.toml") + read(CONSTRAINTS)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def python_of(environment):
    """The Python inside a virtual environment."""
    return str(environment / BIN / ("python.exe" if os.name == "nt" else "python"))


def read(path):
    """A file's text; empty when there is no such file."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def say(text):
    """One line of progress, in order with pip's."""
    print("bootstrap: " + text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
