"""The house rules a machine can check: sizes, names, and what no file may contain.

Files are at most 400 lines, functions at most 60 lines without their docstring, signatures at most 7 parameters.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("ontology", "atlas", "loaders", "model", "catalog")
FILES = sorted(p for top in (*FLOORS, "tests", "benchmarks") for p in (ROOT / top).rglob("*.py"))
SOURCES = [p for p in FILES if p.relative_to(ROOT).parts[0] in FLOORS]

MAX_FILE = 400  # lines; 80-250 is the aim
MAX_FUNCTION = 60  # lines without the docstring
MAX_PARAMETERS = 7  # without self and cls
MAX_FIELDS = 14  # of one configuration; nest beyond that
BASEMENTS = {"utils", "util", "common", "helpers", "helper", "base", "core", "manager", "misc", "compat"}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "dill.load", "dill.loads", "joblib.load",
    "yaml.load", "marshal.loads", "pandas.read_pickle", "pd.read_pickle", "os.system", "os.popen", "shelve.open",
}  # fmt: skip


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(module: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function, its decorators and docstring left out."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = function.args
    names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([n for n in names if n not in ("self", "cls")])


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for a name or attribute, else an empty string."""
    if isinstance(node, ast.Attribute):
        return f"{front}.{node.attr}" if (front := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def is_subclass_of_config(node: ast.ClassDef) -> bool:
    return node.name.endswith(("Config", "Policy"))


def test_there_is_a_house() -> None:
    assert {p.relative_to(ROOT).parts[0] for p in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE, f"{lines} lines; 400 is a wall"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_functions_are_short(path: Path) -> None:
    long = [
        f"{f.name} (line {f.lineno}): {n} lines" for f in functions(tree(path)) if (n := body_lines(f)) > MAX_FUNCTION
    ]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_signatures_are_short(path: Path) -> None:
    wide = [f"{f.name}: {n} parameters" for f in functions(tree(path)) if (n := parameters(f)) > MAX_PARAMETERS]
    assert not wide


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_basement(path: Path) -> None:
    parts = {p for part in path.relative_to(ROOT).with_suffix("").parts for p in (part, part.strip("_"))}
    assert not parts & BASEMENTS, "name the file after what lives in it"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_classes_are_things(path: Path) -> None:
    classes = [n.name for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)]
    assert not [c for c in classes if re.search(r"(Manager|Handler|Helper|Util)s?$", c)]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_unsafe_call_and_no_print(path: Path) -> None:
    bad = []
    for call in (n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)):
        called = dotted(call.func)
        keywords = {k.arg: k.value for k in call.keywords}
        if called in UNSAFE_CALLS or called == "print":
            bad.append(f"line {call.lineno}: {called}")
        if called.endswith(("np.load", "numpy.load", "torch.load", "read_elem_pickle")):
            safe = keywords.get("allow_pickle", keywords.get("weights_only"))
            wanted = called.endswith("torch.load")
            if not (isinstance(safe, ast.Constant) and safe.value is wanted):
                bad.append(f"line {call.lineno}: {called} without refusing pickles")
        if "shell" in keywords and called.startswith("subprocess."):
            bad.append(f"line {call.lineno}: subprocess with a shell")
    assert not bad


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_unfinished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text)
    assert "NotImplementedError" not in text


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_lives_in_it(path: Path) -> None:
    assert (ast.get_docstring(tree(path)) or "").strip()


def dataclasses_of(module: ast.AST) -> list[ast.ClassDef]:
    return [
        n for n in ast.walk(module)
        if isinstance(n, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in n.decorator_list)
    ]  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_dataclasses_are_frozen_and_explain_their_fields(path: Path) -> None:
    bad = []
    for node in dataclasses_of(tree(path)):
        if not any("frozen=True" in ast.unparse(d) for d in node.decorator_list):
            bad.append(f"{node.name} is not frozen")
        for here, after in zip(node.body, [*node.body[1:], None], strict=True):
            documented = isinstance(after, ast.Expr) and isinstance(getattr(after, "value", None), ast.Constant)
            if isinstance(here, ast.AnnAssign) and not documented:
                bad.append(f"{node.name}.{ast.unparse(here.target)} has no string under it")
    assert not bad


def test_configurations_are_small_and_every_field_is_read() -> None:
    everything = {p: tree(p) for p in SOURCES}
    read = {n.attr for t in everything.values() for n in ast.walk(t) if isinstance(n, ast.Attribute)}
    bad = []
    for node in (n for t in everything.values() for n in dataclasses_of(t) if is_subclass_of_config(n)):
        fields = [ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)]
        if len(fields) > MAX_FIELDS:
            bad.append(f"{node.name} has {len(fields)} fields")
        bad += [f"{node.name}.{f} is read nowhere" for f in fields if f not in read]
    assert not bad
