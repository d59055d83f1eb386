"""The HTML pages panatlas writes: one template each, one style, one way to escape. report.py and task_report.py use it.

A page opens from disk: no script, nothing is fetched, and every value is escaped unless the template says `safe`, which
only what we drew ourselves may be. The templates and the style they share are data/*.jinja.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # not allowed in HTML


def render_page(template: str, **values: Any) -> str:
    """Return a page as text; the same values give the same text.

    Parameters
    ----------
    template
        Name of a file in data, such as `report.html.jinja`.
    **values
        What the template is given.
    """
    text = _environment().get_template(template).render(**values)
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text.lstrip())


def write_page(path: Path, text: str) -> None:
    """Write a page, replaced whole or not at all; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@cache
def _environment() -> Environment:
    """Return the templates; every value they insert is escaped unless it is a chart."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - only reports need it

    loader = FunctionLoader(lambda name: files(__package__).joinpath("data", name).read_text(encoding="utf-8"))
    # autoescape=True also covers templates without a file name
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )  # fmt: skip
    made.filters["thousands"] = lambda n: f"{n:,}"
    return made
