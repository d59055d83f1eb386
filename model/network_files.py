"""Gene networks in files: an AnnData whose genes are the variables, or a table with a row per edge.

AnnData holds the weights in `varp["grn"]`, each layer in `varp["grn_" + layer]` and everything else as JSON in
`uns["grn"]`, where scverse tools find and keep them. The Parquet file is what tables are joined with: regulator,
target, weight, a column per layer, strongest edge first; its schema carries the same JSON and the genes in order. Both
give back the very network. Files are untrusted: sizes are bounded before anything is read, and nothing is unpickled.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from .errors import ModelInputError
from .gene_network import EDGE_COLUMNS, GeneNetwork

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad
    import pyarrow as pa

KEY = "grn"
"""Name of the weights in `varp`, and of the facts in `uns`."""
METADATA = b"panatlas_grn"
"""Key of the facts in the schema of a Parquet file."""
MOST_GENES = 500_000
MOST_EDGES = 200_000_000
MOST_FACTS = 1 << 26
"""Bytes of the JSON; the names of all genes of an organism are 2 MB."""
MOST_BYTES = 16 << 30
"""Of a Parquet file when unpacked."""
SUFFIXES = (".h5ad", ".parquet")
"""Of files that hold a network."""
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError)


def network_to_anndata(network: GeneNetwork) -> ad.AnnData:
    """Return a network as an AnnData without cells: `varp["grn"]` [regulators, targets] and its layers.

    `var["feature_name"]` has the genes' names where the facts tell them (`feature_names`, id to name).

    Raises
    ------
    ModelInputError
        When the facts have something else there than names.
    """
    import anndata as ad  # noqa: PLC0415 - half a second
    import pandas as pd  # noqa: PLC0415 - as above

    names = network.facts.get("feature_names") or {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelInputError("feature_names", str(names)[:60], "a name by feature id")
    genes = pd.Index(network.genes, dtype=object)
    var = pd.DataFrame({"feature_name": [names.get(gene, gene) for gene in genes]} if names else {}, index=genes)
    adata = ad.AnnData(shape=(0, len(genes)), var=var)
    adata.varp[KEY] = network.weights
    for name, layer in network.layers.items():
        adata.varp[f"{KEY}_{name}"] = layer
    adata.uns[KEY] = _facts_of(network)
    return adata


def network_from_anndata(adata: ad.AnnData) -> GeneNetwork:
    """Return the network of an AnnData that `network_to_anndata` made, whatever has been added to it since.

    Raises
    ------
    ModelInputError
        When it holds none, or another number of edges in a layer.
    """
    if KEY not in adata.varp or not isinstance(adata.uns.get(KEY), str):
        raise ModelInputError("adata", sorted(adata.varp), f'varp["{KEY}"] and its facts in uns["{KEY}"]')
    facts = _facts_from(adata.uns[KEY])
    layers = {name: adata.varp.get(f"{KEY}_{name}") for name in facts.pop("layers")}
    if lost := [name for name, one in layers.items() if one is None]:
        raise ModelInputError("adata", sorted(adata.varp), f'varp["{KEY}_{lost[0]}"], which the facts name')
    return GeneNetwork(tuple(adata.var_names), adata.varp[KEY], layers=layers, **facts)


def network_to_table(network: GeneNetwork) -> pa.Table:
    """Return a network as an Arrow table with a row per edge, strongest first; its schema has facts and genes."""
    import pyarrow as pa  # noqa: PLC0415 - a file is rarely the first thing that is asked for

    edges = network.edges()
    columns = {name: pa.array(edges[name].to_numpy()) for name in edges.columns}
    said = _facts_of(network, genes=list(network.genes))
    return pa.table(columns).replace_schema_metadata({METADATA: said.encode()})


def network_from_table(table: pa.Table) -> GeneNetwork:
    """Return the network of a table that `network_to_table` made, in whatever order its rows are.

    Raises
    ------
    ModelInputError
        When columns or facts are missing, a gene is not one of the network's, or an edge is there twice.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above

    said = (table.schema.metadata or {}).get(METADATA)
    wrong = [name for name in EDGE_COLUMNS if name not in table.column_names]
    if said is None or wrong:
        allowed = f"the columns {', '.join(EDGE_COLUMNS)} and the facts of `write_network` in its schema"
        raise ModelInputError("table", table.column_names, allowed)
    facts = _facts_from(said.decode(), "genes")
    genes, names = facts.pop("genes"), facts.pop("layers")
    if lost := [name for name in names if name not in table.column_names]:
        raise ModelInputError("table", table.column_names, f"a column {lost[0]}, which the facts name")
    place = {gene: number for number, gene in enumerate(genes)}
    ends = []
    for name in EDGE_COLUMNS[:2]:
        coded = table.column(name).combine_chunks()
        coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
        known = np.array([place.get(gene, -1) for gene in coded.dictionary.to_pylist()], dtype=np.int64)
        if coded.null_count or (known < 0).any():
            raise ModelInputError(name, None if coded.null_count else "another gene", "genes that the facts name")
        ends.append(known[coded.indices.to_numpy(zero_copy_only=False)])

    def matrix(name: str) -> sp.csr_matrix:
        # Nulls of numbers come as nan, which weights refuse and layers keep.
        values = table.column(name).to_numpy()
        return sp.coo_matrix((values, tuple(ends)), shape=(len(genes), len(genes)))

    if len(np.unique(ends[0] * len(genes) + ends[1])) != len(ends[0]):
        raise ModelInputError("table", f"{len(ends[0])} rows", "every edge once")
    return GeneNetwork(tuple(genes), matrix("weight"), layers={name: matrix(name) for name in names}, **facts)


def write_network(network: GeneNetwork, path: Path) -> None:
    """Write a network as `.h5ad` or `.parquet`; equal networks have equal bytes.

    Raises
    ------
    ModelInputError
        When the name ends in anything else.
    """
    if path.suffix == ".h5ad":
        network_to_anndata(network).write_h5ad(path, compression="gzip")
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above

        pq.write_table(network_to_table(network), path, compression="zstd")
    else:
        raise ModelInputError("path", str(path), f"a name that ends in {' or '.join(SUFFIXES)}")


def read_network(path: Path) -> GeneNetwork:
    """Return the network of a file that `write_network` made; nothing in it is run or followed.

    Raises
    ------
    ModelInputError
        When there is no such file, it is damaged, too large, or holds no network.
    ContractError
        When an HDF5 file is built to harm its reader.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ModelInputError("path", str(path), f"a file that is there and ends in {' or '.join(SUFFIXES)}")
    try:
        return _read_h5ad(path) if path.suffix == ".h5ad" else _read_parquet(path)
    except ModelInputError:
        raise
    except _DAMAGED as error:
        from atlas import ContractError  # noqa: PLC0415 - tiledbsoma takes a second

        if isinstance(error, ContractError):
            raise
        said = f"{type(error).__name__}: {error}"[:200]
        raise ModelInputError("path", str(path), f"a whole file of a gene network ({said})") from error


def _read_h5ad(path: Path) -> GeneNetwork:
    from anndata.io import read_elem  # noqa: PLC0415 - half a second

    from atlas import preflight  # noqa: PLC0415 - tiledbsoma takes a second

    with preflight.open_hdf5(path, path.name) as file:
        if f"varp/{KEY}/data" not in file or f"uns/{KEY}" not in file:
            raise ModelInputError("path", str(path), f'an h5ad with varp["{KEY}"] and its facts in uns["{KEY}"]')
        index = file["var"][file["var"].attrs["_index"]]
        _bounded(path, len(index), file[f"varp/{KEY}/data"].shape[0], file[f"uns/{KEY}"].nbytes)
        genes = tuple(map(str, read_elem(index)))
        facts = _facts_from(str(read_elem(file[f"uns/{KEY}"])))
        layers = {name: read_elem(file[f"varp/{KEY}_{name}"]) for name in facts.pop("layers")}
        return GeneNetwork(genes, read_elem(file[f"varp/{KEY}"]), layers=layers, **facts)


def _read_parquet(path: Path) -> GeneNetwork:
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    # Read as codes, ids cost no more than their distinct texts however often a file repeats them.
    with pq.ParquetFile(path, read_dictionary=list(EDGE_COLUMNS[:2])) as file:
        about = file.metadata
        size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        said = (about.metadata or {}).get(METADATA, b"")
        _bounded(path, 0, about.num_rows, len(said))
        if size > MOST_BYTES:
            raise ModelInputError("path", str(path), f"a file of at most {MOST_BYTES >> 30} GiB when unpacked")
        return network_from_table(file.read())


def _bounded(path: Path, genes: int, edges: int, facts: int) -> None:
    for what, there, most in (("genes", genes, MOST_GENES), ("edges", edges, MOST_EDGES), ("facts", facts, MOST_FACTS)):
        if there > most:
            raise ModelInputError("path", str(path), f"at most {most:,} {what}; it has {there:,}")


def _facts_of(network: GeneNetwork, **more: Any) -> str:
    said = {name: getattr(network, name) for name in ("readout", "organism", "population", "cells")}
    said |= {"facts": dict(network.facts), "layers": list(network.layers), **more}
    return json.dumps(said, sort_keys=True, ensure_ascii=False)


def _facts_from(text: str, *more: str) -> dict[str, Any]:
    kinds = {"readout": str, "organism": str, "population": str, "cells": int, "facts": dict, "layers": list}
    kinds |= dict.fromkeys(more, list)
    try:
        if len(text) > MOST_FACTS:
            raise ValueError(f"{len(text):,} letters")  # noqa: TRY301 - told with the rest
        said = json.loads(text)
        wrong = [name for name, kind in kinds.items() if not isinstance(said[name], kind)]
        wrong += [name for name in ("layers", *more) if not all(isinstance(each, str) for each in said[name])]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelInputError("facts", text[:60], f"the JSON that `write_network` writes ({error})"[:200]) from error
    if wrong:
        raise ModelInputError("facts", said[wrong[0]], f"{kinds[wrong[0]].__name__} as {wrong[0]}")
    return {name: said[name] for name in kinds}
