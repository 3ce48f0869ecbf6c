"""HTML pages: one environment, and one head (base.html) that they all begin with.

A page is a template beside the code that fills it. It extends `core/base.html` and fills the blocks
title, style (what is its own) and content; light, dark, phone and print are the base's. A page is
one file that loads nothing from elsewhere.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2


def render_page(template: str, **values: Any) -> str:
    """The page as text. `template` is a path within the package, such as "eval/report.html"; what
    `values` lack is an error, and texts are escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lucida", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
