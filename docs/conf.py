"""Sphinx settings: MyST pages, the reference read from the facades, offline, every warning an error."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from sphinx.ext.napoleon import Config, NumpyDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "panatlas"
author = "the panatlas authors"
copyright = author
release = version = metadata.version("panatlas")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "literal"  # docstrings write `name` for code, as Markdown does
html_theme = "furo"
html_title = f"panatlas {release}"
html_static_path = ["_static"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}

# Our Returns sections are prose (the signature has the type); Napoleon would print their first line as a type.
SECTIONS = Config(napoleon_custom_sections=["Returns", "Yields"])


def read_sections(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn numpydoc sections into reST, and leave the strings under fields alone: there a colon is only a colon."""
    if what not in ("attribute", "data"):
        lines[:] = NumpyDocstring(lines, SECTIONS, app, what, name, obj, options).lines()


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the docstring reader; nothing here is shared between parallel readers."""
    app.connect("autodoc-process-docstring", read_sections)
    return {"parallel_read_safe": True}
