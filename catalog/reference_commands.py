"""The bodies of the commands about references: call the ontology or model floor, show the result, return the code.

cli_references.py declares the arguments. What an organism, a snapshot or an ortholog is lives in `ontology`; how a
protein becomes a vector in `model`; what a curator sees in curation.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ontology import (
    ReferenceMissingError,
    coverage,
    fetch_genes,
    fetch_ontology,
    fetch_orthologs,
    find_orthologs,
    get_organism,
    import_gtf,
    import_ontology,
    import_proteins,
    import_table,
    list_snapshots,
    read_proteins,
    tentative_organism,
)

from . import console as show
from .errors import DONE, CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ontology import Organism, Snapshot

SHOWN_OF_GENE = ("organism", "gene", "symbol", "type", "confidence", "source")
"""Columns of a gene's table for people; --json has the release too."""
GTF_SUFFIXES = (".gtf", ".gff", ".gff3")


def organisms(*, json: bool) -> int:
    """Show the coverage table; labels are too wide for people, who see which ontologies are missing instead."""
    with show.StageBars(show.people()) as bars:
        rows = coverage(progress=bars)
    if json:
        show.print_json(rows)
        return DONE
    shown = [row | {"labels": _labels_in_brief(row["labels"])} for row in rows]
    show.print_table(shown, shown[0])
    return DONE


def _labels_in_brief(labels: Mapping[str, str]) -> str:
    """Return how many labels have their ontology, and what to run for those without."""
    missing = sorted({text for text in labels.values() if text.startswith("not available")})
    have = sum(not text.startswith("not available") for text in labels.values())
    return f"{have} of {len(labels)}" + "".join(f"; {text}" for text in missing)


def add_organism(
    name: str,
    row: Mapping[str, Any],
    about: Mapping[str, str],
    *,
    gtf: Path | None,
    proteins: Path | None,
    biomart: bool,
    json: bool,
) -> int:
    """Add the row, then everything that can be made from the files: genes, orthologs, proteins, vectors."""
    if (gtf is None) == (not biomart):
        raise CatalogInputError("gtf", gtf, "either --gtf FILE or --biomart, which say where the genes come from")
    people = show.people()
    with show.StageBars(people) as bars, tentative_organism(name, **row) as organism:
        if proteins is not None:
            read_proteins(organism, proteins)  # what is no FASTA is refused before anything is kept
        if gtf is not None:
            _tell(import_gtf(organism, gtf, about | {"source": gtf.name}))
        else:
            _tell(fetch_genes(organism))
            _fetch_links(organism)
        if proteins is not None:
            _tell(import_proteins(organism, proteins, about | {"source": proteins.name}))
            _tell(_embed(organism, None, (2, 64, 0), "cpu", bars))
        found = coverage([organism], progress=bars)
    show.print_json(found[0]) if json else show.print_table(
        [found[0] | {"labels": _labels_in_brief(found[0]["labels"])}], found[0]
    )
    return DONE


def _fetch_links(organism: Organism) -> None:
    """Fetch ortholog links; BioMart has none between plants and animals, and an organism is whole without them."""
    try:
        _tell(fetch_orthologs(organism))
    except ReferenceMissingError as error:
        show.people().print(f"[yellow]no ortholog links[/] {show.plain(error)}")


def gene(name: str, organism: str | None, *, json: bool) -> int:
    """Show the gene in every organism."""
    rows = find_orthologs(name, organism).to_dict("records")
    if json:
        show.print_json(rows)
    else:
        show.print_table([row | {"confidence": _share(row["confidence"])} for row in rows], SHOWN_OF_GENE)
    return DONE


def _share(confidence: float) -> str:
    """Return a confidence for people: nothing where the source gives none."""
    return "" if confidence != confidence else f"{confidence:.2f}"  # noqa: PLR0124 - NaN


def curate(
    file: Path, label: str | None, column: str | None, organism: str, *, accept: bool, who: str | None, json: bool
) -> int:
    """Write the curator's table, or take the accepted rows of one that came back."""
    from .curation import accept_table, curate_table  # noqa: PLC0415 - pandas readers that other commands do not need

    if accept:
        done = accept_table(file, organism=organism, who=who)
    else:
        done = curate_table(file, label=label, column=column, organism=organism)
    show.show_curation(show.people(), done)
    if json:
        show.print_json(done.to_dict())
    return DONE


def embed_proteins(
    organism: str, checkpoint: Path | None, untrained: tuple[int, int, int], device: str, *, json: bool
) -> int:
    """Embed the organism's proteins and keep the vectors."""
    with show.StageBars(show.people()) as bars:
        made = _embed(get_organism(organism), checkpoint, untrained, device, bars)
    return _show_snapshot(made, json=json)


def _embed(
    organism: Organism,
    checkpoint: Path | None,
    untrained: tuple[int, int, int],
    device: str,
    bars: show.StageBars,
) -> Snapshot:
    from model import embed_proteins as embed  # noqa: PLC0415 - torch, which nothing else here needs
    from model import esm2, seeded_esm2  # noqa: PLC0415

    layers, dim, seed = untrained
    embedder = seeded_esm2(layers, dim, seed, device=device) if checkpoint is None else esm2(checkpoint, device=device)
    return embed(organism, embedder, progress=bars)


def list_references(*, json: bool) -> int:
    """List the snapshots."""
    rows = [asdict(snapshot) for snapshot in list_snapshots()]
    if json:
        show.print_json(rows)
    elif rows:
        show.print_table(rows, ("kind", "name", "rows", "release", "licence", "source", "made"))
    else:
        show.people().print("no snapshots yet; `panatlas organisms` says what can be fetched")
    return DONE


def fetch_reference(kind: str, name: str, to: str, host: str | None, release: int | None, *, json: bool) -> int:
    """Fetch a snapshot and show it."""
    if kind == "ontology":
        made = fetch_ontology(name)
    elif kind == "genes":
        made = fetch_genes(name, host=host, release=release)
    else:
        made = fetch_orthologs(name, to=to, host=host, release=release)
    return _show_snapshot(made, json=json)


def import_reference(
    kind: str,
    name: str,
    file: Path,
    table: tuple[Sequence[str], Sequence[str], int],
    about: Mapping[str, str],
    canonical: str | Path,
    *,
    json: bool,
) -> int:
    """Import a file as a snapshot and show it."""
    columns, where, base = _pairs("column", table[0]), _pairs("where", table[1]), table[2]
    about = {**about, "source": file.name}
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if kind == "ontology":
        made = import_ontology(file, name, about)
    elif kind == "proteins":
        made = import_proteins(name, file, about, canonical, columns=columns or None, where=where or None)
    elif kind == "genes" and any(suffix in GTF_SUFFIXES for suffix in suffixes):
        made = import_gtf(name, file, about)
    else:
        made = import_table(kind, name, file, columns, about, where=where, base=base)
    return _show_snapshot(made, json=json)


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Return `ours=theirs` texts as a dict.

    Raises
    ------
    CatalogInputError
        When a text has no `=`.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (name, sign, value) in zip(texts, pairs, strict=True):
        if not (name and sign and value):
            raise CatalogInputError(option, text, "NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _show_snapshot(snapshot: Snapshot, *, json: bool) -> int:
    _tell(snapshot)
    if json:
        show.print_json(asdict(snapshot))
    return DONE


def _tell(snapshot: Snapshot) -> None:
    said = f"{snapshot.kind} of {snapshot.name}: {snapshot.rows:,} rows, {snapshot.release} ({snapshot.source})"
    show.people().print(f"[green]kept[/] {show.plain(said)}")
