"""One gene in every organism: `find_orthologs("TP53")`.

Finds the gene by id, symbol or synonym, in human first, and lists its orthologs row by row; an organism that cannot be
asked gets a row that says what to run. Tables come from orthologs.py and genes.py; `panatlas gene` shows the rows.
"""

from __future__ import annotations

import difflib
import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import OntologyInputError, ReferenceMismatchError, ReferenceMissingError, SourceUnavailableError
from .genes import GeneTable, load_gene_table
from .organisms import Organism, get_organism, list_organisms
from .ortholog_sources import genes_key
from .orthologs import load_orthologs, table_key
from .projection import ortholog_links
from .resolve import resolve_genes

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

UNREADABLE = (ReferenceMissingError, ReferenceMismatchError, SourceUnavailableError)
"""What keeps one organism's tables from being read; the others answer all the same."""
COLUMNS = ("organism", "gene", "symbol", "type", "confidence", "source", "release")
SAME, NONE, ABSENT = "same", "none", ""
"""Types of rows that are no pair: the gene itself, an organism with a table but no ortholog, one without a table."""
NEAR = 5
"""Near names an error lists."""


def find_orthologs(gene: str, organism: str | int | Organism | None = None) -> pd.DataFrame:
    """Return a gene and its orthologs in every organism.

    Parameters
    ----------
    gene
        Id, with or without version, symbol or synonym.
    organism
        Whose gene it is. None looks in human, then in the organisms that have orthologs, then in human without regard
        to case, then in the others. The first search of an organism builds its gene table: a second or two each, once.

    Returns
    -------
    One row per gene found, organisms in the order of `list_organisms()`, with columns organism, gene, symbol, type,
    confidence (0-1, NaN unknown), source and release. The gene itself has type `same`; an organism whose table has no
    ortholog one row of type `none`; an organism without a table one row whose source begins with `not available`.

    Raises
    ------
    OntologyInputError
        When no gene or more than one is called so; the message lists near names, or the genes.
    UnknownOrganismError
        When no organism is called so.
    ReferenceMissingError
        When the organism has no gene table.

    Examples
    --------
    >>> found = find_orthologs("TP53").set_index("organism")
    >>> found.loc["mouse", "symbol"]
    'Trp53'
    """
    name = str(gene).strip()
    owner, table, at = _locate(name, organism)
    found = str(table.ids[at])
    rows: list[dict[str, object]] = []
    for other in list_organisms():
        if other.name == owner.name:
            rows.append(_row(owner, found, str(table.symbols[at]), SAME, np.nan, ("gene table", table.release)))
            continue
        try:
            links, _ = ortholog_links(owner, other)
            where = _origin_of(owner, other)
        except UNREADABLE as error:
            rows.append(_row(other, "", "", ABSENT, np.nan, (_remedy(error), "")))
            continue
        mine = links[links["gene"] == found]
        if mine.empty:
            rows.append(_row(other, "", "", NONE, np.nan, where))
        symbols = _symbols(other, mine["target"])
        rows += [
            _row(other, target, symbol, kind, confidence, where)
            for target, symbol, kind, confidence in zip(
                mine["target"], symbols, mine["type"], mine["confidence"], strict=True
            )
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    organism: Organism, gene: str, symbol: str, kind: str, confidence: float, where: tuple[str, str]
) -> dict[str, object]:
    return dict(zip(COLUMNS, (organism.name, gene, symbol, kind, float(confidence), *where), strict=True))


def _origin_of(first: Organism, second: Organism) -> tuple[str, str]:
    """Return source and release of the pairs between two organisms; both tables' where they meet in human."""
    tables = [load_orthologs(organism) for organism in (first, second) if organism.name != "human"]
    return " + ".join(t.source for t in tables), " + ".join(dict.fromkeys(t.release for t in tables))


def _remedy(error: Exception) -> str:
    if isinstance(error, ReferenceMissingError):
        return error.remedy if error.remedy.startswith("not available") else f"not available: {error}"
    return f"not available now: {error}"


def _locate(name: str, organism: str | int | Organism | None) -> tuple[Organism, GeneTable, int]:
    """Return the gene called `name`: its organism, the table and the position there."""
    if organism is not None:
        owner = get_organism(organism)
        table = load_gene_table(owner)
        at = _position(name, table)
        if at is None:
            raise _unknown(name, [table])
        return owner, table, at
    human = get_organism("human")
    linked = [other for other in list_organisms() if other != human and _is_linked(other)]
    rest = [other for other in list_organisms() if other != human and other not in linked]
    searched, several = [], None
    for owner, folded in [(o, False) for o in (human, *linked)] + [(human, True)] + [(o, False) for o in rest]:
        try:
            table = load_gene_table(owner)
            at = _folded_position(name, table) if folded else _position(name, table)
        except ReferenceMissingError:
            continue
        except (ReferenceMismatchError, SourceUnavailableError) as error:
            log.warning("%s was not searched: %s", owner.name, error)
            continue
        except OntologyInputError as error:
            if owner == human:
                raise
            several = several or error  # another organism may know the name as one gene
            continue
        if at is not None:
            return owner, table, at
        searched += [] if folded else [table]
    raise several or _unknown(name, searched)


def _is_linked(organism: Organism) -> bool:
    try:
        return table_key(organism) != "absent"
    except ReferenceMismatchError:
        return False


def _folded_position(name: str, table: GeneTable) -> int | None:
    """Return the only gene with that symbol but for case, None where there is none or several."""
    found = np.flatnonzero(table.primary & (np.char.lower(table.symbols) == name.lower()))
    return int(found[0]) if len(found) == 1 else None


def _position(name: str, table: GeneTable) -> int | None:
    """Return the gene's position, None where no gene is called so; a name of several genes is an error."""
    placed = resolve_genes([name], table)
    if placed.how[0] == "ambiguous":
        texts = pd.Series([f"{symbol}|{others}" for symbol, others in zip(table.symbols, table.synonyms, strict=True)])
        owners = table.ids[texts.str.casefold().str.split("|").map(lambda names: name.casefold() in names)]
        shown = ", ".join(owners[:NEAR]) + (" ..." if len(owners) > NEAR else "")
        raise OntologyInputError(
            "gene", name, f"one gene; {table.organism.name} has {len(owners)} of that name: {shown}"
        )
    return int(placed.index[0]) if placed.index[0] >= 0 else None


def _unknown(name: str, tables: Iterable[GeneTable]) -> OntologyInputError:
    tables = list(tables)
    where = ", ".join(table.organism.name for table in tables) or "any organism: no gene table is at hand"
    symbols = {symbol.casefold(): symbol for table in reversed(tables) for symbol in table.symbols.tolist()}
    # Only names of about that length and beginning: comparing with every symbol of eight organisms takes a minute.
    key = name.casefold()[:40]
    likely = [text for text in symbols if text[:1] == key[:1] and abs(len(text) - len(key)) <= 2]
    near = [symbols[text] for text in difflib.get_close_matches(key, likely, n=NEAR, cutoff=0.6)]
    said = f"an id, symbol or synonym of a gene of {where}; nearest: {', '.join(near) or 'none'}"
    return OntologyInputError("gene", name[:80], said)


def _symbols(organism: Organism, ids: pd.Series) -> list[str]:
    """Return the symbols of some genes; empty where the organism has no gene table at hand."""
    if ids.empty:
        return []
    try:
        return _symbols_by_id(organism, genes_key(organism)).reindex(ids).fillna("").tolist()
    except UNREADABLE:
        return [""] * len(ids)


@lru_cache(maxsize=32)
def _symbols_by_id(organism: Organism, key: str) -> pd.Series:
    del key  # of the gene table: another one is another series
    table = load_gene_table(organism)
    return pd.Series(table.symbols.astype(object), index=table.id_index)
