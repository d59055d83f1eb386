"""The bodies of the commands that work with gene networks: hubs, comparison, views, structure jobs and their scores.

cli_networks.py declares the arguments. Each finds its networks, calls one function of `model` or of network_views.py,
writes what is asked for, and shows the rest to people on stderr or to programs on stdout.
"""

from __future__ import annotations

from json import loads as json_of
from typing import TYPE_CHECKING, Any

from model import (
    centrality,
    communities,
    compare_networks,
    hubs,
    network_enrichment,
    read_gene_sets,
    read_structure_scores,
    structure_jobs,
    with_structure_scores,
    write_network,
    write_structure_jobs,
)
from ontology import read_proteins

from . import console as show
from .errors import DONE, CatalogInputError
from .network_inputs import check_file, find_gene, find_network, names_of, new_file
from .network_views import ego_svg, network_page
from .result_files import digest_of_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    Place = tuple[str | None, str | None]

TABLES, VIEWS, NETWORKS = (".parquet", ".tsv"), (".html", ".svg"), (".h5ad", ".parquet")
SHOWN = 10
"""Rows that people are shown of a table."""
TOLD = 100
"""Rows of a table in a receipt; a file has all."""


def grn_hubs(
    said: str, chosen: tuple[int, Path | None], output: Path | None, place: Place, *, force: bool, json: bool
) -> int:
    """Tell how a network is built."""
    top, gene_sets = chosen
    if output is not None:
        check_file(output, TABLES, force=force)
    network = find_network(said, place[1], place[0])
    names, people = names_of(network), show.people()
    table = centrality(network)
    groups = communities(network)
    of = {gene: number for number, group in enumerate(groups, 1) for gene in group}
    table = table.assign(name=[names[gene] for gene in table.index], community=[of.get(one, 0) for one in table.index])
    first = table.loc[list(hubs(network, top))]
    facts: dict[str, Any] = {
        "command": "grn-hubs", "network": said, "network_sha256": network.digest, "genes": len(network.genes),
        "edges": len(network), "hubs": _rows(first, "gene"),
        "communities": [{"genes": len(group), "members": [names[gene] for gene in group[:20]]} for group in groups],
    }  # fmt: skip
    if gene_sets is not None:
        found = network_enrichment(network, read_gene_sets(gene_sets, network.organism), top=top)
        facts["enrichment"] = found.head(TOLD).to_dict("records")
    if output is not None:
        facts |= _write_table(table.rename_axis("gene").reset_index(), output, force=force)
    people.print(f"{len(network.genes):,} genes, {len(network):,} edges, {len(groups):,} communities")
    if json:
        show.print_json(facts)
    elif facts["hubs"]:
        columns = ["name", "out_degree", "in_degree", "influence", "community"]
        show.print_table([_short(row, columns) for row in facts["hubs"]], columns)
        if facts.get("enrichment"):
            columns = ["group", "set", "overlap", "genes", "p_overlap", "q_overlap"]
            rows = [_short(row, columns) for row in facts["enrichment"][:SHOWN]]
            show.print_table(rows, columns)
    return DONE


def grn_compare(
    said: tuple[str, str], chosen: tuple[int, float], output: Path | None, place: Place, *, force: bool, json: bool
) -> int:
    """Compare two networks."""
    top, fdr = chosen
    if output is not None:
        check_file(output, TABLES, force=force)
    if not 0 < fdr < 1:
        raise CatalogInputError("fdr", fdr, "a share above 0 and below 1")
    first, second = (find_network(one, place[1], place[0]) for one in said)
    found, names = compare_networks(first, second, top=top), {**names_of(second), **names_of(first)}
    edges = found.edges.assign(
        regulator_name=found.edges["regulator"].map(names), target_name=found.edges["target"].map(names)
    )
    differ = edges[edges["q_value"] <= fdr]
    facts: dict[str, Any] = {
        "command": "grn-compare", "first": said[0], "second": said[1], **found.summary, "fdr": fdr,
        "different_edges": len(differ), "different": differ.head(TOLD).to_dict("records"),
        "hubs": {kind: [names[gene] for gene in genes] for kind, genes in found.hubs.items()},
    }  # fmt: skip
    if output is not None:
        facts |= _write_table(edges, output, force=force)
    people = show.people()
    people.print(
        f"{facts['shared']:,} edges shared of {facts['edges_a']:,} and {facts['edges_b']:,} over {facts['genes']:,} "
        f"genes ({facts['expected_shared']:,.1f} expected at random); {len(differ):,} moved unusually far"
    )
    for kind, genes in facts["hubs"].items():
        people.print(f"  hubs {kind}: {show.plain(', '.join(genes)) or '-'}")
    if json:
        show.print_json(facts)
    elif len(edges):
        columns = ["regulator_name", "target_name", "weight_a", "weight_b", "z", "q_value"]
        show.print_table([_short(row, columns) for row in edges.head(SHOWN).to_dict("records")], columns)
    return DONE


def grn_view(said: str, chosen: tuple[str, int], output: Path, place: Place, *, force: bool, json: bool) -> int:
    """Draw a gene and its neighbours."""
    gene, most = chosen
    check_file(output, VIEWS, force=force)
    network = find_network(said, place[1], place[0])
    names = names_of(network)
    middle = find_gene(network, gene, names)
    if output.suffix == ".svg":
        text = ego_svg(network, middle, most=most, names=names)
    else:
        text = network_page(network, middle, names=names)
    with new_file(output, VIEWS, force=force) as part:
        part.write_text(text, encoding="utf-8")
    facts = {"command": "grn-view", "network": said, "gene": middle, "output": str(output),
             "sha256": digest_of_file(output)}  # fmt: skip
    show.people().print(f"[green]grn-view[/] {show.plain(names[middle])}: {show.plain(output)}")
    if json:
        show.print_json(facts)
    return DONE


def grn_structure(said: str, chosen: tuple[Path, int, int], output: Path, place: Place, *, json: bool) -> int:
    """Write jobs for structure predictors."""
    fasta, top, most_residues = chosen
    if output.exists():
        raise CatalogInputError("output", str(output), "a folder that does not exist yet")
    network = find_network(said, place[1], place[0])
    proteins = read_proteins(network.organism, fasta)
    jobs = write_structure_jobs(network, proteins.frame, output, top=top, most_residues=most_residues)
    facts = {
        "command": "grn-structure", "network": said, "output": str(output), "jobs": len(jobs.pairs),
        "skipped": dict(jobs.skipped), "pairs": jobs.pairs.head(TOLD).to_dict("records"),
        "proteins": str(proteins.report),
    }  # fmt: skip
    show.people().print(
        f"[green]grn-structure[/] {len(jobs.pairs):,} pairs: {show.plain(output)}; passed over "
        f"{jobs.skipped['no_protein']:,} without two proteins, {jobs.skipped['too_long']:,} too long"
    )
    if json:
        show.print_json(facts)
    return DONE


def grn_scores(said: str, chosen: tuple[Path, Path], output: Path, place: Place, *, force: bool, json: bool) -> int:
    """Read scores of structure predictors back."""
    jobs, results = chosen
    check_file(output, NETWORKS, force=force)
    network = find_network(said, place[1], place[0])
    scores = read_structure_scores(jobs, results)
    asked = json_of((jobs / structure_jobs.MANIFEST).read_text("utf-8")).get("network_sha256")
    if asked != network.digest:
        allowed = f"the network that {jobs} was written from, sha256 {asked}; or write jobs anew with grn-structure"
        raise CatalogInputError("network", f"{said}, sha256 {network.digest}", allowed)
    if scores.empty:
        allowed = f"a folder with results of the jobs of {jobs}, by Boltz, ColabFold or AlphaFold-Multimer"
        raise CatalogInputError("results", str(results), allowed)
    scored = with_structure_scores(network, scores)
    with new_file(output, NETWORKS, force=force) as part:
        write_network(scored, part)
    facts = {
        "command": "grn-scores", "network": said, "output": str(output), "sha256": digest_of_file(output),
        "results": len(scores), "scores": scores.head(TOLD).to_dict("records"),
        "layers": [name for name in ("iptm", "iptm_ptm") if name in scored.layers],
    }  # fmt: skip
    show.people().print(f"[green]grn-scores[/] {len(scores):,} results: {show.plain(output)}")
    if json:
        show.print_json(facts)
    return DONE


def _short(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return some columns of a row as people read them."""
    return {name: f"{row[name]:.3g}" if isinstance(row[name], float) else row[name] for name in columns}


def _rows(table: pd.DataFrame, index: str) -> list[dict[str, Any]]:
    return table.rename_axis(index).reset_index().to_dict("records")


def _write_table(table: pd.DataFrame, output: Path, *, force: bool) -> dict[str, Any]:
    with new_file(output, TABLES, force=force) as part:
        if output.suffix == ".parquet":
            table.to_parquet(part, index=False)
        else:
            table.to_csv(part, sep="\t", index=False)
    return {"output": str(output), "sha256": digest_of_file(output)}
