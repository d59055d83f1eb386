"""Records decoded and batches collated on a GPU, copies from pinned memory included, beside the CPU's kernels.

The records of 64 batches are gathered once; what is timed begins with their bytes in pinned memory and ends when the
device is done. Before that, every batch of the device is compared with the CPU's. Without a GPU the one row says so;
`python -P benchmarks/loaders_gpu.py --device cpu` shows that it runs, with numbers that mean nothing.

A pack made elsewhere serves too: `--pack FOLDER`, with `vocabulary.json` beside it for a machine without references.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from loaders import Collator, Pack

SEED = 11
BATCH, BATCHES = 128, 64
SECONDS = 4.0
LENGTH, NEIGHBOURS = 2200, 6  # the reference's context


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of the GPU, or the one that says there is none."""
    import torch

    if not torch.cuda.is_available():
        return [{"what": "records on a GPU", "note": "not run: no GPU"}]
    return measure("cuda", None, seconds=0.7 if quick else SECONDS)


def measure(device: str, pack: Path | None, *, seconds: float) -> list[dict[str, Any]]:
    """Return cells per second of decoding and of collation on a device, each checked first."""
    from loaders import Pack

    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        cells = Pack(pack or make_pack(Path(tmp)))
        drawn = np.random.default_rng(SEED).integers(0, len(cells), (BATCHES, BATCH))
        rows = decoding(cells, drawn, device, seconds) + collation(make_collator(cells), drawn, device, seconds)
    name = name_of(device)
    return [{"what": row.pop("what"), "device": name if row.pop("there") else "CPU, one thread"} | row for row in rows]


def make_pack(folder: Path) -> Path:
    """Make a small atlas and its pack, as the benchmark of loaders does."""
    from benchmarks.loader_cells import make_atlas
    from loaders import make_pack as pack

    make_atlas(folder, 10_000)
    pack(str(folder / "atlas"), "bench", folder / "pack")
    return folder / "pack"


def make_collator(cells: Pack) -> Collator:
    """Return the collator of the reference's context."""
    from loaders import CollateConfig, Collator, Vocabulary, make_vocabulary

    saved = cells.path.parent / "vocabulary.json"
    vocabulary = Vocabulary.load(saved) if saved.exists() else make_vocabulary(cells)
    return Collator(vocabulary, cells, CollateConfig(length=LENGTH, neighbours=NEIGHBOURS, seed=SEED))


def decoding(cells: Pack, drawn: np.ndarray, device: str, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of records becoming sparse rows."""
    from loaders import decode_on

    held = [cells.read(numbers) for numbers in drawn]
    for packed in held:
        expected = packed.decode()
        found = [part.cpu().numpy() for part in decode_on(packed, device)]
        for ours, theirs in zip(found, (expected.indptr, expected.indices, expected.counts), strict=True):
            assert np.array_equal(ours, theirs), "the device decodes other counts"
    size = sum(len(packed.data) for packed in held) / BATCHES
    rows = [
        {"what": "decode", "there": True} | timed(held, lambda packed: decode_on(packed, device), device, seconds),
        {"what": "decode", "there": False} | timed(held, lambda packed: packed.decode(), "cpu", seconds),
    ]
    return [row | {"kib_per_batch": round(size / 1024)} for row in rows]


def collation(collator: Collator, drawn: np.ndarray, device: str, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of model-ready batches: filled from gathered records, and gathered as well."""
    import torch

    from loaders import DeviceCollator

    there, positions = DeviceCollator(collator, device), np.arange(BATCH)
    pinned = torch.cuda.is_available()

    def gather(numbers: np.ndarray) -> Any:
        batch = collator.gather(numbers, positions)
        return batch.pin_memory() if pinned else batch

    held = [gather(numbers) for numbers in drawn]
    for batch in held:
        check_alike(there.fill(batch), collator.fill(batch))
    size = sum(batch.data.nbytes for batch in held) / BATCHES
    ways = [
        ("collate gathered records", True, held, there.fill),
        ("collate gathered records", False, held, collator.fill),
        ("gather on the CPU, collate", True, list(drawn), lambda numbers: there.fill(gather(numbers))),
        ("gather on the CPU, collate", False, list(drawn), lambda numbers: collator.fill(gather(numbers))),
    ]
    return [
        {"what": what, "there": on} | timed(items, step, device if on else "cpu", seconds)
        | {"kib_per_batch": round(size / 1024)}
        for what, on, items, step in ways
    ]  # fmt: skip


def check_alike(found: Any, expected: Any) -> None:
    """Fail where the device made another batch than the CPU."""
    for name, tensor in vars(expected).items():
        if hasattr(tensor, "numpy"):
            assert np.array_equal(getattr(found, name).cpu().numpy(), tensor.numpy()), f"other {name} on the device"


def timed(items: Sequence[Any], step: Callable[[Any], Any], device: str, seconds: float) -> dict[str, Any]:
    """Return cells per second and CPU-second of a step over the items, again and again, the device waited for."""
    for item in items[:8]:
        step(item)
    wait(device)
    wall, cpu, n = time.monotonic(), time.process_time(), 0
    for item in itertools.cycle(items):
        step(item)
        n += BATCH
        if n % (8 * BATCH) == 0 and time.monotonic() - wall > seconds:
            break
    wait(device)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {"cells_per_s": round(n / wall), "cells_per_cpu_s": round(n / cpu)}


def wait(device: str) -> None:
    """Wait until a device has done what it was given."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def name_of(device: str) -> str:
    """Return the name of a device."""
    import torch

    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "CPU, as a device"


if __name__ == "__main__":
    import sys

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="a torch device")
    parser.add_argument("--pack", type=Path, help="a pack to read instead of making one")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    for row in measure(asked.device, asked.pack, seconds=SECONDS):
        print(row)
