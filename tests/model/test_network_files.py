"""A network comes back from a file as it went in, and a hostile or damaged file ends in an error that says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas import ContractError
from model import (
    GeneNetwork,
    ModelInputError,
    network_from_anndata,
    network_from_table,
    network_to_anndata,
    network_to_table,
    read_network,
    write_network,
)
from tests.model.small_network import of_edges, random_network, same

if TYPE_CHECKING:
    from pathlib import Path

EMPTY = random_network(edges=1).kept(np.zeros(1, bool))
UNKNOWN = random_network().with_layer("iptm", np.where(np.arange(120) % 2, np.nan, 0.5).astype(np.float32))


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet"])
@pytest.mark.parametrize("network", [random_network(), EMPTY, UNKNOWN], ids=["random", "empty", "unknown"])
def test_a_network_comes_back_exactly(tmp_path: Path, network: GeneNetwork, suffix: str) -> None:
    file = tmp_path / f"network{suffix}"
    write_network(network, file)
    assert same(read_network(file), network)
    assert read_network(file).digest == network.digest


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet"])
def test_equal_networks_have_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        write_network(random_network(), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_anndata_has_regulators_in_rows_and_names_where_they_are_known(tmp_path: Path) -> None:
    for wrong in (["GATA1"], "GATA1", {"a": ["GATA1"]}):
        with pytest.raises(ModelInputError, match="feature_names"):
            network_to_anndata(of_edges([("a", "b", 2.0)], facts={"feature_names": wrong}))
    network = of_edges([("a", "b", 2.0)], facts={"feature_names": {"a": "GATA1"}})
    write_network(network, tmp_path / "n.h5ad")
    adata = ad.read_h5ad(tmp_path / "n.h5ad")
    assert adata.varp["grn"].toarray().tolist() == [[0, 2], [0, 0]]
    assert adata.var["feature_name"].tolist() == ["GATA1", "b"]
    assert same(network_from_anndata(adata), network)


def test_a_network_survives_what_people_do_to_an_anndata(tmp_path: Path) -> None:
    adata = network_to_anndata(random_network())
    adata.var["mine"] = 1
    adata.uns["other"] = {"a": 1}
    adata.write_h5ad(tmp_path / "n.h5ad")
    assert same(read_network(tmp_path / "n.h5ad"), random_network())


def test_rows_of_a_table_may_stand_in_any_order() -> None:
    table = network_to_table(random_network())
    mixed = table.take(np.random.default_rng(0).permutation(len(table)))
    assert same(network_from_table(mixed), random_network())
    assert table.column_names == ["regulator", "target", "weight", "q_value", "sign"]
    assert table.column("sign").type == pa.int8()


def test_a_table_that_says_an_edge_twice_is_refused() -> None:
    table = network_to_table(random_network())
    with pytest.raises(ModelInputError, match="once"):
        network_from_table(pa.concat_tables([table, table.slice(0, 1)]))


def test_a_table_with_a_gene_its_facts_lack_is_refused() -> None:
    table = network_to_table(random_network())
    other = table.set_column(0, "regulator", pa.array(["stranger"] * len(table)))
    with pytest.raises(ModelInputError, match="another gene"):
        network_from_table(other)


def _facts(change: dict[str, object]) -> pa.Table:
    table = network_to_table(random_network())
    said = json.loads(table.schema.metadata[b"panatlas_grn"]) | change
    return table.replace_schema_metadata({b"panatlas_grn": json.dumps(said).encode()})


@pytest.mark.parametrize(
    "table",
    [
        network_to_table(random_network()).replace_schema_metadata({}),
        network_to_table(random_network()).replace_schema_metadata({b"panatlas_grn": b"{"}),
        network_to_table(random_network()).replace_schema_metadata({b"panatlas_grn": b"[" * 100_000}),
        network_to_table(random_network()).drop_columns(["weight"]),
        network_to_table(random_network()).drop_columns(["sign"]),
        _facts({"genes": [1, 2]}),
        _facts({"readout": None}),
        _facts({"cells": "many"}),
        _facts({"genes": ["a", "a"]}),
        pa.table({"a": [1]}),
    ],
)
def test_a_file_that_is_no_network_says_so(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "n.parquet")
    with pytest.raises(ModelInputError):
        read_network(tmp_path / "n.parquet")


@pytest.mark.parametrize("name", ["n.h5ad", "n.parquet", "n.csv", "none.h5ad"])
def test_damaged_and_absent_files_say_so(tmp_path: Path, name: str) -> None:
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"PAR1 nothing")
    with pytest.raises((ModelInputError, ContractError)):
        read_network(tmp_path / name)


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet"])
def test_a_cut_or_changed_file_is_never_a_bare_error(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"n{suffix}"
    write_network(random_network(), file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for turn in range(60):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + turn % 8):
            changed[place] = rng.integers(256)
        file.write_bytes(changed[: len(whole) if turn % 3 else int(rng.integers(len(whole)))])
        try:
            read_network(file)
            outcomes.add("read")
        except (ModelInputError, ContractError):
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_an_h5ad_whose_matrix_lies_in_another_file_is_refused(tmp_path: Path) -> None:
    write_network(random_network(), tmp_path / "n.h5ad")
    write_network(random_network(), tmp_path / "other.h5ad")
    with h5py.File(tmp_path / "n.h5ad", "a") as file:
        del file["varp/grn/data"]
        file["varp/grn/data"] = h5py.ExternalLink("other.h5ad", "varp/grn/data")
    with pytest.raises(ContractError, match="link"):
        read_network(tmp_path / "n.h5ad")


def test_places_beyond_the_matrix_are_refused(tmp_path: Path) -> None:
    write_network(random_network(), tmp_path / "n.h5ad")
    with h5py.File(tmp_path / "n.h5ad", "a") as file:
        file["varp/grn/indices"][...] = 10_000
    with pytest.raises(ModelInputError):
        read_network(tmp_path / "n.h5ad")
