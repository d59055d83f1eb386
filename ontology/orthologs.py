"""Ortholog tables: `load_orthologs("mouse")` gives the pairs of an organism's genes with human genes, clean and typed.

Pairs are read by ortholog_sources.py and cleaned here: ids without version, blanks dropped, repeats merged, types made
to agree with the pairs that are there. group_orthologs.py folds the tables of many organisms into groups, projection.py
moves counts along them, ortholog_search.py answers for one gene.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import OntologyInputError, ReferenceMissingError
from .gene_rows import strip_versions
from .genes import load_gene_table
from .organisms import Organism, get_organism
from .ortholog_sources import COLUMNS, Origin, find_origin, genes_key, read_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES = ("one2one", "one2many", "many2many")
"""What a pair can be: each gene the other's only one; one of many on one side; many on both."""
MIN_SOURCES = 3
"""Sources that must agree on a pair of a table that collects several and gives no types, such as HCOP. Of 1 to 10, 3
finds most of what Ensembl's own homologs of human and mouse are (Jaccard 0.69; 0.34 at 1): docs/orthologs.md."""
BUILD = "orthologs-2"
"""Version of the cleaning; part of a table's digest."""


@dataclass(frozen=True, eq=False)
class OrthologTable:
    """The pairs of one organism's genes with human genes, sorted by both ids. Each caller has frames of its own."""

    organism: Organism
    """Whose genes are paired with human ones."""
    frame: pd.DataFrame
    """Pairs in use: gene, human_gene, type, confidence (0-1, NaN unknown), support (`|`-joined sources), and in_table
    (bool: both ids are in the gene tables at hand; an organism without one is not looked up). Only rows in the tables
    have a type."""
    weak: pd.DataFrame
    """Pairs that too few of a collection's sources support; same columns, no type, used nowhere."""
    origin: Origin
    """Where the pairs were read, with release and licence."""
    cleaned: Mapping[str, int]
    """What cleaning did, in rows: blank, repeated, weak, retyped, not_in_table, filled."""

    def __len__(self) -> int:
        """Return the number of pairs in use."""
        return len(self.frame)

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"OrthologTable({self.organism.name}, {len(self)} pairs with human, {self.source})"

    @property
    def source(self) -> str:
        """Return where the pairs come from; begins with `projected symbols` where no homology search found them."""
        return self.origin.source

    @property
    def release(self) -> str:
        """Return what the source is a snapshot of."""
        return self.origin.release

    @property
    def licence(self) -> str:
        """Return the licence of the data."""
        return self.origin.licence

    @cached_property
    def sha256(self) -> str:
        """Digest of organism, pairs, source and release."""
        digest = hashlib.sha256(f"{BUILD}\n{self.organism.term_id}\n{self.source}\n{self.release}\n".encode())
        for name in self.frame.columns:
            text = "\n".join(map(str, self.frame[name].tolist()))
            digest.update(f"{name} {len(text)}\n{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def linked(self) -> pd.DataFrame:
        """Return the pairs whose two genes are in their tables: the ones projection, groups and search rest on."""
        return self.frame.loc[self.frame["in_table"]].reset_index(drop=True)


def load_orthologs(organism: str | int | Organism, *, second: bool = False) -> OrthologTable:
    """Return the pairs of an organism with human.

    A snapshot that was fetched or imported comes first, then the pinned wheel, then projected symbols where
    data/references.toml allows them.

    Parameters
    ----------
    organism
        Any but human.
    second
        Return the pinned table that agreement is measured against instead; nothing else uses it.

    Raises
    ------
    OntologyInputError
        For human itself.
    UnknownOrganismError
        When no organism is called so.
    ReferenceMissingError
        When no source carries a table; the message says what to run.
    SourceUnavailableError
        When the package index is needed and cannot be reached.

    Examples
    --------
    >>> load_orthologs("mouse").frame["type"].value_counts().index[0]
    'one2one'
    """
    found = get_organism(organism)
    table = _load(found, find_origin(found, second=second), _known_key(found), second=second)
    return replace(table, frame=table.frame.copy(), weak=table.weak.copy())


def table_key(organism: Organism) -> str:
    """Return a digest of what `load_orthologs` would read and how it would clean it; `absent` where there is nothing.

    Raises
    ------
    OntologyInputError
        For human itself.
    """
    try:
        origin = find_origin(organism)
    except ReferenceMissingError:
        return "absent"
    return hashlib.sha256(repr((BUILD, origin, _known_key(organism))).encode()).hexdigest()


@lru_cache(maxsize=32)
def _load(organism: Organism, origin: Origin, known: str, *, second: bool) -> OrthologTable:
    # Keyed by the digests of the pairs and of the gene tables, so that a new snapshot of either is another table.
    human = load_gene_table("human")
    pairs = read_pairs(organism, origin, second=second)
    table = clean_pairs(organism, pairs, origin, human.id_index, _gene_index(organism))
    if not origin.fill:
        return table
    return fill_gaps(table, _load(organism, find_origin(organism, second=True), known, second=True))


def _known_key(organism: Organism) -> str:
    return f"{genes_key(get_organism('human'))} {genes_key(organism)}"


def _gene_index(organism: Organism) -> pd.Index | None:
    try:
        return load_gene_table(organism).id_index
    except ReferenceMissingError:
        return None


def clean_pairs(
    organism: Organism, pairs: pd.DataFrame, origin: Origin, human_ids: pd.Index, ids: pd.Index | None
) -> OrthologTable:
    """Return a table from rows as their makers gave them.

    Parameters
    ----------
    organism
        Whose genes column `gene` names.
    pairs
        Columns `ortholog_sources.COLUMNS`; type and confidence may be blank.
    origin
        Where they were read.
    human_ids
        Ids of the human gene table.
    ids
        Ids of the organism's gene table; None where there is none, and then column `gene` is believed.
    """
    rows = pairs.loc[:, list(COLUMNS)].copy()
    for column, whose, known in (("gene", organism, ids), ("human_gene", get_organism("human"), human_ids)):
        rows[column] = strip_versions(rows[column].astype(str).str.strip(), whose, known)
    rows["type"] = rows["type"].str.removeprefix("ortholog_")
    rows.loc[~rows["type"].isin(TYPES), "type"] = ""
    rows["confidence"] = rows["confidence"].where(rows["confidence"].between(0, 1))
    blank = rows["gene"].isin(BLANKS) | rows["human_gene"].isin(BLANKS)
    whole = _merge_repeats(rows[~blank])
    weak = _weak(whole)
    if whole["confidence"].isna().all():
        whole["confidence"] = _share_of_sources(whole["support"])
    whole["in_table"] = whole["human_gene"].isin(human_ids) & (True if ids is None else whole["gene"].isin(ids))
    kept = whole[~weak].reset_index(drop=True)
    left = whole[weak].assign(type="").reset_index(drop=True)
    retyped = _set_types(kept)
    cleaned = {
        "blank": int(blank.sum()),
        "repeated": int((~blank).sum()) - len(whole),
        "weak": int(weak.sum()),
        "retyped": retyped,
        "not_in_table": int((~kept["in_table"]).sum()),
        "filled": 0,
    }
    return OrthologTable(organism, kept, left, origin, MappingProxyType(cleaned))


def fill_gaps(table: OrthologTable, second: OrthologTable) -> OrthologTable:
    """Return a table with pairs of the second one added between genes that the first leaves without any.

    Only pairs that at least `origin.fill` of the second's sources agree on. Their types are those they have among all
    pairs of that agreement: a gene that shares its ortholog with one the first table knows is no one2one.
    """
    mine, extra = table.frame, second.linked()
    extra = extra[extra["confidence"] >= table.origin.fill]
    extra = extra.assign(type=pair_types(extra["gene"], extra["human_gene"]))
    extra = extra[~extra["gene"].isin(mine["gene"]) & ~extra["human_gene"].isin(mine["human_gene"])]
    both = pd.concat([mine, extra], ignore_index=True) if len(extra) else mine
    both = both.sort_values(["gene", "human_gene"], kind="stable", ignore_index=True)
    return replace(table, frame=both, cleaned=MappingProxyType({**table.cleaned, "filled": len(extra)}))


BLANKS = ("", "-", "nan", "None", "NA")
"""How tables write that there is no gene: HCOP a dash, others whatever their writer made of nothing."""


def pair_types(left: npt.ArrayLike, right: npt.ArrayLike) -> npt.NDArray[np.object_]:
    """Return the type of each pair of a list without repeats, from how many partners its two genes have in the list."""
    pairs = pd.DataFrame({"left": left, "right": right})
    many_right = pairs.groupby("left")["right"].transform("size").to_numpy() > 1
    many_left = pairs.groupby("right")["left"].transform("size").to_numpy() > 1
    return np.array(TYPES, dtype=object)[many_right.astype(int) + many_left.astype(int)]


def one_to_one_orthologs(first: str, second: str) -> pd.DataFrame:
    """Return the one-to-one orthologs of two organisms, columns first and second; each gene with itself for one.

    Two organisms neither of which is human meet in human: a pair is one whose genes are both the only ortholog of one
    human gene, and it theirs.

    Parameters
    ----------
    first, second
        Any spelling.

    Raises
    ------
    ReferenceMissingError
        When an organism has no table of orthologs; the message says what to run.
    """
    names = [get_organism(one).experiment for one in (first, second)]
    human = get_organism("human").experiment

    def with_human(organism: str) -> pd.DataFrame:
        frame = load_orthologs(organism).linked()
        return frame.loc[frame["type"] == "one2one", ["gene", "human_gene"]]

    if names[0] == names[1]:
        ids = load_gene_table(names[0]).ids.astype(object)
        return pd.DataFrame({"first": ids, "second": ids})
    if human in names:
        frame = with_human(names[1] if names[0] == human else names[0])
        columns = ("second", "first") if names[0] == human else ("first", "second")
        return frame.set_axis(columns, axis=1)[["first", "second"]].reset_index(drop=True)
    both = with_human(names[0]).merge(with_human(names[1]), on="human_gene", suffixes=("_first", "_second"))
    return both[["gene_first", "gene_second"]].set_axis(["first", "second"], axis=1)


def agreement(first: OrthologTable, second: OrthologTable) -> dict[str, float]:
    """Return how far two tables of one organism agree, over the pairs in the gene tables.

    Returns
    -------
    `pairs_first`, `pairs_second`, `jaccard` of the pairs, `first_in_second` (share of the first's pairs that the second
    has), `same_type` (share of common pairs with one type),
    `one2one_first`, `one2one_second`, `one2one_jaccard`, and `one2one_confirmed`: of the first's one2one pairs whose
    two genes the second pairs with anything, the share that it pairs with each other.

    Raises
    ------
    OntologyInputError
        When the tables are of two organisms.
    """
    if first.organism.name != second.organism.name:
        raise OntologyInputError("second", second.organism.name, f"a table of {first.organism.name}")
    mine, theirs = (table.linked().set_index(["gene", "human_gene"]) for table in (first, second))
    common = mine.index.intersection(theirs.index)
    ones = [frame.index[frame["type"] == "one2one"] for frame in (mine, theirs)]
    known = ones[0].get_level_values(0).isin(theirs.index.get_level_values(0))
    known &= ones[0].get_level_values(1).isin(theirs.index.get_level_values(1))
    same = mine.loc[common, "type"] == theirs.loc[common, "type"]
    return {
        "pairs_first": len(mine),
        "pairs_second": len(theirs),
        "jaccard": _share(len(common), len(mine.index.union(theirs.index))),
        "first_in_second": _share(len(common), len(mine)),
        "same_type": _share(int(same.sum()), len(common)),
        "one2one_first": len(ones[0]),
        "one2one_second": len(ones[1]),
        "one2one_jaccard": _share(len(ones[0].intersection(ones[1])), len(ones[0].union(ones[1]))),
        "one2one_confirmed": _share(int(ones[0][known].isin(theirs.index).sum()), int(known.sum())),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _merge_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each pair once, sorted: highest confidence, every source once, a type only where all rows agree on it."""
    rows = rows.sort_values(list(COLUMNS), kind="stable", ignore_index=True)
    keys = ["gene", "human_gene"]
    again = rows.duplicated(keys, keep=False)
    if not again.any():
        return rows
    groups = rows[again].groupby(keys, as_index=False, sort=True)
    merged = groups.agg(
        type=("type", lambda types: types.iloc[0] if types.nunique() == 1 else ""),
        confidence=("confidence", "max"),
        support=("support", lambda texts: "|".join(sorted(set("|".join(texts).split("|")) - {""}))),
    )
    both = pd.concat([rows[~again], merged], ignore_index=True)
    return both.sort_values(keys, kind="stable", ignore_index=True)


def _weak(rows: pd.DataFrame) -> pd.Series:
    """Return which pairs too few sources support; none in a table with types or of fewer sources than asked for."""
    counts = _count_sources(rows["support"])
    collects = bool((rows["type"] == "").all()) and len(rows) > 0 and int(counts.max()) >= MIN_SOURCES
    return (counts < MIN_SOURCES) & collects


def _count_sources(support: pd.Series) -> pd.Series:
    return support.map(lambda text: len(set(text.split("|")) - {""})).astype(np.int64)


def _share_of_sources(support: pd.Series) -> pd.Series:
    """Return the share of all sources named in the table that support each pair; NaN where fewer than two are named."""
    named = {name for text in support.unique() for name in text.split("|")} - {""}
    return _count_sources(support) / len(named) if len(named) > 1 else pd.Series(np.nan, index=support.index)


def _set_types(rows: pd.DataFrame) -> int:
    """Give every pair in the tables a type that its partners do not belie; return how many given types were changed.

    A type that is missing is read off the pairs. One that is given stays, unless it says one2one of a gene that has
    several partners: conservation of counts rests on that word.
    """
    usable = rows["in_table"].to_numpy()
    seen = rows.loc[usable]
    counted = pair_types(seen["gene"], seen["human_gene"])
    given = seen["type"].to_numpy(dtype=object)
    belied = (given == "one2one") & (counted != "one2one")
    rows.loc[usable, "type"] = np.where((given == "") | belied, counted, given)
    rows.loc[~usable, "type"] = ""
    return int(belied.sum())
