"""A network in an atlas comes back exactly, in parts, to official clients too; it is there whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import tiledbsoma as soma

from atlas import (
    AtlasInputError,
    IngestOptions,
    ResultKey,
    content_hash,
    ingest,
    layout,
    list_networks,
    open_atlas,
    stored_networks,
    validate,
)
from atlas.model_results import MatrixWriter
from model import GeneNetwork, ModelInputError, load_stored_network, network_key, store_network
from tests.factories import make_adata, write_source
from tests.model.small_network import random_network, same

pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("networks")
    options = IngestOptions(doublets=False, neighbours=False)
    assert (
        ingest(write_source(folder / "a.h5ad", make_adata(30, 60)), str(folder / "atlas"), options).status == "written"
    )
    return str(folder / "atlas")


def network(uri: str, **said: object) -> GeneNetwork:
    """Return a network of genes of the atlas, in another order than the atlas has them."""
    made = random_network(**said)
    table = open_atlas(uri).genes("human")
    some = table["feature_id"].to_numpy(dtype=object)[np.random.default_rng(4).permutation(len(table))[:30]]
    names = table.set_index("feature_id")["feature_name"]
    facts = {**made.facts, "feature_names": {gene: names[gene] for gene in some}}
    said = {name: getattr(made, name) for name in ("readout", "organism", "population", "cells")}
    return GeneNetwork(tuple(some), made.weights, facts=facts, layers=made.layers, **said)


def test_a_network_comes_back_exactly_and_in_parts(uri: str) -> None:
    before, made = content_hash(open_atlas(uri)), network(uri)
    key = store_network(open_atlas(uri), made, "r1")
    assert str(key) == "grn-pearson/r1/none/cell_type=CL:0000084"
    atlas = open_atlas(uri)
    (stored,) = list_networks(atlas, "human")
    assert (stored.key, stored.layers) == (key, ("q_value", "sign"))
    assert same(load_stored_network(atlas, stored), made)
    some = [made.genes[number] for number in (7, 2, 29, 11)]
    part, whole = load_stored_network(atlas, stored, some), made.subset(some)
    assert np.array_equal(part.weights.toarray(), whole.weights.toarray())
    assert part.genes == tuple(some)
    with pytest.raises(ModelInputError):
        load_stored_network(atlas, stored, ["stranger"])
    assert content_hash(atlas) == before  # networks follow from cells, they are none
    assert not validate(uri).findings


def test_official_clients_read_it_at_the_moment_that_is_published(uri: str) -> None:
    made = network(uri, population="official")
    store_network(open_atlas(uri), made, "r1")
    atlas = open_atlas(uri)
    stored = next(one for one in list_networks(atlas) if one.key.population == "official")
    with (
        soma.Experiment.open(f"{uri}/census_data/homo_sapiens", tiledb_timestamp=atlas.published_ms) as experiment,
        experiment.axis_query("RNA", var_query=soma.AxisQuery(value_filter=_named(made.genes))) as query,
    ):
        adata = query.to_anndata("raw", varp_layers=list(stored.members))
    ids = adata.var["feature_id"].tolist()
    whole = made.subset(ids)
    assert np.array_equal(adata.varp[stored.key.member].toarray(), whole.weights.toarray())
    signs = adata.varp[stored_networks.layer_key(stored.key, "sign").member].toarray()
    assert np.array_equal(signs, whole.layers["sign"].toarray())


def test_what_has_its_name_is_only_replaced_where_that_is_asked(uri: str) -> None:
    made = network(uri, population="twice")
    store_network(open_atlas(uri), made, "r1")
    before = open_atlas(uri)
    with pytest.raises(AtlasInputError, match="twice"):
        store_network(before, made, "r1")
    other = made.kept(np.arange(len(made)) % 2 == 0)
    store_network(before, other, "r1", force=True)
    now = [one for one in list_networks(open_atlas(uri)) if one.key.population == "twice"]
    assert len(now) == 1
    assert same(load_stored_network(open_atlas(uri), now[0]), other)
    then = open_atlas(uri, at=before.published_ms)
    (earlier,) = [one for one in list_networks(then) if one.key.population == "twice"]
    assert same(load_stored_network(then, earlier), made)


def test_a_writer_that_fails_between_two_arrays_leaves_nothing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = open_atlas(uri), []
    append = MatrixWriter.append_sparse

    def fail(writer: MatrixWriter, matrix: object) -> None:
        calls.append(matrix)
        if len(calls) == 2:
            raise OSError("the disk is full")
        append(writer, matrix)  # type: ignore[arg-type]

    monkeypatch.setattr(MatrixWriter, "append_sparse", fail)
    with pytest.raises(OSError, match="full"):
        store_network(before, network(uri, population="lost"), "r1")
    monkeypatch.undo()
    after = open_atlas(uri)
    assert after.published_ms == before.published_ms
    assert list_networks(after) == list_networks(before)
    with soma.Collection.open(f"{uri}/census_data/homo_sapiens/{layout.VARP}") as varp:
        assert not [name for name in varp if "lost" in name]


def test_numbers_that_would_change_and_strange_genes_are_refused(uri: str) -> None:
    made = network(uri, population="refused")
    with pytest.raises(ModelInputError, match="float32"):
        store_network(open_atlas(uri), made.with_layer("p", np.full(len(made), 0.1)), "r1")
    with pytest.raises(ModelInputError, match="atlas"):
        store_network(open_atlas(uri), random_network(), "r1")


def test_the_model_of_a_key_is_what_the_facts_say(uri: str) -> None:
    made = random_network(readout="mean_product", facts={"model": "ab" * 32})
    assert network_key(made, "r1") == ResultKey("grn-mean_product", "r1", "ab" * 6, "cell_type=CL:0000084")


def _named(genes: tuple[str, ...]) -> str:
    return f"feature_id in {list(genes)}"
