"""Ground floor: what organisms, genes and labels are called, pinned by release. Knows no cells and no store.

- `get_organism`, `list_organisms`: the 16 organisms and the extras, as data.
- `load_gene_table`, `make_gene_table`, `resolve_genes`: genes in the atlas's fixed order, and names placed among them.
- `load_ontology`, `ontology_release`: pinned ontologies as mappings from id to `Term`.
- `harmonise`, `LABELS`: author text to ontology terms, never by a silent guess.
- `fetch_wheel_member`: one file of a pinned data wheel; `home`, `cache_dir`: where things live.

Names load on first use, so `import ontology` costs milliseconds and no ontology is read before one is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        OntologyError,
        OntologyInputError,
        ReferenceMismatchError,
        ReferenceMissingError,
        SourceUnavailableError,
        UnknownOrganismError,
        UnknownTermError,
    )
    from .gene_sets import CORE_VERSION
    from .genes import GeneTable, load_gene_table, make_gene_table
    from .match import LABELS, Match, harmonise
    from .organisms import Organism, get_organism, list_organisms
    from .places import cache_dir, home
    from .references import ontology_release
    from .resolve import GeneMapping, resolve_genes
    from .terms import Ontology, Term, load_ontology
    from .wheels import fetch_wheel_member

_HOMES = {
    "errors": (
        "OntologyError",
        "OntologyInputError",
        "ReferenceMismatchError",
        "ReferenceMissingError",
        "SourceUnavailableError",
        "UnknownOrganismError",
        "UnknownTermError",
    ),
    "gene_sets": ("CORE_VERSION",),
    "genes": ("GeneTable", "load_gene_table", "make_gene_table"),
    "match": ("LABELS", "Match", "harmonise"),
    "organisms": ("Organism", "get_organism", "list_organisms"),
    "places": ("cache_dir", "home"),
    "references": ("ontology_release",),
    "resolve": ("GeneMapping", "resolve_genes"),
    "terms": ("Ontology", "Term", "load_ontology"),
    "wheels": ("fetch_wheel_member",),
}
_HOME_OF = {name: home_ for home_, names in _HOMES.items() for name in names}

__all__ = [
    "CORE_VERSION",
    "LABELS",
    "GeneMapping",
    "GeneTable",
    "Match",
    "Ontology",
    "OntologyError",
    "OntologyInputError",
    "Organism",
    "ReferenceMismatchError",
    "ReferenceMissingError",
    "SourceUnavailableError",
    "Term",
    "UnknownOrganismError",
    "UnknownTermError",
    "cache_dir",
    "fetch_wheel_member",
    "get_organism",
    "harmonise",
    "home",
    "list_organisms",
    "load_gene_table",
    "load_ontology",
    "make_gene_table",
    "ontology_release",
    "resolve_genes",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the file it lives in, once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
