"""The page docs/benchmarks.md and its plots, rendered from benchmarks/results/*.json: numbers live in one place only.

Run `python -P benchmarks/page.py` after a benchmark; a test fails while page and results differ.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
PLOTS = PAGE.parent / "_static" / "benchmarks"
LONG = ("from", "labels", "note", "reason", "text")  # columns of sentences stand last
HEAD = """# Benchmarks

Each table is one run of one command on one machine, the peer in the same run. Machines differ and are noisy: read the
ratios. `just bench NAME` makes a table again.

Below each benchmark stand its command, commit and seed; a digest of the files it read, by which a later run tells
whether its data are the same (`benchmarks/bench_data.py`); and, where a trained model was scored, the digest of that
model, as `panatlas models` shows it. A ± is half of the interval that the benchmark's notes describe.
"""


def render_page(results: Path = HERE / "results") -> str:
    """Return the whole page."""
    records = _records(results)
    contents = [f"- [{one['benchmark']}](#{one['benchmark']}): {one['about']}" for one in records]
    return "\n".join([HEAD, *contents, "", *(_render(record) for record in records)])


def render_plots(results: Path = HERE / "results") -> dict[str, str]:
    """Return the plots by file name."""
    return {
        name: text
        for record in _records(results)
        for table in _tables(record)
        for name, text in _plots(record, table).items()
    }


def _records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]


def _tables(record: dict[str, Any]) -> list[str]:
    """Return the titles of a benchmark's tables, in order."""
    return list(dict.fromkeys(row.get("table", "") for row in record["rows"]))


def _rows(record: dict[str, Any], title: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "table"} for row in record["rows"] if row.get("table", "") == title]


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _plots(record: dict[str, Any], title: str) -> dict[str, str]:
    """Return the plots of a table by file name: those asked for by its title or what that begins with."""
    from benchmarks.dot_charts import Dot, draw_dots

    found = {}
    for plot in record.get("plots", ()):
        if not title.startswith(plot["table"]):
            continue
        dots = []
        for row in _rows(record, title):
            mean, _, half = str(row.get(plot["value"], "")).partition(" ± ")
            name = str(row.get(plot["by"], ""))
            if re.fullmatch(r"-?[0-9.]+", mean):
                dots.append(Dot(name, float(mean), float(half or 0), name.startswith(tuple(plot["ours"]))))
        if dots:
            name = f"{_anchor(record['benchmark'])}-{_anchor(title)}-{_anchor(plot['value'])}.svg"
            found[name] = draw_dots(title or record["benchmark"], plot["value"], dots, more=plot["better"] == "more")
    return found


def _render(record: dict[str, Any]) -> str:
    """Return one benchmark's section: its tables, how to read them, and where and when it was run."""
    machine, order = record["machine"], record.get("columns", [])
    lines = [f"## {record['benchmark']}", "", record["about"], ""]
    for title in _tables(record):
        plots = [f"![{title}](_static/benchmarks/{name})\n" for name in _plots(record, title)]
        lines += [*([f"### {title}", ""] if title else []), *plots, *_table(_rows(record, title), order), ""]
    for note in record.get("notes", ()):
        lines += [note, ""]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    lines += [
        f"`{record['command']}`, commit {str(record['commit'])[:10]}, seed {record['seed']}, {record['date']}; "
        f"{_data(record)}{where}, Python {machine['python']}, "
        + ", ".join(f"{k} {v}" for k, v in machine["libraries"].items() if v)
        + ".",
        "",
    ]
    return "\n".join(lines)


def _data(record: dict[str, Any]) -> str:
    """Return the words on what was read."""
    data = record.get("data", {})
    words = [f"data {data['sha256'][:12]} ({data['files']} files)"] if data.get("files") else []
    words += [f"{data['missing']} files missing"] if "missing" in data else []
    words += [f"model {data['model'][:12]}"] if "model" in data else []
    return f"{', '.join(words)}; " if words else ""


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
    sys.path.append(str(HERE.parent))
    PAGE.write_text(render_page(), encoding="utf-8")
    PLOTS.mkdir(parents=True, exist_ok=True)
    drawn = render_plots()
    for old in {path.name for path in PLOTS.glob("*.svg")} - drawn.keys():
        (PLOTS / old).unlink()
    for name, text in drawn.items():
        (PLOTS / name).write_text(text, encoding="utf-8")
