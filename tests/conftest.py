"""Lets every test import `closeness` and `forking`, whatever import mode pytest runs in.

Nothing that a test writes waits for the disk: what a power cut would leave no test can see.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

os.fsync = os.fstat  # an error for a descriptor that is none, as before
