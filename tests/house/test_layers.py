"""One staircase: floors import downward only, and through the facade.

import-linter reads the contracts in pyproject.toml. What it cannot say is checked on the syntax trees: inside a floor
imports are relative, across floors they name the facade, and no floor is imported as a bare name.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("ontology", "atlas", "loaders", "model", "catalog")  # from the ground up
FILES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))


def test_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def crossings(path: Path) -> list[str]:
    """Return the imports of a file that do not keep to the staircase's manners."""
    bad = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            bad += [f"import {a.name}" for a in node.names if a.name.split(".")[0] in FLOORS]
        if isinstance(node, ast.ImportFrom) and not node.level:
            floor, _, inside = (node.module or "").partition(".")
            if floor in FLOORS and (inside or floor == path.relative_to(ROOT).parts[0]):
                bad.append(f"from {node.module} import ...")
    return bad


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_through_facades(path: Path) -> None:
    assert not crossings(path), "relative inside a floor; `from floor import name` across floors; never `import floor`"


@pytest.mark.parametrize("floor", FLOORS)
def test_facade_names_exist_and_are_sorted(floor: str) -> None:
    module = __import__(floor)
    assert not [n for n in module.__all__ if not hasattr(module, n)]
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("floor", ["ontology", "atlas"])
def test_lower_floors_load_no_torch(floor: str) -> None:
    code = (
        f"import sys; import {floor}; [getattr({floor}, n) for n in {floor}.__all__]; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"importing {floor} loads torch"
