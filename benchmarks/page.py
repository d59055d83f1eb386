"""The page docs/benchmarks.md, rendered from benchmarks/results/*.json: numbers live in one place only.

Run `python benchmarks/page.py` after a benchmark; a test fails while page and results differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
LONG = ("from", "labels", "note", "reason", "text")  # columns of sentences stand last
HEAD = """# Benchmarks

Each table is one run of one command on one machine, the peer in the same run. Machines differ and are noisy: read the
ratios. `just bench NAME` makes a table again.
"""


def render_page(results: Path = HERE / "results") -> str:
    """Return the whole page."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]
    return "\n".join([HEAD, *(_render(record) for record in records)])


def _render(record: dict[str, Any]) -> str:
    """Return one benchmark's section: its tables, how to read them, and where and when it was run."""
    machine, order = record["machine"], record.get("columns", [])
    lines = [f"## {record['benchmark']}", "", record["about"], ""]
    for title in dict.fromkeys(row.get("table", "") for row in record["rows"]):
        rows = [
            {k: v for k, v in row.items() if k != "table"} for row in record["rows"] if row.get("table", "") == title
        ]
        lines += [*([f"### {title}", ""] if title else []), *_table(rows, order), ""]
    for note in record.get("notes", ()):
        lines += [note, ""]
    lines += [
        f"`{record['command']}`, commit {str(record['commit'])[:10]}, seed {record['seed']}, {record['date']}; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
        + ", ".join(f"{k} {v}" for k, v in machine["libraries"].items() if v)
        + ".",
        "",
    ]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]], order: list[str]) -> list[str]:
    """Return rows as a table: the columns of `order` first and in that order, long ones last."""
    names = dict.fromkeys(key for row in rows for key in row)
    place = {name: i for i, name in enumerate(order)}
    columns = sorted(names, key=lambda c: (c != "what", c in LONG, place.get(c, len(order)), c))
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows),
    ]


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
