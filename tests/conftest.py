"""What every test gets: a panatlas home of its own, and the shared real cells where they are there.

The home is new in every run; only its cache of pinned references is kept, in pytest's cache folder, so that the package
index is asked once and later runs work offline. Tests about the cache itself set their own `PANATLAS_HOME`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = Path(__file__).resolve().parents[2] / "shared"  # beside the checkout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need real cells from outside where there are none."""
    if (SHARED / "data").is_dir():
        return
    skip = pytest.mark.skip(reason="no folder ../shared beside the checkout")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def session_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point `PANATLAS_HOME` at a new folder whose cache outlives the run."""
    folder = tmp_path_factory.mktemp("home")
    if request.config.pluginmanager.hasplugin("cacheprovider"):
        (folder / "cache").symlink_to(request.config.cache.mkdir("panatlas"), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        patch.setenv("MPLBACKEND", "Agg")  # no test opens a window
        patch.setattr("model.shipped_files.SHIPPED", folder / "shipped")  # tests make the models they mean
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared material; ask for it together with the marker `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def starter_home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose default atlas holds the starter source: `panatlas ingest human`, run once a session.

    The atlas is for reading; a test that writes copies it or makes its own.
    """
    folder = tmp_path_factory.mktemp("starter")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    command = [str(Path(sys.executable).parent / "panatlas"), "ingest", "human", "--json"]
    done = subprocess.run(
        command, env={**os.environ, "PANATLAS_HOME": str(folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "receipt.json").write_text(json.dumps(json.loads(done.stdout)))
    return folder
