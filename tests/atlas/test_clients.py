"""The field's own clients read the store unchanged and give back exactly what went in.

cellxgene-census and tiledbsoma-ml are the oracles: nobody here wrote them.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import cellxgene_census
import numpy as np
import pandas as pd
import pytest
import tiledbsoma as soma

from atlas import IngestOptions, consolidate, ingest, open_atlas, retract, schema
from catalog import make_release
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def inputs() -> dict[str, ad.AnnData]:
    return {
        "a": make_adata(70, 200, seed=1),
        "b": make_adata(50, 150, seed=2),
        "m": make_adata(30, 90, organism="mouse", seed=3),
    }


@pytest.fixture(scope="module")
def uri(inputs: dict[str, ad.AnnData], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clients")
    for name, adata in inputs.items():
        source = write_source(folder / f"{name}.h5ad", adata, id=name, organism="mouse" if name == "m" else "human")
        assert ingest(source, str(folder / "atlas"), IngestOptions(doublets=False)).status == "written"
    return str(folder / "atlas")


def exact(got: ad.AnnData, meant: ad.AnnData) -> None:
    """Compare by cell order and gene id."""
    columns = pd.Index(got.var["feature_id"]).get_indexer(meant.var_names)
    assert (got.X[:, columns] != meant.X).nnz == 0
    assert got.X.sum() == meant.X.sum()


def test_get_anndata_by_dataset(uri: str, inputs: dict[str, ad.AnnData]) -> None:
    with cellxgene_census.open_soma(uri=uri) as census:
        for name, meant in inputs.items():
            organism = "Mus musculus" if name == "m" else "Homo sapiens"
            got = cellxgene_census.get_anndata(census, organism, obs_value_filter=f"dataset_id == '{name}'")
            exact(got, meant)
            assert got.obs["donor_id"].astype(str).tolist() == meant.obs["donor_id"].tolist()


def test_get_obs_get_var_and_filters_on_categories(uri: str) -> None:
    with cellxgene_census.open_soma(uri=uri) as census:
        obs = cellxgene_census.get_obs(
            census, "homo_sapiens", value_filter="cell_type == 'B cell' and tissue in ['blood']"
        )
        assert len(obs) == 60
        assert set(obs["cell_type_ontology_term_id"]) == {"CL:0000236"}
        everything = cellxgene_census.get_obs(census, "homo_sapiens")
        assert list(everything.columns) == [f.name for f in schema.OBS]
        var = cellxgene_census.get_var(census, "homo_sapiens")
        assert {"feature_id", "feature_name", "feature_type", "feature_length", "nnz", "n_measured_obs"} <= set(var)


def test_presence_matrix_tells_unmeasured_from_zero(uri: str, inputs: dict[str, ad.AnnData]) -> None:
    with cellxgene_census.open_soma(uri=uri) as census:
        presence = cellxgene_census.get_presence_matrix(census, "homo_sapiens").tocsr()
        datasets = census["census_info"]["datasets"].read().concat().to_pandas().set_index("dataset_id")["soma_joinid"]
        var = cellxgene_census.get_var(census, "homo_sapiens")
    for name in "ab":
        measured = set(var["feature_id"][np.flatnonzero(presence[[int(datasets[name])]].toarray())])
        assert measured == set(inputs[name].var_names)


def test_highly_variable_genes_and_mean_variance_run(uri: str, inputs: dict[str, ad.AnnData]) -> None:
    from cellxgene_census.experimental.pp import mean_variance

    with (
        cellxgene_census.open_soma(uri=uri) as census,
        census["census_data"]["homo_sapiens"].axis_query(
            "RNA", obs_query=soma.AxisQuery(value_filter="dataset_id == 'a'")
        ) as q,
    ):
        stats = mean_variance(q, axis=0, calculate_mean=True)
        genes = q.var().concat().to_pandas().set_index("soma_joinid")["feature_id"]
    means = stats["mean"].set_axis(genes[stats.index]).reindex(inputs["a"].var_names)
    np.testing.assert_allclose(means, np.asarray(inputs["a"].X.mean(axis=0)).ravel(), rtol=1e-5)


def test_tiledbsoma_ml_streams_the_same_counts(uri: str, inputs: dict[str, ad.AnnData]) -> None:
    with (
        soma.Experiment.open(f"{uri}/census_data/homo_sapiens") as experiment,
        experiment.axis_query("RNA", obs_query=soma.AxisQuery(value_filter="dataset_id in ['a', 'b']")) as query,
    ):
        seen = streamed(query)
    meant = {
        n: s
        for k in "ab"
        for n, s in zip(inputs[k].obs_names, np.asarray(inputs[k].X.sum(axis=1)).ravel(), strict=True)
    }
    assert seen == meant


def test_the_whole_experiment_becomes_anndata_with_what_lies_beside_x(uri: str, inputs: dict[str, ad.AnnData]) -> None:
    """tiledbsoma's own exporter walks every obsp there is, and leaves alone what is no part of the SOMA schema."""
    import tiledbsoma.io

    with soma.Experiment.open(f"{uri}/census_data/homo_sapiens") as experiment:
        assert set(experiment.ms["RNA"]) == {"var", "X", "obsp", "records", "feature_dataset_presence_matrix"}
        got = tiledbsoma.io.to_anndata(experiment, "RNA", X_layer_name="raw", obs_id_name="cell_name")
    assert got.X.sum() == inputs["a"].X.sum() + inputs["b"].X.sum()
    meant = open_atlas(uri).neighbours("human", 0, 120)
    assert (got.obsp["neighbours"] != meant).nnz == 0


def test_members_have_relative_uris_so_the_tree_can_be_moved(
    uri: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(uri, moved)
    with cellxgene_census.open_soma(uri=str(moved)) as census:
        assert cellxgene_census.get_obs(census, "mus_musculus").shape[0] == 30
    assert open_atlas(str(moved)).query("mouse", every_cell=True).n_cells() == 30


def test_spatial_collection_exists_and_is_empty(uri: str) -> None:
    with cellxgene_census.open_soma(uri=uri) as census:
        assert len(census["census_spatial_sequencing"]) == 0
        facts = census["census_info"]["summary"].read().concat().to_pandas().set_index("label")["value"]
        assert facts["census_schema_version"] == "2.4.0"


def test_clients_read_an_old_release_after_all_that_may_come_after_it(
    uri: str, inputs: dict[str, ad.AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release, then another dataset, one taken out, and a consolidation of everything."""
    atlas = str(shutil.copytree(uri, tmp_path / "atlas"))
    release = make_release(atlas, "one", allow_leaks=True).manifest["tiledb_timestamp_ms"]
    more = write_source(tmp_path / "more.h5ad", make_adata(20, 60, seed=9), id="more")
    assert ingest(more, atlas, IngestOptions(doublets=False)).status == "written"
    retract(atlas, "a", "consent withdrawn")
    monkeypatch.setattr(sys.modules["atlas.consolidate"], "MOST_FRAGMENTS", 1)
    assert consolidate(atlas).status == "consolidated"
    sums = {
        name: {n: float(s) for n, s in zip(adata.obs_names, np.asarray(adata.X.sum(axis=1)).ravel(), strict=True)}
        for name, adata in (inputs | {"more": make_adata(20, 60, seed=9)}).items()
    }
    for moment, names in ((release, "ab"), (open_atlas(atlas).published_ms, ("b", "more"))):
        meant = {cell: total for name in names for cell, total in sums[name].items()}
        context = soma.SOMATileDBContext(timestamp=moment)
        with cellxgene_census.open_soma(uri=atlas, context=context) as census:
            got = cellxgene_census.get_anndata(census, "Homo sapiens")
            human = census["census_data"]["homo_sapiens"]
            assert dict(zip(got.obs["cell_name"], np.asarray(got.X.sum(axis=1)).ravel(), strict=True)) == meant
            with human.axis_query("RNA") as query:
                assert streamed(query) == meant


def streamed(query: soma.ExperimentAxisQuery) -> dict[str, float]:
    """Return the sum of each cell's counts, by its name, as tiledbsoma-ml gives them."""
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    dataset = ExperimentDataset(
        query, layer_name="raw", obs_column_names=["soma_joinid", "cell_name"], batch_size=16, shuffle=True, seed=1
    )
    seen = {}
    for x, obs in experiment_dataloader(dataset):
        seen |= dict(zip(obs["cell_name"], np.atleast_2d(x).sum(axis=1), strict=True))
    return seen
