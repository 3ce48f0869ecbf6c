"""A data root with every published benchmark in miniature; tests here may import `layouts`."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The whole data root; read only."""
    from layouts import write_all

    root = tmp_path_factory.mktemp("published")
    write_all(root)
    return root


@pytest.fixture
def fresh(published, tmp_path):
    """Gives a data root of one's own with the files of one benchmark, to damage."""

    def copied(task):
        for folder in {file.path.split("/")[0] for file in task.files}:
            shutil.copytree(published / folder, tmp_path / folder)
        return tmp_path

    return copied
