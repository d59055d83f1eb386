"""The canonical protein of each gene: `import_proteins` makes the snapshot, `load_proteins` reads it.

One protein stands for a gene, by the first rule that applies: the one a list of canonical ids names (MANE, Ensembl
canonical), else the one its header tags as canonical, else the longest; what one rule leaves open the next decides,
and at last the smallest id. Where a gene has none, `proteins_by_ortholog` offers that of its one2one human ortholog,
flagged as such. Sequences are kept whole; an embedder cuts what it cannot read, and lives on the model floor.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import OntologyInputError, ReferenceMissingError
from .fasta import LEFT_OUT
from .gene_rows import strip_versions
from .imports import ImportedSnapshot, check_about, genes_at_hand, keep_import, require_known
from .organisms import Organism, get_organism
from .protein_rows import FOREIGN, ProteinRow, rows_of_fasta, rows_of_table, without_version
from .snapshots import find_snapshot, read_table
from .text_files import EXAMPLES, Tally, open_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .text_files import ImportReport

log = logging.getLogger(__name__)

COLUMNS = ("gene", "protein", "symbol", "length", "rule", "sequence")
"""Columns of a protein table; length in residues."""
RULES = ("listed", "tagged", "longest", "ortholog")
"""Why a protein stands for its gene: a list names it, its header does, no other is longer, or the gene has none of its
own and this is its human ortholog's."""
UNMET = "gene that is not in the gene table, kept"
"""The fault told where it is that of most genes: the table is of another annotation, or spells its ids otherwise."""
TWO_SEQUENCES = "protein id with two sequences, the first kept"
LIST_BYTES = 1 << 28  # unpacked; MANE's summary has 4 MiB
LIST_LIMIT = 2_000_000  # ids of a list of canonical proteins; all of human have 0.3 million


@dataclass(frozen=True, eq=False)
class ProteinSet:
    """One protein per gene, and what became of the rest."""

    organism: Organism
    """Whose they are."""
    frame: pd.DataFrame
    """Columns `COLUMNS`, ascending by gene."""
    report: ImportReport
    """Proteins read, genes kept, and what was left out or mended."""

    @property
    def rules(self) -> dict[str, int]:
        """Return genes by the rule that chose their protein."""
        counts = self.frame["rule"].value_counts()
        return {rule: int(counts[rule]) for rule in RULES if rule in counts}


def read_proteins(
    organism: str | int | Organism,
    path: str | Path,
    choice: str | Path = "canonical",
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, object] | None = None,
) -> ProteinSet:
    """Read a file of proteins and choose one per gene.

    Parameters
    ----------
    organism
        Whose genes are kept.
    path
        FASTA (Ensembl pep.all, GENCODE, or named by gene id), or a table where `columns` are given; gzip or plain.
    choice
        `canonical`: the tagged protein, else the longest. `longest`: the longest, tags unread. Anything else is the
        path of a list of canonical protein or transcript ids: one a line, or a table such as MANE's summary.
    columns
        For a table: gene, sequence, and maybe protein and symbol, to the file's own names.
    where
        For a table: file's column to the value rows must have.

    Raises
    ------
    OntologyInputError
        When the file is not what it should be (see `read_fasta`), is another organism's, or has no protein for it.
    """
    found, source, tally = get_organism(organism), Path(path), Tally()
    listed = frozenset[str]() if choice in ("canonical", "longest") else read_canonical_ids(choice)
    if columns is not None:
        rows = rows_of_table(found, source, columns, where or {}, tally)
    else:
        rows = rows_of_fasta(found, source, tally)
    chosen, read = _choose(rows, listed, tally, believe_tags=choice != "longest")
    foreign = tally.counts.get(FOREIGN, 0)
    if foreign > read or not chosen:
        fits = f"proteins of {found.name}: gene ids like {found.id_pattern}"
        raise OntologyInputError("path", str(path), f"{fits}; {read} fit, {foreign} do not")
    rules = [
        "listed" if names & listed else "tagged" if row.tagged and choice != "longest" else "longest"
        for row in chosen
        for names in [{row.protein, row.transcript}]
    ]
    genes = pd.Series([row.gene for row in chosen], dtype=object)
    frame = pd.DataFrame(
        {
            "gene": strip_versions(genes, found, genes_at_hand(found)),
            "protein": [row.protein for row in chosen],
            "symbol": [row.symbol for row in chosen],
            "length": np.array([len(row.sequence) for row in chosen], dtype=np.int64),
            "rule": rules,
            "sequence": [row.sequence for row in chosen],
        },
        columns=list(COLUMNS),
    ).sort_values("gene", ignore_index=True)
    left_out = sum(count for fault, count in tally.counts.items() if fault.endswith(LEFT_OUT))
    return ProteinSet(found, frame, tally.report(read + left_out, len(frame)))


def import_proteins(
    organism: str | int | Organism,
    path: str | Path,
    about: Mapping[str, str],
    choice: str | Path = "canonical",
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, object] | None = None,
) -> ImportedSnapshot:
    """Keep one protein per gene as the organism's snapshot of kind `proteins`; parameters as `read_proteins`.

    Parameters
    ----------
    about
        `release`, and any of `source` (default: the file's name) and `licence`.

    Returns
    -------
    ImportedSnapshot
        The snapshot, and in `report` what was left out or mended; and, where a gene table is at hand and most of the
        proteins' genes are not in it, how many.

    Raises
    ------
    OntologyInputError
        As `read_proteins`, and when a gene table is at hand and knows hardly any of the genes; nothing is kept then.
    """
    check_about(about)
    proteins = read_proteins(organism, path, choice, columns, where)
    require_known(proteins.organism, "proteins", proteins.frame["gene"], path)
    log.info("proteins of %s by rule: %s", proteins.organism.name, proteins.rules)
    whence = {"source": Path(path).name, **about}
    return keep_import("proteins", proteins.organism, proteins.frame, whence, _with_strangers(proteins))


def _with_strangers(proteins: ProteinSet) -> ImportReport:
    """Return the report, and in it the genes that the gene table at hand lacks where they are most."""
    report, known = proteins.report, genes_at_hand(proteins.organism)
    lost = [] if known is None else proteins.frame.loc[~proteins.frame["gene"].isin(known), "gene"].tolist()
    if len(lost) * 2 <= len(proteins.frame):
        return report
    examples = {**report.examples, UNMET: tuple(map(repr, lost[:EXAMPLES]))}
    return replace(report, faults={**report.faults, UNMET: len(lost)}, examples=examples)


def load_proteins(organism: str | int | Organism) -> pd.DataFrame:
    """Return the protein of each gene, ascending by gene; columns `COLUMNS`.

    Raises
    ------
    UnknownOrganismError
        When no organism is called so.
    ReferenceMissingError
        When none were imported.
    """
    found = get_organism(organism)
    snapshot = find_snapshot("proteins", found.name)
    if snapshot is None:
        raise ReferenceMissingError(
            "protein table", found.name, f"run panatlas references import proteins {found.name} FILE"
        )
    return read_table(snapshot)[list(COLUMNS)]


def proteins_by_ortholog(organism: str | int | Organism) -> pd.DataFrame:
    """Return stand-ins for genes without a protein: that of the one2one human ortholog, rule `ortholog`.

    Columns are `COLUMNS`; protein and symbol are the human ones. Empty for human, and where there are no orthologs or
    no human proteins at hand.

    Raises
    ------
    UnknownOrganismError
        When no organism is called so.
    """
    from .orthologs import load_orthologs  # noqa: PLC0415 - reads gene tables; only this call needs them

    found = get_organism(organism)
    empty = pd.DataFrame({name: pd.Series(dtype="int64" if name == "length" else object) for name in COLUMNS})
    if found.name == "human":
        return empty
    try:
        pairs, human = load_orthologs(found).linked(), load_proteins("human")
    except ReferenceMissingError as error:
        log.info("no proteins by ortholog: %s", error)
        return empty
    try:
        own = set(load_proteins(found)["gene"])
    except ReferenceMissingError:
        own = set()
    pairs = pairs[(pairs["type"] == "one2one") & ~pairs["gene"].isin(own)][["gene", "human_gene"]]
    joined = pairs.merge(human.rename(columns={"gene": "human_gene"}), on="human_gene")
    joined = joined.assign(rule="ortholog").drop_duplicates("gene").sort_values("gene", ignore_index=True)
    return joined[list(COLUMNS)]


def read_canonical_ids(path: str | Path) -> frozenset[str]:
    """Return the ids of a list of canonical proteins or transcripts, without version.

    Every word of the file counts, so that a table does as well as a list. Lines of MANE's second choice, Plus Clinical,
    are left out.

    Raises
    ------
    OntologyInputError
        When the file is absent, damaged, or no list of ids.
    """
    found: set[str] = set()
    with open_text(Path(path), LIST_BYTES) as lines:
        for line in lines:
            if "MANE Plus Clinical" not in line:
                found.update(without_version(word) for word in re.split(r"[\s,;]+", line) if word)
            if "\0" in line or len(found) > LIST_LIMIT:
                raise OntologyInputError("choice", str(path), "canonical, longest, or a list of canonical ids")
    return frozenset(found)


def _choose(
    rows: Iterable[ProteinRow], listed: frozenset[str], tally: Tally, *, believe_tags: bool
) -> tuple[list[ProteinRow], int]:
    """Return the chosen row of each gene, ascending by gene, and how many rows there were.

    Held are one row a gene, and of every protein its id, gene and a hash: with them repeats are told.
    """
    best: dict[str, tuple[tuple[bool, bool, int, str], ProteinRow]] = {}
    seen: dict[str, tuple[int, str]] = {}
    marked: Counter[str] = Counter()
    read = 0
    for row in rows:
        read += 1
        # A table may name no protein: then the gene's id stands in, and several of them are no repeats. One protein may
        # be of two genes, as UniProt's are.
        here = (hash(row.sequence), row.gene)
        former = seen.get(row.protein)
        if row.protein != row.gene and former is not None and (former[0] != here[0] or former == here):
            tally.add("protein named twice" if former == here else TWO_SEQUENCES, [row.protein])
            continue
        seen.setdefault(row.protein, here)
        is_listed = row.protein in listed or row.transcript in listed
        is_tagged = believe_tags and row.tagged
        marked[row.gene] += is_listed
        rank = (not is_listed, not is_tagged, -len(row.sequence), row.protein)
        if row.gene not in best or rank < best[row.gene][0]:
            best[row.gene] = (rank, row)
    tally.add("gene with several listed proteins", [gene for gene, count in marked.items() if count > 1])
    return [best[gene][1] for gene in sorted(best)], read
