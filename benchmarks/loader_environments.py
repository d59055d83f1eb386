"""Throw-away environments for the loaders we are compared with: made in the bench folder, gone with it.

Peers never become dependencies, not even of the dev group: their needs (another Python, another anndata, a database)
must not decide ours. Pins are the versions whose settings were tried. Used by loaders.py alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ontology.package_index import index_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PINS = {
    "peers": ("scdataset==0.3.0", "bionemo-scdl==0.1.3", "anndata==0.12.19"),
    "annbatch": ("annbatch==0.3.1", "zarrs==0.2.3", "zarr==3.4.2", "anndata==0.13.4"),
}
CONSTRAINT = Path(__file__).resolve().parents[1] / ".ci" / "constraints-cpu.txt"
"""Holds torch at the CPU build: no peer is measured on a GPU here."""
ANNBATCH_NEEDS = (3, 12)
SECONDS = 900  # a slow line and torch's 200 MB


def make_environments(folder: Path) -> dict[str, str]:
    """Return, by name, an interpreter that has the pinned peers, or "not run: ..." where there is none.

    Parameters
    ----------
    folder
        Where the environments are made.
    """
    made = {"own": sys.executable, "peers": make_environment(folder / "peers", sys.executable, PINS["peers"])}
    python = next(_pythons(), None)
    if python is None:
        wanted = ".".join(map(str, ANNBATCH_NEEDS))
        made["annbatch"] = f"not run: needs Python {wanted}; name one in PANATLAS_BENCH_PYTHON"
    else:
        made["annbatch"] = make_environment(folder / "annbatch", python, PINS["annbatch"])
    return made


def _pythons() -> Iterator[str]:
    """Yield interpreters that annbatch runs on: the one that is named, ours, those on the path, pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    candidates = [
        os.environ.get("PANATLAS_BENCH_PYTHON"),
        sys.executable,
        *(shutil.which(name) for name in ("python3.13", "python3.12")),
        *(str(path) for minor in (13, 12) for path in sorted(pyenv.glob(f"3.{minor}.*/bin/python"))),
    ]
    test = f"import sys; raise SystemExit(not {ANNBATCH_NEEDS} <= sys.version_info[:2] < (3, 14))"
    for candidate in filter(None, candidates):
        try:
            if not subprocess.run([candidate, "-c", test], capture_output=True, check=False, timeout=60).returncode:
                yield candidate
        except (OSError, subprocess.SubprocessError):
            continue  # named, but not there or not a Python: the next one may be


def make_environment(folder: Path, python: str, pins: tuple[str, ...]) -> str:
    """Return the interpreter of a new environment in a folder, with these packages, or why there is none."""
    uv = [sys.executable, "-m", "uv", "--quiet", "--no-progress"]
    found = str(folder / "bin" / "python")
    said = ""
    for settings in index_settings():
        settings["UV_PYTHON_DOWNLOADS"] = "never"
        # A folder of wheels (find-links) holds its own CPU build of torch; elsewhere uv knows where that is.
        backend = [] if settings.get("UV_FIND_LINKS") else ["--torch-backend", "cpu"]
        install = [*uv, "pip", "install", "--python", found, "--constraint", str(CONSTRAINT), *backend, *pins]
        more = {"env": settings, "cwd": folder.parent, "timeout": SECONDS}
        try:
            for command in ([*uv, "venv", "--clear", "--python", python, str(folder)], install):
                subprocess.run(command, check=True, capture_output=True, text=True, **more)
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            said = f"not installed in {SECONDS} s"
        else:
            return found
    return f"not run: {pins[0]} cannot be installed here ({said.strip()[:120]})"
