"""One loader in a process of its own: what it hands out per second and CPU-second, in how much memory, how mixed.

Knows neither our floors nor any peer: it imports the function that makes the batches, in whichever environment it was
started. Started by loaders.py; what a leg is, see `Leg` there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import mmap
import os
import resource
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 64  # cells of a source block: neighbours in the file, most of them from one sample
JUDGED = 200  # batches whose mixture is judged
MOST = 45.0  # seconds a window may last where a loader's own cycle is long


def run(leg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the row of one loader.

    A loader's function opens it, and returns an iterator of (batch, cell numbers, whether a new buffer began with it).
    The window opens after the first batch and closes after the first batch of a later buffer, so that it holds whole
    buffers. With a cold cache it opens before the first batch and closes when `cells` cells have come: what is read
    again is not cold.
    """
    cold, row = leg["cache"] == "cold", {}
    files = [file for name in leg["files"] for file in files_of(folder / name)]
    make = partial(load(leg["make"]), folder, draw=leg["draw"], workers=leg["workers"], **leg["setting"])
    if cold:
        batches = make()
        next(batches)  # libraries are loaded and compiled: it is the data that is to be cold
        del batches
        gc.collect()  # what is mapped cannot be evicted
    began = time.monotonic()
    batches = make()
    if cold:
        opened = time.monotonic() - began
        row["cached_before"] = evict(files)
        began = time.monotonic() - opened
    else:
        next(batches)
        row["first_batch_s"] = round(time.monotonic() - began, 2)
        for _ in range(8 * leg["workers"]):  # until all of them have started, and not only the first
            next(batches)
    read, cpu, wall, n, seen, kept = disk_bytes(), cpu_seconds(), time.monotonic(), 0, [], []
    while True:
        batch, cells, fresh = next(batches)
        spent = time.monotonic() - wall
        if cold and not seen:
            row["first_batch_s"] = round(time.monotonic() - began, 2)
        n += len(cells)
        seen.append(cells)
        if leg["prove"] and len(kept) < leg["kept"] and len(seen) % 7 == 0:
            kept.append((batch, cells))
        if spent > MOST or (n >= leg["cells"] if cold else fresh and spent >= leg["seconds"]):
            break
    cpu = cpu_seconds() - cpu
    row |= {"cells_per_s": round(n / spent), "cells_per_cpu_s": round(n / cpu), "peak_mib": peak_mib()}
    if cold:
        row |= {"disk_mib": round((disk_bytes() - read) / 2**20), "cached_after": cached_share(files)}
    if leg["mixed"]:
        row |= mixture(seen[:JUDGED], leg["draw"], dict(np.load(folder / "cells.npz")))
    if leg["prove"]:
        row["batches_equal_to_store"] = load(leg["prove"])(folder, kept, seen)
    if leg["distribution"]:
        row["version"] = metadata.version(leg["distribution"])
    return row


def load(name: str) -> Any:
    """Return the function that `module:function` names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def files_of(path: Path) -> list[Path]:
    """Return a file, or the files of a folder."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def mixture(seen: list[np.ndarray], draw: str, facts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return how mixed the batches are, and how far the classes drawn are from those asked for.

    Mean numbers of distinct datasets, donors and blocks of neighbouring cells in a batch; χ² of class frequencies per
    degree of freedom: about 1 for independent draws of what was asked, below for draws without replacement, above
    where cells come in lumps or at other weights.
    """
    full = [cells for cells in seen if len(cells) == max(map(len, seen))]
    keys = {"datasets": facts["dataset"], "donors": facts["donor"], "blocks": np.arange(len(facts["donor"])) // BLOCK}
    row = {name: round(float(np.mean([len(np.unique(k[c])) for c in full])), 1) for name, k in keys.items()}
    drawn = np.bincount(facts["group"][np.concatenate(seen)], minlength=len(facts["shares"]))
    sizes = np.bincount(facts["group"], minlength=len(drawn))
    shares = facts["shares"] if draw == "weighted" else sizes / sizes.sum()
    expected = shares * drawn.sum()
    enough = expected >= 5  # the rule of thumb of χ²; rarer classes are taken together
    pairs = [(drawn[enough], expected[enough])]
    if (~enough).any() and expected[~enough].sum() > 0:
        pairs.append((drawn[~enough].sum(keepdims=True), expected[~enough].sum(keepdims=True)))
    found, wanted = (np.concatenate(side).astype(float) for side in zip(*pairs, strict=True))
    chi2 = float(((found - wanted) ** 2 / wanted).sum())
    return row | {"chi2_per_df": round(chi2 / max(len(found) - 1, 1), 2)}


def tree() -> list[int]:
    """Return the process ids of this process's children and theirs."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.parent.name)] = int(fields[1])
    found, front = [], [os.getpid()]
    while front:
        front = [pid for pid, parent in parents.items() if parent in front]
        found += front
    return found


def cpu_seconds() -> float:
    """Return the CPU-seconds of this process with its threads and children, living and dead."""
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + dead.ru_utime + dead.ru_stime
    for pid in tree():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def peak_mib() -> int:
    """Return the largest resident memory of this process and its children, each at its own peak, mapped files too."""
    total = 0
    for pid in ("self", *tree()):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    # A child's ru_maxrss begins at its parent's, so it is only the answer where there is no /proc.
    return round((total or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


def disk_bytes() -> int:
    """Return the bytes this process and its children had fetched from the disk."""
    total = 0
    for pid in ("self", *tree()):
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)
    return total


def evict(files: list[Path]) -> float:
    """Drop files from the page cache and return the share of their pages that is still there."""
    os.sync()  # only clean pages can be dropped
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_share(files)


def cached_share(files: list[Path]) -> float:
    """Return the share of the files' pages that is in the page cache, as the system itself says (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    pages = held = 0
    for file in files:
        if not (size := file.stat().st_size):
            continue
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
            states = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
            view = (ctypes.c_char * size).from_buffer(mapping)
            if libc.mincore(ctypes.addressof(view), size, states):
                raise OSError(ctypes.get_errno(), "mincore", str(file))
            del view
        pages += len(states)
        held += sum(state & 1 for state in states.raw)
    return round(held / max(pages, 1), 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("leg", help="JSON")
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    print(json.dumps(run(json.loads(asked.leg), asked.folder)), flush=True)
    os._exit(0)  # some loaders wait for their threads for ever
