"""A user's own table becomes a snapshot: `import_table("genes", "cow", "genes.csv", {"id": "gene_id"}, about)`.

CSV, TSV (plain or gzip) and Parquet, with columns declared by the user: nothing is guessed from names. The file is not
trusted: table_files.py bounds it and reads it as text, and its rows go through gene_rows.py. Annotations are gtf.py's,
proteins proteins.py's and ontologies ontology_files.py's. genes.py and orthologs.py read the snapshots.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .cached import intact
from .errors import OntologyInputError, ReferenceMissingError
from .gene_rows import GENE_COLUMNS, ORTHOLOG_COLUMNS, clean_genes, clean_orthologs
from .genes import load_gene_table, table_path
from .organisms import Organism, get_organism
from .snapshots import Snapshot, save_table
from .table_files import RAGGED, read_rows
from .text_files import ImportReport, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

COLUMNS = {"genes": (*GENE_COLUMNS, "end"), "orthologs": ORTHOLOG_COLUMNS}
"""Our columns of each kind; those of `NEEDED` must be declared."""
STRANGERS = 10
"""A file is another organism's when fewer than one in so many of its genes are in the gene table."""
NEEDED = {"genes": ("id",), "orthologs": ("gene", "human_gene")}


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
    tally = Tally()
    passing = {name: str(value) for name, value in (where or {}).items()}
    read, rows = read_rows(source, wanted, passing, tally, known=COLUMNS[kind])
    ragged = tally.counts.get(RAGGED, 0)
    if rows.empty and ragged:
        raise OntologyInputError("path", str(source), f"lines with as many fields as the header; {ragged:,} have not")
    if rows.empty:
        raise OntologyInputError("where", dict(where or {}), f"a value that some of the {read:,} rows of {source} have")
    mine = pd.DataFrame({ours: rows[theirs] for ours, theirs in columns.items()})
    if kind == "genes":
        frame = clean_genes(mine, found, base, tally)
    else:
        frame = clean_orthologs(mine, found, tally, genes_at_hand(found))
        require_known(found, kind, frame["gene"].drop_duplicates(), source)
    report = tally.report(len(rows) + ragged, len(frame))
    return keep_import(kind, found, frame, {"source": source.name, **about}, report)


def require_known(organism: Organism, kind: str, genes: pd.Series, path: str | Path) -> None:
    """Refuse a file whose genes are hardly the organism's, where a gene table can tell: it belongs to another one.

    Raises
    ------
    OntologyInputError
        When fewer than a tenth of the genes are in the gene table at hand; what was kept before stays.
    """
    known = genes_at_hand(organism)
    if known is None or not len(genes):
        return
    met = int(genes.isin(known).sum())
    if met * STRANGERS < len(genes):
        said = f"{kind} of {organism.name}, of whose {len(known):,} genes the file's {len(genes):,} name {met:,}"
        raise OntologyInputError("path", str(path), f"{said}; import it under its own organism, or its genes first")


def genes_at_hand(organism: Organism) -> pd.Index | None:
    """Return the ids of an organism's gene table, or None where there is none or it would have to be fetched."""
    if organism.genes is not None and not intact(table_path(organism)):
        return None
    try:
        return load_gene_table(organism).id_index
    except ReferenceMissingError:
        return None


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
        spelled = " ".join(f"--column {name}=THEIRS" for name in missing)
        raise OntologyInputError("columns", sorted(columns), f"also {', '.join(missing)} ({spelled})")
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
