"""Damaged pictures through a folder, a tar and a table: a sample, or an error with its origin."""

import pytest
from damaged import FORMATS, PICTURES, WAYS, ends, noise, whole

from lucida.core.errors import DataError


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name, way):
    content, outcome = PICTURES[name]
    message = ends(outcome, lambda: way(tmp_path, content))
    assert not message or str(tmp_path) in message


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("form", FORMATS)
def test_truncated_pictures(tmp_path, form, tenth, way):
    content = noise(form)
    source = way(tmp_path, content[: len(content) * tenth // 10])
    try:
        whole(source)
    except DataError as error:
        assert str(tmp_path) in str(error)
    else:  # only a GIF or TIFF whose pixels are complete before its last tenth
        assert form in ("GIF", "TIFF")
