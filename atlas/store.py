"""The tree of arrays: create it, add an organism to it, open it at a moment, and undo what was never published.

Knows the layout, not cells; `write` puts cells in. tiledbsoma >= 2.0 silently loses every category of a frame
written through the handle that created it, so arrays are always created, closed, and opened again to be written.
"""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import tiledbsoma as soma

from . import editions, layout, object_roll_back, schema
from .contexts import context_of, opened
from .editions import tick
from .errors import StoreError
from .object_roll_back import written_after
from .object_store import SCHEME, ObjectPlace

if TYPE_CHECKING:
    from ontology import GeneTable, Organism

LEDGER = "ledger"  # folder beside the SOMA tree; SOMA clients list group members, so they never see it


def place_of(uri: str) -> Path | ObjectPlace:
    """Return the atlas' folder, on this machine or on object storage; it need not exist.

    Raises
    ------
    StoreError
        If `uri` is neither a path nor an `s3://` address.
    """
    return ObjectPlace.parse(uri) if uri.startswith(SCHEME) else local_root(uri)


def local_root(uri: str) -> Path:
    """Return the atlas' folder on this machine, which need not exist.

    Raises
    ------
    StoreError
        If `uri` is not a local path.
    """
    if "://" in uri and not uri.startswith("file://"):
        raise StoreError(uri, "open", "an atlas is in a folder or on object storage; pass a path or an s3:// address")
    path = Path(uri.removeprefix("file://")).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise StoreError(uri, "open", "a file is in the way; pass a folder")
    return path


def exists(root: Path | ObjectPlace) -> bool:
    """Return whether a SOMA collection stands at `root`."""
    return (root / "__tiledb_group.tdb").exists() or (root / "__group").exists()


def create(root: Path) -> None:
    """Create the empty tree: census_info with empty tables, census_data, and the empty spatial collection."""
    if isinstance(root, Path):
        root.mkdir(parents=True, exist_ok=True)
    with soma.Collection.create(str(root), context=context_of(root)) as tree:
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
    if editions.is_former(root, organism.experiment):  # all its datasets were taken out; what it was is still there
        editions.bring_back(root, organism.experiment)
        _check_same(root, organism, genes)
        return
    with opened(soma.Collection, root, "w") as tree:
        fill_experiment(tree[layout.DATA].add_new_collection(organism.experiment, soma.Experiment), organism, genes)
    tick()
    n = len(genes)
    mito, ribo = (np.zeros(n, bool) if mask is None else np.asarray(mask) for mask in (genes.mito, genes.ribo))
    zeros = np.zeros(n, np.int64)
    names = np.where(np.asarray(genes.symbols) == "", genes.ids, genes.symbols)
    columns = [np.arange(n), genes.ids, names, genes.biotypes, genes.lengths, zeros, zeros, mito, ribo]
    write_frame(array_uri(root, organism.experiment, layout.VAR), schema.VAR, columns)


def fill_experiment(exp: soma.Experiment, organism: Organism, genes: GeneTable) -> None:
    """Create the empty arrays of an Experiment; they are written through later handles only."""
    n = len(genes)
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
        "feature_dataset_presence_matrix", type=pa.bool_(), shape=(1, n), platform_config=layout.presence_options(n)
    )
    _new_frame(ms, "records", schema.RECORDS, options=layout.record_options())
    obsp = ms.add_new_collection("obsp")
    neighbours = layout.neighbour_options()
    obsp.add_new_sparse_ndarray("neighbours", type=pa.float32(), shape=(1, 1), platform_config=neighbours)


def check_schema(root: Path, action: str) -> None:
    """Refuse an atlas whose columns are another version's.

    Raises
    ------
    StoreError
        With the version it was made with, and the remedy.
    """
    with opened(soma.Collection, root) as tree:
        version = tree.metadata.get("panatlas_schema_version")
    if version != schema.SCHEMA_VERSION:
        said = f"its schema is {version}, and this version of panatlas has {schema.SCHEMA_VERSION}"
        remedy = "ingest its sources into a new atlas, or use the version that made it"
        raise StoreError(str(root), action, f"{said}; {remedy}")


def _check_same(root: Path, organism: Organism, genes: GeneTable) -> None:
    """Refuse to add to an Experiment made with another gene table."""
    with opened(soma.Collection, root) as tree:
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
    with opened(soma.DataFrame, uri, "w") as frame:
        frame.write(table)
    tick()


def replace_frame(uri: str, fields: tuple[schema.Field, ...], columns: list[object]) -> None:
    """Make these rows, numbered from 0, the only ones of a frame without categorical columns."""
    with opened(soma.DataFrame, uri) as frame:
        former = frame.count
    rows = len(columns[0])  # type: ignore[arg-type]
    if rows:
        write_frame(uri, fields, columns)
    if former > rows:
        with opened(soma.DataFrame, uri, "d") as frame:
            frame.delete_cells((slice(rows, None),))
        tick()


def grow_frame(uri: str, rows: int) -> None:
    """Make room for `rows` rows; never shrinks."""
    with opened(soma.DataFrame, uri, "w") as frame:  # an opening reads every former shape, so one is all it takes
        grows = frame.domain[0][1] + 1 < rows
        if grows:
            frame.tiledbsoma_resize_soma_joinid_shape(rows)
    if grows:
        tick()


def grow_array(uri: str, rows: int, columns: int = 0) -> None:
    """Make room for `rows` rows, and `columns` columns, of a matrix; never shrinks."""
    with opened(soma.SparseNDArray, uri, "w") as array:
        have = array.shape
        shape = (max(have[0], rows), max(have[1], columns))
        if shape != have:
            array.resize(shape)
    if shape != have:
        tick()


def grow_results(root: Path, experiment: str, rows: int) -> None:
    """Make room for `rows` rows in every model's matrix of cells: clients ask each for all cells of a query."""
    with opened(soma.Measurement, array_uri(root, experiment, layout.MEASUREMENT)) as measurement:
        found = [measurement[name] for name in ("obsm", "X") if name in measurement]
        uris = [one[name].uri for one in found for name in one if name != "raw"]
    for uri in uris:
        grow_array(uri, rows)


def clear(place: Path | ObjectPlace) -> None:
    """Remove whatever is left of an array that was never published."""
    if isinstance(place, ObjectPlace):
        place.remove(place.inside())
    else:
        shutil.rmtree(place, ignore_errors=True)


def array_uri(root: Path, experiment: str, member: str, at: int | None = None) -> str:
    """Return the path of a member of an organism's Experiment, as it is at a moment, None for now."""
    folder = root / layout.DATA / editions.edition_at(root, experiment, at)
    if member == layout.VAR:
        return editions.member_at(folder / layout.MEASUREMENT, "var", at)
    return str(folder / member)


def info_uri(root: Path, name: str, at: int | None = None) -> str:
    """Return the path of a table of census_info, as it is at a moment, None for now."""
    return editions.member_at(root / layout.INFO, name, at)


def experiments(root: Path) -> list[str]:
    """Return the names of the organisms' Experiments, sorted."""
    with opened(soma.Collection, root) as tree:
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
    if isinstance(root, ObjectPlace):
        return object_roll_back.roll_back(root, published_ms)
    if published_ms == 0:  # nothing was ever published: a half-made tree has no moment to go back to
        return _remove_tree(root)
    removed = 0
    stale = [p for p in root.rglob("__*") if written_after(p.name, published_ms)]
    order = {"__commits": 0, "__schema": 1}
    for path in sorted(stale, key=lambda p: (order.get(p.parent.name, 2), str(p))):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        removed += 1
    # An Experiment whose files were rolled back would block its own re-creation; likewise editions of one, results of
    # models, and collections that were made for them.
    homes = ("[!_]*", f"[!_]*/{editions.EDITION}*")
    inside = [f"{home}/{layout.MEASUREMENT}/{deep}" for home in homes for deep in ("[!_]*/[!_]*", "[!_]*")]
    patterns = [f"{layout.DATA}/{pattern}" for pattern in (*homes, *inside)]
    for pattern in (*patterns, f"{layout.INFO}/[!_]*"):
        for path in list(root.glob(pattern)):
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
