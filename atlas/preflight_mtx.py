"""A 10x mtx folder, looked at before it is parsed: which files, how far they inflate, what the header declares.

The lines of the matrix are counted here, so that a header can neither reserve memory for values that are not there nor
hide that a file was cut short. The parser is in `read_10x`.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from .preflight import BOMB_BYTES, BOMB_RATIO
from .preflight_folder import TRUST, walk_folder
from .refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_NAMES = 512 * 2**20  # bytes of a barcode or feature list once inflated
MAX_MATRIX = 256 * 2**30  # bytes of a matrix.mtx once inflated: about 10 billion values
BLOCK = 2**20


@dataclass(frozen=True)
class MtxFiles:
    """The three files of a 10x mtx folder and what the matrix declares."""

    matrix: Path
    """Coordinates and counts, features x cells."""
    barcodes: Path
    """Cell names, one a line."""
    features: Path
    """Feature id, name and type, tab-separated."""
    shape: tuple[int, int]
    """Features and cells the header declares."""
    values: int
    """Values the header declares; that many lines are there."""


def find_mtx(path: Path) -> list[Path]:
    """Return the files of a folder that are named like a 10x matrix; a prefix such as `GSM1_` is allowed."""
    return sorted(p for p in path.iterdir() if p.name.endswith(("matrix.mtx", "matrix.mtx.gz")))


def check_mtx(path: Path, dataset: str) -> MtxFiles:
    """Return the files of a 10x mtx folder after checking links, sizes and the matrix's header against its lines.

    Raises
    ------
    ContractError
        With one of the codes `mtx-files`, `folder-symlink`, `gzip-bomb`, `damaged-gzip`, `mtx-header`, `mtx-lines`,
        `mtx-cut`.
    """
    root = path.resolve()
    for _ in walk_folder(root, dataset, allow_links=True):
        pass
    found = find_mtx(root)
    prefix = found[0].name.split("matrix.mtx")[0] if found else ""
    names = {
        part: [p for stem in stems for p in (root / f"{prefix}{stem}", root / f"{prefix}{stem}.gz") if p.is_file()]
        for part, stems in {
            "matrix": ("matrix.mtx",),
            "barcodes": ("barcodes.tsv",),
            "features": ("features.tsv", "genes.tsv"),
        }.items()
    }
    if len(found) != 1 or any(len(files) != 1 for files in names.values()):
        held = ", ".join(sorted(p.name for p in root.iterdir())[:10])
        raise refusal(
            dataset,
            "mtx-files",
            "the folder",
            held,
            "one matrix.mtx, barcodes.tsv and features.tsv (or .gz)",
            "keep exactly one of each in the folder",
        )
    matrix = names["matrix"][0]
    shape, values = _check_matrix_file(matrix, dataset)
    return MtxFiles(matrix, names["barcodes"][0], names["features"][0], shape, values)


def read_lines(path: Path, dataset: str) -> list[str]:
    """Return the lines of a small text file, gzipped or not, refusing one that inflates without end."""
    with _opened(path) as handle:
        whole = b"".join(_blocks(handle, path, MAX_NAMES, dataset))
    _check_end(path, whole[-1:], dataset)
    try:
        return whole.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise refusal(dataset, "mtx-header", path.name, error, "UTF-8 text", "export the folder again") from error


def _check_end(path: Path, last: bytes, dataset: str) -> None:
    """Refuse plain text that stops inside a line: cut there, `12` and `1` look alike. Gzip has its own checksum."""
    if path.suffix != ".gz" and last not in (b"\n", b""):
        remedy = "copy the file again; if it is whole, end its last line"
        raise refusal(dataset, "mtx-cut", path.name, "a last line without an end", "a line break", remedy)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _blocks(handle: IO[bytes], path: Path, limit: int, dataset: str) -> Iterator[bytes]:
    stored, size = path.stat().st_size, 0
    while True:
        try:
            block = handle.read(BLOCK)
        except (OSError, EOFError, zlib.error) as error:
            raise refusal(dataset, "damaged-gzip", path.name, error, "a whole file", "copy the file again") from error
        if not block:
            return
        size += len(block)
        if size > limit or (size > BOMB_BYTES and size > BOMB_RATIO * max(1, stored)):
            raise refusal(
                dataset,
                "gzip-bomb",
                path.name,
                f"over {size:,} bytes from {stored:,}",
                f"at most {BOMB_RATIO} times and {limit:,} bytes",
                TRUST,
            )
        yield block


def _check_matrix_file(path: Path, dataset: str) -> tuple[tuple[int, int], int]:
    """Return the shape and number of values of a Matrix Market file whose lines are as many as it declares."""
    with _opened(path) as handle:
        head, lines, last = b"", 0, b""
        for block in _blocks(handle, path, MAX_MATRIX, dataset):
            if len(head) < BLOCK:
                head += block
            lines += block.count(b"\n")
            last = block[-1:]
    _check_end(path, last, dataset)
    lines += last not in (b"\n", b"")
    rows = head.split(b"\n")
    comments = next((i for i, line in enumerate(rows) if not line.startswith(b"%")), len(rows))
    banner = rows[0].decode("ascii", errors="replace").lower().split()
    sizes = rows[comments].split() if comments < len(rows) else []
    if banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[3:] not in (
        ["integer", "general"],
        ["real", "general"],
    ):
        raise refusal(
            dataset,
            "mtx-header",
            path.name,
            rows[0][:80],
            "%%MatrixMarket matrix coordinate integer general",
            "export the folder again",
        )
    if len(sizes) != 3 or not all(s.isdigit() and len(s) < 16 for s in sizes):
        raise refusal(
            dataset,
            "mtx-header",
            path.name,
            b" ".join(sizes)[:80],
            "rows, columns and values",
            "export the folder again",
        )
    features, cells, values = (int(s) for s in sizes)
    held = lines - comments - 1
    if held != values:
        raise refusal(
            dataset,
            "mtx-lines",
            path.name,
            f"{held:,} lines",
            f"{values:,}, as the header declares",
            "the file is cut short or edited; copy it again",
        )
    return (features, cells), values
