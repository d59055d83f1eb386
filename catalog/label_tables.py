"""Tables of author labels as people keep them: CSV or TSV in, CSV out, read by spreadsheets without being run by them.

A spreadsheet takes a cell that begins with = + - @ for a formula, and author texts are untrusted. Such a cell is
written with an apostrophe in front, which spreadsheets show as text; reading takes it off again, so every text comes
back as it was. curation.py gives the columns their meaning.
"""

from __future__ import annotations

import csv
import gzip
import io
from itertools import islice
from typing import TYPE_CHECKING

from ontology import write_whole

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
"""What a formula begins with, in half and full width."""
GUARDED = FORMULA + "'"
"""What a guarded cell begins with behind the apostrophe; the apostrophe itself, so that reading is exact."""
MAX_LINE = 1 << 20
"""Longest line that is read, characters: a label table has no longer ones, a bomb has."""
MAX_CHARS = 1 << 30
"""Most characters of a table, unpacked: 200 a row of the largest. A gzip bomb ends there."""
MAX_ROWS = 5_000_000
"""Most rows of a table: a cell each, of the largest studies."""
ENCODING = "utf-8"
OURS = frozenset({"label", "text", "accept"})
"""Columns by which a curator's table is known."""


def guard(cell: str) -> str:
    """Return a cell as it is written: no spreadsheet runs it.

    Examples
    --------
    >>> guard("=1+1"), guard("T cell"), unguard(guard("'+"))
    ("'=1+1", 'T cell', "'+")
    """
    return f"'{cell}" if cell.lstrip()[:1] in GUARDED and cell.strip() else cell


def unguard(cell: str) -> str:
    """Return a cell as it was before `guard`."""
    return cell[1:] if cell[:1] == "'" and cell[1:].strip() and cell[1:].lstrip()[:1] in GUARDED else cell


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV or TSV, plain or gzipped, as line number and column to text; blank lines are left out.

    The first line names the columns. It also tells what stands between cells: comma, tab or semicolon, whichever it has
    most of.

    Raises
    ------
    CatalogInputError
        If the file cannot be read, is no such table, or is beyond the limits.
    """
    try:
        with _open(path) as text:
            yield from _rows(path, text)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise CatalogInputError("file", str(path), f"a readable table in UTF-8 ({error})") from error


def _open(path: Path) -> io.TextIOWrapper:
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    raw = gzip.open(path, "rb") if zipped else path.open("rb")  # noqa: SIM115 - the wrapper closes it
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, str]]]:
    lines = _lines(path, text)
    first = next(lines, "")
    between = max(",\t;", key=first.count)
    header = next(csv.reader([first], delimiter=between), [])
    names = [unguard(name.strip()) for name in header]
    if not any(names) or len(set(names)) != len(names):
        raise CatalogInputError("file", str(path), "a table whose first line names its columns, each once")
    # Only what `guard` wrote is undone: in a file of the author's own, '=x may be a label.
    plain = unguard if set(names) >= OURS else str
    reader = csv.reader(lines, delimiter=between)
    for cells in islice(reader, MAX_ROWS + 1):
        if not any(cell.strip() for cell in cells):
            continue
        where = reader.line_num + 1  # the header was read apart
        if len(cells) > len(names):
            raise CatalogInputError("file", str(path), f"{len(names)} cells in line {where}, not {len(cells)}")
        whole = (*cells, *[""] * (len(names) - len(cells)))
        yield where, dict(zip(names, map(plain, whole), strict=True))
    if reader.line_num > MAX_ROWS:
        raise CatalogInputError("file", str(path), f"at most {MAX_ROWS} lines")


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    read = 0
    while line := text.readline(MAX_LINE):
        read += len(line)
        if len(line) == MAX_LINE:
            raise CatalogInputError("file", str(path), f"lines of less than {MAX_LINE} characters")
        if read > MAX_CHARS:
            raise CatalogInputError("file", str(path), f"at most {MAX_CHARS} characters when unpacked")
        yield line


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV whole or not at all; every cell is guarded."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows([guard(str(cell)) for cell in row] for row in rows)
    write_whole(path, out.getvalue().encode(ENCODING))
