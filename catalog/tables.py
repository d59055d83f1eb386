"""obs and datasets of a published atlas as Parquet, for SQL, search and releases: derived, read-only, made once.

A folder `<atlas>/tables/<key>` is named after the content it was made from, written beside and renamed, so a reader
finds it whole or not at all, and a new ingest simply has another key. `views` and `search` read it with DuckDB.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tiledbsoma as soma

from atlas import StoreError, schema
from ontology import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas import Atlas

_LOG = logging.getLogger(__name__)
_FORMAT = "1"  # raised when the tables' content or layout changes, so that old folders are not taken for new ones
_BUFFER_BYTES = 1 << 25  # 32 MiB a column and read: about 1 GiB at obs' 46 columns
_ROW_GROUP = 122_880  # DuckDB's own row-group size: one group per thread at a time
_KEPT = 2  # the newest folders that stay: one in use, one a slow reader may still have open


@dataclass(frozen=True)
class Tables:
    """The Parquet tables of one published state."""

    folder: Path
    """Where they are; the name is the key of their content."""
    published_ms: int
    """Published moment of the atlas they show, in milliseconds since 1970."""

    @property
    def obs(self) -> Path:
        """Return the file with one row per cell of every organism."""
        return self.folder / "obs.parquet"

    @property
    def datasets(self) -> Path:
        """Return the file with one row per dataset."""
        return self.folder / "datasets.parquet"


def export_tables(atlas: Atlas) -> Tables:
    """Return the atlas' tables, making them if this state has none yet; memory stays bounded whatever its size.

    Parameters
    ----------
    atlas
        An opened atlas. Its tables are kept in the atlas' folder, or in the cache where that may not be written.

    Raises
    ------
    StoreError
        If they can be written nowhere.
    """
    key = _content_key(atlas)
    homes = [atlas.root / "tables", cache_dir() / "tables"]
    for home in homes:
        if (home / key / "datasets.parquet").is_file():
            return Tables(home / key, atlas.published_ms)
    for home in homes:
        try:
            home.mkdir(parents=True, exist_ok=True)
            _write(atlas, home, key)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _LOG.info("%s is not writable; looking further", home)
            continue
        _drop_old(home)
        return Tables(home / key, atlas.published_ms)
    raise StoreError(atlas.uri, "export of tables", f"neither {homes[0]} nor {homes[1]} may be written")


def _content_key(atlas: Atlas) -> str:
    """Return 32 hex digits that name the published state."""
    rows = [[d.organism, d.dataset_id, d.first_joinid, d.n_cells, d.content_sha256] for d in atlas.datasets]
    facts = [_FORMAT, schema.SCHEMA_VERSION, atlas.published_ms, rows]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()[:32]


def _write(atlas: Atlas, home: Path, key: str) -> None:
    """Write both tables into a folder beside, and give it its name in one step."""
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=home))
    try:
        part.chmod(0o755)  # mkdtemp's 0o700 would shut other readers of a shared atlas out
        with pq.ParquetWriter(part / "obs.parquet", _plain(schema.arrow_schema(schema.OBS)), compression="zstd") as out:
            for batch in _obs_batches(atlas):
                out.write_table(batch, row_group_size=_ROW_GROUP)
        fields = schema.arrow_schema(schema.DATASETS)
        datasets = pa.Table.from_pandas(atlas.table("datasets")[fields.names], schema=fields, preserve_index=False)
        pq.write_table(datasets, part / "datasets.parquet", compression="zstd")
        for file in part.iterdir():
            sync(file)
        sync(part)
        try:
            part.rename(home / key)
        except OSError:
            if not (home / key / "datasets.parquet").is_file():  # not merely another process that was quicker
                raise
        sync(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _obs_batches(atlas: Atlas) -> Iterator[pa.Table]:
    """Yield every organism's published obs in joinid order, categories as plain text, NaN as NULL."""
    names = [f.name for f in schema.OBS]
    plain = _plain(schema.arrow_schema(schema.OBS))
    context = atlas.context(_BUFFER_BYTES)
    for organism in atlas.organisms:
        with soma.DataFrame.open(atlas.array_uri(organism, "obs"), context=context) as frame:
            rows = (slice(0, atlas.n_cells(organism) - 1),)
            for batch in frame.read(rows, column_names=names, result_order="row-major"):
                yield _null_where_not_measured(batch.select(names).cast(plain))


def _null_where_not_measured(batch: pa.Table) -> pa.Table:
    """Return the batch with NULL for NaN, so that an SQL average is over what was measured."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_floating(field.type):
            column = batch.column(i)
            batch = batch.set_column(i, field, pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column))
    return batch


def _plain(fields: pa.Schema) -> pa.Schema:
    """Return the schema with categories as strings: batches then need not share a dictionary."""
    return pa.schema(
        [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in fields]
    )


def _drop_old(home: Path) -> None:
    """Remove all but the newest folders; what is removed can be made again."""
    folders = [p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")]
    for folder in sorted(folders, key=lambda p: p.stat().st_mtime_ns)[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
