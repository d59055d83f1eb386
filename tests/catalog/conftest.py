"""A small atlas of made-up cells, written through the atlas floor's own writers, without sources or network."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from atlas import Atlas, Receipt, layout, open_atlas, schema, store, summaries, write
from atlas.ledger import Ledger, now_ms
from ontology import get_organism, make_gene_table

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {
    "cell_type": [("T cell", "CL:0000084"), ("fibroblast of lung", "CL:0002553"), ("B cell", "CL:0000236")],
    "tissue": [("lung", "UBERON:0002048"), ("lung", "UBERON:0002048"), ("blood", "UBERON:0000178")],
    "disease": [("normal", "PATO:0000461"), ("asthma || influenza", "MONDO:0004979 || MONDO:0005812")],
    "assay": [("10x 3' v3", "EFO:0009922")],
    "sex": [("female", "PATO:0000383"), ("male", "PATO:0000384"), ("unknown", "unknown")],
    "development_stage": [("unknown", "unknown")],
    "self_reported_ethnicity": [("unknown", "unknown")],
}


def make_obs(dataset_id: str, organism: str, n: int, *, first: int = 0, donors: int = 3) -> pd.DataFrame:
    """Return a dataset's rows of obs, the same every time."""
    org = get_organism(organism)
    rows = np.arange(n)
    columns: dict[str, object] = {}
    for field in schema.OBS:
        base = field.name.removesuffix("_ontology_term_id")
        if base in LABELS:
            which = int(field.name != base)
            columns[field.name] = [LABELS[base][i % len(LABELS[base])][which] for i in rows]
        elif field.type in (schema.CATEGORY, schema.TEXT):
            columns[field.name] = [""] * n
        else:
            columns[field.name] = np.zeros(n, field.type.to_pandas_dtype())
    obs = pd.DataFrame(columns)
    return obs.assign(
        soma_joinid=first + rows,
        dataset_id=dataset_id,
        organism=org.label,
        organism_ontology_term_id=org.term_id,
        author_cell_type=[f"Cluster {i % 4}, =1+1 [red]" for i in rows],
        donor_id=[f"donor{i % donors}" for i in rows],
        is_primary_data=rows % 10 != 9,
        observation_joinid=[hashlib.md5(f"{dataset_id} {i}".encode()).hexdigest() for i in rows],
        count_hash=[hashlib.md5(f"counts {dataset_id} {i}".encode()).hexdigest() for i in rows],
        nnz=100 + rows,
        raw_sum=200.0 + rows,
        pct_mito=np.where(rows % 5 == 0, np.nan, rows % 7).astype(np.float32),
        qc_pass=rows % 4 != 3,
        qc_flags=np.where(rows % 4 != 3, "", "low-counts"),
        n_measured_vars=4,
        source_row=rows,
    )


def add_dataset(root: Path, dataset_id: str, organism: str, n: int, **options: int) -> pd.DataFrame:
    """Append a dataset of `n` made-up cells to the atlas at `root` and publish it; X stays empty."""
    org = get_organism(organism)
    genes = pd.DataFrame({"id": [f"G{i}" for i in range(4)], "symbol": list("abcd"), "biotype": "protein_coding"})
    with Ledger(root / store.LEDGER / "ledger.sqlite") as ledger:
        if not store.exists(root):
            store.create(root)
        store.add_organism(root, org, make_gene_table(org, genes, "test 1"))
        digest = hashlib.sha256(dataset_id.encode()).hexdigest()
        row = ledger.reserve(
            dataset_id, org.experiment, n, input_sha256=digest, content_sha256=digest, declaration=digest
        )
        obs = make_obs(dataset_id, organism, n, first=row.first_joinid, **options)
        store.grow_array(store.array_uri(root, org.experiment, layout.X_RAW), row.first_joinid + n)
        write.write_obs(root, row, obs)
        _write_tables(root, row, obs, org.label, dt.date(2026, 1, 2).isoformat())
        store.tick()
        receipt = Receipt(dataset_id, org.name, "written", "made", dataset_id=dataset_id)
        ledger.publish(dataset_id, now_ms(), receipt)
    return obs


def _write_tables(root, row, obs, label, built_on) -> None:
    """Write census_info as an ingest does, from values a source would have."""
    values = {f.name: "" for f in schema.DATASETS} | {
        "soma_joinid": row.dataset_joinid,
        "dataset_id": row.dataset_id,
        "dataset_title": f"Title of {row.dataset_id}",
        "dataset_total_cell_count": row.n_cells,
        "organism": label,
        "licence": "CC0",
        "dataset_version_id": row.content_sha256,
    }
    uri = str(root / layout.INFO / "datasets")
    store.write_frame(uri, schema.DATASETS, [[values[f.name]] for f in schema.DATASETS])
    summaries.add_to_summaries(root, row, obs, built_on)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[Atlas, pd.DataFrame]:
    """An atlas of two organisms and three datasets, and its obs as written; read it, do not add to it."""
    root = tmp_path_factory.mktemp("small") / "an atlas's folder"
    parts = [
        add_dataset(root, "lungs", "human", 120),
        add_dataset(root, "bloods", "human", 40, donors=7),
        add_dataset(root, "mice", "mouse", 30),
    ]
    return open_atlas(str(root)), pd.concat(parts, ignore_index=True)


@pytest.fixture
def grow():
    """Return the function that adds a dataset of made-up cells to an atlas."""
    return add_dataset


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch) -> None:
    """Keep every test's home and cache to itself."""
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path_factory.mktemp("home")))
