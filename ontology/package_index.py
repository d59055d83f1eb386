"""Which package index this user has: the pip and uv settings in the environment and in pip's configuration files.

uv does not read pip's settings. `index_settings()` yields child environments in which they are spelled for uv; the
one with the fewest assumptions comes first. It opens configuration files, never the network.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .places import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

# pip's name and uv's name of the same setting. pip separates several values by blanks, uv's find-links by commas.
SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}


def index_settings() -> Iterator[dict[str, str]]:
    """Yield environments for uv: first with the pip variables translated, then with pip's configuration files too.

    A setting that uv's own variable already gives is left alone. The second environment comes only where the files
    add something; it is the fallback because a stale entry there must not break an index that works.
    """
    first = environment()
    for option, variable in SETTINGS.items():
        value = first.get(f"PIP_{option.upper().replace('-', '_')}")
        if value and not first.get(variable):
            first[variable] = _spell(variable, value)
    yield first
    second = dict(first)
    for option, value in _pip_files(first).items():
        if not second.get(SETTINGS[option]):
            second[SETTINGS[option]] = _spell(SETTINGS[option], value)
    if second != first:
        yield second


def _spell(variable: str, value: str) -> str:
    values = value.split()
    return (",".join(values) if variable == "UV_FIND_LINKS" else " ".join(values)) if values else ""


def _pip_files(env: dict[str, str]) -> dict[str, str]:
    """Return the index settings of pip's configuration files, the more specific file winning as in pip."""
    config_home = Path(env.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    files = [
        Path("/etc/pip.conf"),
        Path("~/.pip/pip.conf").expanduser(),
        config_home / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    if named := env.get("PIP_CONFIG_FILE"):
        # The null device is how pip users say "no configuration at all".
        files = [] if named == os.devnull else [*files, Path(named)]
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip's problem to report; here it only means one source of settings fewer
        for section in ("global", "install", "download"):
            for option in SETTINGS:
                if parser.has_option(section, option):
                    found[option] = parser.get(section, option)
    return found
