"""The cost of a gene network by the number of genes: attention, the criss-cross map and the baselines, 1,000 cells.

Real cells of one dataset (a lung of ../shared; simulated ones where that is absent), all genes against all but where a
row says otherwise, each point in a process of its own, so that its memory is its own. The models are `preset("tiny")`,
untrained: what a network has learnt changes its scores, not its cost. GRNBoost2 is run on 300 sampled targets and
extrapolated to all. `--point JSON` is one such process.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders import AnnDataCells
    from model import TrainedModel

SEED = 0
READS = ("data/human_lung_luad_laughney_4primary.h5ad",)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "human_lung_luad_laughney_4primary.h5ad"
CELLS, SIZES = 1_000, (1_000, 2_000, 4_000, 8_000, 16_000)
LENGTH, FACTORS, SAMPLED, PER_TARGET = 2_200, 1_600, 300, 100
"""Genes of a context as in training; regulators where there are fewer than targets, about as many as there are human
transcription factors; targets that trees are grown for; edges that a target keeps."""
AT_ONCE = 8_000
"""Targets of a block, where scores are made block by block and only each target's strongest are kept."""
BLOCKWISE = "attention in blocks"
THREADS, MOST_SECONDS, MOST_MIB = 2, 1_800.0, 8_192.0
NETWORKS = {
    "token_similarity": {},
    "pearson": {},
    "spearman": {},
    "partial_correlation": {},
    "attention": {"contexts": "trained"},
    BLOCKWISE: {"readout": "attention", "contexts": "trained", "at_once": AT_ONCE, "sizes": SIZES[-2:]},
    "mean_cell_attention": {"contexts": "trained"},
    "criss_cross": {"regulators": FACTORS},
    "pidc": {"most": 4_000},
    "grnboost2": {"regulators": FACTORS, "sampled": SAMPLED, "sizes": (SIZES[0], SIZES[1], SIZES[-1])},
}  # fmt: skip
LEFT_OUT = "extrapolated, not measured"
COLUMNS = ("readout", "genes", "regulators", "seconds", "cpu_seconds", "peak_mib", "edges", "within_8_gib")
NOTES = (
    f"{CELLS:,} cells, {THREADS} threads; from cells in memory to a network of each target's {PER_TARGET} strongest "
    "edges. `cpu_seconds` are of all threads together; `peak_mib` is the largest memory of the whole process, "
    "libraries and cells included.",
    f"`attention` and `mean_cell_attention` read contexts of {LENGTH:,} genes as in training, and say nothing of pairs "
    "that no cell's context showed together (`unseen`); `criss_cross` reads all genes of a row at once in every cell.",
    f"`{BLOCKWISE}` is the same network as `attention`, {AT_ONCE:,} targets at a time: cells are read once for each "
    "block, and memory is a block's, not the square of the genes.",
    f"`grnboost2`: seconds for all targets, of which {SAMPLED} were run on one thread; its memory does not grow.",
    "Rows that are extrapolated were not measured: their seconds and memory follow the last two measured sizes as a "
    "power law. The cost curve is that of the last two measured sizes, as a power of the number of genes; its times "
    "and memory are of the most genes.",
)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return a row for each read-out and size."""
    sizes, cells = ((200, 400), 60) if quick else (SIZES, CELLS)
    rows = []
    for readout, how in NETWORKS.items():
        mine: list[dict[str, Any]] = []
        for genes in sizes:
            if genes > how.get("most", genes) or not (quick or genes in how.get("sizes", sizes)):
                continue
            asked = {"name": readout, "genes": genes, "cells": cells, "sampled": 4 if quick else SAMPLED}
            if quick and "at_once" in how:
                asked["at_once"] = 80
            guess = {} if "sampled" in how else extrapolated(mine, genes)
            if guess and (guess["seconds"] > MOST_SECONDS or guess["peak_mib"] > MOST_MIB):
                found = guess | {"note": LEFT_OUT}
            else:
                found = point(asked)
            regulators = min(genes, how.get("regulators", genes))
            within = {"within_8_gib": found["peak_mib"] <= MOST_MIB} if "peak_mib" in found else {}
            mine.append({"readout": readout, "genes": genes, "regulators": regulators} | found | within)
            print(f"{readout} {genes}: {found}", file=sys.stderr, flush=True)
        rows += mine
    return rows + [curve for readout in NETWORKS if (curve := cost_curve([r for r in rows if r["readout"] == readout]))]


def cost_curve(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how a read-out's seconds and memory grow with genes, and what the most genes cost."""
    measured = [row for row in rows if "seconds" in row and "note" not in row]
    if len(measured) < 2:
        return {}
    powers = {name: round(power(measured[-2], measured[-1], name), 2) for name in ("seconds", "peak_mib")}
    last = rows[-1]
    return {
        "table": "cost curve", "readout": last["readout"], "seconds grow as genes to the": powers["seconds"],
        "memory grows as genes to the": powers["peak_mib"], "most genes": last["genes"],
        "seconds of them": last.get("seconds"), "GiB of them": round(last.get("peak_mib", math.nan) / 2**10, 2),
        "how": last.get("note", "measured"),
    }  # fmt: skip


def power(first: dict[str, Any], last: dict[str, Any], name: str) -> float:
    """Return the power of the number of genes that a cost grows by from one row to another."""
    return math.log(max(last[name], 1e-9) / max(first[name], 1e-9)) / math.log(last["genes"] / first["genes"])


def extrapolated(rows: list[dict[str, Any]], genes: int) -> dict[str, float]:
    """Return what a read-out's last two measured rows lead to at another size; nothing where there are fewer."""
    measured = [row for row in rows if "note" not in row][-2:]
    if len(measured) < 2:
        return {}
    first, last = measured
    steps = {name: min(max(power(first, last, name), 0.0), 3.0) for name in ("seconds", "cpu_seconds", "peak_mib")}
    return {name: round(last[name] * (genes / last["genes"]) ** step, 1) for name, step in steps.items()}


def point(asked: dict[str, Any]) -> dict[str, Any]:
    """Return one row's numbers, measured in a process of its own."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--point", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"note": f"failed: {said[:120]}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, genes: int, cells: int, sampled: int, at_once: int = AT_ONCE) -> dict[str, Any]:
    """Return seconds, peak memory and edges of one network, in this process."""
    import numpy as np
    import torch

    from model import GeneChoice, InferenceOptions, ReadoutOptions, infer_grn
    from model.grn_scores import BY_NAME

    torch.set_num_threads(THREADS)
    how = NETWORKS[name]
    readout = str(how.get("readout", name))
    source = make_cells(cells)
    model = None
    if BY_NAME[readout].needs_model:
        model = make_model(source, "criss-cross" if readout == "criss_cross" else "exact")
    inference = InferenceOptions(device="cpu", length=min(LENGTH, genes), batch_size=16)
    options = ReadoutOptions(
        inference, contexts=how.get("contexts", "chosen"), per_target=PER_TARGET,
        targets_at_once=at_once if "at_once" in how else 0,
    )  # fmt: skip
    names = most_expressed(source, genes)
    drawn = np.random.default_rng(SEED).permutation(names).tolist()
    targets = drawn[:sampled] if "sampled" in how else names
    factors = drawn[: how["regulators"]] if "regulators" in how else []
    choice, share = GeneChoice("given", genes=tuple(targets), regulators=tuple(factors)), len(targets) / len(names)
    began, worked = time.perf_counter(), time.process_time()
    network = infer_grn(model, source, readout=readout, genes=choice, options=options)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    pairs = network.facts["pairs"]
    found: dict[str, Any] = {
        "seconds": round(seconds / share, 1), "cpu_seconds": round(worked / share, 1), "peak_mib": round(peak_mib()),
        "edges": round(len(network) / share),
    }  # fmt: skip
    if readout == "attention":
        found["unseen"] = f"{network.facts['pairs_without_score'] / pairs:.1%}"
    return found


def make_cells(cells: int) -> AnnDataCells:
    """Return cells of one dataset; simulated ones where there are no real ones."""
    import anndata as ad
    import numpy as np
    import pandas as pd

    from loaders import AnnDataCells
    from ontology import load_gene_table

    rng = np.random.default_rng(SEED)
    if SHARED.exists():
        adata = ad.read_h5ad(SHARED)
        return AnnDataCells(adata[np.sort(rng.permutation(adata.n_obs)[:cells])].copy(), "human")
    ids = load_gene_table("human").ids[: 2 * max(SIZES)]
    counts = rng.poisson(rng.gamma(0.3, 1.0, len(ids)) * rng.gamma(2.0, 0.5, (cells, 1))).astype(np.float32)
    return AnnDataCells(ad.AnnData(counts, var=pd.DataFrame(index=ids)), "human")


def most_expressed(cells: AnnDataCells, genes: int) -> list[str]:
    """Return the genes that most cells express, in the order of the gene table."""
    import numpy as np

    from model.grn_query import gene_counts, usable_genes

    numbers = np.arange(len(cells))
    usable = usable_genes(None, cells, numbers)
    expressed = gene_counts(cells, numbers, usable)[0].getnnz(axis=0)
    return [usable[place] for place in np.sort(np.argsort(-expressed, kind="stable")[:genes])]


def make_model(cells: AnnDataCells, attention: str) -> TrainedModel:
    """Return an untrained model of these cells' organism."""
    import numpy as np
    import torch

    from loaders import CollateConfig, make_vocabulary
    from model import Ledger, Network, TrainedModel, make_token_table, preset

    torch.manual_seed(SEED)
    trunk = {"attention": attention} | ({"kv_heads": 4} if attention == "criss-cross" else {})
    vocabulary = make_vocabulary(cells)
    network = Network(preset("tiny").changed(trunk=trunk), vocabulary, make_token_table(vocabulary)).eval()
    empty = Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    collate = json.loads(json.dumps(asdict(CollateConfig())))  # contexts as the default recipe draws them
    return TrainedModel(network, vocabulary, empty, {"recipe": {"data": {"collate": collate}}})


def peak_mib() -> float:
    """Return the largest memory of this process so far."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    if found := [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]:
        return found[0] / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--point", type=json.loads, required=True, help="name, genes, cells, sampled, as JSON")
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    print(json.dumps(measure(**parser.parse_args().point)))
