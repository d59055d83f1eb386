"""Rows of genes and of orthologs from outside, made sound: what cannot be believed is dropped or blanked, and counted.

The input is text as a file spells it, one column per field; the output has the columns of the snapshots `genes` and
`orthologs`. imports.py and gtf.py read the files. A gene is kept without a position rather than dropped for a bad one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import OntologyInputError
from .organism_rows import ANY_ID
from .organisms import get_organism

if TYPE_CHECKING:
    from .organisms import Organism
    from .text_files import Tally

GENE_COLUMNS = ("id", "symbol", "biotype", "length", "contig", "start", "strand", "synonyms")
"""Columns of a snapshot of kind genes."""
ORTHOLOG_COLUMNS = ("gene", "human_gene", "type", "confidence", "support")
"""Columns of a snapshot of kind orthologs."""
BLANK = ("", ".", "NA", "N/A", "NULL", "None", "<NA>", r"\N")
"""Texts that stand for no value. `nan` and `na` are not among them: both are genes of the fly."""
ID_LIMIT, TEXT_LIMIT = 128, 2_000
"""Characters of an id, and of any other field; real ids have at most 40, real lists of synonyms some 500."""
BASES = 1 << 40
"""Bound of a coordinate in bp; the longest known genome is below 2^38."""
TYPES = ("one2one", "one2many", "many2many")
"""Ways two genes can be orthologs, as Ensembl names them without its prefix."""


def clean_genes(rows: pd.DataFrame, organism: Organism, base: int, tally: Tally) -> pd.DataFrame:
    """Return the rows of a genes snapshot, one per id in ascending order.

    Parameters
    ----------
    rows
        Text columns: id, and any of symbol, biotype, length, contig, start, end, strand, synonyms.
    organism
        Whose genes they should be.
    base
        What the file numbers the first base of a contig: 1 or 0.
    tally
        Takes every fault. Of rows with one id the first is kept.

    Raises
    ------
    OntologyInputError
        When no row is left, or no id has the form of the organism's.
    """
    text = {name: _text(rows[name], name, tally) for name in rows.columns}
    rows = pd.DataFrame({name: text.get(name, "") for name in (*GENE_COLUMNS, "end")}, index=rows.index)
    rows["id"] = clean_ids(rows["id"], organism, "id", tally)
    rows = rows[rows["id"] != ""]
    twice = rows["id"].duplicated()
    tally.add("further rows of an id left out", rows.loc[twice, "id"])
    rows = rows[~twice].sort_values("id", kind="stable", ignore_index=True)
    if rows.empty:
        raise OntologyInputError("rows", "none with an id", f"genes of {organism.name}")
    # The last base of a file that counts from 1 and the end of one that counts from 0 (BED) are the same number.
    given, end = (_whole(rows[name], name, rows["id"], tally) for name in ("start", "end"))
    start = given.where(given < 0, given - base)
    tally.add("starts before the first base, position dropped", rows.loc[(given >= 0) & (start < 0), "id"])
    reverse = (start >= 0) & (end >= 0) & (end <= start)
    tally.add("ends before their start, position dropped", rows.loc[reverse, "id"])
    nowhere = (start >= 0) & (rows["contig"] == "")
    tally.add("starts without a contig, position dropped", rows.loc[nowhere, "id"])
    placed = (start >= 0) & ~reverse & ~nowhere
    strand = rows["strand"].map(_STRANDS)
    tally.add("strands that are neither + nor -", rows.loc[strand.isna(), "strand"])
    return pd.DataFrame(
        {
            "id": rows["id"].astype(object),
            "symbol": rows["symbol"].astype(object),
            "biotype": rows["biotype"].astype(object),
            "length": _whole(rows["length"], "length", rows["id"], tally).clip(lower=0).astype(np.int64),
            # A contig is worth keeping without a start: it tells mitochondrial genes.
            "contig": rows["contig"].astype(object),
            "start": start.where(placed, -1).astype(np.int64),
            "strand": strand.where(placed, 0).fillna(0).astype(np.int8),
            "synonyms": rows["synonyms"].map(_synonyms).astype(object),
        }
    )


def clean_orthologs(
    rows: pd.DataFrame, organism: Organism, tally: Tally, known: pd.Index | None = None
) -> pd.DataFrame:
    """Return the rows of an orthologs snapshot, one per pair in ascending order.

    Parameters
    ----------
    rows
        Text columns: gene and human_gene, and any of type, confidence (0 to 1) and support.
    organism
        Whose genes stand in `gene`.
    tally
        Takes every fault. Of rows with one pair the first is kept.
    known
        Ids of the organism's gene table; see `strip_versions`.

    Raises
    ------
    OntologyInputError
        When no pair is left, or no id of either side has the form it should.
    """
    text = {name: _text(rows[name], name, tally) for name in rows.columns}
    rows = pd.DataFrame({name: text.get(name, "") for name in ORTHOLOG_COLUMNS}, index=rows.index)
    # A row that lacks one side is counted under that side, and gone before the other is looked at.
    for column, whose in (("gene", organism), ("human_gene", get_organism("human"))):
        rows[column] = clean_ids(rows[column], whose, column, tally, known if column == "gene" else None)
        rows = rows[rows[column] != ""].copy()
    twice = rows.duplicated(["gene", "human_gene"])
    tally.add("further rows of a pair left out", rows.loc[twice, "gene"])
    rows = rows[~twice].sort_values(["gene", "human_gene"], kind="stable", ignore_index=True)
    if rows.empty:
        raise OntologyInputError("rows", "no pair of ids", f"orthologs of {organism.name} and human")
    kind = rows["type"].str.removeprefix("ortholog_")
    odd = (kind != "") & ~kind.isin(TYPES)
    tally.add(f"types other than {', '.join(TYPES)} blanked", rows.loc[odd, "type"])
    confidence = pd.to_numeric(rows["confidence"], errors="coerce").astype(np.float64)
    wrong = (rows["confidence"] != "") & ~confidence.between(0, 1)
    tally.add("confidences outside 0 to 1 blanked", rows.loc[wrong, "confidence"])
    return pd.DataFrame(
        {
            "gene": rows["gene"].astype(object),
            "human_gene": rows["human_gene"].astype(object),
            "type": kind.where(~odd, "").astype(object),
            "confidence": confidence.where(~wrong),
            "support": rows["support"].astype(object),
        }
    )


def id_form(organism: Organism) -> re.Pattern[str]:
    """Return the pattern of an organism's gene ids as files write them; group 1 is the id without its version."""
    return re.compile(rf"({organism.id_pattern})(?:\.\d+)?(?:_PAR_Y)?", re.ASCII)


def strip_versions(ids: pd.Series, organism: Organism, known: pd.Index | None = None) -> pd.Series:
    """Return gene ids without versions: the one rule for genes, orthologs and proteins, so that they meet.

    A version comes off where what is left has the organism's form; `Y74C9A.3` is no version of `Y74C9A`. Where no form
    is stated, versions come off only if no two ids become one by it: a dot may be part of the name.

    Parameters
    ----------
    ids
        Text without surrounding blanks; ids of another form, and blank ones, come back as they are.
    organism
        Whose form of id counts.
    known
        Ids of its gene table. Where no form is stated, an id that is there with or without its version is taken so.
    """
    bare = ids.str.extract(rf"^{id_form(organism).pattern}\Z", flags=re.ASCII)[0]
    bare = bare.where(bare.notna(), ids)
    if organism.id_pattern != ANY_ID:
        return bare
    several = ids.nunique()
    plain = bare if bare.nunique() == several else ids
    if known is None:
        return plain
    told = plain.mask(bare.isin(known), bare).mask(ids.isin(known), ids)
    return told if told.nunique() == several else plain


def clean_ids(
    ids: pd.Series, organism: Organism, column: str, tally: Tally, known: pd.Index | None = None
) -> pd.Series:
    """Return ids without versions; blank where there is none. Ids of another form than the organism's are kept.

    `strip_versions` says when a version comes off, and what `known` is for.

    Raises
    ------
    OntologyInputError
        When ids are there and not one has the organism's form.
    """
    ids = ids.where(ids != "-", "")  # HCOP's way of writing that there is no gene
    tally.add(f"rows without {column} dropped", ids[ids == ""].index + 1)
    long = ids.str.len() > ID_LIMIT
    tally.add(f"{column} of more than {ID_LIMIT} characters dropped", ids[long])
    odd = ids.str.contains(r"[\s|]", regex=True) & ~long
    tally.add(f"{column} with blanks or bars dropped", ids[odd])
    ids = ids.where(~(long | odd), "")
    bare = strip_versions(ids, organism, known)
    tally.add(f"versions taken off {column}", ids[bare != ids])
    fits = ids.str.fullmatch(id_form(organism).pattern, flags=re.ASCII).astype(bool)
    foreign = ~fits & (ids != "")
    tally.add(f"{column} of another form than {organism.name}'s kept", ids[foreign])
    if foreign.any() and not fits.any():
        example = ids[foreign].iloc[0]
        raise OntologyInputError(column, example, f"ids of {organism.name}, of the form {organism.id_pattern}")
    return bare


_STRANDS = {"1": 1, "+": 1, "+1": 1, "1.0": 1, "-1": -1, "-": -1, "-1.0": -1, "": 0, "0": 0, "?": 0}


def _text(column: pd.Series, name: str, tally: Tally) -> pd.Series:
    """Return a column as stripped text; blank for what stands for nothing, is damaged, or is too long."""
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    text = text.where(~text.isin(BLANK), "")
    damaged = text.map(lambda each: not each.isprintable() or "\ufffd" in each).astype(bool)  # U+FFFD: was not UTF-8
    bad = (text.str.len() > TEXT_LIMIT) | damaged
    tally.add(f"{name} that cannot be printed or is longer than {TEXT_LIMIT} characters blanked", text[bad])
    return text.where(~bad, "")


def _whole(column: pd.Series, name: str, ids: pd.Series, tally: Tally) -> pd.Series:
    """Return whole numbers from 0 on; -1 where there is none or it is no such number."""
    found = column.str.extract(r"^\+?(\d{1,13})(?:\.0*)?$", flags=re.ASCII)[0]
    numbers = pd.to_numeric(found).fillna(-1).astype(np.int64)
    bad = (column != "") & ((numbers < 0) | (numbers >= BASES))
    tally.add(f"{name} that is no whole number from 0 on", ids[bad] + ": " + column[bad])
    return numbers.where(~bad, -1)


def _synonyms(text: str) -> str:
    """Return other names joined by a bar, each once; a list without bars may be one with commas or semicolons."""
    parts = text.split("|") if "|" in text else re.split("[,;]", text)
    return "|".join(dict.fromkeys(part.strip() for part in parts if part.strip()))
