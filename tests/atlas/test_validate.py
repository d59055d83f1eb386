"""A validator that finds what is wrong: each kind of damage, written with TileDB, is named by its own finding."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import IngestOptions, StoreError, ingest, layout, open_atlas, store, validate
from atlas.ledger import now_ms
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Validation

pytestmark = pytest.mark.index
OPTIONS = IngestOptions(doublets=False)
EXPERIMENT = "homo_sapiens"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Two datasets of 40 and 30 cells; 5 of the second are copies of the first's."""
    folder = tmp_path_factory.mktemp("base")
    first, second = make_adata(40, 300, seed=1), make_adata(30, 300, seed=1)
    second.X = sp.vstack([first.X[:5], make_adata(25, 300, seed=2).X], format="csr")
    for name, adata in (("a", first), ("b", second)):
        source = write_source(folder / f"{name}.h5ad", adata, id=name)
        assert ingest(source, str(folder / "atlas"), OPTIONS).status == "written"
    return folder / "atlas"


@pytest.fixture(scope="module")
def sound(base: Path) -> Validation:
    return validate(str(base))


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "atlas")


def now(root: Path) -> Validation:
    """Validate what is there at this moment, later than the published one."""
    return validate(replace(open_atlas(str(root)), published_ms=now_ms() + 1))


def codes(found: Validation) -> set[str]:
    """Return the codes found; with their table where several tables have the same."""
    tables = {f: f.where.rpartition("/")[2] for f in found.findings if f.code == "summary-differs"}
    return {f"{f.code}: {tables[f]}" if f in tables else f.code for f in found.findings}


def rewrite(root: Path, member: str, joinid: int, **changes: object) -> None:
    """Write one row of a frame again with other values."""
    uri = str(root / member) if member.startswith("census_info") else store.array_uri(root, EXPERIMENT, member)
    with soma.DataFrame.open(uri) as frame:
        table = frame.read((slice(joinid, joinid),)).concat()
    for name, value in changes.items():
        kind = table.schema.field(name).type
        if pa.types.is_dictionary(kind):
            with soma.DataFrame.open(uri) as frame:
                terms = frame.get_enumeration_values([name])[name]
            if value not in terms.to_pylist():
                with soma.DataFrame.open(uri, "w") as frame:
                    frame.extend_enumeration_values({name: pa.array([value], pa.large_string())})
                store.tick()
                terms = pa.array([*terms.to_pylist(), value], pa.large_string())
            code = pa.array([terms.to_pylist().index(value)], pa.int32())
            column = pa.DictionaryArray.from_arrays(code, terms)
        else:
            column = pa.array([value], kind)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    with soma.DataFrame.open(uri, "w") as frame:
        frame.write(table)
    store.tick()


def put(root: Path, member: str, row: int, column: int, value: object) -> None:
    """Write one value of a matrix."""
    uri = store.array_uri(root, EXPERIMENT, member)
    with soma.SparseNDArray.open(uri) as array:
        kind = array.type
    with soma.SparseNDArray.open(uri, "w") as array:
        array.write(
            pa.table(
                {"soma_dim_0": pa.array([row]), "soma_dim_1": pa.array([column]), "soma_data": pa.array([value], kind)}
            )
        )
    store.tick()


def gene(root: Path, cell: int, *, expressed: bool = True) -> int:
    """Return a measured gene that a cell expresses, or one nobody measured."""
    atlas = open_atlas(str(root))
    if not expressed:
        return int(np.flatnonzero(atlas.genes("human")["n_measured_obs"] == 0)[0])
    (_, block) = next(atlas.count_blocks("human"))
    return int(block[cell].indices[0])


def row_of(root: Path, table: str, **values: object) -> int:
    """Return the joinid of a row of census_info."""
    frame = open_atlas(str(root)).table(table)
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return int(frame["soma_joinid"].iloc[0])


def swap_record(root: Path) -> None:
    uri = store.array_uri(root, EXPERIMENT, layout.RECORDS)
    with soma.DataFrame.open(uri) as frame:
        other = frame.read((slice(9, 9),)).concat().to_pylist()[0]
    rewrite(root, layout.RECORDS, 8, genes=other["genes"], counts=other["counts"])


def forget_receipt(root: Path) -> None:
    with closing(sqlite3.connect(root / store.LEDGER / "ledger.sqlite")) as db:
        db.execute("DELETE FROM receipt WHERE dataset_id = 'b'")
        db.commit()


def add_row(root: Path) -> None:
    """Write an obs row that no dataset owns."""
    uri = store.array_uri(root, EXPERIMENT, "obs")
    store.grow_frame(uri, 71)
    with soma.DataFrame.open(uri) as frame:
        table = frame.read((slice(3, 3),)).concat()
    with soma.DataFrame.open(uri, "w") as frame:
        frame.write(table.set_column(0, table.schema.field(0), pa.array([70])))
    store.tick()


def test_a_sound_atlas_is_sound(sound: Validation) -> None:
    assert sound.findings == ()
    assert sound.sound
    assert sound.cells == {EXPERIMENT: 70}
    assert len(sound.content_hash) == 64
    assert sound.to_dict()["sound"] is True


DAMAGES = {
    "a count": (
        lambda r: put(r, layout.X_RAW, 8, gene(r, 8), 4_321.0),
        {"counts-differ", "metrics-differ", "record-differs"},
    ),
    "a count of nought": (  # X rounds: half a count cannot be in it
        lambda r: put(r, layout.X_RAW, 8, gene(r, 8), 0.0),
        {"values-no-counts", "counts-differ", "metrics-differ", "record-differs"},
    ),
    "a count nobody measured": (
        lambda r: put(r, layout.X_RAW, 8, gene(r, 8, expressed=False), 1.0),
        {"presence-differs", "counts-differ", "metrics-differ", "record-differs", "gene-totals-differ"},
    ),
    "a metric": (lambda r: rewrite(r, "obs", 8, pct_top20=1.0), {"metrics-differ"}),
    "a variance": (lambda r: rewrite(r, "obs", 8, raw_variance_nnz=1.0), {"metrics-differ"}),
    "a core hash": (lambda r: rewrite(r, "obs", 8, core_hash="0" * 32), {"counts-differ"}),
    "a name of a term": (
        lambda r: rewrite(r, "obs", 8, cell_type="T cell"),  # beside the id of a B cell
        {"term-name-differs", "summary-differs: summary_cell_counts"},
    ),
    "a term that is none": (
        lambda r: rewrite(r, "obs", 8, disease_ontology_term_id="MONDO:9999999"),
        {"unknown-term", "summary-differs: summary_cell_counts"},
    ),
    "an organ": (
        lambda r: rewrite(r, "obs", 8, tissue_general="lung"),
        {"mapping-differs", "summary-differs: summary_cell_counts"},
    ),
    "an age": (lambda r: rewrite(r, "obs", 9, age_years=7.0), {"mapping-differs"}),
    "a way of matching": (
        lambda r: rewrite(r, "obs", 9, cell_type_match="synonym"),
        {"summary-differs: label_provenance"},
    ),
    "a flag": (lambda r: rewrite(r, "obs", 8, qc_flags="no-such-reason"), {"obs-differs", "ledger-differs"}),
    "a cell's id": (lambda r: rewrite(r, "obs", 10, observation_joinid="0" * 32), {"cell-ids-differ"}),
    "a cell's dataset": (lambda r: rewrite(r, "obs", 10, dataset_id="b"), {"obs-differs"}),
    "a copy made primary": (
        lambda r: rewrite(r, "obs", 41, is_primary_data=True),
        {
            "primary-data-differs",
            "neighbours-astray",
            "summary-differs: summary",
            "summary-differs: summary_cell_counts",
        },
    ),
    "a record": (swap_record, {"record-differs"}),
    "a neighbour elsewhere": (lambda r: put(r, layout.NEIGHBOURS, 8, 50, 1.0), {"neighbours-astray"}),
    "a distance of nothing": (
        lambda r: put(r, layout.NEIGHBOURS, 8, int(open_atlas(str(r)).neighbours("human", 8, 9).indices[0]), 0.0),
        {"neighbours-astray"},
    ),
    "a total of var": (lambda r: rewrite(r, layout.VAR, 5, nnz=1_000), {"gene-totals-differ"}),
    "a total of measured cells": (lambda r: rewrite(r, layout.VAR, 5, n_measured_obs=1), {"gene-totals-differ"}),
    "a symbol": (lambda r: rewrite(r, layout.VAR, 5, feature_name="ABC"), {"genes-differ"}),
    "a measured gene": (
        lambda r: put(r, layout.PRESENCE, 0, gene(r, 0, expressed=False), True),
        {"gene-totals-differ", "obs-differs"},
    ),
    "a fact of the summary": (
        lambda r: rewrite(r, "census_info/summary", row_of(r, "summary", label="unique_cell_count"), value="70"),
        {"summary-differs: summary"},
    ),
    "a count of the summary": (
        lambda r: rewrite(
            r, "census_info/summary_cell_counts", row_of(r, "summary_cell_counts", label="T cell"), total_cell_count=9
        ),
        {"summary-differs: summary_cell_counts"},
    ),
    "a dataset's row": (
        lambda r: rewrite(r, "census_info/datasets", 1, dataset_total_cell_count=9),
        {"datasets-differ"},
    ),
    "a dataset's title": (lambda r: rewrite(r, "census_info/datasets", 1, dataset_title="other"), set()),
    "a row too many": (add_row, {"joinids-not-dense"}),
    "a lost receipt": (forget_receipt, {"ledger-differs"}),
}
ALONE = ("a count", "a metric", "a record", "a neighbour elsewhere", "a total of var", "a fact of the summary")
TOGETHER = (
    ("a count nobody measured", "a name of a term", "a cell's id", "a dataset's row", "a symbol", "an age"),
    ("a count of nought", "a term that is none", "a total of measured cells", "a cell's dataset", "a row too many",
     "a lost receipt", "a way of matching"),
    ("a copy made primary", "a measured gene", "a variance", "a core hash"),
    ("a flag", "an organ", "a distance of nothing"),
    ("a count of the summary", "a dataset's title"),
)  # fmt: skip
"""Damages that no finding shares, to read each atlas but once."""


def test_every_damage_is_tried() -> None:
    assert {*ALONE, *(name for names in TOGETHER for name in names)} == set(DAMAGES)
    for names in TOGETHER:
        assert sum(len(DAMAGES[name][1]) for name in names) == len(set().union(*(DAMAGES[name][1] for name in names)))


@pytest.mark.parametrize("names", [(name,) for name in ALONE] + [*TOGETHER], ids=" and ".join)
def test_damage_is_named_by_its_own_finding(copy: Path, sound: Validation, names: tuple[str, ...]) -> None:
    expected = set()
    for name in names:
        damage, its_own = DAMAGES[name]
        damage(copy)
        expected |= its_own
    found = now(copy)
    assert codes(found) == expected
    assert found.sound is not bool(expected)
    assert (found.content_hash == sound.content_hash) is (names == ("a record",)), "records repeat X"
    for finding in found.findings:
        assert finding.severity == "error"
        assert finding.count >= 1
        if names == ("a metric",):
            assert finding.where == "census_data/homo_sapiens/obs"
            assert finding.found == "cell 8 of a: pct_top20"


def test_damaged_bytes_are_an_array_that_cannot_be_read(copy: Path) -> None:
    x = copy / layout.DATA / EXPERIMENT / layout.X_RAW
    for file in x.glob("__fragments/*/a*.tdb"):
        file.write_bytes(b"\xff" * file.stat().st_size)
    found = validate(str(copy))
    assert "unreadable-array" in codes(found)
    assert found.content_hash is None
    assert not found.sound


def test_a_missing_array_is_told_and_the_rest_is_looked_at(copy: Path) -> None:
    shutil.rmtree(copy / layout.DATA / EXPERIMENT / layout.RECORDS)
    rewrite(copy, "census_info/datasets", 1, dataset_total_cell_count=9)
    assert codes(now(copy)) == {"unreadable-array", "datasets-differ"}


def test_an_earlier_moment_is_sound_too_and_nothing_is_written(base: Path) -> None:
    def files() -> dict[str, tuple[int, int]]:
        apart = base / store.LEDGER  # SQLite keeps an index beside a ledger that is read
        found = (p for p in base.rglob("*") if p.is_file() and apart not in p.parents)
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in found}

    before = files()
    moment = open_atlas(str(base)).datasets[0].published_ms
    found = validate(open_atlas(str(base), at=moment))
    assert found.findings == ()
    assert found.cells == {EXPERIMENT: 40}
    assert files() == before


def test_no_atlas_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no atlas here"):
        validate(str(tmp_path))


def test_sources_are_read_again(tmp_path: Path) -> None:
    """One as it was, whose matrix a manifest named; one that was changed; one that is gone."""
    uri = str(tmp_path / "atlas")
    layered = make_adata(20, 200, seed=1)
    layered.layers["molecules"] = layered.X.copy()
    layered.X = make_adata(20, 200, seed=9).X
    said = {"same": (layered, {"matrix": "layers/molecules"}), "changed": (make_adata(20, 200, seed=2), {})}
    said["gone"] = (make_adata(20, 200, seed=3), {})
    for name, (adata, fields) in said.items():
        source = write_source(tmp_path / f"{name}.h5ad", adata, id=name, **fields)
        assert ingest(source, uri, IngestOptions(doublets=False, neighbours=False)).status == "written"
    adata = said["changed"][0].copy()
    adata.X.data[0] += 1
    adata.write_h5ad(tmp_path / "changed.h5ad")
    (tmp_path / "gone.h5ad").unlink()
    assert validate(uri).findings == ()
    found = validate(uri, sources=True)
    assert {(f.code, f.where, f.severity) for f in found.findings} == {
        ("source-differs", "changed", "error"),
        ("source-unreachable", "gone", "warning"),
    }
