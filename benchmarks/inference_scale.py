"""What 100,000 cells of a file cost to embed and name on this machine: time, memory, and what `--preset fast` loses.

The file is resampled from real cells (ingest.py). Each command runs as a process of its own on PANATLAS_BENCH_CELLS of
them (2,000 unless said; a tenth of that by default, which is slow) and on a few, from which its time for all is
reckoned; memory is that of a process that goes through all 100,000. The model is PANATLAS_BENCH_MODEL, a folder;
without it an untrained one of the preset `small`, which costs the same. What fast loses is measured on held-out cells
of PANATLAS_BENCH_PACK, where both are named.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 0
READS = ("starter:human",)
WHOLE, SHARE, HELD_OUT, NEAREST = 100_000, 2_000, 1_000, 15
"""Cells of the file; cells a command is timed on; cells of which losses are measured; neighbours compared."""
PRESETS = {"default": (32, 0.1), "fast": (128, 1.0)}
"""Cells of the short run of a command, and share of the cells of the long one."""
LABELS = ("cell_type", "tissue", "disease")
COLUMNS = ("what", "preset", "cells", "wall_s", "cells_per_s", "hours_per_100k", "peak_mib")
NOTES = (
    "`embed`, `annotate`: the command as a process. cells_per_s is what the long run did more than the short one, by "
    "the time it took longer; hours_per_100k is reckoned from that, start-up and reading the whole file included.",
    f"`embed, {WHOLE:,} cells`: the command on the whole file, stopped once the first block of cells is finished: "
    "wall_s is until then, peak_mib the most it held while all counts were proved, hashed and looked up. `read`: all "
    "of the file's cells proved, and read batch by batch as a command reads them, without a network.",
    "`loss`: cells of test donors, drawn alike. Right: the likeliest leaf of a label, of cells whose label is one; "
    f"same: as default says; neighbours: share of the {NEAREST} nearest cells, by cosine, that are those of default.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per command and preset, one of the whole file, and what fast loses."""
    whole, share = (2_000, 64) if quick else (WHOLE, int(os.environ.get("PANATLAS_BENCH_CELLS", SHARE)))
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)
        model = os.environ.get("PANATLAS_BENCH_MODEL") or child("--model", str(folder / "model"))["folder"]
        made = child("--make", str(folder / "whole.h5ad"), str(whole))
        read = child("--read", str(folder / "whole.h5ad"))
        rows.append({"what": f"read, {whole:,} cells", "cells": whole} | read | made)
        rows.append(measure("embed", "fast", folder / "whole.h5ad", model, blocks=1))
        rows[-1] |= {"what": f"embed, {whole:,} cells", "cells": whole}
        for preset, (short, part) in PRESETS.items():
            short = max(short // 16, 2) if quick else short  # noqa: PLW2901 - the same thing
            sizes = (short, max(int(share * part), 2 * short))
            for n_cells in sizes:
                child("--make", str(folder / f"{n_cells}.h5ad"), str(n_cells))
            for verb in ("embed", "annotate"):
                runs = [measure(verb, preset, folder / f"{n_cells}.h5ad", model) for n_cells in sizes]
                rows.append(runs[1] | {"cells": sizes[1]})
                if (longer := runs[1]["wall_s"] - runs[0]["wall_s"]) > 0:  # else start-up hides it, as in a quick run
                    rate = (sizes[1] - sizes[0]) / longer
                    hours = (runs[0]["wall_s"] + read["wall_s"] + WHOLE / rate) / 3600
                    rows[-1] |= {"cells_per_s": round(rate, 1), "hours_per_100k": round(hours, 2)}
                print(rows[-1], flush=True)
    if os.environ.get("PANATLAS_BENCH_MODEL") and (pack := os.environ.get("PANATLAS_BENCH_PACK")):
        rows += losses(model, pack, 60 if quick else HELD_OUT)
    return rows


def child(*words: str) -> dict[str, Any]:
    """Run a step in a process of its own, whose memory is not counted, and return what it says."""
    command = [sys.executable, "-P", __file__, *words]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
    return json.loads(said.splitlines()[-1])


def measure(verb: str, preset: str, source: Path, model: str, *, blocks: int = 0) -> dict[str, Any]:
    """Run a command as a process and return its row; of more than 0 `blocks`, until so many are finished."""
    output = source.with_name(f"{verb}-{preset}-{source.stem}.h5ad")
    words = [verb, str(source), "--output", str(output), "--model", model, "--preset", preset, "--device", "cpu"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-P", __file__, "--until", str(blocks), *words])
    _, status, usage = os.wait4(process.pid, 0)  # this process' own usage, which subprocess does not tell
    if status:
        raise RuntimeError(f"{verb} ended with status {status}")
    wall = round(time.monotonic() - began, 2)
    return {"what": verb, "preset": preset, "wall_s": wall, "peak_mib": round(usage.ru_maxrss / 1024)}


def read_file(path: Path) -> dict[str, Any]:
    """Open a file's cells, and read them all as a command reads them."""
    from loaders import SourceCells
    from model.inference import AHEAD, InferenceOptions

    began, size = time.monotonic(), InferenceOptions().batch_size
    cells = SourceCells(path, "human")
    numbers = np.arange(len(cells))
    cells.will_need(numbers[:AHEAD])
    for start in range(0, len(cells), size):
        if start % AHEAD == 0 and len(window := numbers[start + AHEAD : start + 2 * AHEAD]):
            cells.will_need(window)
        cells.read(numbers[start : start + size])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"wall_s": round(time.monotonic() - began, 1), "peak_mib": round(peak / 1024)}


def until(blocks: int, words: list[str]) -> int:
    """Run a command until so many blocks are finished, and leave nothing of it; to its end for 0."""
    from catalog import cli, finished_blocks
    from catalog.errors import INTERRUPTED

    real = finished_blocks.FinishedBlocks._keep

    def keep(self: Any, number: int, rows: Any) -> None:
        real(self, number, rows)
        if number + 1 == blocks:
            for file in self.folder.iterdir():
                file.unlink()
            raise KeyboardInterrupt

    finished_blocks.FinishedBlocks._keep = keep
    code = cli.run(words)
    return 0 if code == INTERRUPTED and blocks else code


def losses(model_folder: str, pack: str, n_cells: int) -> Iterator[dict[str, Any]]:
    """Yield what each preset says of held-out cells beside their labels, and beside what default says."""
    from catalog.cli_tasks import TaskOptions
    from catalog.task_inputs import reading_options
    from loaders import open_cells
    from model import load_model
    from model.annotation import classify_cells
    from model.inference import cells_of_split

    model, cells = load_model(model_folder), open_cells(pack)
    numbers = cells_of_split(model, cells, "test", n_cells, SEED)
    usual: dict[str, Any] = {}
    for preset in PRESETS:
        options = reading_options(TaskOptions(preset=preset, device="cpu"), model)
        parts = list(classify_cells(model, cells, numbers, options))
        vectors = np.concatenate([part.embedding for part in parts])
        near = nearest(vectors)
        row = {"what": "loss", "preset": preset, "cells": len(numbers), "length": options.length or "as in training"}
        usual.setdefault("near", near)
        same = [len(np.intersect1d(one, other)) / NEAREST for one, other in zip(near, usual["near"], strict=True)]
        row["neighbours"] = round(float(np.mean(same)), 3)
        truth = np.concatenate([part.classes for part in parts])
        for label in (one for one in LABELS if one in parts[0].logits):
            space, column = model.vocabulary.labels[label], list(model.vocabulary.labels).index(label)
            said = np.concatenate([part.logits[label] for part in parts]).argmax(1)  # leaves have the first codes
            known = (truth[:, column] >= 0) & (truth[:, column] < space.n_leaves)
            usual.setdefault(label, said)
            row[f"{label} right"] = round(float((said == truth[:, column])[known].mean()), 3) if known.any() else None
            row[f"{label} same"] = round(float((said == usual[label]).mean()), 3)
        yield row


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Return each cell's nearest others by cosine, [cells, NEAREST]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    return np.argsort(-alike, axis=1)[:, :NEAREST]


def make_model(folder: Path) -> dict[str, str]:
    """Write an untrained model of the preset `small` for human cells, with two classes of each of a few labels."""
    import torch

    from benchmarks.ingest import read_real
    from loaders import AnnDataCells, make_vocabulary
    from model import Ledger, Network, TrainedModel, make_token_table, preset, save_model

    real = read_real()[:200]
    words = make_vocabulary(AnnDataCells(real, "human"))
    torch.manual_seed(SEED)
    nothing = Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    network = Network(preset("small"), words, make_token_table(words)).eval()
    save_model(folder, TrainedModel(network, words, nothing, {}))
    return {"folder": str(folder)}


def make_file(path: Path, n_cells: int) -> dict[str, Any]:
    """Write so many resampled cells."""
    from benchmarks.ingest import make_source

    return make_source(path, n_cells)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", nargs=2, metavar=("PATH", "CELLS"))
    parser.add_argument("--model", metavar="FOLDER")
    parser.add_argument("--read", metavar="PATH")
    parser.add_argument("--until", nargs=argparse.REMAINDER, metavar="BLOCKS")
    asked = parser.parse_args()
    if asked.until:
        sys.exit(until(int(asked.until[0]), asked.until[1:]))
    if asked.make:
        print(json.dumps(make_file(Path(asked.make[0]), int(asked.make[1]))))
    elif asked.read:
        print(json.dumps(read_file(Path(asked.read))))
    else:
        print(json.dumps(make_model(Path(asked.model))))
