"""The wheel holds the five floors and nothing else, and a fresh environment that installs it imports them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

FLOORS = ("ontology", "atlas", "loaders", "model", "catalog")
BIN = Path(sys.executable).parent
LEFT_OUT = {"__pycache__", ".DS_Store"}


def run(*command: object, **kwargs: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(BIN / "hatchling", "build", "-t", "wheel", "-d", folder, cwd=repo)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_five_floors_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        tops = {PurePosixPath(n).parts[0] for n in opened.namelist()}
    assert tops == {*FLOORS, f"panatlas-{metadata.version('panatlas')}.dist-info"}


def test_wheel_holds_every_file_of_the_floors(wheel: Path, repo: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        packed = {n for n in opened.namelist() if not n.startswith("panatlas-")}
    on_disk = {
        p.relative_to(repo).as_posix()
        for floor in FLOORS
        for p in (repo / floor).rglob("*")
        if p.is_file() and not LEFT_OUT & set(p.parts)
    }
    assert packed == on_disk


def test_check_wheel_contents_agrees(wheel: Path, repo: Path) -> None:
    run(BIN / "check-wheel-contents", "--config", repo / "pyproject.toml", wheel)


def test_licence_and_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (info,) = [n for n in opened.namelist() if n.endswith(".dist-info/METADATA")]
        text = opened.read(info).decode()
        assert any(n.endswith("licenses/LICENSE") for n in opened.namelist())
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Dist: torch>=2.6" in text, "a range: which build is the machine's matter"


NOT_IMPORTED = {"uv", "cellxgene-ontology-guide"}  # the one is run as a program, the other's assets are read


def test_every_dependency_is_declared_and_used(repo: Path) -> None:
    """Compare what the floors import with what the distribution asks for, by distribution name."""
    owners = metadata.packages_distributions()
    used = set()
    for path in (p for floor in FLOORS for p in (repo / floor).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            used |= {m.partition(".")[0] for m in modules}
    used -= {*FLOORS, *sys.stdlib_module_names}
    names = {re.sub(r"[-_.]+", "-", owners[m][0]).lower() for m in used}
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
    assert names | NOT_IMPORTED == {re.match(r"[\w.-]+", r)[0].lower() for r in asked}


PROBE = """
import json, sys
from importlib import import_module, metadata
owners = metadata.packages_distributions()
floors = {}
for floor in %r:
    module = import_module(floor)
    for name in module.__all__:
        getattr(module, name)
    floors[floor] = {"file": module.__file__, "owners": sorted(set(owners[floor]))}
print(json.dumps({"floors": floors, "strays": [n for n in ("tests", "docs", "benchmarks") if n in owners]}))
"""


@pytest.mark.index
def test_fresh_environment_imports_the_floors(wheel: Path, tmp_path: Path) -> None:
    """Install the wheel with its dependencies, at the versions of this environment, into an empty environment."""
    venv = tmp_path / "venv"
    frozen = tmp_path / "constraints.txt"
    frozen.write_text(
        "".join(
            f"{d.name}=={d.version}\n"
            for d in metadata.distributions()
            if d.name != "panatlas" and "+" not in d.version
        )
    )
    uv = BIN / "uv"
    run(uv, "venv", "--quiet", "--python", sys.executable, venv)
    env = {**os.environ, "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""), "PYTHONSAFEPATH": "1"}
    run(uv, "pip", "install", "--quiet", "--python", venv / "bin/python", "--constraint", frozen, wheel, env=env)
    found = json.loads(run(venv / "bin/python", "-I", "-c", PROBE % (FLOORS,), cwd=tmp_path))
    assert {floor: facts["owners"] for floor, facts in found["floors"].items()} == {f: ["panatlas"] for f in FLOORS}
    assert all(Path(facts["file"]).is_relative_to(venv) for facts in found["floors"].values())
    assert not found["strays"]
    assert "ingest" in run(venv / "bin/panatlas", "--help", cwd=tmp_path)
