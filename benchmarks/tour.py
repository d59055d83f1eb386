"""The disease study of docs/tour.md, every command and fence of the page run in order: its numbers, and what it takes.

The files are those of ../shared/data beside the checkout, or of PANATLAS_BENCH_DATA; the model is the shipped one, or
PANATLAS_BENCH_MODEL. Nothing is typed twice: the page is the program, and this script its reader.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench_data import SHARED, scored_model

SEED = 0
READS = (
    "data/human_lung_luad_laughney_4primary.h5ad",
    "data/human_bal_covid_liao_C144C149_labelled.h5ad",
    "data/human_pbmc_ifnb_kang_unlabelled11k.h5ad",
    "data/human_pbmc_ifnb_kang_extra_labels.csv.gz",
    "model",
)
HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "tour.md"
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLES = {
    "integration": "donors mixed, and types kept",
    "annotation": "populations by markers, and what the model tells of them",
    "composition": "stages IA and later: shares of a donor's cells",
    "expression": "stages IA and later: genes, by donors and by cells",
    "control": "interferon against control, donors compared with themselves",
    "hubs": "genes that the model attends to most in tumour cells",
}
"""Tables that the page makes, and their titles."""
COLUMNS = ("cells of", "method", "population", "told", "donors", "cells", "share", "genes", "found", "by cells")
NOTES = (
    "`donors mixed`: neighbours of other donors over what chance gives. `types across`: share of cells, types alike, "
    "whose type the nearest cells of other donors tell.",
    "`found`: genes below a false discovery rate of 5 %, donors as replicates; `by cells`: with cells taken as "
    "independent samples, which they are not. `log2_odds` with its 95 % interval over donors.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return the rows of the page's tables, and how long each step took."""
    data = Path(os.environ.get("PANATLAS_BENCH_DATA", SHARED / "data"))
    if quick or not data.is_dir():
        why = "quick: the study has one size" if quick else f"no {data}"
        return [{"table": "steps", "what": "the tour", "note": f"not run: {why}"}]
    model = scored_model()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        names: dict[str, Any] = {"__name__": "__tour__"}
        for what, seconds in run_page(fences(), Path(folder), {"DATA": str(data), "MODEL": str(model)}, names):
            rows.append({"table": "steps", "what": what, "seconds": round(seconds, 1)})
            print(f"{what}: {seconds:.1f} s", flush=True)
    used = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    rows.append({"table": "steps", "what": "CPU seconds in all", "seconds": round(used, 1)})
    for name, title in TABLES.items():
        rows += [{"table": title, **row} for row in _plain(names[name])]
    return rows


def fences(page: Path = PAGE) -> list[tuple[str, str]]:
    """Return language and code of the page's fences, in order."""
    return [(m[1], m[2]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]


def run_page(
    parts: list[tuple[str, str]], folder: Path, given: dict[str, str], names: dict[str, Any]
) -> list[tuple[str, float]]:
    """Run fences in a folder with a home of its own; return what was run with its seconds.

    Parameters
    ----------
    parts
        Language and code of each.
    folder
        Where files go; its `home` becomes PANATLAS_HOME, with the cache of the home there is.
    given
        Variables of the environment.
    names
        Of the Python fences, which share them.
    """
    from ontology import home

    cache, before = home() / "cache", Path.cwd()
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir()
    (folder / "home" / "cache").symlink_to(cache.resolve(), target_is_directory=True)
    kept = dict(os.environ)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(given | {"PANATLAS_HOME": str(folder / "home"), "PATH": path})
    done = []
    os.chdir(folder)
    try:
        for language, code in parts:
            began = time.perf_counter()
            if language == "bash":
                subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
            else:
                exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
            done.append((_first(code), time.perf_counter() - began))
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(kept)
    return done


def _first(code: str) -> str:
    """Return what a fence does, in a few words: its commands, or the tables it makes."""
    commands = re.findall(r"^panatlas (\S+)", code, re.MULTILINE)
    made = [name for name in TABLES if re.search(rf"^{name} = ", code, re.MULTILINE)]
    return ", ".join(commands or made or ["the cells are read"])


def _plain(table: Any) -> list[dict[str, Any]]:
    """Return a table's rows as values that JSON has; numbers rounded as a reader wants them."""
    out = []
    for row in table.to_dict("records"):
        kept = {name: value for name, value in row.items() if value is not None and value == value}  # noqa: PLR0124
        out.append({k: _short(v) if isinstance(v, float) else v for k, v in kept.items()})
    return out


def _short(value: float) -> float | int:
    """Return a number of three digits; a whole one as it is, which a gap in its column made a fraction."""
    return int(value) if value.is_integer() else float(f"{value:.3g}")
