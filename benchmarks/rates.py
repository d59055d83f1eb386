"""The measured rates that `panatlas plan` ships with: `catalog/data/rates.json`, copied from the ingest benchmark.

Run `python benchmarks/rates.py` after `just bench ingest`; a test fails while the two differ.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
RATES = HERE.parent / "catalog" / "data" / "rates.json"
ROWS = {"with_doublets": "panatlas with doublets", "without_doublets": "panatlas"}
"""Name of a rate to the benchmark row it is of."""
FIGURES = ("cells", "nnz_per_cell", "cpu_s", "wall_s", "peak_mib", "store_mib", "h5ad_mib")


def render_rates(results: Path = HERE / "results") -> str:
    """Return the file's text."""
    record = json.loads((results / "ingest.json").read_text("utf-8"))
    rows = {row["what"]: row for row in record["rows"]}
    machine = record["machine"]
    told = {
        "benchmark": "benchmarks/results/ingest.json",
        "commit": record["commit"],
        "date": record["date"],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "rows": {name: {key: rows[what][key] for key in FIGURES} for name, what in ROWS.items()},
    }
    return json.dumps(told, indent=1) + "\n"


if __name__ == "__main__":
    RATES.write_text(render_rates(), encoding="utf-8")
