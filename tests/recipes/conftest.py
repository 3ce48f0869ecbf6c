"""Lets the tests of this folder import `recipe_files` of the tests of `core`, and scripts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))
