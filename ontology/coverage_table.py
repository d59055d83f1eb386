"""What is there for each organism, counted from the data: `coverage()` for a table, `coverage_releases()` for sources.

Everything is read through the functions that others use (`load_gene_table`, `load_orthologs`, snapshots), so the table
cannot promise what a caller would not get. What is missing reads `not available: ` with the command that brings it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cached import intact
from .errors import OntologyError, ReferenceMissingError, SourceUnavailableError
from .gene_sets import MITO_LIST, mito_list
from .genes import GeneTable, fetch_remedy, load_gene_table, table_path
from .organisms import Organism, get_organism, list_organisms
from .references import ontology_pins, wheel_pins
from .snapshots import Snapshot, find_snapshot, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MISSING = "not available: "
"""How every cell begins that has no value."""
WHATS = ("genes", "with_position", "mito_genes", "ribo_genes", "orthologs_to_human", "proteins")
"""What is counted per organism, in the order of the table; labels come besides."""
WORDS = {
    "cell_culture": "words of CELLxGENE's tissue_type, no ontology",
    "self_reported_ethnicity": "does not apply",
}
"""What serves labels for which an organism's row names no ontology."""


def coverage(
    organisms: Sequence[str | int | Organism] | None = None,
    build: bool = True,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> list[dict[str, Any]]:
    """Return one row per organism: organism, taxon, genes, with_position, orthologs_to_human, proteins, labels.

    Parameters
    ----------
    organisms
        Which; None means every organism of `list_organisms()`.
    build
        Fetch and build pinned tables that are not in the cache yet; otherwise they read as not available.
    progress
        Called with a stage, and how many organisms are done of how many.

    Returns
    -------
    list of dict
        Counts are whole numbers. `labels` maps each of the nine labels to its ontologies with their release. Where
        something is missing the value is text: "not available:" and the command to run, or why it failed.

    Raises
    ------
    UnknownOrganismError
        When a name is no organism's. Nothing else: an unreachable package index is a row that says so.
    """
    rows = []
    for organism, cells in _survey(organisms, progress, build=build):
        row: dict[str, Any] = {"organism": organism.name, "taxon": organism.taxon}
        row |= {what: cells[what]["value"] for what in ("genes", "with_position", "orthologs_to_human", "proteins")}
        rows.append(row | {"labels": {label: _label_text(organism, label) for label in organism_labels()}})
    return rows


def coverage_releases(
    organisms: Sequence[str | int | Organism] | None = None,
    build: bool = True,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> list[dict[str, Any]]:
    """Return one row per organism and thing that could be there, with source and release.

    Parameters
    ----------
    organisms, build, progress
        As in `coverage`.

    Returns
    -------
    list of dict
        organism, taxon, what (`WHATS`, and `label <name>` for the nine labels), value, source, release.
    """
    rows: list[dict[str, Any]] = []
    for organism, cells in _survey(organisms, progress, build=build):
        head = {"organism": organism.name, "taxon": organism.taxon}
        rows += [head | {"what": what} | cells[what] for what in WHATS]
        rows += [
            head | {"what": f"label {label}"} | _cell(_label_text(organism, label), "data/organisms.toml", "")
            for label in organism_labels()
        ]
    return rows


def organism_labels() -> tuple[str, ...]:
    """Return the nine labels."""
    from .match import LABELS  # noqa: PLC0415 - matching is not needed to count genes

    return LABELS


def _survey(
    organisms: Sequence[str | int | Organism] | None, progress: Callable[[str, int, int], None], *, build: bool
) -> list[tuple[Organism, dict[str, dict[str, Any]]]]:
    chosen = list_organisms() if organisms is None else [get_organism(each) for each in organisms]
    found: list[tuple[Organism, dict[str, dict[str, Any]]]] = []
    down: list[str] = []  # why the package index did not answer; it is asked once, not once per organism
    for done, organism in enumerate(chosen):
        progress("organisms", done, len(chosen))
        found.append((organism, _cells(organism, down, build=build)))
    progress("organisms", len(chosen), len(chosen))
    return found


def _cells(organism: Organism, down: list[str], *, build: bool) -> dict[str, dict[str, Any]]:
    table = _table(organism, down, build=build)
    if isinstance(table, str):
        cells = dict.fromkeys(("genes", "with_position", "mito_genes", "ribo_genes"), _cell(table))
        if organism.mito_contig is None:
            cells["mito_genes"] = _cell(_no_contig(organism))
    else:
        cells = _gene_cells(table)
    cells["orthologs_to_human"] = _orthologs(organism, table, down, build=build)
    try:
        proteins = find_snapshot("proteins", organism.name)
    except OntologyError as error:
        cells["proteins"] = _cell(f"{MISSING}{error}", "", "")
    else:
        remedy = f"{MISSING}run panatlas references import proteins {organism.name} PEP.fa.gz"
        cells["proteins"] = _proteins(proteins, table) if proteins else _cell(remedy)
    return cells


def _proteins(snapshot: Snapshot, table: GeneTable | str) -> dict[str, Any]:
    """Count the proteins whose genes are in the gene table, or all where there is none."""
    genes = read_table(snapshot)["gene"]
    met = len(genes) if isinstance(table, str) else int(genes.isin(table.id_index).sum())
    return _cell(met, snapshot.source, snapshot.release)


def _table(organism: Organism, down: list[str], *, build: bool) -> GeneTable | str:
    """Return the gene table, or why there is none."""
    if organism.genes is not None and (down or not build) and not intact(table_path(organism)):
        return f"{MISSING}{down[0] if down else 'not built yet; run panatlas organisms'}"
    try:
        return load_gene_table(organism)
    except ReferenceMissingError:
        return _fetch("genes", organism)
    except SourceUnavailableError as error:
        down.append(_reason(error))
        return f"{MISSING}{down[0]}"
    except OntologyError as error:
        return f"{MISSING}{_reason(error)}"


def _gene_cells(table: GeneTable) -> dict[str, dict[str, Any]]:
    organism = table.organism
    release, _, added = table.release.partition("; positions ")
    snapshot = find_snapshot("genes", organism.name)
    theirs = snapshot.source if snapshot else ""
    source = wheel_pins()[organism.genes.wheel].requirement if organism.genes else theirs
    placed = int((table.starts >= 0).sum())
    at = (theirs, added) if added else (source, release)
    return {
        "genes": _cell(len(table), source, release),
        "with_position": _cell(placed, *at) if placed else _cell(_fetch("genes", organism)),
        "mito_genes": _mito(table, source, release),
        "ribo_genes": _cell(
            f"{MISSING}symbols do not tell" if table.ribo is None else int(table.ribo.sum()), source, release
        ),
    }


def _mito(table: GeneTable, source: str, release: str) -> dict[str, Any]:
    listed = mito_list(table.organism)
    if table.mito is not None and set(table.ids[table.mito].tolist()) <= set(listed):
        source, release = f"data/{MITO_LIST}", "; ".join(sorted(set(listed.values())))
    if table.mito is not None:
        return _cell(int(table.mito.sum()), source, release)
    if table.organism.mito_contig is None:
        return _cell(_no_contig(table.organism))
    return _cell(f"{MISSING}the table has no gene on contig {table.organism.mito_contig}", source, release)


def _no_contig(organism: Organism) -> str:
    return f"{MISSING}assembly {organism.assembly} has no known mitochondrial contig"


def _orthologs(organism: Organism, table: GeneTable | str, down: list[str], *, build: bool) -> dict[str, Any]:
    """Count the organism's genes that have a link to human; human's own are linked to themselves."""
    from .ortholog_sources import find_origin  # noqa: PLC0415 - read tables of their own
    from .orthologs import load_orthologs  # noqa: PLC0415

    if organism.name == "human":
        return _cell(table if isinstance(table, str) else len(table), "itself", "")
    try:
        if not build and find_snapshot("orthologs", organism.name) is None:
            return _cell(f"{MISSING}not read yet; run panatlas organisms")
        find_origin(organism)  # before anything is fetched for an organism that has no links at all
        human = _table(get_organism("human"), down, build=build)  # every table of orthologs is read beside it
        if isinstance(human, str):
            return _cell(human)
        links = load_orthologs(organism)
    except ReferenceMissingError:
        return _cell(_fetch("orthologs", organism))
    except OntologyError as error:
        return _cell(f"{MISSING}{_reason(error)}")
    linked = links.frame.loc[links.frame["in_table"], "gene"].nunique()
    return _cell(int(linked), links.source, links.release) if linked else _cell(_fetch("orthologs", organism))


def _label_text(organism: Organism, label: str) -> str:
    """Return the ontologies that serve a label, each with its release; those that are missing come last."""
    have: list[str] = []
    missing: list[str] = []
    for prefix in organism.labels.get(label, {}):
        release = _ontology_release(prefix)
        (have if release else missing).append(release or prefix)
    if have:
        return "; ".join([*have, *(f"{p} not available: run panatlas references fetch ontology {p}" for p in missing)])
    if missing:
        return f"{MISSING}run panatlas references fetch ontology {missing[0]}"
    return WORDS.get(label, "no ontology in the organism's row")


def _ontology_release(prefix: str) -> str:
    """Return name and release of the ontology that serves a prefix here, or an empty string."""
    if pin := ontology_pins().get(prefix):
        return f"{prefix} {pin.version}" if pin.name == prefix else f"{prefix} (in {pin.name} {pin.version})"
    if prefix == "NCBITaxon":
        return "NCBITaxon (lineages of the known organisms)"
    try:
        snapshot = find_snapshot("ontology", prefix)
    except OntologyError:  # damaged: fetching it again is the remedy, as for a missing one
        return ""
    return f"{prefix} {snapshot.release}" if snapshot else ""


def _fetch(kind: str, organism: Organism) -> str:
    return f"{MISSING}{fetch_remedy(kind, organism)}"


def _reason(error: OntologyError) -> str:
    return f"could not fetch {error.what}: {error.reason}" if isinstance(error, SourceUnavailableError) else str(error)


def _cell(value: int | str, source: str = "", release: str = "") -> dict[str, Any]:
    return {"value": value, "source": source, "release": release}
