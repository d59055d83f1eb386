"""A user's own table becomes a snapshot: `import_table("genes", "cow", "genes.csv", {"id": "gene_id"}, about)`.

CSV, TSV (plain or gzip) and Parquet, with columns declared by the user: nothing is guessed from names. The file is not
trusted: it is bounded, read as text, and its rows go through gene_rows.py. Annotations are gtf.py's, proteins
proteins.py's and ontologies ontology_files.py's. genes.py and orthologs.py read the snapshots.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .errors import OntologyInputError
from .gene_rows import GENE_COLUMNS, ORTHOLOG_COLUMNS, clean_genes, clean_orthologs
from .organisms import Organism, get_organism
from .snapshots import Snapshot, save_table
from .text_files import ImportReport, Tally, check_file, open_text

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

TABLE_LIMIT = 1 << 30
"""Bytes a table may have when unpacked; 766,674 genes are 90 MB of CSV."""
ROW_LIMIT = 5_000_000
"""Rows that are read, filtered ones included: six times the genes of 21 organisms in one table."""
CHUNK = 200_000
"""Rows of text held at once before they are filtered."""
COLUMNS = {"genes": (*GENE_COLUMNS, "end"), "orthologs": ORTHOLOG_COLUMNS}
"""Our columns of each kind; those of `NEEDED` must be declared."""
NEEDED = {"genes": ("id",), "orthologs": ("gene", "human_gene")}
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t", ".bed": "\t"}


@dataclass(frozen=True)
class ImportedSnapshot(Snapshot):
    """A snapshot together with what became of the rows it was made from."""

    report: ImportReport
    """Rows read and kept, and every fault with its number."""


def import_table(
    kind: str,
    organism: str | int | Organism,
    path: str | Path,
    columns: Mapping[str, str],
    about: Mapping[str, str],
    where: Mapping[str, Any] | None = None,
    base: int = 1,
) -> ImportedSnapshot:
    """Keep a user's own table of genes, or of orthologs to human, as the organism's snapshot.

    Parameters
    ----------
    kind
        `genes` or `orthologs`.
    organism
        Whose genes they are.
    path
        CSV, TSV (by suffix; plain or gzip) with a header, or Parquet.
    columns
        Our column to the file's. genes: id; and any of symbol, biotype, length (bp), contig, start, end, strand,
        synonyms (joined by `|`, else by commas). orthologs: gene and human_gene; and any of type, confidence (0 to 1)
        and support. `end` is used to check `start` and not kept.
    about
        `release`, and any of `source` (default: the file's name) and `licence`.
    where
        The file's column to the one value that rows must have, compared as text without case.
    base
        1 where the file counts the first base of a contig as 1, 0 where as 0 with an exclusive end (BED).

    Returns
    -------
    ImportedSnapshot
        The snapshot, and in `report` what was dropped or mended; the report is logged too.

    Raises
    ------
    OntologyInputError
        When the call or the file as a whole is at fault: a kind or column that does not exist, a file that is too
        large or no table, no row left, or no id of the organism's form. A bad row is counted instead.

    Notes
    -----
    Of several rows with one id (or one pair) the first is kept. Versions come off ids. A gene with an impossible
    position is kept without one.
    """
    found = get_organism(organism)
    _check_call(kind, found, columns, about, base)
    source = Path(path)
    wanted = list(dict.fromkeys([*columns.values(), *(where or {})]))
    read, rows = read_rows(source, wanted, {name: str(value) for name, value in (where or {}).items()})
    if rows.empty:
        raise OntologyInputError("where", dict(where or {}), f"a value that some of the {read:,} rows of {source} have")
    mine = pd.DataFrame({ours: rows[theirs] for ours, theirs in columns.items()})
    tally = Tally()
    frame = clean_genes(mine, found, base, tally) if kind == "genes" else clean_orthologs(mine, found, tally)
    return keep_import(kind, found, frame, {"source": source.name, **about}, tally.report(len(rows), len(frame)))


def keep_import(
    kind: str, organism: Organism, frame: pd.DataFrame, about: Mapping[str, str], report: ImportReport
) -> ImportedSnapshot:
    """Save cleaned rows as a snapshot and log what became of the file."""
    snapshot = save_table(kind, organism.name, frame, about)
    (log.warning if report.faults else log.info)("%s of %s: %s", kind, organism.name, report)
    return ImportedSnapshot(**asdict(snapshot), report=report)


def _check_call(kind: str, organism: Organism, columns: Mapping[str, str], about: Mapping[str, str], base: int) -> None:
    if kind not in COLUMNS:
        raise OntologyInputError("kind", kind, f"one of {', '.join(COLUMNS)}")
    if kind == "orthologs" and organism.name == "human":
        raise OntologyInputError("organism", "human", "another organism: orthologs are kept against human")
    if unknown := sorted(set(columns) - set(COLUMNS[kind])):
        raise OntologyInputError("columns", unknown, f"any of {', '.join(COLUMNS[kind])}")
    if missing := [name for name in NEEDED[kind] if name not in columns]:
        raise OntologyInputError("columns", sorted(columns), f"also {', '.join(missing)}")
    if base not in (0, 1):
        raise OntologyInputError("base", base, "0 or 1")
    check_about(about)


def check_about(about: Mapping[str, str]) -> None:
    """Refuse an import that does not say of which release it is.

    Raises
    ------
    OntologyInputError
        When `release` is missing, or a value is no printable text.
    """
    if not about.get("release"):
        raise OntologyInputError("about", dict(about), "a release, e.g. {'release': 'Ensembl 114'}")
    for name, value in about.items():
        if name not in ("source", "release", "licence") or not isinstance(value, str) or not value.isprintable():
            raise OntologyInputError("about", {name: value}, "printable text for source, release and licence")


def read_rows(path: Path, wanted: list[str], where: Mapping[str, str]) -> tuple[int, pd.DataFrame]:
    """Return how many rows the file has and those that pass, with the wanted columns."""
    check_file(path)
    with path.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    return _read_parquet(path, wanted, where) if parquet else _read_text(path, wanted, where)


def _read_parquet(path: Path, wanted: list[str], where: Mapping[str, str]) -> tuple[int, pd.DataFrame]:
    import pyarrow as pa  # noqa: PLC0415 - only imports need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, wanted)
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            if (size := sum(group.total_byte_size for group in groups)) > TABLE_LIMIT:
                raise OntologyInputError("path", str(path), f"at most {TABLE_LIMIT} bytes when unpacked, not {size}")
            _check_rows(path, file.metadata.num_rows)
            parts = [_passing(b.to_pandas(), where) for b in file.iter_batches(CHUNK, columns=wanted)]
            return file.metadata.num_rows, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    except (pa.ArrowException, OSError) as error:
        raise OntologyInputError("path", str(path), f"a sound Parquet file ({error})") from error


def _read_text(path: Path, wanted: list[str], where: Mapping[str, str]) -> tuple[int, pd.DataFrame]:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in SEPARATORS:
        raise OntologyInputError("path", str(path), f"a Parquet file, or one ending in {', '.join(SEPARATORS)} (.gz)")
    read, parts = 0, []
    try:
        with open_text(path, TABLE_LIMIT) as stream:
            header = next(csv.reader([stream.readline(1 << 20)], delimiter=SEPARATORS[suffix]), [])
            _check_columns(path, header, wanted)
            chunks = pd.read_csv(
                stream, sep=SEPARATORS[suffix], names=header, header=None, usecols=wanted, dtype=str,
                keep_default_na=False, chunksize=CHUNK, index_col=False,
            )  # fmt: skip
            with chunks:
                for chunk in chunks:
                    read += len(chunk)
                    _check_rows(path, read)
                    parts.append(_passing(chunk, where))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise OntologyInputError("path", str(path), f"a table with a header ({error})") from error
    return read, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=wanted)


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


def _check_rows(path: Path, rows: int) -> None:
    if rows > ROW_LIMIT:
        raise OntologyInputError("path", str(path), f"at most {ROW_LIMIT:,} rows")
