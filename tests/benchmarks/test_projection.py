"""The projection in docs/scale.md is what the stored results give, and its arithmetic that of a plain reading."""

from __future__ import annotations

import json

import pytest

from benchmarks.projection import BEGIN, CELLS, DATASETS, PAGE, render_projection, replace_block

SIZES = ((100_000, 1), (1_000_000, 10))


@pytest.fixture
def results(tmp_path):
    def row(cells, datasets):
        return {
            "what": f"{cells} cells", "cells": cells, "datasets": datasets, "nonzeros_per_cell": 1_390.0,
            "cpu_s": 36.0, "peak_mib": 1_300, "store_bytes": 4_000 * cells, "x_bytes": 2_500 * cells,
            "records_bytes": 1_500 * cells, "obs_bytes": 130 * cells, "bytes_per_nonzero": 3.0,
            "fragments": 10 + 11 * datasets, "fragments_x": 6 * datasets, "files": 300 + 90 * datasets,
            "ledger_bytes": 40_000 + 2_000 * datasets, "index_mib": 32 * cells / 2**20, "open_s": 0.1,
            "client_open_s": 0.01, "type_s": 0.05, "cells_s": 0.5, "records_s": 0.2, "gene_s": 4.0, "labels_s": 0.01,
            "consolidate_cpu_s": 0.1 * datasets, "release_cpu_s": 3.0, "release_peak_mib": 900,
            "releases_bytes": 10 * cells, "tables_bytes": 20 * cells, "validate_cpu_s": 21.0, "validate_peak_mib": 659,
        }  # fmt: skip

    few = [{"what": "few", "datasets": n, "cpu_s": 1 + 0.01 * n, "open_s": 0.1, "client_open_s": 0.01} for n in (8, 64)]
    machine = {"processor": "P", "cores": 2, "memory_gib": 23.5}
    scale = {"rows": [*(row(*size) for size in SIZES), *few], "machine": machine, "date": "D", "commit": "c" * 40}
    plain = {"cells": 100_000, "nnz_per_cell": 1_390.0}
    ingest = {"rows": [plain | {"what": "panatlas", "cpu_s": 36.0},
                       plain | {"what": "panatlas with neighbours and doublets", "cpu_s": 86.0}]}  # fmt: skip
    for name, record in (("atlas_scale", scale), ("ingest", ingest)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return tmp_path


def test_what_was_measured_is_carried_to_the_size_that_is_asked_about(results):
    cells = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in render_projection(results).splitlines()
    }
    assert cells["ingest without doublets and neighbours"][2] == f"{36 * CELLS / 1e5 / 3600:.0f} core-hours"
    assert cells["neighbours and doublets"][2] == f"{50 * CELLS / 1e5 / 3600:.0f} core-hours"
    assert cells["more for every dataset that is there"][2].startswith(
        f"{0.01 * DATASETS**2 / 2 / 3600:.0f} core-hours"
    )
    assert cells["store (X, records, obs)"][2].startswith("1.40 TB")
    assert cells["fragments"][2] == f"{11 * DATASETS:,}"
    assert cells["ledger"][2] == "7 MB"
    assert cells["open it, and read its genes"][2] == "0.1 s"
    assert cells["`validate`"][2] == f"{21 * CELLS / 1e6 / 3600:.0f} core-hours"
    assert all(line[-1].rstrip(" |") for line in cells.values() if len(line) > 1)


def test_the_table_on_the_page_is_that_of_the_results(results, repo):
    page = PAGE.read_text("utf-8")
    if (repo / "benchmarks" / "results" / "atlas_scale.json").exists():
        assert replace_block(page, render_projection()) == page
    once = replace_block(page, render_projection(results))
    assert once.count(BEGIN) == 1
    assert replace_block(once, render_projection(results)) == once
    assert once.partition(BEGIN)[0] == page.partition(BEGIN)[0]
