"""The commands about references: organisms, genes everywhere, snapshots, curation, proteins. Words in, values out.

Declared here and hung under `panatlas` by cli.py; their bodies are in reference_commands.py, loaded when one runs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from types import ModuleType

Switch = Annotated[bool, Parameter(negative=(), show_default=False)]
Repeatable = Annotated[list[str], Parameter(negative=(), show_default=False, consume_multiple=False)]
Fetched = Literal["genes", "orthologs", "ontology"]
Imported = Literal["genes", "orthologs", "proteins", "ontology"]

references = App(
    name="references", help="List, fetch and import reference snapshots: genes, orthologs, proteins, ontologies."
)


def _commands() -> ModuleType:
    """Return the commands' bodies, loaded on first use."""
    return import_module(".reference_commands", __package__)


def organisms(*, json: Switch = False) -> int:
    """Say what is known of each organism: genes, positions, orthologs, proteins, label ontologies.

    The first call builds the pinned gene tables, which takes about a minute; later ones read the cache.

    Parameters
    ----------
    json
        Print JSON on stdout.
    """
    return _commands().organisms(json=json)


def add_organism(
    name: str,
    /,
    *,
    label: str,
    taxon: int,
    gtf: Path | None = None,
    proteins: Path | None = None,
    division: Literal["vertebrates", "metazoa", "plants", "fungi", "protists"] | None = None,
    dataset: str | None = None,
    assembly: str | None = None,
    release: str = "unstated",
    licence: str = "unstated",
    mito_contig: str | None = None,
    biomart: Switch = False,
    json: Switch = False,
) -> int:
    """Add an organism of your own: its row, gene table, ortholog links, proteins and their vectors.

    Given again, it changes what is named and keeps the rest; if it fails, the row is as it was.

    Parameters
    ----------
    name
        Short name for the command line, e.g. axolotl.
    label
        Scientific name as NCBITaxon spells it.
    taxon
        NCBI taxonomy id.
    gtf
        GTF or GFF3 with its genes, .gz or not; or pass --biomart.
    proteins
        FASTA of its proteins in Ensembl's pep.all naming, or with gene ids as names.
    division
        Ensembl division it belongs to; vertebrates if never given.
    dataset
        BioMart dataset, e.g. amexicanus_gene_ensembl; needed with --biomart.
    assembly
        Genome assembly that the files are of, kept with them.
    release
        Release of the annotation, kept with them.
    licence
        Licence of the files, kept with them.
    mito_contig
        Name of the mitochondrial contig.
    biomart
        Fetch genes and ortholog links from BioMart.
    json
        Print its coverage row as JSON on stdout.
    """
    about = {"release": release, "licence": licence}
    row = {"label": label, "taxon": taxon, "division": division, "assembly": assembly}
    row |= {"dataset": dataset, "mito_contig": mito_contig}
    return _commands().add_organism(name, row, about, gtf=gtf, proteins=proteins, biomart=biomart, json=json)


def gene(name: str, /, *, organism: str | None = None, json: Switch = False) -> int:
    """Show a gene and its orthologs in every organism.

    Parameters
    ----------
    name
        Gene id, symbol or synonym.
    organism
        Where to look it up; without it human first, then every organism with a table.
    json
        Print JSON on stdout.
    """
    return _commands().gene(name, organism, json=json)


def curate(
    file: Path,
    /,
    *,
    label: str | None = None,
    column: str | None = None,
    organism: str = "human",
    accept: Switch = False,
    who: str | None = None,
    json: Switch = False,
) -> int:
    """Show how author labels map to terms, with suggestions for a curator to accept.

    Parameters
    ----------
    file
        CSV or TSV with a column per label; with --accept the table that a former run wrote, filled in.
    label
        Only this one of the nine labels.
    column
        The column that holds it, where its name does not say so.
    organism
        Whose cells they describe.
    accept
        Read the filled table back: its accepted rows become overrides.
    who
        Curator of the accepted rows that name none.
    json
        Print JSON on stdout.
    """
    return _commands().curate(file, label, column, organism, accept=accept, who=who, json=json)


def embed_proteins(
    organism: str,
    /,
    *,
    checkpoint: Path | None = None,
    layers: int = 2,
    dim: int = 64,
    seed: int = 0,
    device: str = "cpu",
    json: Switch = False,
) -> int:
    """Embed an organism's proteins with ESM2, resumably; without a checkpoint the model is untrained and says so.

    Parameters
    ----------
    organism
        Any spelling of the organism; its proteins were imported before.
    checkpoint
        A local ESM2 checkpoint (.pt), or the name of a published one to download, e.g. esm2_t6_8M_UR50D.
    layers
        Layers of the untrained model.
    dim
        Width of the untrained model.
    seed
        Seed of the untrained model.
    device
        cpu, cuda or cuda:N.
    json
        Print the snapshot as JSON on stdout.
    """
    return _commands().embed_proteins(organism, checkpoint, (layers, dim, seed), device, json=json)


@references.command(name="list")
def list_(*, json: Switch = False) -> int:
    """List the snapshots on this machine.

    Parameters
    ----------
    json
        Print JSON on stdout.
    """
    return _commands().list_references(json=json)


@references.command
def fetch(
    kind: Fetched,
    name: str,
    /,
    *,
    to: str = "human",
    host: str | None = None,
    release: int | None = None,
    json: Switch = False,
) -> int:
    """Fetch a reference: genes or orthologs of an organism from BioMart, or a pinned ontology.

    Parameters
    ----------
    kind
        genes, orthologs or ontology.
    name
        The organism, or the ontology's prefix.
    to
        Organism on the other side of the orthologs.
    host
        BioMart server; that of the organism's division and release unless named.
    release
        Ensembl release to fetch; the pinned one unless named.
    json
        Print the snapshot as JSON on stdout.
    """
    return _commands().fetch_reference(kind, name, to, host, release, json=json)


@references.command(name="import")
def import_(
    kind: Imported,
    name: str,
    file: Path,
    /,
    *,
    column: Repeatable = (),
    where: Repeatable = (),
    base: Literal[0, 1] = 1,
    canonical: Path | None = None,
    longest: Switch = False,
    release: str = "unstated",
    licence: str = "unstated",
    json: Switch = False,
) -> int:
    """Take a reference from a file of yours: a table, GTF, FASTA or ontology.

    Parameters
    ----------
    kind
        genes, orthologs, proteins or ontology.
    name
        The organism, or the ontology's prefix.
    file
        CSV, TSV or Parquet table; GTF/GFF3; FASTA; OBO, OWL or obograph JSON; .gz or not.
    column
        What a column of a table is, e.g. id=gene_id. Repeatable.
    where
        Only rows with this value, e.g. taxon_id=9031. Repeatable.
    base
        What the first position of a contig is called in the table.
    canonical
        Proteins only: a list of the transcript or protein ids to take, one per gene.
    longest
        Proteins only: take the longest of each gene, whatever the headers call canonical.
    release
        Release of the reference, kept with the snapshot.
    licence
        Licence of the reference, kept with the snapshot.
    json
        Print the snapshot as JSON on stdout.
    """
    about = {"release": release, "licence": licence}
    choice = canonical or ("longest" if longest else "canonical")
    return _commands().import_reference(kind, name, file, (column, where, base), about, choice, json=json)
