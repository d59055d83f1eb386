"""Where panatlas keeps things on this machine: the only file of the floors that reads the environment.

`home()` holds atlases and caches, `cache_dir()` what can be fetched or derived again. `environment()` is the copy
handed to child processes. Nothing here creates a folder.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of this user's panatlas: `PANATLAS_HOME`, or `~/.panatlas` where that is unset or empty.

    Returns
    -------
    Path
        An absolute path; it need not exist yet.
    """
    return Path(os.environ.get("PANATLAS_HOME") or "~/.panatlas").expanduser().absolute()


def cache_dir() -> Path:
    """Return the folder of fetched and derived references, `home() / "cache"`; deleting it loses time only."""
    return home() / "cache"


def environment() -> dict[str, str]:
    """Return a copy of the process environment, for child processes and for the package index settings in it."""
    return dict(os.environ)
