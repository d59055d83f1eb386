"""What a file says of each protein: `rows_of_fasta` and `rows_of_table` yield `ProteinRow`s, gene by gene unchosen.

Headers are read as Ensembl writes pep.all (vertebrates, plants, metazoa), as GENCODE writes pc_translations (names
joined by `|`), or as a bare gene id. A table is read by table_files.py, with columns the caller names. Rows whose
gene is not of the organism's form, or whose biotype is not protein_coding, are tallied and left out; proteins.py
chooses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import OntologyInputError
from .fasta import LEFT_OUT, clean_sequence, read_fasta
from .gene_rows import id_form
from .organism_rows import ANY_ID
from .table_files import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .organisms import Organism
    from .text_files import Tally

CODING = "protein_coding"
FOREIGN = f"protein whose gene is not of this organism{LEFT_OUT}"
"""The fault that, where it is the rule, tells a file of another organism."""
NOT_CODING = f"protein whose gene or transcript is not {CODING}{LEFT_OUT}"
TABLE_COLUMNS = ("gene", "protein", "symbol", "sequence")
"""What a table may carry; gene and sequence it must."""

_FIELDS = re.compile(r"(?:^|\s)(gene|transcript|gene_biotype|transcript_biotype|gene_symbol):(\S+)")
_TAG = re.compile(r"\b(?:MANE[_ ]Select|Ensembl[_ ]canonical|canonical:(?:1|true|yes))\b", re.IGNORECASE)
_VERSION = re.compile(r"(ENS[A-Z]*\d+)\.\d+")


@dataclass(frozen=True)
class ProteinRow:
    """One protein as a file has it, cleaned."""

    gene: str
    """Gene id without version; with it where the organism states no form of id: read_proteins decides over all."""
    protein: str
    """Protein id, an Ensembl one without version; the gene id where the file names no protein."""
    transcript: str
    """Transcript id likewise; empty where unknown."""
    symbol: str
    """Gene symbol; empty where unknown."""
    tagged: bool
    """True where the header says that this is the gene's canonical protein."""
    sequence: str
    """Letters as `read_fasta` cleans them."""


def without_version(text: str) -> str:
    """Return an id of Ensembl's own making without its version; other ids keep their dots (AT1G01010.1, 2L52.1a.1)."""
    found = _VERSION.fullmatch(text)
    return found[1] if found else text


def gene_form(organism: Organism) -> re.Pattern[str]:
    """Return the pattern of a gene id; group 1 is what can be told of it from one row alone.

    Where no form is stated that is the whole word: whether its end is a version shows only beside the other ids.
    """
    return re.compile(f"({ANY_ID})") if organism.id_pattern == ANY_ID else id_form(organism)


def gene_of(text: str, form: re.Pattern[str]) -> str:
    """Return the gene id that a text is, or an empty string where it is none of the organism's."""
    found = form.fullmatch(text)
    return found[1] if found else ""


def rows_of_fasta(organism: Organism, path: Path, tally: Tally) -> Iterator[ProteinRow]:
    """Yield the proteins of a FASTA file that are an organism's and coding.

    Raises
    ------
    OntologyInputError
        As `read_fasta`.
    """
    form = gene_form(organism)
    for record in read_fasta(path, tally):
        told = record.header.partition(" description:")[0]
        fields = dict(_FIELDS.findall(told))
        names = record.name.split("|")
        gene = next(filter(None, (gene_of(text, form) for text in (fields.get("gene", ""), *names))), "")
        if not gene:
            tally.add(FOREIGN, [fields.get("gene", record.name)])
        elif {fields.get("gene_biotype", CODING), fields.get("transcript_biotype", CODING)} != {CODING}:
            tally.add(NOT_CODING, [record.name])
        else:
            transcript = fields.get("transcript") or (names[1] if len(names) > 1 else "")
            symbol = fields.get("gene_symbol") or (names[6] if len(names) > 6 else "")
            yield ProteinRow(
                gene,
                without_version(names[0]),
                without_version(transcript),
                symbol,
                bool(_TAG.search(told)),
                record.sequence,
            )


def rows_of_table(
    organism: Organism, path: Path, columns: Mapping[str, str], where: Mapping[str, object], tally: Tally
) -> Iterator[ProteinRow]:
    """Yield the proteins of a table; every row that passes `where` is taken as protein-coding.

    Parameters
    ----------
    organism
        Whose genes are kept.
    path
        Parquet, TSV or CSV; see `import_table`.
    columns
        Our name (`TABLE_COLUMNS`) to the file's.
    where
        File's column to the value that a row must have there, compared as text without case.
    tally
        Where faults are counted.

    Raises
    ------
    OntologyInputError
        When the file is absent or unreadable, or lacks a column.
    """
    if set(columns) - set(TABLE_COLUMNS) or not {"gene", "sequence"} <= set(columns):
        allowed = f"gene and sequence, and maybe others of {', '.join(TABLE_COLUMNS)}"
        raise OntologyInputError("columns", sorted(columns), allowed)
    form = gene_form(organism)
    wanted = list(dict.fromkeys([*columns.values(), *where]))
    _, rows = read_rows(path, wanted, {name: str(value) for name, value in where.items()}, tally)
    blank = [""] * len(rows)
    texts = {ours: rows[theirs].fillna("").astype(str).str.strip().tolist() for ours, theirs in columns.items()}
    for raw_gene, protein, symbol, raw in zip(*(texts.get(name, blank) for name in TABLE_COLUMNS), strict=True):
        gene = gene_of(raw_gene, form)
        if not gene:
            tally.add(FOREIGN, [raw_gene])
        elif (sequence := clean_sequence(raw, raw_gene, tally)) is not None:
            yield ProteinRow(gene, without_version(protein) or gene, "", symbol, False, sequence)
