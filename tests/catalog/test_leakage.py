"""The guard finds the equal cells that were planted between splits, all of them and no other; sources really ingested.

Expected numbers are counted in pandas over obs as tiledbsoma reads it.
"""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import Atlas, IngestOptions, ingest, open_atlas
from catalog import make_release
from catalog.leakage import Leaks, find_faults
from catalog.splits import Population, SplitPlan, assign_splits, split_of
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

GENES = 300
PINS = {"train": ["dataset:one"], "test": ["dataset:two"], "validation": ["dataset:three"]}


def build(folder: Path, datasets: dict[str, ad.AnnData], **fields: object) -> Atlas:
    """Ingest datasets of human cells, one after the other."""
    for name, adata in datasets.items():
        source = write_source(folder / f"{name}.h5ad", adata, id=name, **fields)
        assert ingest(source, str(folder / "atlas"), IngestOptions(doublets=False)).status == "written"
    return open_atlas(str(folder / "atlas"))


def again(adata: ad.AnnData, rows: slice, name: str) -> ad.AnnData:
    """Return some of the cells under other names, as a second study republishes them."""
    copy = adata[rows].copy()
    copy.obs_names = [f"{name}{i}" for i in range(copy.n_obs)]
    return copy


def obs_of(atlas: Atlas) -> pd.DataFrame:
    with soma.Experiment.open(f"{atlas.uri}/census_data/homo_sapiens") as experiment:
        return experiment.obs.read().concat().to_pandas()


def call_primary(atlas: Atlas, dataset: str) -> None:
    """Set is_primary_data of a dataset's cells by the official client, as a curator might who trusts its source."""
    uri = f"{atlas.uri}/census_data/homo_sapiens/obs"
    with soma.DataFrame.open(uri) as frame:
        rows = frame.read(value_filter=f"dataset_id == '{dataset}'").concat()
    column = rows.schema.get_field_index("is_primary_data")
    rows = rows.set_column(column, "is_primary_data", [np.ones(len(rows), dtype=bool)])
    with soma.DataFrame.open(uri, "w", tiledb_timestamp=atlas.published_ms) as frame:
        frame.write(rows)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """An atlas whose second dataset holds 25 cells of the first again; 5 of them have too few genes to tell."""
    first = make_adata(60, GENES, seed=1)
    counts = first.X.toarray()
    counts[:5, 20:] = 0
    counts[:5, 0] = 1
    first.X = sp.csr_matrix(counts)
    second = again(first, slice(0, 25), "again")
    return build(
        tmp_path_factory.mktemp("copied"), {"one": first, "two": second, "three": make_adata(40, GENES, seed=3)}
    )


def test_copies_in_another_split_are_counted_and_told(copied):
    obs = obs_of(copied)
    copies = obs[obs["qc_pass"] & ~obs["is_primary_data"]]
    assert len(copies) == 20, "the shallow ones are no proof of a copy"
    made = make_release(copied, "r", pins=PINS, dry_run=True)
    assert made.status == "planned"
    leakage = made.manifest["split"]["leakage"]
    assert (leakage["copies"], leakage["primary_cells"], leakage["min_genes"]) == (20, 0, 24)
    told = next(f for f in made.findings if f.code == "copies-across-splits")
    assert told.count == 20
    assert "one/donor0 (train) and two/donor0 (test)" in told.found
    beside = make_release(copied, "r", pins={"train": ["dataset:one", "dataset:two"]}, dry_run=True)
    assert beside.manifest["split"]["leakage"]["copies"] == 0
    assert "copies-across-splits" not in {f.code for f in beside.findings}


def test_equal_cells_to_load_in_two_splits_are_refused_until_they_are_beside_each_other(copied, tmp_path):
    import shutil

    shutil.copytree(copied.uri, tmp_path / "atlas")
    shutil.rmtree(tmp_path / "atlas" / "tables", ignore_errors=True)
    atlas = open_atlas(str(tmp_path / "atlas"))
    call_primary(atlas, "two")
    obs = obs_of(atlas)
    to_load = obs[obs["qc_pass"] & obs["is_primary_data"] & (obs["nnz"] >= 24)]
    twice = to_load[to_load.duplicated("count_hash", keep=False)]
    assert set(twice["dataset_id"]) == {"one", "two"}
    refused = make_release(atlas, "r", pins=PINS)
    assert refused.status == "rejected"
    assert not refused.folder.exists()
    assert refused.manifest["split"]["leakage"]["primary_cells"] == len(twice) == 40
    told = refused.findings[0]
    assert (told.code, told.severity, told.count) == ("leaking-cells", "error", 40)
    assert "--train donor:one/donor0 --train donor:two/donor0" in told.remedy
    assert refused.to_dict()["findings"][0]["code"] == "leaking-cells"

    allowed = make_release(atlas, "r", pins=PINS, allow_leaks=True)
    assert (allowed.status, allowed.findings[0].severity) == ("written", "warning")
    assert allowed.manifest["split"]["leakage"]["primary_cells"] == 40
    assert make_release(atlas, "r", pins=PINS).status == "rejected", "the name does not make it right"

    beside = PINS | {"train": ["dataset:one", "donor:two/donor0", "donor:two/donor1", "donor:two/donor2"]}
    cured = make_release(atlas, "cured", pins=beside)
    assert cured.status == "written"
    assert cured.manifest["split"]["leakage"]["primary_cells"] == 0
    splits = pq.read_table(cured.folder / "splits.parquet").to_pandas()
    joined = splits.merge(obs, left_on="cell_id", right_on="observation_joinid", suffixes=("", "_obs"))
    told_apart = joined[joined["nnz"] >= 24].groupby("count_hash")["split"].nunique()
    assert told_apart.max() == 1


def test_a_copy_with_fewer_genes_is_known_by_its_core(tmp_path):
    from ontology import load_gene_table

    first = make_adata(40, GENES, seed=5)
    table = load_gene_table("human")
    core = pd.Index(table.ids).get_indexer(first.var_names)
    kept = np.asarray(table.core)[core] | (np.arange(first.n_vars) < 250)  # a re-filtered copy loses no core gene
    second = again(first, slice(0, 12), "again")[:, kept].copy()
    atlas = build(tmp_path, {"one": first, "two": second})
    obs = obs_of(atlas)
    copies = obs[(obs["dataset_id"] == "two") & ~obs["is_primary_data"] & obs["qc_pass"]]
    assert len(copies)
    assert not set(copies["count_hash"]) & set(obs.loc[obs["dataset_id"] == "one", "count_hash"])
    pins = {"train": ["dataset:one"], "test": ["dataset:two"]}
    leakage = make_release(atlas, "r", pins=pins, dry_run=True).manifest["split"]["leakage"]
    assert leakage["copies"] == len(copies)


def test_a_donor_of_two_datasets_of_one_publication_is_one_group(tmp_path):
    one, two = (make_adata(30, GENES, seed=s) for s in (7, 8))
    atlas = build(tmp_path, {"one": one}, doi="10.1101/2020.01.01")
    atlas = build(tmp_path, {"two": two}, doi="https://doi.org/10.1101/2020.01.01")
    atlas = build(tmp_path, {"three": make_adata(30, GENES, seed=9)}, doi="10.1101/another")
    for seed in range(5):
        for by in ("donor", "dataset"):
            made = make_release(atlas, f"{by}-{seed}", split_by=by, seed=seed)
            splits = pq.read_table(made.folder / "splits.parquet").to_pandas()
            obs = obs_of(atlas)[["observation_joinid", "dataset_id", "donor_id"]]
            both = splits.merge(obs, left_on="cell_id", right_on="observation_joinid")
            same = both[both["dataset_id"].isin(["one", "two"])]
            assert (
                same.groupby("donor_id" if by == "donor" else "organism", observed=True)["split"].nunique() == 1
            ).all()
    told = next(f for f in make_release(atlas, "r", dry_run=True).findings if f.code == "joined-datasets")
    assert (told.severity, told.count) == ("info", 3)
    assert "doi:10.1101%2F2020.01.01/Homo sapiens/donor0" in told.found
    assert make_release(atlas, "r", dry_run=True).manifest["split"]["leakage"]["joined_groups"] == 3


def test_cells_of_unknown_donors_stay_together_and_are_told(tmp_path):
    named, nameless = make_adata(30, GENES, seed=1), make_adata(30, GENES, seed=2)
    del nameless.obs["donor_id"]
    atlas = build(tmp_path, {"named": named, "nameless": nameless})
    made = make_release(atlas, "r")
    splits = pq.read_table(made.folder / "splits.parquet").to_pandas()
    assert (splits["split_group"] == "nameless/unknown").sum() == 30
    assert splits.loc[splits["split_group"] == "nameless/unknown", "split"].nunique() == 1
    told = next(f for f in made.findings if f.code == "unknown-donors")
    assert told.count == made.manifest["split"]["leakage"]["unknown_donor_cells"] == 30
    assert "nameless" in told.found
    by_dataset = make_release(atlas, "by-dataset", split_by="dataset")
    assert "unknown-donors" not in {f.code for f in by_dataset.findings}


def test_an_empty_split_says_what_to_pin_and_the_pins_fill_it(tmp_path):
    atlas = build(tmp_path, {"one": make_adata(40, GENES, seed=1), "two": make_adata(30, GENES, seed=2)})
    groups = [(dataset, f"donor{i}") for dataset in ("one", "two") for i in range(3)]
    seed = next(s for s in range(1000) if {split_of(s, group) for group in groups} == {"train"})
    made = make_release(atlas, "r", seed=seed, dry_run=True)
    empty = [f for f in made.findings if f.code == "empty-split"]
    assert [f.where for f in empty] == ["split validation", "split test"]
    pins = {}
    for finding in empty:
        flag, pin = finding.remedy.split("e.g. --")[1].split(",")[0].split(" ")
        pins[flag] = [pin]
    assert pins["validation"] != pins["test"]
    filled = make_release(atlas, "r", seed=seed, pins=pins)
    assert not [f for f in filled.findings if f.code == "empty-split"]
    assert min(filled.manifest["split"]["loadable"].values()) > 0
    assert filled.manifest["split"]["pinned"] == {"train": []} | pins


def test_one_group_alone_cannot_be_shared_out(tmp_path):
    adata = make_adata(30, GENES, seed=1)
    adata.obs["donor_id"] = "ada"
    made = make_release(build(tmp_path, {"one": adata}), "r")
    empty = [f for f in made.findings if f.code == "empty-split"]
    assert len(empty) == 2
    assert all("none can be spared" in f.remedy for f in empty)


TWO = [Population("Homo sapiens", dataset, "ada b", "", 10, 10) for dataset in ("one", "two")]


def advice(pins: dict[str, list[str]]) -> tuple[str, dict[str, list[str]]]:
    """Return the remedy for equal cells of `TWO`, and the pins it proposes by split."""
    places = assign_splits(SplitPlan("donor", 0, pins), TWO)
    assert places[0].split != places[1].split
    remedy = find_faults(Leaks(2, 0, ((0, 1, 2),), ()), places, "donor", allow_leaks=False)[0].remedy
    words = shlex.split(remedy.partition("(")[2].partition(")")[0])
    proposed: dict[str, list[str]] = {}
    for flag, pin in itertools.pairwise(words):
        if flag.startswith("--"):
            proposed.setdefault(flag[2:], []).append(pin)
    return remedy, proposed


@pytest.mark.parametrize("pinned", [("test", "donor:one/ada b"), ("test", "donor:two/ada b"), ("test", "dataset:two")])
def test_the_pins_that_cure_a_leak_agree_with_those_given(pinned):
    given = {pinned[0]: [pinned[1]]}
    _, proposed = advice(given)
    both = {name: given.get(name, []) + proposed.get(name, []) for name in {*given, *proposed}}
    cured = assign_splits(SplitPlan("donor", 0, both), TWO)
    assert cured[0].split == cured[1].split


def test_two_donors_pinned_apart_are_told_which_pin_to_change():
    remedy, proposed = advice({"train": ["donor:one/ada b"], "test": ["donor:two/ada b"]})
    assert "--train 'donor:two/ada b' in the place of --test 'donor:two/ada b'" in remedy
    assert proposed == {"train": ["donor:two/ada b"], "test": ["donor:two/ada b"]}


@pytest.mark.parametrize(("publication", "severity"), [("doi:10.1/x", "warning"), ("", "info")])
def test_unknown_donors_beside_named_ones_of_the_study_in_another_split_are_a_warning(publication, severity):
    cells = [
        Population("Homo sapiens", "one", "ada", publication, 10, 10),
        Population("Homo sapiens", "two", "unknown", publication, 7, 7),
    ]
    for test, expected in (("donor:two/unknown", severity), (None, "info")):
        pins = {"train": ["donor:one/ada"] + ([] if test else ["donor:two/unknown"]), "test": [test] if test else []}
        places = assign_splits(SplitPlan("donor", 0, pins), cells)
        told = [f for f in find_faults(Leaks(0, 0, (), ()), places, "donor", allow_leaks=False) if "unknown" in f.code]
        assert [(f.severity, f.count) for f in told] == [(expected, 7)]
