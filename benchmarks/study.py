"""The additive study: the tiny preset and each one-change variant, same budget, three seeds, on held-out donors.

Cells are those of training_cells.py. The study's folder, benchmarks/data/study, keeps the weights of every run and is
gone on with where it stopped; a row appears once it is scored.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

SEED = 0
READS = (
    "training_sources.toml",
    "bio/grn/scprint2_TFs_ensembl_13species.txt.gz",
    "bio/grn/omnipath_tf_target_human.parquet",
)
FOLDER = Path(__file__).resolve().parent / "data"
STEPS, BATCH, LENGTH, SHORTEST = 100, 16, 160, 64
COLUMNS = ("variant", "seeds", "parameters", "cells/s", "denoise_nll", "generate_nll", "masked_nll", "denoise_error")
NOTES = (
    f"Every run has {STEPS} steps of {BATCH} cells and {LENGTH} genes, and is scored on the same validation cells, "
    "genes and thinned molecules; weights are not chosen on them. The base's row has means; the others have the mean "
    "difference to the base of the same seed ± half of its 95% t interval, with `better` or `worse` where 0 lies "
    "outside. With this many rows some intervals miss by chance, and a budget this small says how fast a choice "
    "learns, not where it ends.",
    "Expression scores are nats per unseen molecule; less is better, as for `cell_type_nll`. The two rows of floors "
    "need no network: the training cells' mean shares, and these mixed with the seen counts.",
    "`prior` has OmniPath's transcriptional edges of human genes, `tf-masks` the transcription factors of scPRINT-2's "
    "list; both are read from the data folder.",
)
FLOORS = ("gene_mean", "smoothed")


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Train and score what is missing, and return a row per variant."""
    import torch

    from benchmarks.training_cells import training_pack
    from loaders import open_cells
    from model import Machine
    from model.study import StudyPlan, find_variants, run_study, side_by_side

    pack = training_pack(FOLDER / "training")
    plan = StudyPlan(
        steps=6 if quick else STEPS,
        seeds=1 if quick else 3,
        variants=find_variants(["criss-cross"] if quick else []),
        network={"losses": {"kl_warm_up": STEPS // 2}},
        recipe={"batch_size": BATCH, "data": {"collate": {"length": LENGTH, "shortest": SHORTEST}}},
        scored=64 if quick else 512,
    )
    torch.set_num_threads(1)  # so that two processes may share the queue
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / "study" if quick else FOLDER / "study"
        place = (str(pack), None)
        rows = run_study(
            open_cells(pack), plan, folder, machine=Machine(device="cpu"), beginning=_beginning(Path(short)),
            place=place, show=print,
        )  # fmt: skip
    return [*_floors(rows), *side_by_side(rows)]


def _beginning(folder: Path) -> Any:
    """Return the transcription factors and the prior gene network that two variants need, where they are at hand."""
    import pandas as pd

    from benchmarks.bench_data import SHARED
    from catalog.model_places import read_network
    from model import Beginning

    factors = SHARED / "bio" / "grn" / "scprint2_TFs_ensembl_13species.txt.gz"
    network = SHARED / "bio" / "grn" / "omnipath_tf_target_human.parquet"
    if not (factors.exists() and network.exists()):
        return Beginning()
    edges = pd.read_parquet(network)[["source", "target"]]
    edges.set_axis(["regulator", "target"], axis=1).to_parquet(folder / "prior.parquet")
    prior = read_network(folder / "prior.parquet", ["homo_sapiens"])
    return Beginning(regulators=tuple(gzip.decompress(factors.read_bytes()).decode().split()), prior=prior)


def _floors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what needs no network as rows of their own; all runs have the same."""
    base = {row["score"]: row["mean"] for row in rows if row["variant"] == "base" and "score" in row}
    out = []
    for floor in FLOORS:
        told = {name: base.get(f"{name}_{floor}") for name in ("denoise_nll", "masked_nll")}
        found = {name: f"{value:.4f}" for name, value in told.items() if value is not None}
        out.append({"variant": f"floor: {floor.replace('_', ' ')}", **found})
    return out
