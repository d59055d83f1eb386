"""An atlas frozen under a name: which cells, which content, who trains on what. A release never changes.

A release is a folder `<atlas>/releases/NAME` with a manifest, a split for every cell and the joint-label counts. It is
written beside and renamed, so it is there whole or not at all. It holds no counts: the manifest's TileDB timestamp
opens the store as it was. Who goes where is decided in `splits`; `leakage` refuses a release whose splits share cells.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import tiledbsoma as soma

from atlas import layout, open_atlas, release_part, schema, upload_release

from .errors import CatalogInputError, ReleaseExistsError
from .leakage import SPLIT_BITS, describe_leakage, find_faults, find_leaks
from .manifests import MANIFEST
from .result_files import digest_of_file
from .splits import (
    SPLIT_NAMES,
    SPLITS,
    Population,
    SplitPlan,
    assign_splits,
    describe_pins,
    describe_places,
    publication_of,
)
from .tables import export_tables, sync
from .views import connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import duckdb

    from atlas import Atlas, Finding

    from .splits import Place, SplitBy

Status = Literal["written", "unchanged", "planned", "rejected"]
JOINT_LABELS = ("cell_type", "disease", "tissue", "assay", "sex", "development_stage")
_TABLES = {
    "splits.parquet": "SELECT observation_joinid AS cell_id, organism, soma_joinid, split, qc_pass, is_primary_data, "
    "split_group FROM cells ORDER BY organism, soma_joinid",
    "joint_labels.parquet": "SELECT organism, split, "  # noqa: S608 - names of the schema
    + ", ".join(f"{label}_ontology_term_id" for label in JOINT_LABELS)
    + ", count(*) AS cells FROM cells WHERE qc_pass AND is_primary_data GROUP BY ALL ORDER BY ALL",
}
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
    """`unchanged` where the same release was there, `planned` in a dry run, `rejected` where its splits share cells."""
    manifest: dict[str, Any]
    """The manifest, as in manifest.json."""
    findings: tuple[Finding, ...] = ()
    """What a person should know of its splits; one of severity `error` where it was rejected."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "status": self.status,
            "manifest": self.manifest,
            "findings": [asdict(finding) for finding in self.findings],
        }


def make_release(
    atlas: Atlas | str,
    name: str,
    *,
    split_by: SplitBy = "donor",
    seed: int = 0,
    pins: Mapping[str, Sequence[str]] | None = None,
    allow_leaks: bool = False,
    dry_run: bool = False,
) -> Release:
    """Freeze the published state of an atlas under a name.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    name
        1-64 letters, digits, `.`, `_`, `-`.
    split_by
        Keep the cells of a donor, of a dataset (either over all datasets of its publication), or of an organism in one
        split.
    seed
        Seed of the splits; the same seed puts the same group into the same split in every release.
    pins
        Split (`train`, `validation`, `test`) to what is put there whatever the seed says: `donor:DATASET/DONOR`,
        `dataset:NAME`, `organism:NAME`. The whole group follows; a narrower pin wins over a wider one.
    allow_leaks
        True makes the release although cells that loaders draw are equal to cells of another split.
    dry_run
        True works everything out and freezes nothing; only the tables that queries use are kept.

    Returns
    -------
    The release with its findings: `written`, `unchanged`, `planned`, or `rejected` with nothing written.

    Raises
    ------
    CatalogInputError
        If the name, `split_by` or a pin is not allowed.
    ReleaseExistsError
        If the name stands for other content.
    """
    if not _NAME.fullmatch(name):
        raise CatalogInputError("name", name, "1-64 letters, digits, `.`, `_` or `-`, starting with a letter or digit")
    plan = SplitPlan(split_by, seed, pins or {})
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    home = opened.root / "releases"
    with release_part(home) as part:
        manifest, findings = _write(opened, part, name, plan, allow_leaks=allow_leaks)
        status: Status = "rejected"
        if not any(finding.severity == "error" for finding in findings):
            status = _place(part, home / name, manifest, opened.uri, dry_run=dry_run)
        return Release(name, home / name, status, manifest, findings)


def _place(
    part: Path, target: Path, manifest: dict[str, Any], uri: str, *, dry_run: bool
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
    upload_release(uri, part, target.name)
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
        there = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ReleaseExistsError(target.name, "a manifest that cannot be read") from exc
    differs = [k for k in {**manifest, **there} if k not in _NOT_CONTENT and there.get(k) != manifest.get(k)]
    if differs:
        raise ReleaseExistsError(target.name, ", ".join(differs))


def _write(
    atlas: Atlas, part: Path, name: str, plan: SplitPlan, *, allow_leaks: bool
) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """Write the release's files into `part`; return its manifest and what was found in its splits."""
    with connect(export_tables(atlas), scratch=part) as connection:
        places = assign_splits(plan, _populations(connection))
        _show_cells(connection, places)
        for file, query in _TABLES.items():
            _copy(connection, query, part / file)
        leaks = find_leaks(connection)
        content = _hash_content(connection)
        counts = connection.sql(
            "SELECT organism, count(*), count(*) FILTER (qc_pass) FROM obs GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    for left in part.iterdir():
        if left.suffix != ".parquet":  # what DuckDB spilled
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    moment = dt.datetime.fromtimestamp(atlas.published_ms / 1000, dt.UTC)
    manifest = {
        "panatlas_format": 2,
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
        "split": {
            "by": plan.by,
            "seed": plan.seed,
            "shares": dict(SPLITS),
            **describe_places(places),
            "pinned": describe_pins(plan),
            "leakage": describe_leakage(leaks, places),
        },
        "files": {p.name: _describe(p) for p in sorted(part.glob("*.parquet"))},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (part / MANIFEST).write_text(text, encoding="utf-8")
    return manifest, find_faults(leaks, places, plan.by, allow_leaks=allow_leaks)


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


def _populations(connection: duckdb.DuckDBPyConnection) -> list[Population]:
    """Return the donors of every dataset with their cells, in an order of their own."""
    publications = {
        dataset: publication_of(doi, collection)
        for dataset, doi, collection in connection.sql(
            "SELECT dataset_id, collection_doi, collection_id FROM datasets"
        ).fetchall()
    }
    rows = connection.sql(
        "SELECT organism, dataset_id, donor_id, count(*), count(*) FILTER (qc_pass AND is_primary_data) "
        "FROM obs GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return [
        Population(organism, dataset, donor, publications[dataset], cells, loadable)
        for organism, dataset, donor, cells, loadable in rows
    ]


def _show_cells(connection: duckdb.DuckDBPyConnection, places: Sequence[Place]) -> None:
    """Make the view `cells`: obs with each cell's split, its group, and the number of its place."""
    table = pa.table(
        {
            "organism": [p.population.organism for p in places],
            "dataset_id": [p.population.dataset_id for p in places],
            "donor_id": [p.population.donor_id for p in places],
            "split": [p.split for p in places],
            "split_group": [p.group for p in places],
            "place": [(SPLIT_NAMES.index(p.split) << SPLIT_BITS) | number for number, p in enumerate(places)],
        }
    )
    connection.register("places", table)
    connection.execute(
        "CREATE TEMP VIEW cells AS SELECT obs.*, split, split_group, place "
        "FROM obs JOIN places USING (organism, dataset_id, donor_id)"
    )


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
        uri = str(atlas.place / layout.DATA / organism)
        with soma.Experiment.open(uri, context=atlas.context()) as experiment:
            found[organism] = {
                "release": str(experiment.metadata["gene_release"]),
                "sha256": str(experiment.metadata["gene_sha256"]),
            }
    return found


def _describe(file: Path) -> dict[str, Any]:
    """Return rows and sha256 of a Parquet file."""
    return {"rows": pq.read_metadata(file).num_rows, "sha256": digest_of_file(file)}
