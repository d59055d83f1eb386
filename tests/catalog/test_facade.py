"""The front door: starts fast, imports nothing heavy, and refuses a floor that is somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).resolve().parents[2])


def python(code: str, *options: str, cwd: Path | None = None, path: str = HERE) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | {"PYTHONPATH": path}  # `just` sets it
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False, cwd=cwd, env=env
    )


def test_import_is_light_and_fast():
    code = (
        "import sys, time; began = time.process_time(); import catalog; took = time.process_time() - began\n"
        "heavy = {'torch', 'tiledbsoma', 'duckdb', 'pandas', 'matplotlib', 'scanpy', 'anndata'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert took < 0.3, took"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_help_needs_no_store():
    code = (
        "import sys; from catalog.cli import run; assert run(['--help']) == 0\n"
        "heavy = {'torch', 'tiledbsoma', 'duckdb', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout


@pytest.mark.parametrize("floor", ["model", "ontology", "atlas", "loaders"])
@pytest.mark.parametrize("as_package", [False, True])
def test_a_floor_from_elsewhere_is_refused_by_name(tmp_path, floor, as_package):
    intruder = tmp_path / (f"{floor}/__init__.py" if as_package else f"{floor}.py")
    intruder.parent.mkdir(exist_ok=True)
    intruder.write_text("")
    done = python("import catalog", "-P", path=f"{tmp_path}{os.pathsep}{HERE}")
    assert done.returncode != 0
    assert "InstallError" in done.stderr
    assert str(intruder) in done.stderr
    assert f"'{floor}'" in done.stderr
    assert "PYTHONSAFEPATH=1" in done.stderr


def test_a_stray_file_in_the_working_folder_is_seen_and_safe_path_cures_it(tmp_path):
    (tmp_path / "model.py").write_text("")
    assert "InstallError" in python("import catalog", cwd=tmp_path).stderr
    assert python("import catalog", "-P", cwd=tmp_path).returncode == 0


def test_every_public_name_loads():
    import catalog

    assert all(getattr(catalog, name) is not None for name in catalog.__all__)
    assert set(catalog.__all__) <= set(dir(catalog))
    with pytest.raises(AttributeError, match="nonsense"):
        catalog.nonsense  # noqa: B018 - reading it is the test
