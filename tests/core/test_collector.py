"""The garbage collector rests while modules come, and works as before once none comes."""

import subprocess
import sys

CODE = """
import gc, sys, types
from lucida.core.collector import RARELY, rest_while_importing

usual, looks = gc.get_threshold(), []

def begin(rest):
    gc.collect()
    looks.clear()
    if rest:
        rest_while_importing()
        rest_while_importing()

def make_modules(count, prefix):
    for number in range(count):
        kept[prefix, number] = sys.modules[f"{prefix}{number}"] = types.ModuleType(prefix)
        kept[prefix, number].objects = [[] for _ in range(1_000)]

def count(phase, told):
    looks.extend([told] if phase == "start" else [])

kept = {}
gc.callbacks.append(count)
for rest in (False, True):
    begin(rest)
    make_modules(300, f"made{rest}")
    print(len(looks), gc.get_threshold() == usual)
objects = [[] for _ in range(3 * RARELY)]
print(gc.get_threshold() == usual, len(gc.callbacks))
"""


def test_it_looks_rarely_until_no_module_comes():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    often, rarely, after = (line.split() for line in done.stdout.splitlines())
    assert int(rarely[0]) <= 10 < 100 < int(often[0])
    assert (often[1], rarely[1]) == ("True", "False")
    assert after == ["True", "1"]
