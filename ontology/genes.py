"""Gene tables: `load_gene_table("human")` gives the genes of an organism in the atlas's fixed order.

A table is built once from pinned data wheels (gene_build.py), kept in the cache as Parquet and loaded from there in a
fraction of a second. Names are resolved against it by resolve.py; masks come from gene_sets.py. Positions are 0-based
starts as the reference gives them, -1 where it gives none.
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

TEXTS = ("ids", "symbols", "biotypes", "contigs", "synonyms", "former")
BUILD = "genes-2"
"""Version of the way a table is derived; part of the cache key."""
COLUMNS = ("id", "symbol", "biotype", "length", "contig", "start", "synonyms", "former", "primary")


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
        """Digest of ids, symbols, biotypes, lengths, positions, other names and masks."""
        digest = hashlib.sha256(f"{self.organism.term_id}\n".encode())
        for name in (*TEXTS, "lengths", "starts", "primary"):
            text = "\n".join(map(str, getattr(self, name).tolist()))
            digest.update(f"{name} {len(text)}\n{text}\n".encode("utf-8", "surrogatepass"))
        for mask in (self.mito, self.ribo, self.core):
            digest.update(b"none\n" if mask is None else mask.tobytes())
        return digest.hexdigest()

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
        Columns id, symbol and biotype; length (bp), contig, start (0-based, bp), synonyms and former (joined by `|`)
        and primary are optional.
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
    defaults = {"length": 0, "contig": "", "start": -1, "synonyms": "", "former": ""}
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
        **{name: rows[name].fillna("").astype(str).to_numpy(dtype=object) for name in ("synonyms", "former")},
        "primary": rows["primary"].to_numpy(dtype=bool),
    }
    mito = mito_mask(organism, text["id"])
    ribo = ribo_mask(organism, text["symbol"], text["biotype"])
    core = core_mask(organism, text["id"], text["symbol"], text["biotype"])
    for array in (*values.values(), *(mask for mask in (mito, ribo, core) if mask is not None)):
        array.setflags(write=False)
    return GeneTable(organism=organism, **values, mito=mito, ribo=ribo, core=core, release=release)


def load_gene_table(organism: str | int | Organism) -> GeneTable:
    """Return the pinned gene table of an organism; the first call fetches and builds it, later ones read the cache.

    Raises
    ------
    UnknownOrganismError
        When the name is not one of `list_organisms()`.
    ReferenceMissingError
        When no pinned source carries a table for that organism.
    SourceUnavailableError
        When the reference is not in the cache yet and the package index cannot be reached.
    """
    found = get_organism(organism)
    if found.genes is None:
        have = ", ".join(o.name for o in list_organisms() if o.genes)
        raise ReferenceMissingError("gene table", found.name, f"tables are pinned for {have}")
    return _load(found.name, str(table_path(found)))


def table_path(organism: Organism) -> Path:
    """Return where the cache keeps an organism's table; the name changes with every pin it depends on."""
    assert organism.genes is not None
    source = organism.genes
    pins = [wheel_pins()[name].sha256 for name in (source.wheel, source.synonym_wheel) if name]
    key = hashlib.sha256(repr((BUILD, pins, source)).encode()).hexdigest()[:12]
    return cache_dir() / "genes" / f"{organism.name}-{key}.parquet"


@lru_cache(maxsize=4)
def _load(name: str, path: str) -> GeneTable:
    # Keyed by path, so that another PANATLAS_HOME or pin in the same process is another table.
    organism, target = get_organism(name), Path(path)
    if not intact(target):
        from .gene_build import build_gene_frame  # noqa: PLC0415 - most processes find the cache filled

        with keep(target) as out:
            build_gene_frame(organism)[list(COLUMNS)].to_parquet(out, index=False)
    assert organism.genes is not None
    source = organism.genes
    release = "; ".join(wheel_pins()[name].release for name in (source.wheel, source.synonym_wheel) if name)
    return make_gene_table(organism, pd.read_parquet(target), release)


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
