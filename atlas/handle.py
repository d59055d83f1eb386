"""Reading an atlas as its users do: `open_atlas(uri).query(...).to_anndata()`, at the last published moment.

A reader sees an ingest whole or not at all, because it opens the arrays at the timestamp the ledger published. Queries
are built by `filters`, run by `selection`, and give back AnnData with gene ids as names. Writes nothing.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import scipy.sparse as sp
import tiledbsoma as soma

from ontology import get_organism

from . import layout, store
from .contexts import faults_told, opened, settings_of
from .errors import AtlasInputError, StoreError
from .filters import passing
from .ledger import DatasetRow, Ledger, ResultRow
from .mirror import side_folder
from .neighbour_store import read_neighbours
from .record_store import RecordReader
from .selection import select_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import anndata as ad
    import pyarrow as pa

    from .filters import Where
    from .object_store import ObjectPlace


@dataclass(frozen=True)
class Atlas:
    """An atlas opened for reading at one moment."""

    uri: str
    """Folder of the atlas, a path or an `s3://` address."""
    published_ms: int
    """Timestamp it is read at, in milliseconds since 1970; pass it to any TileDB-SOMA client to see the same."""
    datasets: tuple[DatasetRow, ...]
    """What is published at that moment, in joinid order."""
    results: tuple[ResultRow, ...] = ()
    """What models said of its cells, as far as it is held here, by organism and key."""

    @property
    def place(self) -> Path | ObjectPlace:
        """Return the folder, on this machine or on object storage; its arrays are below it."""
        return store.place_of(self.uri)

    @cached_property
    def root(self) -> Path:
        """Return the folder of what lies beside the store: releases, tables, reports.

        Of an atlas on object storage it is a folder in the cache of this machine, where its releases are mirrored as
        they are when this is asked first.
        """
        return side_folder(self.uri)

    @property
    def organisms(self) -> tuple[str, ...]:
        """Return the names of the organisms that have cells, e.g. `homo_sapiens`, sorted."""
        return tuple(sorted({d.organism for d in self.datasets}))

    def n_cells(self, organism: str) -> int:
        """Return the cells of one organism."""
        name = self.experiment(organism)
        return sum(d.n_cells for d in self.datasets if d.organism == name)

    def experiment(self, organism: str) -> str:
        """Return the Experiment's name of an organism given in any spelling.

        Raises
        ------
        AtlasInputError
            If the atlas holds no cell of it.
        """
        name = get_organism(organism).experiment
        if name not in self.organisms:
            raise AtlasInputError("organism", organism, f"one of the atlas: {', '.join(self.organisms) or 'none yet'}")
        return name

    def array_uri(self, organism: str, member: str) -> str:
        """Return the path of a member of an Experiment, given by its name, as it is at `published_ms`."""
        return store.array_uri(self.place, organism, member, self.published_ms)

    def context(self, buffer_bytes: int | None = None) -> soma.SOMATileDBContext:
        """Return a TileDB context that reads the atlas' arrays at `published_ms`.

        Parameters
        ----------
        buffer_bytes
            Most memory a column of a query takes; None for tiledbsoma's own 1 GiB.
        """
        sizes = {} if buffer_bytes is None else {"soma.init_buffer_bytes": str(buffer_bytes)}
        return soma.SOMATileDBContext(tiledb_config=sizes | settings_of(self.uri), timestamp=self.published_ms)

    def open(self) -> soma.Collection:
        """Return the SOMA tree opened for reading at `published_ms`; close it, or use it in a `with`."""
        return opened(soma.Collection, self.place, at=self.published_ms)

    def query(self, organism: str, where: Where | None = None, *, every_cell: bool = False) -> CellQuery:
        """Return a query over one organism's cells.

        Parameters
        ----------
        organism
            Any spelling: `human`, `Homo sapiens`, `homo_sapiens`, 9606.
        where
            Conditions on obs; None for none.
        every_cell
            True also gives cells that failed QC.
        """
        return CellQuery(self, self.experiment(organism), where, every_cell)

    def count_blocks(self, organism: str, rows: int = 16_384) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield every cell's counts, QC or not, in blocks of consecutive joinids.

        Parameters
        ----------
        organism
            Any spelling of it.
        rows
            Cells per block; memory is bounded by it.

        Yields
        ------
        The first joinid of a block, and its counts over the whole gene table: CSR float32, genes ascending.
        """
        name, total = self.experiment(organism), self.n_cells(organism)
        with self.open() as tree:
            array = tree[layout.DATA][name].ms["RNA"].X["raw"]
            n_genes = array.shape[1]
            for first in range(0, total, rows):
                n = min(rows, total - first)
                # The default order comes tile by tile, which is the order it was written in; asking for row-major
                # order makes TileDB sort, at fifteen times the cost.
                found = array.read((slice(first, first + n - 1),)).tables().concat()
                cells, genes = (found[f"soma_dim_{axis}"].to_numpy() for axis in (0, 1))
                block = sp.coo_matrix(
                    (found["soma_data"].to_numpy(), (cells - first, genes)), shape=(n, n_genes)
                ).tocsr()
                block.sort_indices()
                yield first, block

    def records(self, organism: str) -> RecordReader:
        """Return a reader of one organism's packed records, the fast way to the counts of chosen cells.

        Parameters
        ----------
        organism
            Any spelling of it.

        Returns
        -------
        A reader with a TileDB context of its own, at `published_ms`; close it, or use it in a `with`.
        """
        name = self.experiment(organism)
        uri = self.array_uri(name, layout.RECORDS)
        return RecordReader(uri, self.n_cells(organism), self.published_ms)

    def neighbours(self, organism: str, first: int, stop: int) -> sp.csr_matrix:
        """Return the nearest neighbours of consecutive cells, each within its dataset.

        Parameters
        ----------
        organism
            Any spelling of it.
        first, stop
            Joinids of the first cell, and of the one after the last.

        Returns
        -------
        Float32 [stop - first, n_cells], columns ascending: the distance to each neighbour, in units of what is typical
        in the dataset, always above 0. Cells that failed QC, are copies, or whose dataset was ingested without
        neighbours have none.

        Raises
        ------
        AtlasInputError
            If these are no cells of the organism.
        """
        name, total = self.experiment(organism), self.n_cells(organism)
        if not 0 <= first <= stop <= total:
            raise AtlasInputError("first, stop", (first, stop), f"0 <= first <= stop <= {total}")
        uri = self.array_uri(name, layout.NEIGHBOURS)
        return read_neighbours(uri, first, stop, total, self.published_ms)

    def genes(self, organism: str) -> pd.DataFrame:
        """Return var of an organism in the order of its joinids, which are the columns of X."""
        with self.open() as tree:
            var = tree[layout.DATA][self.experiment(organism)].ms["RNA"].var.read().concat().to_pandas()
        return var.sort_values("soma_joinid", ignore_index=True)

    def table(self, name: str) -> pd.DataFrame:
        """Return a census_info table: summary, datasets, summary_cell_counts or organisms."""
        with self.open() as tree:
            return tree[layout.INFO][name].read().concat().to_pandas()

    def receipts(self) -> list[dict[str, object]]:
        """Return every receipt the ledger kept, oldest first."""
        with Ledger.to_read(self.place / store.LEDGER / "ledger.sqlite") as ledger:
            return ledger.receipts()

    def written(self) -> dict[str, dict[str, Any]]:
        """Return, by dataset, the receipt that wrote it; a dataset that has none is left out."""
        with Ledger.to_read(self.place / store.LEDGER / "ledger.sqlite") as ledger:
            found = {row.dataset_id: ledger.written(row) for row in self.datasets}
        return {name: receipt for name, receipt in found.items() if receipt is not None}


@dataclass(frozen=True)
class CellQuery:
    """Some cells of one organism; nothing is read until asked for."""

    atlas: Atlas
    """Where the cells are."""
    organism: str
    """Experiment name."""
    where: Where | None = None
    """Conditions on obs."""
    every_cell: bool = False
    """True also gives cells that failed QC."""

    def obs(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return obs of the cells, one row a cell in joinid order; unused categories are dropped."""
        with self.atlas.open() as tree:
            return _drop_unused(self._rows(tree, columns).to_pandas())

    def n_cells(self) -> int:
        """Return how many cells the query selects."""
        with self.atlas.open() as tree:
            return len(self._rows(tree, ["soma_joinid"]))

    def counts(self) -> sp.csr_matrix:
        """Return the cells' counts over every gene of the table, cell x gene, in joinid order."""
        return self.to_anndata(obs_columns=["soma_joinid"]).X

    def to_anndata(self, *, genes: Sequence[str] | None = None, obs_columns: Sequence[str] | None = None) -> ad.AnnData:
        """Return the cells as AnnData: `X` raw counts (CSR float32), gene ids and cell ids as names.

        Parameters
        ----------
        genes
            Gene ids to return, in the atlas' order; None for the whole table.
        obs_columns
            Columns of obs; None for all.

        Raises
        ------
        AtlasInputError
            If a gene id is not in the atlas.
        """
        var_query = None
        if genes is not None:
            var_query = soma.AxisQuery(coords=(self._gene_joinids(genes),))
        with self.atlas.open() as tree, self._query(tree, var_query) as query:
            names = None if obs_columns is None else {"obs": [*dict.fromkeys([*obs_columns, "observation_joinid"])]}
            with warnings.catch_warnings():
                # tiledbsoma hands anndata integer row names, which are replaced two lines below
                warnings.filterwarnings("ignore", message="Transforming to str index")
                adata = query.to_anndata("raw", column_names=names)
        adata.obs = _drop_unused(adata.obs).set_index("observation_joinid", drop=False)
        adata.obs.index.name = None
        adata.var = adata.var.set_index("feature_id", drop=False)
        adata.var.index.name = None
        return adata

    def _gene_joinids(self, genes: Sequence[str]) -> list[int]:
        """Return the joinids of gene ids, sorted."""
        with self.atlas.open() as tree:
            var = self._measurement(tree).var.read(column_names=["soma_joinid", "feature_id"]).concat().to_pandas()
        index = pd.Index(var["feature_id"]).get_indexer(list(genes))
        if (index < 0).any():
            lost = [g for g, i in zip(genes, index, strict=True) if i < 0]
            raise AtlasInputError("genes", lost[:5], "gene ids of the atlas; resolve symbols with resolve_genes")
        return sorted(int(j) for j in var["soma_joinid"].to_numpy()[index])

    def _measurement(self, tree: soma.Collection) -> soma.Measurement:
        """Return the organism's RNA measurement."""
        return tree[layout.DATA][self.organism].ms["RNA"]

    def _rows(self, tree: soma.Collection, columns: Sequence[str] | None) -> pa.Table:
        """Return rows of obs."""
        query = passing(self.where, every_cell=self.every_cell)
        return select_rows(tree[layout.DATA][self.organism].obs, query, self.atlas.n_cells(self.organism) - 1, columns)

    def _query(self, tree: soma.Collection, var: soma.AxisQuery | None = None) -> soma.ExperimentAxisQuery:
        """Return tiledbsoma's own query for these cells."""
        joinids = self._rows(tree, ["soma_joinid"])["soma_joinid"].combine_chunks()
        obs = soma.AxisQuery(coords=(joinids,))
        return tree[layout.DATA][self.organism].axis_query("RNA", obs_query=obs, var_query=var)


def open_atlas(uri: str, *, at: int | None = None) -> Atlas:
    """Open an atlas for reading.

    Parameters
    ----------
    uri
        Folder of the atlas, a path or an `s3://` address.
    at
        Moment to read it at, in milliseconds since 1970; None for the last published one.

    Raises
    ------
    StoreError
        If there is no atlas, `at` is before its first ingest, or another version's schema made it.

    Examples
    --------
    >>> open_atlas("/no/such/folder")
    Traceback (most recent call last):
    atlas.errors.StoreError: open of /no/such/folder failed: no atlas here; make one with `panatlas ingest human`
    """
    root = store.place_of(uri)
    path = root / store.LEDGER / "ledger.sqlite"
    if not path.exists():
        raise StoreError(uri, "open", "no atlas here; make one with `panatlas ingest human`")
    with Ledger.to_read(path) as ledger:
        moment, rows, results = ledger.state(at)
    if not rows:
        raise StoreError(uri, "open", "nothing is published here yet" + (f" at {at}" if at is not None else ""))
    with faults_told(root, "open"):
        store.check_schema(root, "open")
    return Atlas(str(root), moment, tuple(rows), tuple(results))


def _drop_unused(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with only the categories its rows use."""
    for name in frame.columns[[isinstance(t, pd.CategoricalDtype) for t in frame.dtypes]]:
        frame[name] = frame[name].cat.remove_unused_categories()
    return frame
