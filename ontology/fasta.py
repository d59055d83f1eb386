"""FASTA files of proteins, read one record at a time: `read_fasta(path)` gives name, header and cleaned sequence.

Plain or gzip, told by the first bytes; memory is bounded by the longest record, whatever the length of a line. A file
that is binary, cut off, too large or full of nucleotides is refused whole, because half a file must not become a
reference. What is wrong with single records is tallied: those without letters, with letters that mean nothing or too
long are left out, stops and gaps are mended. Which protein stands for a gene is decided in proteins.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import OntologyInputError
from .text_files import Tally, open_text

if TYPE_CHECKING:
    from collections.abc import Iterator

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""The twenty amino acids of the genetic code, in alphabetical order of their letters."""
AMBIGUOUS = "XBZJUO"
"""Further letters of proteins: any, D or N, E or Q, I or L, selenocysteine, pyrrolysine; kept and tallied."""
MAX_RESIDUES = 200_000
"""Residues of one protein; titin has 35,991. Longer ones are left out and tallied."""
UNPACKED = 2 << 30
"""Bytes of a file when unpacked; the largest pep.all of Ensembl, bread wheat's, has 0.1 GiB."""
PIECE = 1 << 16  # characters of a line held at once; a sequence may be one line of any length, a header is cut there
LEFT_OUT = ", left out"
"""How a fault ends that costs the whole record."""
NUCLEOTIDES = frozenset("ACGTUN")
LONG_ENOUGH = 30  # residues; a shorter protein may be of A, C, G, T and N alone by chance
EARLY = 20  # long records of nucleotides alone after which the rest, maybe a whole genome, is not read

_LEGAL = re.compile(f"[{RESIDUES}{AMBIGUOUS}*]+")


@dataclass(frozen=True)
class FastaRecord:
    """One protein of a file."""

    name: str
    """First word of the header."""
    header: str
    """The rest of the header."""
    sequence: str
    """Upper-case letters of `RESIDUES` and `AMBIGUOUS`; a stop inside is X, a stop at the end is gone."""


def read_fasta(path: str | Path, tally: Tally | None = None) -> Iterator[FastaRecord]:
    """Yield the proteins of a FASTA file in its order.

    Parameters
    ----------
    path
        Plain or gzip.
    tally
        Where faults are counted.

    Raises
    ------
    OntologyInputError
        When the file is absent, does not begin with a header, is binary, cut off, too large, or holds nucleotides.
    """
    tally = tally if tally is not None else Tally()
    nucleic = long = 0
    for name, header, raw in _raw_records(Path(path)):
        sequence = clean_sequence(raw, name, tally) if name else None
        if not name:
            tally.add(f"record without a name{LEFT_OUT}", [header])
        if sequence is None:
            continue
        if len(sequence) >= LONG_ENOUGH:
            long += 1
            nucleic += NUCLEOTIDES.issuperset(sequence)
            if long == nucleic == EARLY:
                raise _nucleotides(path)
        yield FastaRecord(name, header, sequence)
    if nucleic * 2 > long:
        raise _nucleotides(path)


def clean_sequence(raw: str | None, name: str, tally: Tally) -> str | None:
    """Return the letters of a protein in upper case, or None where it cannot be used; either way faults are tallied.

    Parameters
    ----------
    raw
        As the file has it, white space included; None where it was too long to be held.
    name
        Of the protein, for the tally.
    tally
        Where faults are counted.
    """
    if raw is None or len(raw) > MAX_RESIDUES:
        tally.add(f"sequence of more than {MAX_RESIDUES:,} letters{LEFT_OUT}", [name])
        return None
    text = "".join(raw.split()).upper()
    sequence = text.replace("-", "").replace(".", "")
    stripped = sequence.rstrip("*")
    if not stripped or not _LEGAL.fullmatch(stripped):
        fault = "sequence with letters that are no residues" if stripped else "empty sequence"
        tally.add(fault + LEFT_OUT, [name])
        return None
    for fault, there in (
        ("sequence with gaps, closed", len(sequence) < len(text)),
        ("sequence with a stop inside, read as X", "*" in stripped),
        ("sequence with X, B, Z, J, U or O, kept", any(letter in stripped for letter in AMBIGUOUS)),
    ):
        if there:
            tally.add(fault, [name])
    return stripped.replace("*", "X")


def _raw_records(path: Path) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, rest of the header, and letters as they stand (None where there are too many) of each record."""
    current: tuple[str, str] | None = None
    parts: list[str] = []
    held, start, in_header = 0, True, False
    with open_text(path, UNPACKED) as lines:
        while piece := lines.readline(PIECE):
            if "\0" in piece:
                raise OntologyInputError("path", str(path), "text; this is a binary file")
            in_header = piece.startswith(">") if start else in_header
            if in_header and start:
                if current:
                    yield *current, _joined(parts, held)
                words = piece[1:].split(None, 1)
                current, parts, held = (words[0] if words else "", words[1].strip() if words[1:] else ""), [], 0
            start = piece.endswith("\n")
            if in_header:  # what does not fit the first piece of a header is let go
                continue
            if current is None and piece.strip():
                raise OntologyInputError("path", str(path), "a FASTA file, whose first line begins with '>'")
            held += len(piece)
            if held <= MAX_RESIDUES * 2:  # white space included
                parts.append(piece)
    if current is None:
        raise OntologyInputError("path", str(path), "a FASTA file with at least one record; it is empty")
    yield *current, _joined(parts, held)


def _joined(parts: list[str], held: int) -> str | None:
    return "".join("".join(parts).split()) if held <= MAX_RESIDUES * 2 else None


def _nucleotides(path: str | Path) -> OntologyInputError:
    return OntologyInputError("path", str(path), "proteins; these are nucleotides: take the pep file, not cdna or dna")
