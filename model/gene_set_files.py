"""Gene sets from a GMT file, the form in which MSigDB, Reactome and Gene Ontology are handed round.

Names are looked up in an organism's gene table, as networks and rankings speak of ids. Used wherever a user names a
file of gene sets; enrichment.py tests them.
"""

from __future__ import annotations

from pathlib import Path

from .errors import ModelInputError

GMT_BYTES = 1 << 28
"""Unpacked; all of MSigDB has 0.1 GB."""


def read_gene_sets(path: str | Path, organism: str | None = None) -> dict[str, frozenset[str]]:
    """Return the gene sets of a GMT file: name, description, genes, parted by tabs, a set a line.

    Parameters
    ----------
    path
        Plain or gzip.
    organism
        In whose gene table ids and symbols are looked up, names it does not know are left out; None leaves names as
        they are.

    Raises
    ------
    ModelInputError
        When a line is no set, a name is there twice, or no gene is known.
    OntologyError
        When the file cannot be read, or there is no such gene table.
    """
    from ontology import load_gene_table, resolve_genes, text_files  # noqa: PLC0415 - pandas tables

    sets: dict[str, list[str]] = {}
    with text_files.open_text(Path(path), GMT_BYTES) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, *rest = line.rstrip("\r\n").split("\t")
            if len(rest) < 2 or not name or name in sets:
                why = "a name that is there once" if name in sets else "name, description and genes, parted by tabs"
                raise ModelInputError("path", f"{path}, line {number}: {line[:40]!r}", why)
            sets[name] = [gene.strip() for gene in rest[1:] if gene.strip()]
    if organism is None:
        return {name: frozenset(genes) for name, genes in sets.items()}
    table = load_gene_table(organism)
    names = sorted({gene for genes in sets.values() for gene in genes})
    index = resolve_genes(names, table).index
    ids = {name: str(table.ids[place]) for name, place in zip(names, index, strict=True) if place >= 0}
    if not ids:
        raise ModelInputError("path", str(path), f"genes of {organism}; such as {names[:3]} are none")
    return {name: frozenset(ids[gene] for gene in genes if gene in ids) for name, genes in sets.items()}
