"""The sampler at the design target: 350 million synthetic cells in 140,000 joint labels, one process.

Group sizes follow a Zipf law (exponent 1.05); the order of cells is a mapped file. torch's own sampler is asked in
the same run for the same number of categories.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loaders import CellGroups, Sampler, SamplerConfig, group_maxima

SEED = 7
CELLS, GROUPS = 350_000_000, 140_000
WINDOW = 1 << 16  # positions asked for at once, as a loader that plans ahead does
SECONDS = 3.0


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return set-up, memory and draws per second of each way to draw."""
    cells, groups = (CELLS // 100, GROUPS // 100) if quick else (CELLS, GROUPS)
    with tempfile.TemporaryDirectory() as folder:
        sizes = zipf_sizes(cells, groups)
        order = synthetic_order(Path(folder), cells)
        began, before = time.process_time(), anonymous_mib()
        mapped = CellGroups(np.concatenate(([0], np.cumsum(sizes))), order)
        balanced = Sampler(mapped, SamplerConfig(draws=10_000_000), release="synthetic")
        balanced.draw(0, 0, 128)
        setup, memory = time.process_time() - began, anonymous_mib() - before
        size = {"cells": f"{cells:,}", "joint_labels": f"{groups:,}"}
        rows = [size | {"what": "set-up, first batch drawn", "cpu_s": round(setup, 2), "anonymous_mib": round(memory)}]
        table = balanced._table(0)
        rows.append({"what": "joint labels only", "draws_per_cpu_s": rate(lambda k: label_draw(table, k))})
        rows.append({"what": "balanced, with replacement", "draws_per_cpu_s": rate(windows(balanced))})
        for kind, replacement in (("balanced", False), ("uniform", True), ("uniform", False)):
            config = SamplerConfig(kind=kind, replacement=replacement, draws=10_000_000)
            name = f"{kind}, {'with' if replacement else 'without'} replacement"
            one = Sampler(mapped, config, release="synthetic")
            rows.append({"what": name, "draws_per_cpu_s": rate(windows(one))})
        rows.append({"what": "balanced, cells weighted inside groups", "draws_per_cpu_s": weighted_rate(mapped)})
        rows += torch_rows(sizes, cells)
        return rows


def zipf_sizes(cells: int, groups: int) -> np.ndarray:
    """Return group sizes that sum to `cells`, each at least 1."""
    share = 1 / np.arange(1, groups + 1) ** 1.05
    sizes = np.maximum(1, np.floor(share / share.sum() * cells)).astype(np.int64)
    sizes[0] += cells - sizes.sum()
    return np.random.default_rng(SEED).permutation(sizes)


def synthetic_order(folder: Path, cells: int) -> np.ndarray:
    """Return a mapped order of cells: what their numbers are does not matter to the sampler's speed."""
    order = np.lib.format.open_memmap(folder / "order.npy", mode="w+", dtype=np.uint32, shape=(cells,))
    for start in range(0, cells, 1 << 22):
        order[start : start + (1 << 22)] = np.arange(start, min(start + (1 << 22), cells), dtype=np.uint32)
    order.flush()
    del order
    return np.load(folder / "order.npy", mmap_mode="r")


def anonymous_mib() -> float:
    """Return the process's anonymous memory; a mapped file does not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rate(draw: Any) -> int:
    """Return draws per CPU-second of a function that draws window k."""
    draw(0)
    began, k = time.process_time(), 0
    while (spent := time.process_time() - began) < SECONDS:
        k += 1
        draw(k)
    return round(k * WINDOW / spent)


def windows(one: Sampler) -> Any:
    """Return a function that draws window k of a sampler's epochs."""
    return lambda k: one.draw(0, k * WINDOW % (len(one) - WINDOW), WINDOW)


def label_draw(table: Any, k: int) -> None:
    """Draw one window of joint labels."""
    from loaders.counters import random_units

    table.draw(random_units(1, 0, np.arange(k * WINDOW, (k + 1) * WINDOW, dtype=np.uint64)))


def weighted_rate(mapped: CellGroups) -> int:
    """Return the draws per CPU-second with the reference's weight on a cell's expressed genes, on 5 million cells."""
    cells = min(5_000_000, len(mapped))
    part = CellGroups(np.append(mapped.offsets[mapped.offsets < cells], cells), mapped.order[:cells])
    genes = np.random.default_rng(SEED).lognormal(7.2, 0.6, cells)
    weights = (1 + 999 / (1 + np.exp(-0.003 * (genes - 2000)))).astype(np.float32)
    config = SamplerConfig(draws=10_000_000)
    one = Sampler(part, config, release="s", cell_weights=weights, maxima=group_maxima(part, weights))
    return rate(windows(one))


def torch_rows(sizes: np.ndarray, cells: int) -> list[dict[str, Any]]:
    """Return what torch's multinomial does with joint labels, and with a weight per cell."""
    weights = torch.from_numpy(500 * sizes / (sizes + 500.0))
    generator = torch.Generator().manual_seed(SEED)
    began = time.process_time()
    torch.multinomial(weights, 1_000_000, replacement=True, generator=generator)
    rows = [{"what": "torch.multinomial, joint labels", "draws_per_cpu_s": round(1e6 / (time.process_time() - began))}]
    try:
        torch.multinomial(torch.ones(max(cells, (1 << 24) + 1)), 1, replacement=True)
        said = "works"
    except RuntimeError as error:
        said = str(error).splitlines()[0]
    return [*rows, {"what": "torch.multinomial, a weight per cell", "note": said}]
