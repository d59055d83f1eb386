"""The one registry of benchmarks: `just bench` lists them, `just bench NAME` runs one and keeps its numbers.

A benchmark is a script `benchmarks/NAME.py` with `SEED` and `main(*, quick) -> rows`; it may have `NOTES` (sentences on
how to read its rows), `COLUMNS` (their order on the page), `PLOTS` (what is drawn there) and `READS` (its data, see
bench_data.py). What it returns is written with command, commit, digest of the data, machine and date to
`benchmarks/results/NAME.json`, the only place from which numbers are quoted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).resolve().parent
REGISTRY = {
    "coverage": "coverage.py",  # what is there for each organism, from which release
    "ingest": "ingest.py",  # cells/s and peak memory beside tiledbsoma.io.from_h5ad
    "layout": "layout.py",  # tiles and filters of X and records: bytes, writing, reading; the Census builder's too
    "atlas_scale": "atlas_scale.py",  # an atlas of 10^5 to 2·10^6 cells at full depth, 10^7 thinned: what each costs
    "parallel_ingest": "parallel_ingest.py",  # the same sources one after another and by workers: one content
    "kills": "kills.py",  # ingests killed at random, out of disk, two at once: what is read then, and in the end
    "near_copies": "near_copies.py",  # planted copies found, different real cells taken for copies
    "ontologies": "ontologies.py",  # load times and memory of the pinned ones; obonet, pronto and repair on real files
    "orthologs": "orthologs.py",  # what projection carries between human and mouse, and how far sources agree
    "proteins": "proteins.py",  # proteins/s on a CPU, a resumed run, orthologs as nearest neighbours
    "loaders": "loaders.py",  # cells/s and per CPU-second from packs and store, beside every peer on the same cells
    "loaders_gpu": "loaders_gpu.py",  # records decoded and batches collated on a GPU; says so where there is none
    "loaders_scale": "loaders_scale.py",  # packs of 10^5 to 2·10^6 cells, index and sampler of 10^7
    "attention": "attention.py",  # time and memory of each kind of attention at 1,024 to 32,768 genes
    "sampler": "sampler.py",  # draws per CPU-second at 350 million cells beside torch.multinomial
    "pretrain": "pretrain.py",  # a real run on three organisms, losses on held-out donors
    "shipped": "shipped.py",  # the model that ships: what halving costs, what it weighs, how far its labels are trusted
    "study": "study.py",  # every design choice of the network beside the base, held-out scores, same budget
    "counterfactual": "counterfactual.py",  # swapped cell tokens beside observed changes, verdicts on embeddings
    "inference_scale": "inference_scale.py",  # 100,000 cells of a file: time, memory, what the fast preset loses
    "tasks": "tasks.py",  # a trained model on donors it never saw, beside simple methods
    "unseen": "unseen.py",  # studies no weights saw: cell types at any depth and context, denoising of the rare
    "platforms": "platforms.py",  # denoising on technologies that no training cell was measured by
    "integration": "integration.py",  # its embedding beside PCA, Harmony and scVI by scib-metrics
    "grn_scale": "grn_scale.py",  # time and memory of gene networks at 1,000 to 16,000 genes
    "networks": "networks.py",  # gene networks beside public references, every read-out and simple method
    "finetuning": "finetuning.py",  # labels of unseen donors and of another organism, tuned or not
    "tour": "tour.py",  # the disease study of docs/tour.md, every command of it
    "labels": "labels.py",  # share of real author labels mapped by rule, every miss, suggestions
}
LIBRARIES = ("panatlas", "tiledbsoma", "anndata", "numpy", "scipy", "pyarrow", "duckdb")


def load(name: str) -> ModuleType:
    """Return a benchmark's script as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", HERE / REGISTRY[name])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(HERE.parent) not in sys.path:
        sys.path.append(str(HERE.parent))  # a script may be in several files: `from benchmarks.x import y`
    sys.modules[spec.name] = module  # dataclasses and child processes look it up
    spec.loader.exec_module(module)
    return module


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers: processor, cores, memory, system, library versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version_of(name) for name in LIBRARIES},
    }


def version_of(name: str) -> str | None:
    """Return an installed distribution's version, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit that ran, with `+changes` where the checkout differs from it; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    return f"{head}+changes" if head and git("status", "--porcelain", "--untracked-files=no") else head


def run(name: str, results: Path | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Run a benchmark and return its record; it is written where `results` names a folder."""
    module = load(name)
    from benchmarks.bench_data import digest_of  # found since `load` put the checkout on the path

    record = {
        "benchmark": name,
        "about": (module.__doc__ or "").strip().splitlines()[0],
        "rows": module.main(quick=quick),
        **{
            key: list(getattr(module, key.upper()))
            for key in ("notes", "columns", "plots")
            if hasattr(module, key.upper())
        },
        "command": f"just bench {name}{' --quick' if quick else ''}",
        "commit": commit(),
        "seed": module.SEED,
        **({"data": digest_of(module.READS)} if hasattr(module, "READS") else {}),
        "machine": describe_machine(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    if results is not None:
        results.mkdir(exist_ok=True)
        part = results / f".{name}.part"
        part.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(results / f"{name}.json")
    return record


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as aligned columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([str(row.get(c, "")) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or list them all."""
    parser = argparse.ArgumentParser(prog="just bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(REGISTRY)}")
    parser.add_argument(
        "--quick", action="store_true", help="a small run that shows it works; its numbers mean nothing"
    )
    parser.add_argument(
        "--results", type=Path, help="where the numbers are written; a quick run's are not, unless named"
    )
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in REGISTRY]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(REGISTRY)}")
    if not asked.names:
        for name, script in REGISTRY.items():
            print(f"{name:12} benchmarks/{script}")
    results = asked.results or (None if asked.quick else HERE / "results")
    for name in asked.names:
        show(run(name, results, quick=asked.quick)["rows"])
        if results:
            print(f"written to {results / name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
