"""From gene names to genes: `resolve_genes(names, table)` places ids, versioned ids, symbols and synonyms.

Names are untrusted text and are only ever compared, never interpreted. A name that could mean two genes maps to none.
Case counts: `Gad2` is a mouse gene and does not become the human GAD2, so a file of the wrong organism shows as
unmapped. Several names may land on one gene; summing them is the caller's business.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import OntologyInputError
from .gene_rows import id_form
from .organism_rows import ANY_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .genes import GeneTable


@dataclass(frozen=True, eq=False)
class GeneMapping:
    """Where each name went, in the order the names came."""

    names: npt.NDArray[np.object_]
    """The names as given."""
    index: npt.NDArray[np.int64]
    """Position in the table, or -1."""
    how: npt.NDArray[np.str_]
    """id, version, symbol, synonym, ambiguous or unmapped."""
    retired: tuple[str, ...]
    """Unmapped names that have the form of this organism's gene ids: retired, or of another release.

    Empty for an organism whose row states no form of its ids.
    """

    @cached_property
    def unmapped(self) -> tuple[str, ...]:
        """Every name without a gene, ambiguous ones included, in order, each once."""
        return tuple(dict.fromkeys(str(name) for name in self.names[self.index < 0]))

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many names were placed in which way."""
        return dict(sorted(Counter(self.how.tolist()).items()))


def resolve_genes(names: Sequence[str], table: GeneTable, fallback: Sequence[str] | None = None) -> GeneMapping:
    """Place gene names in a table.

    Tried in this order, per name: exact id; id with a version (`ENSG00000121410.12`, also GENCODE's `_PAR_Y` form);
    exact symbol, a shared one going to the gene its naming authority means; the symbol without regard to case, for
    organisms whose reference mixes case (zebrafish); a former symbol of one gene only; an alias of one gene only.
    Former symbols come before aliases: SEPT2 was SEPTIN2's symbol for years and is also a nickname of SEPTIN6.

    Parameters
    ----------
    names
        Names as the source spells them; blanks around them are ignored, None and NaN are nameless.
    table
        The organism's genes.
    fallback
        A second name per gene, tried where the first places nothing, such as symbols beside ids.

    Raises
    ------
    OntologyInputError
        When `fallback` is not as long as `names`, or `table` is no gene table.

    Examples
    --------
    >>> from ontology import load_gene_table
    >>> mapping = resolve_genes(["ENSG00000121410.12", "SEPT2"], load_gene_table("human"))
    >>> mapping.how.tolist()
    ['version', 'synonym']
    """
    if not hasattr(table, "id_index"):
        raise OntologyInputError("table", table, "a gene table, such as load_gene_table('human')")
    given = _texts(names)
    index, how = _place(given, table)
    if fallback is not None:
        if len(fallback) != len(given):
            raise OntologyInputError("fallback", f"{len(fallback)} names", f"{len(given)}, one per gene")
        open_ = np.flatnonzero(index < 0)
        again, ways = _place(_texts(fallback)[open_], table)
        better = (again >= 0) | (how[open_] == "unmapped")
        index[open_], how[open_[better]] = again, ways[better]
    lost = pd.Series(given[index < 0], dtype=object)
    if table.organism.id_pattern == ANY_ID:
        return GeneMapping(given, index, how.astype(str), ())
    looks = lost.str.fullmatch(id_form(table.organism).pattern).fillna(False).astype(bool)
    return GeneMapping(given, index, how.astype(str), tuple(dict.fromkeys(lost[looks])))


def _texts(names: Sequence[str]) -> npt.NDArray[np.object_]:
    texts = np.empty(len(names), dtype=object)
    texts[:] = [name.strip() if isinstance(name, str) else ("" if pd.isna(name) else str(name)) for name in names]
    return texts


def _place(names: npt.NDArray[np.object_], table: GeneTable) -> tuple[npt.NDArray[np.int64], npt.NDArray]:
    index = table.id_index.get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
    how = np.where(index >= 0, "id", "unmapped").astype(object)
    open_ = np.flatnonzero(index < 0)
    bare = pd.Series(names[open_], dtype=object).str.extract(rf"^{id_form(table.organism).pattern}$", flags=re.ASCII)[0]
    found = table.id_index.get_indexer(pd.Index(bare.fillna("")))
    index[open_], how[open_[found >= 0]] = found, "version"
    for lookup in ("symbol", "folded", "former", "synonym"):
        if lookup == "folded" and table.organism.symbol_case != "fold":
            continue
        # A name that is ambiguous as a symbol is not rescued by being somebody's alias too.
        open_ = np.flatnonzero((index < 0) & (how != "ambiguous"))
        if not len(open_):
            break
        texts = pd.Index(names[open_], dtype=object)
        if lookup == "folded":
            texts = texts.str.lower()
        series = table.names[lookup]
        if series.empty:  # an organism whose genes have no such names
            continue
        at = series.index.get_indexer(texts)
        found = np.where(at >= 0, series.to_numpy()[at], -2)
        index[open_[found >= 0]] = found[found >= 0]
        how[open_[found >= 0]] = "synonym" if lookup in ("former", "synonym") else "symbol"
        how[open_[found == -1]] = "ambiguous"
    return index, how
