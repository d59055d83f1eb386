"""The house rules a machine can check: sizes, names, and what no file may contain.

Files are at most 400 lines, functions at most 60 lines without their docstring, signatures at most 7 parameters.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

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
UNPICKLERS = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


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


def dataclasses_of(module: ast.AST) -> Iterator[ast.ClassDef]:
    classes = (n for n in ast.walk(module) if isinstance(n, ast.ClassDef))
    return (n for n in classes if any("dataclass" in ast.unparse(d) for d in n.decorator_list))


def calls(module: ast.AST) -> Iterator[ast.Call]:
    return (n for n in ast.walk(module) if isinstance(n, ast.Call))


def test_every_floor_is_looked_at() -> None:
    assert {p.relative_to(ROOT).parts[0] for p in SOURCES} == set(FLOORS)


def test_files_are_short() -> None:
    lines = {name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert not {file: n for file, n in lines.items() if n > MAX_FILE}


def test_functions_are_short() -> None:
    sizes = {f"{name(p)}:{f.lineno} {f.name}": body_lines(f) for p in FILES for f in functions(tree(p))}
    assert not {function: n for function, n in sizes.items() if n > MAX_FUNCTION}


def test_signatures_are_short() -> None:
    widths = {f"{name(p)}:{f.lineno} {f.name}": parameters(f) for p in SOURCES for f in functions(tree(p))}
    allowed = {w: n for w, n in widths.items() if n > MAX_PARAMETERS}
    assert not {w: n for w, n in allowed.items() if not w.startswith("catalog/cli")}, "a command has a flag per need"


def test_there_is_no_basement() -> None:
    words = {name(p): {w.strip("_") for w in p.relative_to(ROOT).with_suffix("").parts} for p in FILES}
    assert not {file: found for file, parts in words.items() if (found := parts & BASEMENTS)}


def test_classes_are_things() -> None:
    classes = [n.name for p in SOURCES for n in ast.walk(tree(p)) if isinstance(n, ast.ClassDef)]
    assert not [c for c in classes if re.search(r"(Manager|Handler|Helper|Util)s?$", c)]


def unsafe(call: ast.Call) -> str | None:
    """Return what is wrong with a call, if anything."""
    called = dotted(call.func)
    keywords = {k.arg: k.value for k in call.keywords}
    if called in UNSAFE_CALLS or called == "print":
        return called
    if called in UNPICKLERS:
        keyword, wanted = UNPICKLERS[called]
        given = keywords.get(keyword)
        if not (isinstance(given, ast.Constant) and given.value is wanted):
            return f"{called} without {keyword}={wanted}"
    if "shell" in keywords and called.startswith("subprocess."):
        return f"{called} with a shell"
    return None


def test_no_unsafe_call_and_no_print() -> None:
    found = {f"{name(p)}:{c.lineno}": why for p in SOURCES for c in calls(tree(p)) if (why := unsafe(c))}
    assert not found


def test_the_check_for_unsafe_calls_sees_them() -> None:
    for text in ("eval(x)", "print(1)", "pickle.loads(b)", "np.load(f)", "np.load(f, allow_pickle=True)",
                 "torch.load(f)", "subprocess.run(c, shell=True)"):  # fmt: skip
        assert unsafe(ast.parse(text, mode="eval").body), text
    assert not unsafe(ast.parse("np.load(f, allow_pickle=False)", mode="eval").body)


def test_nothing_is_unfinished() -> None:
    texts = {name(p): p.read_text(encoding="utf-8") for p in SOURCES}
    unfinished = re.compile(r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError)\b")
    assert not {file: found for file, text in texts.items() if (found := unfinished.findall(text))}


def test_every_module_says_what_lives_in_it() -> None:
    assert not [name(p) for p in FILES if not ast.get_docstring(tree(p))]


def unexplained(node: ast.ClassDef) -> list[str]:
    """Return the fields of a class that have no string under them."""
    pairs = zip(node.body, [*node.body[1:], None], strict=True)
    return [
        ast.unparse(here.target)
        for here, after in pairs
        if isinstance(here, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]


def test_dataclasses_are_frozen_and_explain_their_fields() -> None:
    bad = {}
    for path in SOURCES:
        for node in dataclasses_of(tree(path)):
            frozen = any("frozen=True" in ast.unparse(d) for d in node.decorator_list)
            if faults := [*unexplained(node), *([] if frozen else ["is not frozen"])]:
                bad[f"{name(path)} {node.name}"] = faults
    assert not bad


def test_configurations_are_small_and_every_field_is_read() -> None:
    trees = [tree(p) for p in SOURCES]
    read = {n.attr for t in trees for n in ast.walk(t) if isinstance(n, ast.Attribute)}
    bad = {}
    for node in (n for t in trees for n in dataclasses_of(t) if n.name.endswith(("Config", "Policy", "Options"))):
        fields = [ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)]
        if len(fields) > MAX_FIELDS or not read.issuperset(fields):
            bad[node.name] = (len(fields), sorted(set(fields) - read))
    assert not bad
