"""The projection to 350 million cells in docs/scale.md, computed from the stored results of atlas_scale and ingest.

Run `python -P benchmarks/projection.py` after `just bench atlas_scale`; a test fails while page and results differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "scale.md"
CELLS = 350_000_000
DATASETS = 3_500  # of 100,000 cells, as those that were measured
BEGIN, END = "<!-- projection -->\n", "<!-- end of projection -->\n"
HOUR = 3600


def render_projection(results: Path = HERE / "results") -> str:
    """Return the table."""
    scale = json.loads((results / "atlas_scale.json").read_text("utf-8"))
    whole = json.loads((results / "ingest.json").read_text("utf-8"))
    lines = ["| what | measured | at 350 million cells | how it got there |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(line)} |" for line in _lines(scale["rows"], whole["rows"])]
    machine = scale["machine"]
    told = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    return "\n".join([*lines, "", f"Measured on {scale['date']}: {told}; commit {scale['commit'][:10]}.", ""])


def replace_block(page: str, table: str) -> str:
    """Return the page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _lines(rows: Sequence[dict[str, Any]], whole: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table."""
    full = [row for row in rows if row.get("nonzeros_per_cell", 0) > 1_000]
    first, last = full[0], full[-1]
    few = [row for row in rows if "cells" not in row]
    cells = last["cells"]
    share = CELLS / cells
    at = f"{cells:,} cells"
    hours = last["cpu_s"] / (cells / last["datasets"]) * CELLS / HOUR
    yield (
        "ingest without doublets and neighbours", f"{last['cpu_s']:.0f} CPU seconds for the last 100,000 of {at}, "
        f"{first['cpu_s']:.0f} for the first", f"{hours:.0f} core-hours", "extrapolated: the same for each cell",
    )  # fmt: skip
    said, extra = _extra(whole, last["nonzeros_per_cell"])
    yield (
        said, f"{extra:.0f} CPU seconds per 100,000 cells more (benchmark ingest)",
        f"{extra * CELLS / 1e5 / HOUR:.0f} core-hours", "extrapolated: both are done within a dataset",
    )  # fmt: skip
    yield from _many(last, few)
    yield (
        "memory of an ingest", f"{first['peak_mib']:,} MiB for the first source, {last['peak_mib']:,} for the last",
        f"{last['peak_mib']:,} MiB", "extrapolated: bounded by a source and its blocks",
    )  # fmt: skip
    sizes = [last[f"{name}_bytes"] for name in ("store", "x", "records", "obs")]
    yield (
        "store (X, records, obs)", f"{_gb(sizes[0])} ({', '.join(map(_gb, sizes[1:]))}), "
        f"{last['bytes_per_nonzero']} bytes a non-zero", f"{_gb(sizes[0] * share)} "
        f"({', '.join(_gb(one * share) for one in sizes[1:])})",
        f"extrapolated, {last['nonzeros_per_cell']:,.0f} non-zeros a cell assumed",
    )  # fmt: skip
    yield from _counts(first, last)
    yield from _asked(first, last, share)


def _many(last: dict[str, Any], few: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield what every dataset adds to the next ingest and to an opening, whatever its size."""
    if few:
        slope = _slope([(row["datasets"], row["cpu_s"]) for row in few])
        yield (
            "more for every dataset that is there",
            f"{1e3 * slope:.0f} ms for each, datasets {few[0]['datasets']} to {few[-1]['datasets']} of 200 cells",
            f"{slope * DATASETS**2 / 2 / HOUR:.0f} core-hours, {slope * DATASETS:.0f} s for the last dataset",
            f"extrapolated, {DATASETS:,} datasets assumed",
        )
    for name, said in (("open_s", "open it, and read its genes"), ("client_open_s", "open obs and X, official client")):
        told, then = f"{_ms(last[name])} at {last['datasets']} datasets", "not measured: it grows with datasets"
        if few:
            slope = _slope([(row["datasets"], row[name]) for row in few])
            told += f"; {1e3 * slope:.1f} ms more for each of 200 cells"
            then = f"{last[name] + slope * DATASETS:.1f} s"
        yield (said, told, then, "extrapolated, without `consolidate`")


def _counts(first: dict[str, Any], last: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield what grows with the number of datasets: files, fragments, ledger."""
    datasets = last["datasets"] - first["datasets"]
    how = f"extrapolated, {DATASETS:,} datasets assumed"
    for name, said in (("fragments", "fragments"), ("fragments_x", "fragments of X"), ("files", "files")):
        each = (last[name] - first[name]) / datasets
        yield (said, f"{each:.1f} a dataset", f"{each * DATASETS:,.0f}", how)
    each = (last["ledger_bytes"] - first["ledger_bytes"]) / datasets
    yield ("ledger", f"{each / 1e3:.1f} kB a dataset", f"{each * DATASETS / 1e6:.0f} MB", how)
    index = last["index_mib"] * 2**20 / last["cells"]
    told = f"{index:.0f} bytes a cell" if index else "none: too few cells"
    yield (
        "index of hashes, on the ingesting machine",
        told,
        _gb(32 * CELLS),
        "two hashes of 16 bytes a cell, by design",
    )


def _asked(first: dict[str, Any], last: dict[str, Any], share: float) -> Iterator[tuple[str, ...]]:
    """Yield what is asked of an atlas."""
    at = f"of {last['cells']:,} cells"
    told = f"{_ms(last['type_s'])} {at}"
    yield (
        "five columns of obs of a cell type",
        told,
        f"{last['type_s'] * share:.0f} s",
        "extrapolated: all of obs is read",
    )
    same, more = "the same, on a disk as fast", "not measured: metadata of up to 1,000 fragments more"
    for name, said, then in (
        ("cells_s", "counts of 1,000 cells from X", more),
        ("records_s", "the same cells from the records", more),
        ("gene_s", "a gene over one dataset", same),
        ("labels_s", "counts by label", "more labels: not measured"),
    ):
        yield (said, f"{_ms(first[name])} of {first['cells']:,} cells, {_ms(last[name])} {at}", then, "assumed")
    yield from _kept(first, last, share)


def _kept(first: dict[str, Any], last: dict[str, Any], share: float) -> Iterator[tuple[str, ...]]:
    """Yield what looking after an atlas takes."""
    proven = last if "validate_cpu_s" in last else first
    spent, cells = proven["validate_cpu_s"], proven["cells"]
    told = f"{spent:.0f} CPU seconds of {cells:,} cells, {proven['validate_peak_mib']:,} MiB"
    yield (
        "`validate`",
        told,
        f"{spent * CELLS / cells / HOUR:.0f} core-hours",
        "extrapolated: one pass over the cells",
    )
    spent, size = last["release_cpu_s"], last["tables_bytes"] + last["releases_bytes"]
    told = f"{spent:.1f} CPU seconds of {last['cells']:,} cells, {last['release_peak_mib']:,} MiB, {_gb(size)}"
    then = f"{spent * share / HOUR:.1f} core-hours, {_gb(size * share)}"
    yield ("`release`, its tables included", told, then, "extrapolated; its memory then was not measured")
    each = last["consolidate_cpu_s"] / last["datasets"]
    told = f"{last['consolidate_cpu_s']:.2f} CPU seconds at {last['datasets']} datasets"
    yield ("`consolidate`", told, f"{each * DATASETS:.0f} CPU seconds", "extrapolated: metadata of fragments")


def _extra(rows: Sequence[dict[str, Any]], nonzeros: float) -> tuple[str, float]:
    """Return what neighbours and doublets cost 100,000 cells of so many non-zeros more: name, and CPU seconds."""
    found = {row["what"]: row for row in rows}
    name = next(name for name in ("neighbours and doublets", "doublets") if f"panatlas with {name}" in found)
    both = found[f"panatlas with {name}"]
    spent = both["cpu_s"] - found["panatlas"]["cpu_s"]
    return name, spent * 1e5 / both["cells"] * nonzeros / both["nnz_per_cell"]


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope, 0 if it falls."""
    x, y = np.array(points, dtype=float).T
    return max(0.0, float(np.polyfit(x, y, 1)[0])) if len(x) > 1 else 0.0


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e12:.2f} TB" if n_bytes >= 1e12 else f"{n_bytes / 1e9:.2f} GB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


if __name__ == "__main__":
    PAGE.write_text(replace_block(PAGE.read_text("utf-8"), render_projection()), encoding="utf-8")
