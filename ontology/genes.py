"""Gene tables: `load_gene_table("human")` gives the genes of an organism in the atlas's fixed order.

A table is built once from pinned data wheels (gene_build.py), kept in the cache as Parquet and loaded from there in a
fraction of a second. A snapshot that the user fetched or imported (snapshots.py) is the table where no wheel is pinned;
beside a pinned one it only fills in positions and lengths, because the pinned one decides which genes there are and in
which order: two machines with different snapshots have the same var axis. Names are resolved by resolve.py; masks come
from gene_sets.py. Positions are 0-based starts as the reference gives them, -1 where it gives none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from .cached import intact, keep
from .errors import OntologyInputError, ReferenceMissingError
from .gene_sets import core_mask, mito_mask, ribo_mask
from .organisms import Organism, get_organism, list_organisms
from .places import cache_dir
from .references import wheel_pins
from .snapshots import Snapshot, find_snapshot, read_table

TEXTS = ("ids", "symbols", "biotypes", "contigs", "synonyms", "former")
BUILD = "genes-3"
"""Version of the way a table is derived; part of the cache key."""
COLUMNS = ("id", "symbol", "biotype", "length", "contig", "start", "strand", "synonyms", "former", "primary")
FILLED = {"contig": "", "start": -1, "strand": 0}
"""What of a position a snapshot may add to a pinned table, with the value that means unknown; `length` besides."""


@dataclass(frozen=True, eq=False)
class GeneTable:
    """Every gene of one organism, in ascending order of id: the var order of its atlas. Arrays are read-only."""

    organism: Organism
    """Whose genes these are."""
    ids: npt.NDArray[np.str_]
    """Gene ids without version, ascending, unique."""
    symbols: npt.NDArray[np.str_]
    """Symbols; the id itself where a gene has none. Not unique."""
    biotypes: npt.NDArray[np.str_]
    """Ensembl biotypes."""
    lengths: npt.NDArray[np.int64]
    """Median length of the gene's isoforms in bp, as CELLxGENE gives it; 0 where unknown."""
    contigs: npt.NDArray[np.str_]
    """Contig names as the reference spells them; empty where unknown."""
    starts: npt.NDArray[np.int64]
    """0-based start on the contig in bp; -1 where unknown."""
    strands: npt.NDArray[np.int8]
    """1 forward, -1 reverse, 0 where unknown."""
    synonyms: npt.NDArray[np.object_]
    """Other names of each gene, former symbols and aliases, joined by `|`; empty where none."""
    former: npt.NDArray[np.object_]
    """Those among the synonyms that once were, or elsewhere are, the official symbol, joined by `|`."""
    primary: npt.NDArray[np.bool_]
    """True where the symbol means this gene: no other has it, or the naming authority gives it to this one."""
    mito: npt.NDArray[np.bool_] | None
    """Genes of the mitochondrial contig; None where no list exists (not measurable)."""
    ribo: npt.NDArray[np.bool_] | None
    """Cytosolic ribosomal protein genes; None where symbols do not tell."""
    core: npt.NDArray[np.bool_]
    """The fixed core that a cell's second hash is taken over; all False where there is none."""
    release: str
    """What the table is a snapshot of."""

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Return a one-line summary; the arrays would fill a screen."""
        return f"GeneTable({self.organism.name}, {len(self)} genes, {self.release})"

    @cached_property
    def sha256(self) -> str:
        """Digest of ids, symbols, biotypes, lengths, positions, other names and masks.

        Strands stay out: atlases made before tables had them are known by this digest.
        """
        digest = hashlib.sha256(f"{self.organism.term_id}\n".encode())
        for name in (*TEXTS, "lengths", "starts", "primary"):
            text = "\n".join(map(str, getattr(self, name).tolist()))
            digest.update(f"{name} {len(text)}\n{text}\n".encode("utf-8", "surrogatepass"))
        for mask in (self.mito, self.ribo, self.core):
            digest.update(b"none\n" if mask is None else mask.tobytes())
        return digest.hexdigest()

    @cached_property
    def order_sha256(self) -> str:
        """Digest of the organism and its ids in order: equal where two tables have the same var axis."""
        return hashlib.sha256("\n".join([self.organism.term_id, *self.ids.tolist()]).encode()).hexdigest()

    @cached_property
    def id_index(self) -> pd.Index:
        """Index from id to position."""
        return pd.Index(self.ids.astype(object), dtype=object)

    @cached_property
    def names(self) -> dict[str, pd.Series]:
        """Lookups in the order they are tried: position by name, -1 where a name means several genes."""
        order = np.flatnonzero(self.symbols != self.ids)
        symbols = self.symbols[order].astype(object)
        nobody = np.zeros(len(order), dtype=bool)
        return {
            "symbol": _unique_positions(symbols, order, self.primary[order]),
            "folded": _unique_positions(np.char.lower(self.symbols[order]), order, nobody),
            "former": _several_positions(self.former),
            "synonym": _several_positions(self.synonyms),
        }


def make_gene_table(organism: Organism, frame: pd.DataFrame, release: str) -> GeneTable:
    """Return a table from plain columns, sorted and checked; the way a user's own reference becomes one.

    Parameters
    ----------
    organism
        Whose genes they are.
    frame
        Columns id, symbol and biotype; length (bp), contig, start (0-based, bp), strand (1, -1, 0 unknown), synonyms
        and former (joined by `|`) and primary are optional.
    release
        What the rows are a snapshot of.

    Raises
    ------
    OntologyInputError
        When a needed column is missing, or ids are empty or repeated.
    """
    missing = [name for name in ("id", "symbol", "biotype") if name not in frame.columns]
    if missing:
        raise OntologyInputError("frame", list(map(str, frame.columns)), f"also the columns {', '.join(missing)}")
    defaults = {"length": 0, **FILLED, "synonyms": "", "former": ""}
    rows = frame.assign(**{name: value for name, value in defaults.items() if name not in frame.columns})
    rows = rows.sort_values("id", kind="stable", ignore_index=True)
    if (rows["id"] == "").any() or rows["id"].duplicated().any():
        raise OntologyInputError("frame", "empty or repeated ids", "one row per gene id")
    # A nameless gene goes by its id, as in CELLxGENE's tables.
    text = {
        name: rows[name].fillna("").astype(str).to_numpy(dtype=str) for name in ("id", "symbol", "biotype", "contig")
    }
    text["symbol"] = np.where(text["symbol"] == "", text["id"], text["symbol"])
    if "primary" not in rows.columns:
        rows["primary"] = ~pd.Series(text["symbol"]).duplicated(keep=False)
    values: dict[str, npt.NDArray] = {
        "ids": text["id"],
        "symbols": text["symbol"],
        "biotypes": text["biotype"],
        "lengths": rows["length"].to_numpy(dtype=np.int64),
        "contigs": text["contig"],
        "starts": rows["start"].to_numpy(dtype=np.int64),
        "strands": rows["strand"].to_numpy(dtype=np.int8),
        **{name: rows[name].fillna("").astype(str).to_numpy(dtype=object) for name in ("synonyms", "former")},
        "primary": rows["primary"].to_numpy(dtype=bool),
    }
    mito = mito_mask(organism, text["id"], text["contig"])
    ribo = ribo_mask(organism, text["id"], text["symbol"], text["biotype"], text["contig"])
    core = core_mask(organism, text["id"], text["symbol"], text["biotype"])
    for array in (*values.values(), *(mask for mask in (mito, ribo, core) if mask is not None)):
        array.setflags(write=False)
    return GeneTable(organism=organism, **values, mito=mito, ribo=ribo, core=core, release=release)


def load_gene_table(organism: str | int | Organism) -> GeneTable:
    """Return the gene table of an organism: the pinned one, else the snapshot that was fetched or imported.

    The first call on a machine fetches and builds a pinned table, later ones read the cache. Where a snapshot lies
    beside a pinned table it fills in contig, start, strand and length of genes that lack them, joined by id and taken
    to be of the same assembly; `release` then names it too.

    Raises
    ------
    UnknownOrganismError
        When the name is not one of `list_organisms()`.
    ReferenceMissingError
        When no source is pinned for that organism and no snapshot of its genes is kept here.
    ReferenceMismatchError
        When the snapshot's bytes are not those that were kept.
    SourceUnavailableError
        When the pinned reference is not in the cache yet and the package index cannot be reached.
    """
    found = get_organism(organism)
    snapshot = find_snapshot("genes", found.name)
    if found.genes is not None:
        return _pinned(found, str(table_path(found)), snapshot)
    if snapshot is None:
        have = ", ".join(o.name for o in list_organisms() if o.genes)
        remedy = f"{fetch_remedy('genes', found)}; tables are pinned for {have}"
        raise ReferenceMissingError("gene table", found.name, remedy)
    return _kept(found, snapshot)


def fetch_remedy(kind: str, organism: Organism) -> str:
    """Return what to run for a table of genes or orthologs: an import where BioMart has no such table.

    That is so without a dataset, and for orthologs of plants: Ensembl compares plants with plants only.
    """
    if organism.dataset and not (kind == "orthologs" and organism.division == "plants"):
        return f"run panatlas references fetch {kind} {organism.name}"
    return f"run panatlas references import {kind} {organism.name} FILE"


def table_path(organism: Organism) -> Path:
    """Return where the cache keeps an organism's pinned table; the name changes with every pin it depends on."""
    assert organism.genes is not None
    source = organism.genes
    pins = [wheel_pins()[name].sha256 for name in (source.wheel, source.synonym_wheel) if name]
    key = hashlib.sha256(repr((BUILD, pins, source)).encode()).hexdigest()[:12]
    return cache_dir() / "genes" / f"{organism.name}-{key}.parquet"


# Keyed by row, path and snapshot (which holds its digest), so that another PANATLAS_HOME, pin, row or import in one
# process is another table.
@lru_cache(maxsize=4)
def _pinned(organism: Organism, path: str, snapshot: Snapshot | None) -> GeneTable:
    target = Path(path)
    if not intact(target):
        from .gene_build import build_gene_frame  # noqa: PLC0415 - most processes find the cache filled

        with keep(target) as out:
            build_gene_frame(organism)[list(COLUMNS)].to_parquet(out, index=False)
    assert organism.genes is not None
    source = organism.genes
    release = "; ".join(wheel_pins()[name].release for name in (source.wheel, source.synonym_wheel) if name)
    frame = pd.read_parquet(target)
    if snapshot is not None and _fill(frame, read_table(snapshot)):
        release = f"{release}; positions {snapshot.release}"
    return make_gene_table(organism, frame, release)


@lru_cache(maxsize=4)
def _kept(organism: Organism, snapshot: Snapshot) -> GeneTable:
    return make_gene_table(organism, read_table(snapshot), snapshot.release)


def _fill(frame: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Add to `frame`, in place, the positions and lengths that it lacks and `other` has; tell whether any were."""
    other = other.drop_duplicates("id", ignore_index=True)
    at = pd.Index(other["id"]).get_indexer(frame["id"])
    filled = False
    if set(FILLED) <= set(other.columns):
        # A position is taken whole or not at all: half of one reference and half of another is of no assembly.
        mine = (frame["start"] < 0).to_numpy() & (at >= 0)
        mine[mine] = other["start"].to_numpy()[at[mine]] >= 0
        for column in FILLED if mine.any() else ():
            frame.loc[mine, column] = other[column].to_numpy()[at[mine]].astype(frame[column].dtype)
        filled = bool(mine.any())
    if "length" in other.columns:
        short = (frame["length"] <= 0).to_numpy() & (at >= 0)
        frame.loc[short, "length"] = other["length"].to_numpy()[at[short]].astype(np.int64)
    return filled


def _several_positions(names: npt.NDArray[np.object_]) -> pd.Series:
    """Return position by name for genes with several names each; -1 for a name of several genes."""
    split = [text.split("|") if text else [] for text in names]
    owners = np.repeat(np.arange(len(split)), [len(each) for each in split])
    flat = np.array([name for each in split for name in each], dtype=object)
    return _unique_positions(flat, owners, np.zeros(len(owners), dtype=bool))


def _unique_positions(
    names: npt.NDArray, positions: npt.NDArray[np.int64], preferred: npt.NDArray[np.bool_]
) -> pd.Series:
    """Return position by name; -1 for a name of several genes, unless exactly one of them is preferred."""
    rows = pd.DataFrame({"name": names.astype(object), "position": positions, "preferred": preferred})
    rows = rows.drop_duplicates(["name", "position"])
    several = rows["name"].duplicated(keep=False)
    single = rows.loc[~several].set_index("name")["position"]
    owned = rows.loc[several & rows["preferred"]].drop_duplicates("name", keep=False).set_index("name")["position"]
    rest = pd.Index(rows.loc[several, "name"].unique()).difference(owned.index)
    return pd.concat([single, owned, pd.Series(-1, index=rest)]).astype(np.int64)
