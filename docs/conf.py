"""Sphinx settings: MyST pages, the reference read from the facades, offline, every warning an error."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

project = "panatlas"
author = "the panatlas authors"
copyright = author
release = version = metadata.version("panatlas")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"panatlas {release}"
html_static_path = ["_static"] if any((Path(__file__).parent / "_static").iterdir()) else []
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
napoleon_google_docstring = False
# Our Returns sections are prose (the signature has the type); Napoleon would print the first line as a type.
napoleon_custom_sections = ["Returns", "Yields"]
