"""What lies between two releases: datasets, cells, labels, genes and splits that came, went or changed.

Cells are known by their stable ids, so releases of two atlases compare as well as two of one. `panatlas diff` shows the
result; tables come from `tables`, manifests from `manifests`. Reads only.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from atlas import StoreError, open_atlas, schema, side_folder

from .errors import CatalogInputError
from .manifests import MANIFEST, read_manifest
from .tables import export_tables
from .views import MEMORY_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas import Atlas

SHOWN = 10
"""Commonest changes of a column that are told."""
COMPARED = (*schema.categories(schema.OBS), "is_primary_data", "qc_pass")
"""Columns of obs whose changes are told as from and to."""
OF_DATASET = ("organism", "dataset_version_id", "dataset_title", "collection_doi", "citation", "licence")
"""Columns of datasets that are compared, beside the number of cells."""
OF_GENE = ("feature_name", "feature_type", "feature_length", "is_mito", "is_ribo")
"""Columns of var that are compared; its totals follow the cells."""


@dataclass(frozen=True)
class ReleaseDiff:
    """What is different in a release `b` from a release `a`."""

    a: dict[str, Any]
    """Name, atlas, moment and content hash of the one."""
    b: dict[str, Any]
    """Those of the other."""
    datasets: dict[str, Any]
    """`added`, `removed`: ids; `changed`: id to the columns that differ, each as [in a, in b]."""
    cells: dict[str, int]
    """Cells `added`, `removed`, in `both`, and of these with other `counts`."""
    labels: dict[str, dict[str, Any]]
    """Per column of obs that differs: `cells`, and `pairs`, the commonest changes as from, to and cells."""
    genes: dict[str, dict[str, Any]]
    """Per organism whose genes differ: numbers `added`, `removed` and `changed`, and a few ids of each."""
    splits: dict[str, Any]
    """`settings` that differ as [in a, in b], and `pairs`: from, to and cells of those in both that moved."""

    @property
    def same(self) -> bool:
        """True where nothing differs but names and moments."""
        moved = self.cells["added"] or self.cells["removed"] or self.cells["counts"]
        told = (self.labels, self.genes, *self.datasets.values(), *self.splits.values())
        return not moved and not any(told)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return asdict(self) | {"same": self.same}


def diff_releases(a: str, b: str, atlas: Path | str) -> ReleaseDiff:
    """Compare two releases.

    Parameters
    ----------
    a, b
        Names of releases of `atlas`; or folders of releases, `ATLAS/releases/NAME`, of any atlas.
    atlas
        Folder of the atlas whose releases names are.

    Raises
    ------
    CatalogInputError
        If there is no such release.
    StoreError
        If an atlas or a file of a release cannot be read.
    """
    sides = [_Side.of(name, str(atlas)) for name in (a, b)]
    with _connect(*sides) as connection:
        cells = _cells(connection)
        return ReleaseDiff(
            a=sides[0].facts(),
            b=sides[1].facts(),
            datasets=_datasets(connection),
            cells=cells,
            labels=_labels(connection),
            genes=_genes(*(side.opened for side in sides)),
            splits=_splits(connection, *(side.manifest["split"] for side in sides)),
        )


@dataclass(frozen=True)
class _Side:
    """One of the two."""

    opened: Atlas
    """Its atlas at its moment."""
    manifest: dict[str, Any]
    """Its manifest."""
    folder: Path
    """Where it is."""

    @classmethod
    def of(cls, name: str, atlas: str) -> _Side:
        """Return the release of a name, or of a folder."""
        folder = Path(name).expanduser()
        if len(folder.parts) > 1 or folder.is_absolute():
            if folder.resolve().parent.name != "releases" or not (folder / MANIFEST).is_file():
                raise CatalogInputError("release", name, "a name, or the folder of a release: ATLAS/releases/NAME")
            atlas, name = str(folder.resolve().parent.parent), folder.resolve().name
        manifest = read_manifest(side_folder(atlas), name)
        opened = open_atlas(atlas, at=manifest["tiledb_timestamp_ms"])
        return cls(opened, manifest, opened.root / "releases" / name)

    def facts(self) -> dict[str, Any]:
        """Return what is shown of it."""
        kept = {key: self.manifest[key] for key in ("name", "created", "content_sha256")}
        return kept | {"atlas": self.opened.uri, "cells": sum(row["cells"] for row in self.manifest["organisms"])}


@contextmanager
def _connect(a: _Side, b: _Side) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB with obs, datasets and splits of both, and `moved`: cells of both that differ, side by side."""
    tables = [export_tables(side.opened) for side in (a, b)]
    if not tables[0].obs.exists():  # making the second may have dropped the first as the oldest
        tables[0] = export_tables(a.opened)
    with tempfile.TemporaryDirectory(prefix="panatlas-diff-") as spill:
        settings = {"memory_limit": MEMORY_LIMIT, "temp_directory": spill, "autoinstall_known_extensions": False}
        with duckdb.connect(":memory:", config=settings) as connection:
            for name, side, table in zip("ab", (a, b), tables, strict=True):
                files = {"obs": table.obs, "datasets": table.datasets, "splits": side.folder / "splits.parquet"}
                for kind, file in files.items():
                    try:
                        connection.read_parquet(str(file)).create_view(f"{name}_{kind}")
                    except duckdb.Error as exc:
                        detail = f"{str(exc).splitlines()[0]}; restore the release from a copy of the atlas"
                        raise StoreError(str(file), "read", detail) from exc
            told = (*COMPARED, "count_hash")
            shown = ", ".join(f'a."{c}" AS "a_{c}", b."{c}" AS "b_{c}"' for c in told)
            differ = " OR ".join(f'a."{c}" IS DISTINCT FROM b."{c}"' for c in told)
            connection.execute(
                f"CREATE TEMP TABLE moved AS SELECT {shown} FROM a_obs a JOIN b_obs b "  # noqa: S608 - names of the schema
                f"USING (observation_joinid) WHERE {differ}"
            )
            yield connection


def _cells(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return how many cells came, went, stayed, and have other counts."""
    one = "SELECT count(*) FROM {}_obs ANTI JOIN {}_obs USING (observation_joinid)"
    added, removed = (_number(connection, one.format(*pair)) for pair in ("ba", "ab"))
    both = _number(connection, "SELECT count(*) FROM a_obs") - removed
    counts = _number(connection, "SELECT count(*) FROM moved WHERE a_count_hash <> b_count_hash")
    return {"added": added, "removed": removed, "both": both, "counts": counts}


def _number(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """Return the one number a query gives."""
    return int(connection.sql(query).fetchall()[0][0])


def _labels(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Return the columns in which cells of both differ, with the commonest changes."""
    out = {}
    for column in COMPARED:
        query = (
            f'SELECT "a_{column}" AS was, "b_{column}" AS now, count(*) AS cells FROM moved '  # noqa: S608 - of the schema
            f'WHERE "a_{column}" IS DISTINCT FROM "b_{column}" GROUP BY ALL ORDER BY cells DESC, was, now'
        )
        rows = connection.sql(query).fetchall()
        if rows:
            pairs = [{"from": was, "to": now, "cells": n} for was, now, n in rows[:SHOWN]]
            out[column] = {"cells": sum(n for *_, n in rows), "pairs": pairs}
    return out


def _datasets(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return the datasets that came, went, and say something else."""
    columns = (*OF_DATASET, "dataset_total_cell_count")
    found = []
    for side in "ab":
        rows = connection.sql(f"SELECT dataset_id, {', '.join(columns)} FROM {side}_datasets").fetchall()  # noqa: S608
        found.append({name: dict(zip(columns, values, strict=True)) for name, *values in rows})
    a, b = found
    changed = {
        name: {c: [a[name][c], b[name][c]] for c in columns if a[name][c] != b[name][c]}
        for name in sorted(a.keys() & b)
    }
    return {
        "added": sorted(b.keys() - a),
        "removed": sorted(a.keys() - b),
        "changed": {name: what for name, what in changed.items() if what},
    }


def _genes(a: Atlas, b: Atlas) -> dict[str, dict[str, Any]]:
    """Return, per organism, the genes that came, went, and are described otherwise."""
    out = {}
    for organism in sorted({*a.organisms, *b.organisms}):
        tables = [
            side.genes(organism).set_index("feature_id")[list(OF_GENE)] if organism in side.organisms else None
            for side in (a, b)
        ]
        before, after = (() if table is None else table.index for table in tables)
        told = {"added": sorted(set(after) - set(before)), "removed": sorted(set(before) - set(after)), "changed": []}
        if tables[0] is not None and tables[1] is not None:
            common = tables[0].index.intersection(tables[1].index)
            differ = (tables[0].loc[common] != tables[1].loc[common]).any(axis=1)
            told["changed"] = sorted(common[differ])
        if any(told.values()):
            out[organism] = {kind: {"genes": len(ids), "examples": ids[:SHOWN]} for kind, ids in told.items()}
    return out


def _splits(connection: duckdb.DuckDBPyConnection, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return how the splits were made differently, and the cells of both that are in another one."""
    settings = {key: [a.get(key), b.get(key)] for key in ("by", "seed", "shares", "pinned") if a.get(key) != b.get(key)}
    rows = connection.sql(
        "SELECT a.split AS was, b.split AS now, count(*) AS cells FROM a_splits a JOIN b_splits b USING (cell_id) "
        "WHERE a.split <> b.split GROUP BY ALL ORDER BY cells DESC, was, now"
    ).fetchall()
    return {"settings": settings, "pairs": [{"from": was, "to": now, "cells": n} for was, now, n in rows]}
