"""The documentation is true: it builds without a warning, names everything public, and its Python runs.

Every ```python fence of README.md and docs/ is executed against an atlas made by `panatlas ingest human`, page by page,
the fences of a page sharing their names. A fence that cannot run says why on its first line: `# no-run: reason`.
"""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("ontology", "atlas", "loaders", "model", "catalog")
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
FENCE = re.compile(r"^```python[ \t]*(.*?)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
NO_RUN = re.compile(r"# no-run: \S+")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(page: Path) -> list[tuple[int, str]]:
    """Return (line, code) of each Python fence."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 2, m[2]) for m in FENCE.finditer(text)]


WITH_CODE = [p for p in PAGES if fences(p)]


def test_readme_shows_code() -> None:
    assert ROOT / "README.md" in WITH_CODE


@pytest.mark.index
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_fences_run(page: Path, starter_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"  # a page may write: into a copy, which no other test sees
    shutil.copytree(starter_home / "atlas", home / "atlas")
    (home / "cache").symlink_to((starter_home / "cache").resolve(), target_is_directory=True)
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    names: dict[str, object] = {"__name__": "__fence__"}
    for line, code in fences(page):
        if NO_RUN.match(code):
            continue
        padded = "\n" * (line - 1) + code  # so that a traceback names the line of the page
        exec(compile(padded, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_says_its_language(page: Path) -> None:
    inside, bare = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if not inside and line.strip() == "```":
                bare.append(number)
            inside = not inside
    assert not bare, "a fence without a language is neither run nor excused"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


@pytest.mark.parametrize("floor", FLOORS)
def test_every_public_name_has_a_reference_entry(built: Path, floor: str) -> None:
    from sphinx.util.inventory import InventoryFile

    with (built / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, uri: base + uri)
    entries = {n for kind, items in inventory.items() if kind.startswith("py:") for n in items}
    assert floor in entries
    assert not [n for n in importlib.import_module(floor).__all__ if f"{floor}.{n}" not in entries]


def test_every_decision_is_short_and_complete() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert pages
    assert [p.name[:4] for p in pages] == [f"{n:04d}" for n in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, page.name
        assert not [h for h in ("## Context", "## Options", "## Choice", "## Cost") if h not in text], page.name


MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for floor in FLOORS
    for p in (ROOT / floor).rglob("*.py")
    if ">>>" in p.read_text(encoding="utf-8")
)


@pytest.mark.index
@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = importlib.import_module(module)
    assert "+SKIP" not in Path(loaded.__file__).read_text(encoding="utf-8"), "an example runs, or it is prose"
    result = doctest.testmod(loaded, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def test_no_placeholder_is_left() -> None:
    """A figure that was never filled in must not be published."""
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not re.findall(r"@[A-Z]+@", path.read_text("utf-8")), path
