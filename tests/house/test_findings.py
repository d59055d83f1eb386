"""Every finding code in the source is explained in docs/findings.md, and the page explains no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
MAKERS = {"Finding": 0, "refusal": 1, "_refuse": None, "note": None}


def codes_in_source() -> set[str]:
    """Return kebab-case strings passed to a maker of findings, and the keys and values of tables named for codes."""
    found: set[str] = set()
    for path in [*(ROOT / "atlas").glob("*.py"), *(ROOT / "catalog").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if "refus" in name or name in MAKERS or name == "_finding":
                found |= {a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return {c for c in found if CODE.fullmatch(c)}


def test_page_and_source_agree() -> None:
    page = (ROOT / "docs" / "findings.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE))
    source = codes_in_source()
    assert source
    assert source <= documented, sorted(source - documented)
    for code in documented - source:  # codes that a table or a loop builds: they must at least occur as a string
        hits = [p for f in ("atlas", "catalog") for p in (ROOT / f).glob("*.py") if f'"{code}"' in p.read_text("utf-8")]
        assert hits, code
