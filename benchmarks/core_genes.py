"""Derive the fixed core of genes that a cell's second hash is taken over: ontology/data/core_genes.tsv, core-1.

Usage: python benchmarks/core_genes.py ../shared/data

The list is frozen: cells in released atlases are identified by it, so running this again is a check, not an update. A
better list would be core-2. A core gene must survive the gene filters that authors apply, hence: protein-coding,
neither mitochondrial nor ribosomal, in the gene list of every human file (panels below 5,000 genes aside) and of every
mouse file (likewise), under one symbol in both species, and detected in the largest share of cells, averaged over
human files so that no large file decides alone.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from ontology import CORE_VERSION, GeneTable, load_gene_table, resolve_genes

log = logging.getLogger("core_genes")

CORE_SIZE = 256
PANEL = 5_000
"""Files with fewer genes are targeted panels and say nothing about whole-transcriptome gene lists."""
SAME_CELLS = ("human_pbmc3k_labelled",)
"""Files whose cells are all in another file."""


def detection(path: Path, table: GeneTable) -> np.ndarray | None:
    """Return the share of cells that detect each gene of the table; NaN where the file does not list the gene."""
    cells = anndata.read_h5ad(path)
    if cells.n_vars < PANEL:
        return None
    second = cells.var["gene_ids"].astype(str).tolist() if "gene_ids" in cells.var else None
    placed = resolve_genes(cells.var_names.tolist(), table, fallback=second)
    raw = cells.raw.X if cells.raw is not None and cells.raw.shape[1] == cells.n_vars else cells.X
    shares = np.asarray((raw > 0).mean(axis=0)).ravel()
    found = np.full(len(table), np.nan)
    hit = placed.index >= 0
    np.fmax.at(found, placed.index[hit], shares[hit])
    log.info("%s: %d of %d genes placed", path.name, hit.sum(), cells.n_vars)
    return found


def all_files(folder: Path, organism: str, table: GeneTable) -> pd.DataFrame:
    """Return detection by gene and file for every whole-transcriptome file of an organism."""
    columns = {}
    for path in sorted(folder.glob(f"{organism}_*.h5ad")):
        if path.stem not in SAME_CELLS and (found := detection(path, table)) is not None:
            columns[path.stem] = found
    return pd.DataFrame(columns, index=table.ids)


def candidates(table: GeneTable) -> pd.Series:
    """Return upper-cased symbol by id of the genes that may be in the core."""
    assert table.mito is not None
    assert table.ribo is not None
    coding = (table.biotypes == "protein_coding") & ~table.mito & ~table.ribo & table.primary
    named = coding & (table.symbols != table.ids)
    symbols = pd.Series(np.char.upper(table.symbols[named]), index=table.ids[named])
    return symbols[~symbols.duplicated(keep=False)]


def derive(folder: Path) -> pd.DataFrame:
    """Return the core, the most widely detected gene first."""
    human, mouse = load_gene_table("human"), load_gene_table("mouse")
    seen, seen_mouse = all_files(folder, "human", human), all_files(folder, "mouse", mouse)
    log.info("%d human and %d mouse files", seen.shape[1], seen_mouse.shape[1])
    in_mouse = seen_mouse.index[seen_mouse.notna().all(axis=1)]
    partner = candidates(mouse)
    partner = pd.Series(partner.index, index=partner.to_numpy())[lambda s: s.isin(in_mouse)]
    symbols = candidates(human)
    symbols = symbols[symbols.isin(partner.index)]
    kept = seen.loc[symbols.index].dropna()
    ranked = kept.mean(axis=1).round(6).sort_values(ascending=False, kind="stable").head(CORE_SIZE)
    frame = pd.DataFrame({"human_id": ranked.index, "human_symbol": symbols[ranked.index].to_numpy()})
    frame["mouse_id"] = partner[frame["human_symbol"]].to_numpy()
    log.info("detection of the last gene kept: %.3f", ranked.iloc[-1])
    return frame


def main() -> int:
    """Print the derived list's difference from the shipped one; 0 where there is none."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    target = Path(__file__).resolve().parents[1] / "ontology" / "data" / "core_genes.tsv"
    frame = derive(Path(sys.argv[1]))
    if not target.exists():
        header = f"# {CORE_VERSION}: {CORE_SIZE} widely detected genes, frozen. Derived by benchmarks/core_genes.py.\n"
        target.write_text(header + frame.to_csv(sep="\t", index=False), encoding="utf-8")
        log.info("wrote %s", target)
        return 0
    shipped = pd.read_csv(target, sep="\t", comment="#")
    changed = set(shipped["human_id"]) ^ set(frame["human_id"])
    log.info("%d genes differ from the shipped %s", len(changed), CORE_VERSION)
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
