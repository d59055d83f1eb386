"""Hand-made copies of the big corpora, in the layout their documentation gives; no value in them is the corpora's.

Layouts: scBaseCount README and Python tutorial (ArcInstitute/arc-virtual-cell-atlas), Tahoe-100M README and tutorial
(same), file names and columns of ChengxiangQiu/JAX_code. Counts and genes are of `tests.factories`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tests.factories import make_adata

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = [  # accession, lib_prep, tech_10x, cell_prep, tissue, disease, collection
    ("SRX0000001", "10x_Genomics", "3_prime_gex", "single_cell", "lung", "COVID-19", None),
    ("SRX0000002", "10x_Genomics", "5_prime_gex", "single_nucleus", "other", "normal", None),
    ("SRX0000003", "10x_Genomics", "cellplex", "single_cell", "blood", "normal", None),
    ("SRX0000004", "10x_Genomics", "3_prime_gex", "single_cell", "blood", "normal", "73f82ac8-15cc"),
    ("SRX0000005", "other", "not_applicable", "unsure", "blood", "normal", None),
    ("SRX0000006", "10x_Genomics", "multiome", "unsure", "not specified", "unsure", None),
    ("SRX0000007", "10x_Genomics", "3_prime_gex", "single_cell", "blood", "normal", None),  # its file is not copied
]


def make_scbasecount(root: Path, n_cells: int = 12) -> Path:
    """Write a sample table and the files of six of its seven samples."""
    place = "GeneFull_Ex50pAS/Homo_sapiens"
    columns = ("srx_accession", "lib_prep", "tech_10x", "cell_prep", "tissue", "disease", "czi_collection_id")
    table = pd.DataFrame(SAMPLES, columns=list(columns))
    table["entrez_id"] = range(29110015, 29110015 + len(table))
    table["file_path"] = [f"gs://arc-scbasecount/2025-02-25/h5ad/{place}/{a}.h5ad" for a in table["srx_accession"]]
    table["obs_count"] = n_cells
    table = table.assign(organism="Homo sapiens", perturbation="untreated", cell_line="not applicable")
    for part in ("metadata", "h5ad"):
        (root / part / place).mkdir(parents=True)
    table.to_parquet(root / "metadata" / place / "sample_metadata.parquet")
    for seed, accession in enumerate(table["srx_accession"][:-1]):
        adata = make_adata(n_cells, 120, seed=seed)
        adata.obs = pd.DataFrame({"gene_count": 1, "umi_count": 2, "SRX_accession": accession}, index=adata.obs_names)
        adata.write_h5ad(root / "h5ad" / place / f"{accession}.h5ad")
    return root


def make_tahoe(root: Path, n_cells: int = 12) -> Path:
    """Write two plates."""
    (root / "h5ad").mkdir(parents=True)
    for plate in (1, 2):
        adata = make_adata(n_cells, 120, seed=plate)
        lines = np.where(np.arange(n_cells) % 2, "CVCL_1478", "CVCL_0459")
        adata.obs = pd.DataFrame(
            {
                "sample": [f"smp_{1494 + plate}" if i < 6 else f"smp_{2494 + plate}" for i in range(n_cells)],
                "drug": "Infigratinib", "drugname_drugconc": "[('Infigratinib', 0.05, 'uM')]", "cell_line": lines,
                "cell_name": np.where(np.arange(n_cells) % 2, "NCI-H1573", "NCI-H460"), "plate": f"plate{plate}",
                "pass_filter": "full", "phase": "G1",
            },
            index=pd.Index([f"01_001_{i:03d}-lib_{1000 + plate}" for i in range(n_cells)], name="BARCODE_SUB_LIB_ID"),
        )  # fmt: skip
        adata.write_h5ad(root / "h5ad" / f"plate{plate}_filt_Vevo_Tahoe100M_WServicesFrom_ParseGigalab.h5ad")
    return root


def make_mouse_development(root: Path, n_cells: int = 12) -> Path:
    """Write two of the four files, and the table of cells, which lacks the last cell of the second."""
    root.mkdir(parents=True)
    tables = []
    for number in (1, 2):
        adata = make_adata(n_cells, 120, organism="mouse", seed=number)
        adata.obs_names = [f"run_{number}.P{i:03d}" for i in range(n_cells)]
        day = np.array(["E8.0-E8.5", "E9.25", "E12.5", "P0"])[np.arange(n_cells) % 4]
        tables.append(
            pd.DataFrame(
                {
                    "cell_id": adata.obs_names, "day": day, "somite_count": "", "embryo_id": f"embryo_{number}",
                    "embryo_sex": np.where(np.arange(n_cells) % 2, "F", "M"),
                    "major_trajectory": "Mesoderm", "celltype_update": "hepatocyte",
                }
            )
        )  # fmt: skip
        adata.obs = pd.DataFrame({"embryo_id": f"embryo_{number}", "day_id": day}, index=adata.obs_names)
        adata.write_h5ad(root / f"adata_JAX_dataset_{number}.h5ad")
    pd.concat(tables).iloc[:-1].to_csv(root / "df_cell.csv", index=False)
    return root
