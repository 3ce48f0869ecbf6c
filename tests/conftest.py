"""Lets every test import `closeness` and `forking`, whatever import mode pytest runs in.

Nothing that a test writes waits for the disk: what a power cut would leave no test can see.

Python's collector rests while tests are gathered: it looked at a million objects over and over, of
which hardly any ever goes. They are out of its sight afterwards, so that it sees what tests make.
"""

import gc
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

os.fsync = os.fstat  # an error for a descriptor that is none, as before

gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():  # also where other processes gather and run them
    gc.freeze()
    gc.enable()
