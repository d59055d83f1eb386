"""The tree of arrays: create it, add an organism to it, open it at a moment, and undo what was never published.

Knows the layout, not cells; `write` puts cells in. tiledbsoma >= 2.0 silently loses every category of a frame
written through the handle that created it, so arrays are always created, closed, and opened again to be written.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import tiledbsoma as soma

from . import layout, schema
from .errors import StoreError

if TYPE_CHECKING:
    from ontology import GeneTable, Organism

LEDGER = "ledger"  # folder beside the SOMA tree; SOMA clients list group members, so they never see it
_TICK_S = 0.002  # TileDB orders schema versions by millisecond; two in one millisecond may lose the first


def tick() -> None:
    """Wait until the clock shows a later millisecond than anything written so far."""
    time.sleep(_TICK_S)


def local_root(uri: str) -> Path:
    """Return the atlas' folder, which need not exist.

    Raises
    ------
    StoreError
        If `uri` is not a local path.
    """
    if "://" in uri and not uri.startswith("file://"):
        raise StoreError(uri, "open for writing", "only local atlases can be written in this version; pass a path")
    path = Path(uri.removeprefix("file://")).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise StoreError(uri, "open", "a file is in the way; pass a folder")
    return path


def exists(root: Path) -> bool:
    """Return whether a SOMA collection stands at `root`."""
    return (root / "__tiledb_group.tdb").exists() or (root / "__group").exists()


def create(root: Path) -> None:
    """Create the empty tree: census_info with empty tables, census_data, and the empty spatial collection."""
    root.mkdir(parents=True, exist_ok=True)
    with soma.Collection.create(str(root)) as tree:
        tree.metadata["created_on"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        tree.metadata["panatlas_schema_version"] = schema.SCHEMA_VERSION
        info = tree.add_new_collection(layout.INFO)
        tree.add_new_collection(layout.DATA)
        tree.add_new_collection(layout.SPATIAL)
        for name, fields in (
            ("summary", schema.SUMMARY),
            ("datasets", schema.DATASETS),
            ("summary_cell_counts", schema.SUMMARY_CELL_COUNTS),
            ("organisms", schema.ORGANISMS),
            ("label_provenance", schema.LABEL_PROVENANCE),
        ):
            _new_frame(info, name, fields)
    tick()


def add_organism(root: Path, organism: Organism, genes: GeneTable) -> None:
    """Add an empty Experiment for `organism` whose var is the whole pinned gene table.

    Where it is there already, make sure that it holds this very table: columns of X are positions in it.

    Raises
    ------
    StoreError
        If the atlas was made with another gene table or another schema.
    """
    check_schema(root, "append")
    if organism.experiment in experiments(root):
        _check_same(root, organism, genes)
        return
    n = len(genes)
    with soma.Collection.open(str(root), "w") as tree:
        exp = tree[layout.DATA].add_new_collection(organism.experiment, soma.Experiment)
        exp.metadata["organism"] = organism.label
        exp.metadata["gene_release"] = genes.release
        exp.metadata["gene_sha256"] = genes.sha256
        exp.metadata["gene_order_sha256"] = genes.order_sha256
        _new_frame(exp, "obs", schema.OBS)
        ms = exp.add_new_collection("ms").add_new_collection("RNA", soma.Measurement)
        _new_frame(ms, "var", schema.VAR, rows=n)
        x = ms.add_new_collection("X")
        x.add_new_sparse_ndarray("raw", type=pa.float32(), shape=(1, n), platform_config=layout.x_options(n))
        ms.add_new_sparse_ndarray(
            "feature_dataset_presence_matrix",
            type=pa.bool_(),
            shape=(1, n),
            platform_config=layout.presence_options(n),
        )
        _new_frame(ms, "records", schema.RECORDS, options=layout.record_options())
        obsp = ms.add_new_collection("obsp")
        neighbours = layout.neighbour_options()
        obsp.add_new_sparse_ndarray("neighbours", type=pa.float32(), shape=(1, 1), platform_config=neighbours)
    tick()
    mito, ribo = (np.zeros(n, bool) if mask is None else np.asarray(mask) for mask in (genes.mito, genes.ribo))
    zeros = np.zeros(n, np.int64)
    names = np.where(np.asarray(genes.symbols) == "", genes.ids, genes.symbols)
    columns = [np.arange(n), genes.ids, names, genes.biotypes, genes.lengths, zeros, zeros, mito, ribo]
    write_frame(array_uri(root, organism.experiment, layout.VAR), schema.VAR, columns)


def check_schema(root: Path, action: str) -> None:
    """Refuse an atlas whose columns are another version's.

    Raises
    ------
    StoreError
        With the version it was made with, and the remedy.
    """
    with soma.Collection.open(str(root)) as tree:
        version = tree.metadata.get("panatlas_schema_version")
    if version != schema.SCHEMA_VERSION:
        said = f"its schema is {version}, and this version of panatlas has {schema.SCHEMA_VERSION}"
        remedy = "ingest its sources into a new atlas, or use the version that made it"
        raise StoreError(str(root), action, f"{said}; {remedy}")


def _check_same(root: Path, organism: Organism, genes: GeneTable) -> None:
    """Refuse to add to an Experiment made with another gene table."""
    with soma.Collection.open(str(root)) as tree:
        made = dict(tree[layout.DATA][organism.experiment].metadata)
    remedy = "ingest with the version of panatlas that made the atlas, or into a new one"
    # Which genes in which order is what columns of X depend on; a table may gain positions later. Atlases of before
    # this was kept are known by the digest of everything.
    order = made.get("gene_order_sha256")
    if (order != genes.order_sha256) if order else (made.get("gene_sha256") != genes.sha256):
        said = f"{organism.label} was made with another gene table ({made.get('gene_release')})"
        raise StoreError(str(root), "append", f"{said}; {remedy}")


def _new_frame(
    parent: soma.Collection,
    name: str,
    fields: tuple[schema.Field, ...],
    rows: int = 1,
    options: dict[str, object] | None = None,
) -> None:
    """Create an empty data frame indexed by soma_joinid; it is written through a later handle only."""
    parent.add_new_dataframe(
        name,
        schema=schema.arrow_schema(fields),
        index_column_names=["soma_joinid"],
        domain=[[0, max(rows, 1) - 1]],
        platform_config=options or layout.frame_options(),
    )


def write_frame(uri: str, fields: tuple[schema.Field, ...], columns: list[object]) -> None:
    """Write whole rows of a frame without categorical columns, as one fragment; grows the frame if needed."""
    arrays = [pa.array(c, type=f.type, from_pandas=False) for f, c in zip(fields, columns, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schema.arrow_schema(fields)).combine_chunks()
    if table.num_rows == 0:
        return
    grow_frame(uri, int(table["soma_joinid"][-1].as_py()) + 1)
    with soma.DataFrame.open(uri, "w") as frame:
        frame.write(table)
    tick()


def grow_frame(uri: str, rows: int) -> None:
    """Make room for `rows` rows; never shrinks."""
    with soma.DataFrame.open(uri) as frame:
        have = frame.domain[0][1] + 1
    if have < rows:
        with soma.DataFrame.open(uri, "w") as frame:
            frame.tiledbsoma_resize_soma_joinid_shape(rows)
        tick()


def grow_array(uri: str, rows: int, columns: int = 0) -> None:
    """Make room for `rows` rows, and `columns` columns, of a matrix; never shrinks."""
    with soma.SparseNDArray.open(uri) as array:
        have = array.shape
    shape = (max(have[0], rows), max(have[1], columns))
    if shape != have:
        with soma.SparseNDArray.open(uri, "w") as array:
            array.resize(shape)
        tick()


def grow_results(root: Path, experiment: str, rows: int) -> None:
    """Make room for `rows` rows in every model's matrix of cells: clients ask each for all cells of a query."""
    with soma.Measurement.open(array_uri(root, experiment, layout.MEASUREMENT)) as measurement:
        found = [measurement[name] for name in ("obsm", "X") if name in measurement]
        uris = [one[name].uri for one in found for name in one if name != "raw"]
    for uri in uris:
        grow_array(uri, rows)


def array_uri(root: Path, experiment: str, member: str) -> str:
    """Return the path of a member of an organism's Experiment."""
    return str(root / layout.DATA / experiment / member)


def experiments(root: Path) -> list[str]:
    """Return the names of the organisms' Experiments, sorted."""
    with soma.Collection.open(str(root)) as tree:
        return sorted(tree[layout.DATA].keys())


def roll_back(root: Path, published_ms: int) -> int:
    """Remove everything written after `published_ms`, and return how many files or folders that was.

    TileDB stamps each fragment, schema version and group change with its time, and a fragment is visible only
    through its commit file, so commits go first: whatever the moment of a crash here, no half of it is ever read.

    Notes
    -----
    Names follow TileDB's format, `__<from ms>_<to ms>_<uuid>...`; anything else is left alone. That includes the
    few bytes of an enumeration whose schema version is gone: such files carry no time, and nothing reads them.
    """
    if published_ms == 0:  # nothing was ever published: a half-made tree has no moment to go back to
        return _remove_tree(root)
    removed = 0
    stale = [p for p in root.rglob("__*") if _written_after(p, published_ms)]
    order = {"__commits": 0, "__schema": 1}
    for path in sorted(stale, key=lambda p: (order.get(p.parent.name, 2), str(p))):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        removed += 1
    known = experiments(root)
    for path in (root / layout.DATA).iterdir():
        if path.is_dir() and not path.name.startswith("__") and path.name not in known:
            shutil.rmtree(path)  # an Experiment whose membership was rolled back would block its own re-creation
            removed += 1
    for pattern in ("[!_]*/[!_]*", "[!_]*"):  # likewise results of models, and collections that were made for them
        for path in [p for name in known for p in (root / layout.DATA / name / "ms" / "RNA").glob(pattern)]:
            if path.is_dir() and _is_hollow(path):
                shutil.rmtree(path)
                removed += 1
    return removed


def _is_hollow(path: Path) -> bool:
    """Return whether nothing is left of an array or group but its folders: all that it was made of is rolled back."""
    made = (p for name in ("__schema", "__group", "__meta") for p in (path / name).glob("__*_*_*"))
    return next(made, None) is None


def _remove_tree(root: Path) -> int:
    """Remove a SOMA tree that was never published, leaving the ledger and everything else in the folder."""
    removed = 0
    for name in (layout.INFO, layout.DATA, layout.SPATIAL, "__group", "__meta", "__tiledb_group.tdb"):
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
            removed += 1
        elif path.exists():
            path.unlink()
            removed += 1
    return removed


def _written_after(path: Path, published_ms: int) -> bool:
    """Return whether a TileDB file or folder carries a timestamp later than `published_ms`."""
    parts = path.name.split("_")
    stamped = len(parts) > 4 and parts[2].isdigit() and parts[3].isdigit()
    return stamped and int(parts[3]) > published_ms
