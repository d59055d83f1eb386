"""Proteins embedded per second on a CPU, what a resumed run costs, and how often orthologs are nearest neighbours.

Throughput, on one thread: random proteins of one length, amino acids as frequent as in human; and real human proteins,
from which the time for 20,000 follows. Resume: the same organism again, everything cached. Retrieval: human proteins
and their reciprocal-best orthologs; top-1 is the share whose nearest by cosine, among all drawn of the other species,
is the ortholog. Its interval is 95 % over pairs drawn again (bootstrap); seeds are averaged, and their range told.
Composition alone is the yardstick: an untrained network that does not beat it adds nothing.

Real proteins and pairs are read from ../shared/bio beside the checkout; without it those rows are left out.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SEED = 0
READS = ("bio/proteins_linked_1022aa.parquet", "bio/orthologs_hcop_babelgene.parquet")
BIO = Path(__file__).resolve().parents[2] / "shared" / "bio"
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
SHARES = (7.0, 2.3, 4.7, 7.0, 3.7, 6.6, 2.6, 4.4, 5.7, 10.0, 2.1, 3.6, 6.3, 4.8, 5.7, 8.3, 5.4, 6.0, 1.2, 2.7)
"""Percent of each letter in human proteins, rounded."""
SIZES = ((2, 64), (6, 320))
"""The default of panatlas, and the size of the smallest trained ESM2."""
TAXA = {"mouse": 10090, "zebrafish": 7955, "fly": 7227}


def throughput(*, quick: bool) -> list[dict[str, Any]]:
    """Return proteins per second by size of network and length of protein, one protein at a time."""
    from model import seeded_esm2

    random, rows = np.random.default_rng(SEED), []
    share = np.array(SHARES) / sum(SHARES)
    for layers, dim in SIZES[: 1 if quick else None]:
        embedder = seeded_esm2(layers, dim)
        for length in (100, 250, 500, 1000):
            number = max(3, (200 if quick else 40_000) // length // (1 if dim == 64 else 8))
            proteins = ["".join(random.choice(list(LETTERS), length, p=share)) for _ in range(number)]
            embedder.embed(proteins[:1])  # torch warms up on the first
            began, worked = time.perf_counter(), time.process_time()
            for protein in proteins:
                embedder.embed([protein])
            wall, cpu = time.perf_counter() - began, time.process_time() - worked
            rows.append({
                "what": f"untrained ESM2 {layers}x{dim}", "mean_residues": length, "proteins": number,
                "proteins_per_s": round(number / wall, 1), "proteins_per_cpu_s": round(number / cpu, 1),
            })  # fmt: skip
    return rows


def real_proteins() -> pd.DataFrame:
    """Return the shared table of proteins: taxon_id, gene_id, sequence."""
    return pd.read_parquet(BIO / "proteins_linked_1022aa.parquet", columns=["taxon_id", "gene_id", "sequence"])


def human_run(*, quick: bool) -> list[dict[str, Any]]:
    """Return the time of embedding real human proteins, cold and again, each through `embed_proteins`."""
    from model import embed_proteins, seeded_esm2
    from ontology import import_proteins

    whole = real_proteins()
    human = whole[whole["taxon_id"] == 9606].sample(50 if quick else 2_000, random_state=SEED)
    former = os.environ.get("PANATLAS_HOME")
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["PANATLAS_HOME"] = tmp
        try:
            path = Path(tmp) / "human.parquet"
            human.to_parquet(path)
            import_proteins("human", path, {"release": "bench"}, columns={"gene": "gene_id", "sequence": "sequence"})
            embedder, walls = seeded_esm2(), []
            embedder.embed(["MKLV"])
            for _ in range(2):
                began, worked = time.perf_counter(), time.process_time()
                embed_proteins("human", embedder)
                walls.append((time.perf_counter() - began, time.process_time() - worked))
        finally:
            os.environ.pop("PANATLAS_HOME")
            if former is not None:
                os.environ["PANATLAS_HOME"] = former
    common = {"proteins": len(human), "mean_residues": round(float(human["sequence"].str.len().mean()), 1)}
    per_20k = 20_000 / len(human) / 60
    return [
        {
            "what": f"human proteins, 2x64, {told}", "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), **common,
            "proteins_per_s": round(len(human) / wall, 1), "proteins_per_cpu_s": round(len(human) / cpu, 1),
            "cpu_minutes_per_20000": round(cpu * per_20k, 2),
        }
        for told, (wall, cpu) in zip(("cold", "again, all cached"), walls, strict=True)
    ]  # fmt: skip


def draw_pairs(taxon: int, number: int) -> tuple[list[str], list[str]]:
    """Return proteins of human genes and of their reciprocal-best orthologs in another organism."""
    whole = real_proteins()
    mine = whole[whole["taxon_id"] == 9606].set_index("gene_id")["sequence"]
    theirs = whole[whole["taxon_id"] == taxon].set_index("gene_id")["sequence"]
    pairs = pd.read_parquet(BIO / "orthologs_hcop_babelgene.parquet")
    pairs = pairs[(pairs["taxon_id"] == taxon) & pairs["best_reciprocal"]]
    pairs = pairs[pairs["human_ensembl"].isin(mine.index) & pairs["ensembl"].isin(theirs.index)]
    pairs = pairs.drop_duplicates("human_ensembl").drop_duplicates("ensembl").sort_values("human_ensembl")
    pairs = pairs.sample(min(number, len(pairs)), random_state=SEED)
    return mine[pairs["human_ensembl"]].tolist(), theirs[pairs["ensembl"]].tolist()


def hits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return, per row of `left`, whether the nearest row of `right` by cosine is its own partner."""
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    return (left @ right.T).argmax(axis=1) == np.arange(len(left))


def retrieval(*, quick: bool) -> list[dict[str, Any]]:
    """Return top-1 of orthologs by organism and by what the vector holds."""
    from model import seeded_esm2

    random, rows = np.random.default_rng(SEED), []
    for organism, taxon in list(TAXA.items())[: 1 if quick else None]:
        human, other = draw_pairs(taxon, 40 if quick else 600)
        found: dict[str, list[np.ndarray]] = {}
        for seed in range(2 if quick else 5):
            embedder = seeded_esm2(seed=seed)
            left, right = (np.concatenate([embedder.embed([each]) for each in side]) for side in (human, other))
            for what, columns in (
                ("network and composition (the embedder)", slice(None)),
                ("untrained network alone", slice(0, 64)),
                ("composition alone", slice(64, None)),
            ):
                found.setdefault(what, []).append(hits(left[:, columns], right[:, columns]))
            noise = random.normal(size=(2, len(human), 84))
            found.setdefault("random vectors", []).append(hits(*noise))
        for what, seeds in found.items():
            per_pair = np.mean(seeds, axis=0)
            again = random.choice(per_pair, size=(2_000, len(per_pair))).mean(axis=1)
            low, high = np.quantile(again, [0.025, 0.975])
            means = [each.mean() for each in seeds]
            rows.append({
                "what": f"top-1 of human-{organism} orthologs: {what}", "pairs": len(human), "seeds": len(seeds),
                "top1": round(float(per_pair.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3),
                "lowest_seed": round(float(min(means)), 3), "highest_seed": round(float(max(means)), 3),
            })  # fmt: skip
    return rows


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of throughput, of a resumed run, and of retrieval."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that seconds are a core's, and a busy machine changes them little
    try:
        rows = throughput(quick=quick)
        if BIO.is_dir():
            rows += human_run(quick=quick) + retrieval(quick=quick)
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    for row in main():
        print(row)
