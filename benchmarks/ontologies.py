"""Ontologies: loading the pinned ones cold, cached and as plain JSON; then real OBO files by obonet, pronto and us.

Loading: a process of its own for each ontology and way; `json` is what a program pays that keeps the guide's records as
dictionaries. Memory is growth of the resident set, the ontology's lookups by label not included. `cold` parses the
asset and writes the cache, `cached` reads it back and asks for one closure upwards and one downwards.

Files: the folder ../shared, which this repository does not carry; without it those rows are missing. Each reader gets
the same bytes, in turn, in one process, after each has read one small file; pronto is told not to follow imports, or it
would ask the network. `repaired` is the file after our repair, read by the same parser into the same records.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 0  # nothing is drawn
READS = ("bio/obo_real/*.obo.gz", "bio/obo_from_guide/*.obo.gz")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "bio"
FOLDERS = ("obo_real", "obo_from_guide")
REPEATS = 3  # cached loads, of which the fastest counts: the first one reads the disk


def resident_mib() -> float:
    """Return the resident set of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load_leg(name: str, way: str) -> dict[str, float]:
    """Load one ontology one way, in this process."""
    import zstandard

    from ontology import ontologies
    from ontology.references import ontology_pins

    pin = ontology_pins()[name]
    before, start = resident_mib(), time.perf_counter()
    if way == "json":
        kept: Any = json.loads(
            zstandard.ZstdDecompressor().decompressobj().decompress(ontologies._asset(pin).read_bytes())
        )
    else:
        kept = ontologies.load_ontology(name)
        first = next(iter(kept))
        kept.ancestors(first)
        kept.descendants(first)
    return {"s": time.perf_counter() - start, "mib": resident_mib() - before, "terms": len(kept)}


def child(*arguments: str, home: str) -> Any:
    """Run a leg in a process of its own and return what it says."""
    command = [sys.executable, "-P", __file__, "--leg", *arguments]
    env = {**os.environ, "PANATLAS_HOME": home}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def loading(names: list[str]) -> list[dict[str, Any]]:
    """Return one row per ontology."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in names:
            plain = child("load", name, "json", home=home)
            cold = child("load", name, "table", home=home)
            warm = [child("load", name, "table", home=home) for _ in range(REPEATS)]
            size = sum(p.stat().st_size for p in Path(home).rglob(f"{name}-*.npz"))
            rows.append({
                "what": f"load {name}", "terms": cold["terms"], "json_s": round(plain["s"], 3),
                "json_mib": round(plain["mib"], 1), "cold_s": round(cold["s"], 3),
                "cached_s": round(min(w["s"] for w in warm), 3), "cached_mib": round(min(w["mib"] for w in warm), 1),
                "file_mib": round(size / 2**20, 1),
            })  # fmt: skip
    return rows


def attempt(read: Callable[[], object]) -> tuple[float, str]:
    """Return seconds and, where it failed, the kind of failure."""
    start = time.perf_counter()
    try:
        read()
    except (SyntaxError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError) as error:
        return time.perf_counter() - start, type(error).__name__
    return time.perf_counter() - start, "ok"


def file_leg(path: Path) -> dict[str, Any]:
    """Read one file every way, in this process."""
    import obonet
    import pronto

    from ontology.obo import read_obo, repair_obo
    from ontology.obo_parsers import records_by_obonet, records_by_pronto
    from ontology.term_table import make_table
    from ontology.terms import RELATIONS

    data = gzip.decompress(path.read_bytes())
    text, clean = data.decode(), repair_obo(data, path.name, RELATIONS, ("EXACT",))
    ways: dict[str, Callable[[], object]] = {
        "obonet": lambda: obonet.read_obo(io.StringIO(text), ignore_obsolete=False),
        "pronto": lambda: pronto.Ontology(io.BytesIO(data), import_depth=0),
        "repair": lambda: repair_obo(data, path.name, RELATIONS, ("EXACT",)),
        "repaired_obonet": lambda: records_by_obonet(clean.text, RELATIONS),
        "repaired_pronto": lambda: records_by_pronto(clean.text, RELATIONS),
        "panatlas": lambda: make_table(read_obo(data, path.name, RELATIONS, ("EXACT",))[1]),
    }
    row: dict[str, Any] = {"what": f"{path.parent.name}/{path.name}", "mib": round(len(data) / 2**20, 2)}
    for way, read in ways.items():
        seconds, end = attempt(read)
        row[f"{way}_s"] = round(seconds, 3) if end == "ok" else end
    return row


def files_leg(quick: str) -> list[dict[str, Any]]:
    """Return one row per file, and how many each way could read."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = [path for folder in FOLDERS for path in sorted((SHARED / folder).glob("*.obo.gz"))]
    if not found:
        return []
    smallest = min(found, key=lambda path: path.stat().st_size)
    file_leg(smallest)  # imports are not what is measured
    rows = [file_leg(path) for path in found if quick != "quick" or path.stat().st_size < 100_000]
    total: dict[str, Any] = {"what": f"all {len(rows)} files", "mib": round(sum(row["mib"] for row in rows), 1)}
    for key in rows[0].keys() - {"what", "mib"}:
        times = [row[key] for row in rows if not isinstance(row[key], str)]
        total[key] = f"{round(sum(times), 1)} s, {len(times)} read"
    return [*rows, total]


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of loading, then those of the files."""
    from ontology.references import ontology_pins

    names = list(dict.fromkeys(pin.name for pin in ontology_pins().values()))
    rows = loading(["CL", "HsapDv"] if quick else names)
    with tempfile.TemporaryDirectory() as home:
        return rows + child("files", "quick" if quick else "all", home=home)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leg", nargs="+", required=True)
    leg, *rest = parser.parse_args().leg
    print(json.dumps(load_leg(*rest) if leg == "load" else files_leg(*rest)))
