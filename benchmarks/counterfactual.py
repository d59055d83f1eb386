"""Counterfactuals of a trained model beside what is observed on matched cells it never saw, and verdicts on embeddings.

Matched cells: blood of the same donors with and without interferon beta (Kang et al. 2018). The model is the shipped
one, or another in PANATLAS_BENCH_MODEL; these cells may not train it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from loaders import AnnDataCells
    from model import ChangeReport, Halves, InferenceOptions, TrainedModel

SEED = 0
READS = ("data/human_pbmc_ifnb_kang_labelled2800.h5ad", "data/human_bal_covid_liao_C144C149_labelled.h5ad", "model")
FOLDER = Path(__file__).resolve().parent / "data"
KANG, BAL = "human_pbmc_ifnb_kang_labelled2800.h5ad", "human_bal_covid_liao_C144C149_labelled.h5ad"
SEEDS, CELLS, GENES = 3, 150, 1_000
"""Ways to cut the cells in two; cells of each that are compared, at most; most variable genes that are decoded."""
TOKENS = ("disease", "cell_type", "base", "all")
"""What is swapped for the mean of stimulated cells; nobody told the model what interferon is."""
TYPES = ("CD14 Mono", "CD4 Memory T")
"""Types of control cells of which the first are made the second: what decoding can do at all."""
CEILING = "decoded target cells"
"""Name of the row that says what the decoder makes of real cells of the target."""
SETS = {
    "interferon response": (
        "ISG15 ISG20 IFI6 IFI27 IFI35 IFI44 IFI44L IFIT1 IFIT2 IFIT3 IFIT5 IFITM1 IFITM2 IFITM3 MX1 MX2 OAS1 OAS2 OAS3 "
        "OASL STAT1 STAT2 IRF7 IRF9 USP18 RSAD2 CXCL10 CXCL11 HERC5 XAF1 EPSTI1 BST2 LY6E TRIM22 PLSCR1 SAMD9 SAMD9L"
    ),
    "ribosome": " ".join(f"RPL{n}" for n in range(3, 40)) + " " + " ".join(f"RPS{n}" for n in range(2, 30)),
}
"""Well-known genes of either; only those that are decoded count."""
COLUMNS = ("swap", "group", "method", "cells", "spearman", "overlap", "direction", "explained")
NOTES = (
    "Half of the control and of the stimulated cells give the mean tokens and the mean shift, the other half (up to "
    f"{CELLS} of each) is compared; {SEEDS} ways to cut, ± is half of the 95% t interval over them. No donors are "
    "known for these cells, so halves share them. `over own class`: both sides are decoded from means. "
    "`decoded target cells`: real cells of the target, decoded from their own tokens, instead of swapped ones: the "
    "most that any swap can be expected to reach with this decoder. Changes are "
    f"log2 of mean counts per 10^4, one added, over the {GENES:,} genes that vary most. `overlap` and `direction`: of "
    "the 50 genes that change most.",
    "Pathways: Mann-Whitney of the set's genes against the others in the ranking by change, first cut only.",
    "Verdicts: `seen` is how many of the cells the model was trained on or chosen by, as its ledger tells from their "
    "counts. Donor C144 of the lavage is in the training cells out of another file, whose genes are others, so that "
    "the hashes of most of its cells differ. Variance: adjusted R^2; `batch_within`, of batch beyond the label.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per swap and method, per pathway, and per verdict."""
    import torch

    from benchmarks.bench_data import SHARED, scored_model
    from model import InferenceOptions, load_model

    model = load_model(scored_model())
    threads, options = torch.get_num_threads(), InferenceOptions(device="cpu")
    torch.set_num_threads(1)
    adata, cells = _open(SHARED / "data" / KANG)
    rows = []
    kinds, state = (adata.obs[name].astype(str).to_numpy(dtype=object) for name in ("cell_type", "condition"))
    control = state == "control"
    for swap in TOKENS[-1:] if quick else TOKENS:
        rows += _compared(model, cells, (control, ~control, kinds), swap, options, quick=quick)
    types = [control & (kinds == name) for name in TYPES]
    rows += _compared(model, cells, (*types, None), "all", options, quick=quick)
    for name, batch in ((KANG, "condition"), (BAL, "donor_id")):
        rows.append(_verdict(model, SHARED / "data" / name, batch, options, quick=quick))
        print(f"verdict on {name} done", flush=True)
    torch.set_num_threads(threads)
    return rows


def _open(path: Path) -> tuple[ad.AnnData, AnnDataCells]:
    import anndata as ad

    from loaders import AnnDataCells

    adata = ad.read_h5ad(path)
    adata.obs_names_make_unique()
    return adata, AnnDataCells(adata, "human")


def _compared(
    model: TrainedModel, cells: AnnDataCells, sides: tuple[Any, Any, Any], swap: str, options: InferenceOptions,
    *, quick: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return rows of one swap: scores over the cuts, and pathways of the first."""
    from model import mean_codes, report_counterfactual, swaps_to

    tokens = [swap] if swap != "all" else list(mean_codes(model, cells, np.arange(2), options=options))
    title = "stimulated" if sides[2] is not None else f"{TYPES[0]} to {TYPES[1]}"
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    rows, began = [], time.process_time()
    for seed in range(1 if quick else SEEDS):
        halves = _halves(cells, sides, seed, 30 if quick else CELLS)
        genes = _genes(model, cells, 200 if quick else GENES)
        swaps = swaps_to(model, halves.reference, tokens, 1.0, options)
        report = report_counterfactual(model, halves, swaps, genes, options=options, seed=seed)
        ceiling = _ceiling(model, halves, report, options)
        for row in [*report.scores.to_dict("records"), *ceiling]:
            found.setdefault((row["group"], row["method"]), []).append(row)
        if seed == 0 and sides[2] is not None:
            rows += _pathways(report.changes, swap)
    print(f"{title}, {swap}: {time.process_time() - began:.0f} s", flush=True)
    head = {"table": f"{title}", "swap": swap}
    return [{**head, **_mean_row(key, some)} for key, some in found.items()] + rows


def _ceiling(
    model: TrainedModel, halves: Halves, report: ChangeReport, options: InferenceOptions
) -> list[dict[str, Any]]:
    """Return the scores of decoding the cells of the target from their own tokens, instead of swapping any.

    The change is from what is decoded of the cells to be changed, as that of the counterfactual is: tokens of real
    target cells, so no swap can be expected to do better than the decoder does with these.
    """
    from model import counterfactual_blocks, decoded_means
    from model.expression_change import change, score_changes

    table, target = report.changes, halves.target
    genes = table.loc[table["group"] == "all", "gene"].tolist()
    blocks = counterfactual_blocks(model, target.cells, [], target.numbers, genes=genes, options=options)
    means, rows = decoded_means(blocks, target, halves.groups)[0], []
    for group, decoded in zip(halves.groups, means, strict=True):
        mine = table[table["group"] == group]
        told = change(decoded, mine["factual"].to_numpy())
        sizes = report.scores.loc[report.scores["group"] == group, ["source_cells", "target_cells"]].iloc[0].to_dict()
        scores = score_changes(told, mine["observed_change"].to_numpy())
        rows.append({"group": group, **sizes, "method": CEILING, **scores})
    return rows


def _halves(cells: AnnDataCells, sides: tuple[Any, Any, Any], seed: int, most: int) -> Halves:
    """Return the cells cut in two, at most so many compared."""
    from dataclasses import replace

    from model import Population, halve

    parts = []
    for mine in sides[:2]:
        numbers = np.flatnonzero(mine)
        groups = np.full(len(numbers), "", dtype=object) if sides[2] is None else sides[2][numbers]
        parts.append(Population(cells, numbers, groups, np.array([f"{one:05d}" for one in numbers], dtype=object)))
    halves = halve(*parts, seed)
    few = {}
    for name in ("source", "target"):
        part = getattr(halves, name)
        drawn = np.zeros(len(part.numbers), dtype=bool)
        drawn[np.random.default_rng(seed).permutation(len(drawn))[:most]] = True
        few[name] = part.part(drawn)
    halves = replace(halves, **few)
    enough = [g for g in halves.groups[1:] if g and min((few[n].groups == g).sum() for n in few) >= 20]
    return replace(halves, groups=("all", *enough))


def _genes(model: TrainedModel, cells: AnnDataCells, most: int) -> list[str]:
    """Return the genes that vary most among those that were measured and are known."""
    from model import variable_genes

    table = cells.genes()
    ids = table["feature_id"].to_numpy(dtype=object)
    known = cells.measured(0, 0) & (model.vocabulary.gene_tokens("homo_sapiens", ids.tolist()) >= 0)
    return variable_genes(cells, np.arange(len(cells)), ids[known].tolist(), most)


def _mean_row(key: tuple[str, str], some: list[dict[str, float]]) -> dict[str, Any]:
    from scipy.stats import t

    row: dict[str, Any] = {"group": key[0], "method": key[1], "cells": int(sum(one["source_cells"] for one in some))}
    for name in ("spearman", "overlap", "direction", "explained"):
        values = np.array([one[name] for one in some])
        if np.isnan(values).any():
            row[name] = ""
            continue
        row[name] = f"{values.mean():.3f}"
        if len(values) > 1:
            row[name] += f" ± {t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5:.3f}"
    return row


def _pathways(changes: pd.DataFrame, swap: str) -> list[dict[str, Any]]:
    """Return how the gene sets rank in the changes of all cells."""
    from model import enrich
    from ontology import load_gene_table, resolve_genes

    table, sets = load_gene_table("human"), {}
    for name, text in SETS.items():
        index = resolve_genes(text.split(), table).index
        sets[name] = set(table.ids[index[index >= 0]])
    rows, mine = [], changes[changes["group"] == "all"]
    columns = {"counterfactual": "change", "over own class": "change_over_own", "observed": "observed_change"}
    for of, column in columns.items():
        found = enrich(mine["gene"].tolist(), mine[column].to_numpy(), sets).to_dict("records")
        for row in found:
            row |= {"overlap of 100": f"{row['overlap']} ({row['expected']:.1f} by chance)", "what": row["set"]}
            row |= {"auc": f"{row['auc']:.3f}", "p": f"{row['p_rank']:.1g}"}
        names = ("what", "genes", "auc", "p", "overlap of 100")
        rows += [{"table": "pathways", "swap": swap, "method": of, **{one: row[one] for one in names}} for row in found]
    return rows


def _verdict(model: TrainedModel, path: Path, batch: str, options: InferenceOptions, *, quick: bool) -> dict[str, Any]:
    """Return what is to be said of the embedding of a file's cells."""
    from model import VerdictOptions, embed, judge_embedding, pca_of_counts, seen_before

    adata, cells = _open(path)
    numbers = np.arange(len(cells))
    if quick:
        numbers = np.sort(np.random.default_rng(SEED).permutation(numbers)[:300])
    found = embed(model, cells, numbers, options=options)
    obs, seen = adata.obs.iloc[numbers], seen_before(model.ledger, cells, numbers)
    parts = {token: found.part(token) for token in found.columns}
    said = judge_embedding(
        found.values, labels=obs["cell_type"], batches=obs[batch], baseline=pca_of_counts(adata.X[numbers]),
        parts=parts, options=VerdictOptions(draws=100 if quick else 1_000),
    )  # fmt: skip
    told = {str(row["part"]): row for row in said.variance.to_dict("records")}
    variance = {
        f"variance by {name}": f"{told['all'][name]:.2f} (PCA {told['baseline'][name]:.2f})"
        for name in ("label", "batch", "batch_within")
    }
    known = int(seen["trained"] + seen["validation"])
    row = {"table": "verdicts", "what": path.stem, "cells": len(numbers), "seen": known}
    return {**row, **variance, "text": said.sentence}
