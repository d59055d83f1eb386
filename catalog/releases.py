"""An atlas frozen under a name: which cells, which content, who trains on what. A release never changes.

A release is a folder `<atlas>/releases/NAME` with a manifest, a split for every cell and the joint-label counts. It is
written beside and renamed, so it is there whole or not at all. It holds no counts: the manifest's TileDB timestamp
opens the store as it was. Splits go by donor or dataset, never by cell, and adding datasets moves no earlier group.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import tiledbsoma as soma

from atlas import layout, open_atlas, schema

from .errors import CatalogInputError, ReleaseExistsError
from .tables import export_tables, sync
from .views import connect

if TYPE_CHECKING:
    import duckdb

    from atlas import Atlas

SplitBy = Literal["donor", "dataset"]
Status = Literal["written", "unchanged", "planned"]
SPLITS = (("train", 0.8), ("validation", 0.1), ("test", 0.1))  # shares of groups; the field's habit
JOINT_LABELS = ("cell_type", "disease", "tissue", "assay", "sex", "development_stage")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOT_CONTENT = ("files", "panatlas_format")  # bytes of Parquet depend on the library that wrote them


@dataclass(frozen=True)
class Release:
    """What became of a request for a release."""

    name: str
    """Name of the release."""
    folder: Path
    """Where it is, or would be."""
    status: Status
    """`unchanged` where the same release was there, `planned` in a dry run."""
    manifest: dict[str, Any]
    """The manifest, as in manifest.json."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return {"name": self.name, "folder": str(self.folder), "status": self.status, "manifest": self.manifest}


def make_release(
    atlas: Atlas | str, name: str, *, split_by: SplitBy = "donor", seed: int = 0, dry_run: bool = False
) -> Release:
    """Freeze the published state of an atlas under a name.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    name
        1-64 letters, digits, `.`, `_`, `-`.
    split_by
        Keep the cells of a donor (within its dataset), or of a whole dataset, in one split.
    seed
        Seed of the splits; the same seed puts the same group into the same split in every release.
    dry_run
        True works everything out and freezes nothing; only the tables that queries use are kept.

    Raises
    ------
    CatalogInputError
        If the name or `split_by` is not allowed.
    ReleaseExistsError
        If the name stands for other content.
    """
    if not _NAME.fullmatch(name):
        raise CatalogInputError("name", name, "1-64 letters, digits, `.`, `_` or `-`, starting with a letter or digit")
    if split_by not in get_args(SplitBy):
        raise CatalogInputError("split_by", split_by, " or ".join(get_args(SplitBy)))
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    home = opened.root / "releases"
    home.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=home))
    try:
        manifest = _write(opened, part, name, split_by, seed)
        return Release(name, home / name, _place(part, home / name, manifest, dry_run=dry_run), manifest)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _place(
    part: Path, target: Path, manifest: dict[str, Any], *, dry_run: bool
) -> Literal["written", "unchanged", "planned"]:
    """Give a finished folder its name in one step, or find that the same release is there already."""
    if target.exists():
        _require_same(target, manifest)
        return "unchanged"
    if dry_run:
        return "planned"
    for file in part.iterdir():
        file.chmod(0o444)
        sync(file)
    part.chmod(0o755)
    sync(part)
    try:
        part.rename(target)
    except OSError:
        if not target.exists():
            raise
        _require_same(target, manifest)  # another process was quicker
        return "unchanged"
    sync(target.parent)
    return "written"


def _require_same(target: Path, manifest: dict[str, Any]) -> None:
    """Refuse a name whose release has other content."""
    try:
        there = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ReleaseExistsError(target.name, "a manifest that cannot be read") from exc
    differs = [k for k in {**manifest, **there} if k not in _NOT_CONTENT and there.get(k) != manifest.get(k)]
    if differs:
        raise ReleaseExistsError(target.name, ", ".join(differs))


def _write(atlas: Atlas, part: Path, name: str, split_by: SplitBy, seed: int) -> dict[str, Any]:
    """Write the release's files into `part` and return its manifest."""
    with connect(export_tables(atlas), scratch=part) as connection:
        content = _hash_content(connection)
        split_cells = _write_splits(connection, part / "splits.parquet", split_by, seed)
        joint = ", ".join(f'"{label}_ontology_term_id"' for label in JOINT_LABELS)
        _copy(
            connection,
            f"SELECT organism, {joint}, count(*) AS cells FROM obs WHERE qc_pass GROUP BY ALL ORDER BY ALL",  # noqa: S608
            part / "joint_labels.parquet",
        )
        counts = connection.sql(
            "SELECT organism, count(*), count(*) FILTER (qc_pass) FROM obs GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    for left in part.iterdir():
        if left.suffix != ".parquet":  # what DuckDB spilled
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    moment = dt.datetime.fromtimestamp(atlas.published_ms / 1000, dt.UTC)
    manifest = {
        "panatlas_format": 1,
        "name": name,
        "created": moment.isoformat(timespec="milliseconds"),
        "tiledb_timestamp_ms": atlas.published_ms,
        "schema": schema.SCHEMA_VERSION,
        "census_schema": schema.CENSUS_SCHEMA_VERSION,
        "ontologies": sorted(
            {str(r["releases"]["ontologies"]) for r in atlas.receipts() if "ontologies" in r.get("releases", {})}
        ),  # those the labels were mapped with, not those installed now
        "genes": _gene_releases(atlas),
        "organisms": [dict(zip(("organism", "cells", "passing"), row, strict=True)) for row in counts],
        "datasets": [
            {"dataset_id": d.dataset_id, "organism": d.organism, "cells": d.n_cells, "content_sha256": d.content_sha256}
            for d in atlas.datasets
        ],
        "content_sha256": content,
        "split": {"by": split_by, "seed": seed, "shares": dict(SPLITS), "cells": split_cells},
        "files": {p.name: _describe(p) for p in sorted(part.glob("*.parquet"))},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (part / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _hash_content(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the sha256 over all cells' digests in sorted order, so that it does not depend on the order of cells.

    A cell's digest is the sha256 over its id, count hash and labels, each as `<length>:<text>`, which none can forge.
    """
    columns = content_columns()
    cell = " || ".join(f"""length("{c}") || ':' || "{c}" """ for c in columns)
    digest = hashlib.sha256("".join(f"{c}\n" for c in columns).encode())
    for batch in connection.sql(f"SELECT sha256({cell}) AS d FROM obs ORDER BY d").to_arrow_reader(100_000):  # noqa: S608
        digest.update("".join(f"{d}\n" for d in batch.column(0).to_pylist()).encode())
    return digest.hexdigest()


def content_columns() -> tuple[str, ...]:
    """Return the columns a release's content hash is over: the cell's id, its counts' hash, its labels."""
    labels = [f.name for f in schema.OBS if f.census and f.type == schema.CATEGORY]
    return ("observation_joinid", "count_hash", "organism_ontology_term_id", *labels)


def split_of(seed: int, group: tuple[str, ...]) -> str:
    """Return the split of a group of cells: by its own name and the seed only, so that other groups never matter.

    Examples
    --------
    >>> split_of(0, ("baron_human", "human1")) == split_of(0, ("baron_human", "human1"))
    True
    """
    digest = hashlib.sha256(json.dumps([seed, *group], ensure_ascii=True).encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in SPLITS:
        if point < share:
            return name
        point -= share
    return SPLITS[-1][0]


def _write_splits(connection: duckdb.DuckDBPyConnection, file: Path, split_by: SplitBy, seed: int) -> dict[str, int]:
    """Write every cell's split, and return the cells per split."""
    donor = "donor_id" if split_by == "donor" else "''"
    groups = connection.sql(f"SELECT DISTINCT dataset_id, {donor} AS donor FROM obs ORDER BY ALL").fetchall()  # noqa: S608
    table = pa.table(
        {
            "dataset_id": [dataset for dataset, _ in groups],
            "donor": [who for _, who in groups],
            "split": [split_of(seed, (dataset, who) if split_by == "donor" else (dataset,)) for dataset, who in groups],
        }
    )
    connection.register("groups", table)
    query = (
        "SELECT observation_joinid AS cell_id, organism, soma_joinid, split, qc_pass, is_primary_data "  # noqa: S608
        f"FROM obs JOIN groups ON obs.dataset_id = groups.dataset_id AND {donor} = groups.donor "
        "ORDER BY organism, soma_joinid"
    )
    _copy(connection, query, file)
    found = dict(
        connection.sql("SELECT split, count(*) FROM read_parquet(?) GROUP BY ALL", params=[str(file)]).fetchall()
    )
    return {name: int(found.get(name, 0)) for name, _ in SPLITS}


def _copy(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """Stream a query's rows into a Parquet file."""
    reader = connection.sql(query).to_arrow_reader(100_000)
    with pq.ParquetWriter(file, reader.schema, compression="zstd") as out:
        for batch in reader:
            out.write_batch(batch)


def _gene_releases(atlas: Atlas) -> dict[str, dict[str, str]]:
    """Return, per organism, the release and digest of the gene table its counts are over."""
    found = {}
    for organism in atlas.organisms:
        uri = str(atlas.root / layout.DATA / organism)
        with soma.Experiment.open(uri, tiledb_timestamp=atlas.published_ms) as experiment:
            found[organism] = {
                "release": str(experiment.metadata["gene_release"]),
                "sha256": str(experiment.metadata["gene_sha256"]),
            }
    return found


def _describe(file: Path) -> dict[str, Any]:
    """Return rows and sha256 of a Parquet file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"rows": pq.read_metadata(file).num_rows, "sha256": digest}
