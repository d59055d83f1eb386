"""Tables in a user's own file, read without trusting it: `read_rows` gives the wanted columns of the rows that pass.

CSV, TSV (plain or gzip) and Parquet. Sizes are bounded by what a file unpacks and decodes to, and rows whose fields are
not those of the header are left out and told. imports.py makes snapshots of genes and orthologs of the rows,
protein_rows.py of proteins.
"""

from __future__ import annotations

import csv
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .errors import OntologyInputError
from .text_files import check_file, open_text

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from typing import IO

    import pyarrow as pa

    from .text_files import Tally

TABLE_LIMIT = 1 << 30
"""Bytes a table may have when unpacked and decoded; 766,674 genes are 90 MB of CSV."""
ROW_LIMIT = 5_000_000
"""Rows that are read, filtered ones included: six times the genes of 21 organisms in one table."""
CHUNK = 200_000
"""Rows of text held at once before they are filtered."""
LINE_LIMIT = 1 << 20
"""Characters of one line of a text table."""
RAGGED = "lines with another number of fields than the header, left out"
"""The fault of a row whose values cannot be told apart: one too many shifts all that follow it."""
UNREAD = "columns with a name of ours that were not declared, not read"
"""The fault of an import that leaves out what the file has: nothing is guessed from names, but it is said."""
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t", ".bed": "\t"}


def read_rows(
    path: Path, wanted: list[str], where: Mapping[str, str], tally: Tally, known: Container[str] = ()
) -> tuple[int, pd.DataFrame]:
    """Return how many rows of a table could be read and those that pass, with the wanted columns as text.

    Parameters
    ----------
    path
        Parquet, told by its first bytes, or text told apart by suffix.
    wanted
        Columns to return.
    where
        Column to the text that rows must have there, without case.
    tally
        Takes the lines whose fields are not those of the header (`RAGGED`), and columns left unread (`UNREAD`).
    known
        Names that would have meant something, had they been declared.

    Raises
    ------
    OntologyInputError
        When the file is none of these, is too large, is damaged or lacks a column.
    """
    check_file(path)
    with path.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    read = _read_parquet if parquet else _read_text
    have, rows, found = read(path, wanted, where, tally)
    tally.add(UNREAD, [name for name in have if name in known and name not in wanted])
    return rows, found


def _read_parquet(
    path: Path, wanted: list[str], where: Mapping[str, str], _: Tally
) -> tuple[list[str], int, pd.DataFrame]:
    import pyarrow as pa  # noqa: PLC0415 - only imports need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    size, parts = 0, []
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, wanted)
            for name in wanted:
                kind = file.schema_arrow.field(name).type
                if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
                    raise OntologyInputError("columns", name, f"columns of text or numbers, not {str(kind)[:60]}")
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            _check_size(path, sum(group.total_byte_size for group in groups))
            _check_rows(path, file.metadata.num_rows)
        # Texts are read as the dictionaries they are stored as: 5 kB can hold one long text for millions of rows.
        with pq.ParquetFile(path, read_dictionary=wanted) as file:
            for batch in file.iter_batches(CHUNK, columns=wanted):
                size += sum(map(_decoded_bytes, batch.columns))
                _check_size(path, size)
                texts = {name: batch.column(name).to_pandas().astype(object) for name in wanted}
                parts.append(_passing(pd.DataFrame(texts), where))
            found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
            return file.schema_arrow.names, file.metadata.num_rows, found
    except (pa.ArrowException, OSError) as error:
        raise OntologyInputError("path", str(path), f"a sound Parquet file ({error})") from error


def _decoded_bytes(column: pa.Array) -> int:
    """Return what a column's values take once each row has its own copy."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    lengths = pc.binary_length(column.dictionary.cast(pa.large_binary()))
    return column.indices.nbytes + (pc.sum(lengths.take(column.indices)).as_py() or 0)


def _read_text(
    path: Path, wanted: list[str], where: Mapping[str, str], tally: Tally
) -> tuple[list[str], int, pd.DataFrame]:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in SEPARATORS:
        raise OntologyInputError("path", str(path), f"a Parquet file, or one ending in {', '.join(SEPARATORS)} (.gz)")
    read, parts, held = 0, [], []
    with open_text(path, TABLE_LIMIT) as stream:
        rows = _fields(stream, path, SEPARATORS[suffix])
        _, header = next(rows, (0, []))
        _check_columns(path, header, wanted)
        places = [header.index(name) for name in wanted]
        take = itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
        for number, row in rows:
            if len(row) != len(header):
                tally.add(RAGGED, [f"line {number}"])
                continue
            read += 1
            held.append(take(row))
            if len(held) == CHUNK:
                _check_rows(path, read)
                parts.append(_passing(pd.DataFrame(held, columns=wanted, dtype=object), where))
                held = []
    _check_rows(path, read)
    parts.append(_passing(pd.DataFrame(held, columns=wanted, dtype=object), where))
    return header, read, pd.concat(parts, ignore_index=True)


def _fields(stream: IO[str], path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row that is not blank, and the number of its last line; pandas would cut long rows."""

    def lines() -> Iterator[str]:
        while line := stream.readline(LINE_LIMIT):
            if len(line) == LINE_LIMIT:
                raise OntologyInputError("path", str(path), f"lines of less than {LINE_LIMIT:,} characters")
            yield line

    # The blank line at the end is a row of its own, unless a quote that was never closed has swallowed it.
    reader, row = csv.reader(chain(lines(), ["\n"]), delimiter=separator), []
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise OntologyInputError("path", str(path), f"a table; line {reader.line_num} is none ({error})") from error
    if row:
        raise OntologyInputError("path", str(path), "a table whose quotes are closed")


def _passing(rows: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    for column, value in where.items():
        rows = rows[rows[column].astype(str).str.strip().str.casefold() == value.strip().casefold()]
    return rows


def _check_columns(path: Path, have: list[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in have]:
        shown = ", ".join(repr(name[:40]) for name in have[:30])
        raise OntologyInputError("columns", missing, f"columns of {path}, which has {shown}")
    if twice := [name for name in wanted if have.count(name) > 1]:
        raise OntologyInputError("columns", twice, f"columns that {path} has once")


def _check_size(path: Path, size: int) -> None:
    if size > TABLE_LIMIT:
        raise OntologyInputError("path", str(path), f"at most {TABLE_LIMIT} bytes when unpacked, not {size}")


def _check_rows(path: Path, rows: int) -> None:
    if rows > ROW_LIMIT:
        raise OntologyInputError("path", str(path), f"at most {ROW_LIMIT:,} rows")
