"""Saying what an atlas holds: organisms, datasets, cells, the published moment, versions. Reads only."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from atlas import open_atlas

from .tables import export_tables
from .views import connect, run

if TYPE_CHECKING:
    from atlas import Atlas


def describe_atlas(atlas: Atlas | str) -> dict[str, Any]:
    """Return what an atlas holds: organisms, datasets, cells, moment, versions; plain values, ready for JSON.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    """
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    summary = opened.table("summary").set_index("label")["value"]
    with connect(export_tables(opened)) as connection:
        organisms = run(
            connection,
            "SELECT organism, any_value(organism_ontology_term_id) AS term_id, count(DISTINCT dataset_id) AS datasets, "
            "count(*) AS cells, count(*) FILTER (qc_pass) AS passing, "
            "count(*) FILTER (is_primary_data) AS primary_cells, "
            "count(DISTINCT cell_type) AS cell_types FROM obs GROUP BY organism ORDER BY organism",
        ).to_pylist()
        datasets = run(
            connection,
            "SELECT o.organism, dataset_id, any_value(dataset_title) AS title, count(*) AS cells, "
            "count(*) FILTER (qc_pass) AS passing, any_value(licence) AS licence, min(d.soma_joinid) AS added "
            "FROM obs o JOIN datasets d USING (dataset_id) GROUP BY ALL ORDER BY added",
        ).to_pylist()
    made_up = {
        name for name, receipt in opened.written().items()
        if any(finding["code"] == "synthetic-cells" for finding in receipt["findings"])
    }  # fmt: skip
    moment = dt.datetime.fromtimestamp(opened.published_ms / 1000, dt.UTC)
    return {
        "uri": opened.uri,
        "published_ms": opened.published_ms,
        "published": moment.isoformat(timespec="milliseconds"),
        "cells": sum(row["cells"] for row in organisms),
        "passing": sum(row["passing"] for row in organisms),
        "synthetic_cells": sum(row["cells"] for row in datasets if row["dataset_id"] in made_up),
        "organisms": organisms,
        "results": [
            {"organism": row.organism, "key": row.key, "cells": row.cells, "member": row.member}
            for row in opened.results
        ],
        "datasets": [
            {k: v for k, v in row.items() if k != "added"} | {"synthetic": row["dataset_id"] in made_up}
            for row in datasets
        ],
        "versions": {str(k): str(v) for k, v in summary.items() if str(k).endswith("_version")},
    }
