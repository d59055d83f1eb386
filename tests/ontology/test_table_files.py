"""Tables of text and Parquet: rows of another width are told, and a small file cannot become a large table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ontology import OntologyInputError
from ontology import table_files as module
from ontology.imports import import_table
from ontology.snapshots import read_table

if TYPE_CHECKING:
    from pathlib import Path

S = "ENSOARG0000000000"
ABOUT = {"release": "Ensembl 114"}


def test_lines_of_another_width_are_left_out_and_named(own_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'gene,name,chr\n{S}1,"A,\nB",1\n{S}2,B,extra,1\n\n{S}3,C\n{S}4,D,2')
    made = import_table("genes", "sheep", path, {"id": "gene", "symbol": "name", "contig": "chr"}, ABOUT)
    assert read_table(made)[["id", "contig"]].to_numpy().tolist() == [[f"{S}1", "1"], [f"{S}4", "2"]]
    assert made.report.faults[module.RAGGED] == 2
    assert made.report.examples[module.RAGGED] == ("'line 4'", "'line 6'")
    assert made.report.read == 4


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f'gene,name\n{S}1,A\n{S}2,"B\n{S}3,C\n', "quotes are closed"),
        (f"gene,name\n{S}1,A,1\n", "1 have not"),
        (f"gene,name\n{S}1,{'x' * 140_000}\n", "line 2 is none"),
        (f"gene,name\n{S}1,{'x' * (1 << 20)}\n", "characters"),
    ],
    ids=["open quote", "no row fits", "long field", "long line"],
)
def test_rows_that_cannot_be_told_apart_are_refused(text: str, match: str, own_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(OntologyInputError, match=match):
        import_table("genes", "sheep", path, {"id": "gene"}, ABOUT)


def test_a_small_parquet_file_of_repeated_texts_is_bounded_by_what_it_decodes_to(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    ids = [f"{S}1", f"{S}2", *[None] * 998]
    pd.DataFrame({"gene": ids, "name": "y" * 1_900}).to_parquet(path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(module, "TABLE_LIMIT", 2_000_000)
    made = import_table("genes", "sheep", path, {"id": "gene", "symbol": "name"}, ABOUT)
    assert read_table(made)["symbol"].str.len().tolist() == [1_900, 1_900]
    monkeypatch.setattr(module, "TABLE_LIMIT", 1_800_000)
    with pytest.raises(OntologyInputError, match="at most 1800000 bytes when unpacked, not 19"):
        import_table("genes", "sheep", path, {"id": "gene", "symbol": "name"}, ABOUT)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_every_way_of_keeping_text_in_parquet_is_read(kind: pa.DataType, own_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"gene": pa.array([f"{S}2", None, f"{S}1"]).cast(kind), "chr": [1, 2, 3]}), path)
    made = import_table("genes", "sheep", path, {"id": "gene", "contig": "chr"}, ABOUT)
    assert read_table(made)[["id", "contig"]].to_numpy().tolist() == [[f"{S}1", "3"], [f"{S}2", "1"]]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.binary(1)], ids=str)
def test_columns_that_hold_no_plain_values_are_refused(kind: pa.DataType, own_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    values = pa.array([["x"]] if pa.types.is_list(kind) else [b"x"], kind)
    pq.write_table(pa.table({"gene": [f"{S}1"], "name": values}), path)
    with pytest.raises(OntologyInputError, match="columns of text or numbers"):
        import_table("genes", "sheep", path, {"id": "gene", "symbol": "name"}, ABOUT)
