"""The body of `panatlas grn`: find cells, genes and maybe a model, infer a network, write it, and tell of it.

cli_networks.py declares the arguments, network_tools.py works with what comes out. What a network is, and how edges are
found and tested, lives in `model`.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from atlas import AtlasInputError, open_atlas, refuse_present
from loaders import StoreCells
from model import (
    READOUTS,
    GeneChoice,
    GeneNetwork,
    InferenceOptions,
    NullOptions,
    ReadoutOptions,
    context_of,
    infer_grn,
    infer_tested_grn,
    load_model,
    network_key,
    seen_before,
    store_network,
    write_network,
)
from model import grn_scores as readouts

from . import console as show
from . import model_places as places
from . import task_inputs as inputs
from .errors import DONE, CatalogInputError
from .network_inputs import check_file, new_file
from .result_files import digest_of_file, refuse_same_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from rich.console import Console

    from atlas import Finding
    from model import TrainedModel

    from .cli_networks import EdgeOptions, GrnOptions

SUFFIXES = (".h5ad", ".parquet")
GENOME_PER_TARGET = 100
"""Strongest edges that each target keeps where a network is of all genes."""
LONGEST_LAYER = "stability"
"""Name of the layer whose key is the longest."""
SHOWN = 5
"""Edges that people are shown; the receipt has ten."""


def grn(
    source: str, output: Path | None, chosen: tuple[str, str, float | None], options: GrnOptions, edges: EdgeOptions
) -> int:
    """Infer a network."""
    people, began = show.people(), time.monotonic()
    readout, genes, fdr = chosen
    _check(source, output, readout, options)
    needs_model = readouts.find_readout(readout).needs_model
    model = load_model(inputs.find_model(options.model)) if needs_model or options.model else None
    with closing(inputs.open_input(source, model, options.organism, options.layer)) as asked:
        others, numbers = _population(asked, options)
        name = _name(options, numbers)
        if options.to_atlas:
            _prove_key(asked, numbers, _edgeless(readout, model if needs_model else None, name), options)
        findings = _findings(asked, model if needs_model else None, numbers, edges)
        show.show_findings(people, [one for one in findings if one.severity == "warning"])
        choice, unknown = _genes(asked, numbers, genes, options)
        if choice.kind == "across":
            choice = replace(choice, against=others)
        with people.status(f"{readout}: {len(numbers):,} cells") if people.is_terminal else nullcontext():
            network = _infer(asked, model, numbers, choice, (readout, genes, fdr), options, edges)
        network = _told(network, asked, name)
    where = _write(network, asked, output, options)
    facts = network.facts
    receipt = {
        "command": "grn", "input": source, **where, "edges": len(network), "readout": readout, "fdr": fdr,
        "regulators": facts["regulators"], "targets": facts["targets"], "cells": network.cells,
        "organism": network.organism, "population": network.population, "network_sha256": network.digest,
        **{name: facts.get(name) for name in ("model", "pairs", "pairs_without_score", "pairs_tested", "resampled")},
        "strongest": _strongest(network, 10), "unknown_genes": unknown,
        "findings": [asdict(one) for one in findings], "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _tell(people, receipt)
    if options.json:
        show.print_json(receipt)
    return DONE


def _check(source: str, output: Path | None, readout: str, options: GrnOptions) -> None:
    """Refuse what cannot be right before anything is read."""
    if readout not in READOUTS:
        raise CatalogInputError("readout", readout, f"one of {', '.join(READOUTS)}")
    if (output is None) != options.to_atlas:
        raise CatalogInputError("output", output and str(output), "either --output FILE, or --to-atlas")
    if options.to_atlas and not source.startswith(inputs.RELEASE):
        raise CatalogInputError("to_atlas", source, "release:NAME: what the atlas holds is of its own cells")
    if output is not None:
        check_file(output, SUFFIXES, force=options.force)
        refuse_same_file(output, source)


def _population(asked: inputs.TaskInput, options: GrnOptions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the cells that are not of the population, and those that are: of the values asked for, at most so many."""
    keep = np.ones(len(asked.numbers), dtype=bool)
    for said in options.population:
        name, equals, value = said.partition("=")
        columns = [one for one in (name, f"{name}_ontology_term_id") if one in asked.obs.columns]
        if not equals or not columns:
            allowed = f"COLUMN=VALUE with a column of the cells: {', '.join(map(str, asked.obs.columns[:30]))}"
            raise CatalogInputError("population", said, allowed)
        # A column may hold names and another one ids: whichever has the value is meant.
        masks = [asked.obs[one].astype(str).to_numpy() == value for one in columns]
        mask = next((one for one in masks if one.any()), None)
        if mask is None:
            there = asked.obs[columns[0]].astype(str).value_counts().index[:8]
            raise CatalogInputError("population", said, f"{name}= one of {', '.join(there)}")
        keep &= mask
    numbers = asked.numbers[keep]
    if not len(numbers):
        raise CatalogInputError("population", " and ".join(options.population) or asked.said, "at least one cell")
    if options.cells is not None and options.cells < 1:
        raise CatalogInputError("cells", options.cells, "1 or more")
    if options.cells is not None and options.cells < len(numbers):
        rng = np.random.default_rng(options.seed)
        numbers = np.sort(rng.choice(numbers, options.cells, replace=False))
    others = asked.numbers[~keep]
    same = asked.cells.codes("organism", others) == asked.cells.codes("organism", numbers[:1])[0]
    return others[same], numbers


def _name(options: GrnOptions, numbers: npt.NDArray[np.int64]) -> str:
    """Return what the population is called."""
    return "&".join([*options.population, *([] if options.cells is None else [f"cells={len(numbers)}"])]) or "all"


def _edgeless(readout: str, model: TrainedModel | None, population: str) -> GeneNetwork:
    """Return a network of no genes that will be called as the one to come."""
    facts = {} if model is None else {"model": {"digest": model.digest}}
    return GeneNetwork((), csr_matrix((0, 0)), readout, "none yet", population, facts=facts)


def _prove_key(
    asked: inputs.TaskInput, numbers: npt.NDArray[np.int64], network: GeneNetwork, options: GrnOptions
) -> None:
    """Refuse, before anything is inferred, a network that the atlas could not take: its key is taken, or too long."""
    assert isinstance(asked.cells, StoreCells)
    try:
        key = network_key(network, str(asked.cells.about["release"]))
        replace(key, kind=f"{key.kind}.{LONGEST_LAYER}")
    except AtlasInputError as error:
        allowed = "a population whose name fits the key of a network: fewer or shorter --population, or --output FILE"
        raise CatalogInputError("population", network.population, f"{allowed} ({error})") from error
    atlas = open_atlas(asked.cells.atlas.uri)
    keys = [(key, atlas.experiment(name)) for name in _organisms(asked, numbers)]
    refuse_present(atlas.results, keys, force=options.force)


def _findings(
    asked: inputs.TaskInput, model: TrainedModel | None, numbers: npt.NDArray[np.int64], edges: EdgeOptions
) -> list[Finding]:
    if model is None:
        return list(asked.findings)
    some = replace(asked, numbers=numbers)
    genes, seen = inputs.count_genes(some, model), seen_before(model.ledger, asked.cells, numbers)
    return [*asked.findings, *inputs.warnings_of(some, genes, seen, context_of(model, _reading(edges)).length)]


def _genes(
    asked: inputs.TaskInput, numbers: npt.NDArray[np.int64], said: str, options: GrnOptions
) -> tuple[GeneChoice, list[str]]:
    """Return which genes are meant, and names in files that nobody knows."""
    organisms = _organisms(asked, numbers)
    regulators: Sequence[str] = ()
    unknown: list[str] = []
    if options.regulators is not None:
        regulators, unknown = places.read_genes(options.regulators, organisms, "regulators")
    if said in ("all", "tfs"):
        if said == "tfs" and not regulators:
            remedy = "--regulators FILE with the transcription factors, an id or symbol a line; none is bundled"
            raise CatalogInputError("genes", said, remedy)
        return GeneChoice("expressed", regulators=tuple(regulators)), unknown
    if said.isdecimal():
        return GeneChoice(options.choose, int(said), regulators=tuple(regulators)), unknown
    if not Path(said).is_file():
        raise CatalogInputError("genes", said, "a number, a file that is there, tfs or all")
    given, strange = places.read_genes(Path(said), organisms, "genes")
    return GeneChoice("given", genes=tuple(given), regulators=tuple(regulators)), [*unknown, *strange]


def _organisms(asked: inputs.TaskInput, numbers: npt.NDArray[np.int64]) -> list[str]:
    names = asked.cells.about["organisms"]
    return [str(names[code]["organism"]) for code in np.unique(asked.cells.codes("organism", numbers))]


def _reading(edges: EdgeOptions) -> InferenceOptions:
    return InferenceOptions(length=edges.length, batch_size=edges.batch_size, device=edges.device)


def _infer(
    asked: inputs.TaskInput,
    model: TrainedModel | None,
    numbers: npt.NDArray[np.int64],
    choice: GeneChoice,
    chosen: tuple[str, str, float | None],
    options: GrnOptions,
    edges: EdgeOptions,
) -> GeneNetwork:
    readout, genes, fdr = chosen
    per_target = edges.per_target
    if per_target is None:
        per_target = GENOME_PER_TARGET if genes in ("all", "tfs") else 0
    how = ReadoutOptions(
        inference=_reading(edges), contexts=edges.contexts, over_cells=edges.over_cells,
        expression=edges.expression, seed=options.seed, adjust=tuple(edges.adjust), per_target=per_target,
    )  # fmt: skip
    if fdr is None:
        return infer_grn(model, asked.cells, numbers, readout=readout, genes=choice, options=how)
    null = NullOptions(
        kind=edges.null, permutations=edges.permutations, bootstraps=edges.bootstraps, fdr=fdr, seed=options.seed
    )
    return infer_tested_grn(model, asked.cells, numbers, readout=readout, genes=choice, options=how, null=null)


def _told(network: GeneNetwork, asked: inputs.TaskInput, population: str) -> GeneNetwork:
    """Return the network with the name of its population and the names of its genes."""
    table = asked.cells.genes()
    names = dict(zip(table["feature_id"].astype(str), table["feature_name"].astype(str), strict=True))
    facts = {**network.facts, "matrix": asked.matrix}
    facts["feature_names"] = {gene: names.get(gene) or gene for gene in network.genes}
    return replace(network, population=population, facts=facts)


def _write(network: GeneNetwork, asked: inputs.TaskInput, output: Path | None, options: GrnOptions) -> dict[str, Any]:
    """Write the network where it is wanted, and return where that is."""
    if output is not None:
        with new_file(output, SUFFIXES, force=options.force) as part:
            write_network(network, part)
        return {"output": str(output), "sha256": digest_of_file(output)}
    assert isinstance(asked.cells, StoreCells)
    uri, release = asked.cells.atlas.uri, str(asked.cells.about["release"])
    key = store_network(open_atlas(uri), network, release, force=options.force)
    return {"output": uri, "key": str(key)}


def _strongest(network: GeneNetwork, number: int) -> list[dict[str, Any]]:
    names = network.facts["feature_names"]
    rows = network.edges().head(number).to_dict("records")
    return [{**row, "regulator_name": names[row["regulator"]], "target_name": names[row["target"]]} for row in rows]


def _tell(people: Console, receipt: Mapping[str, Any]) -> None:
    """Print what came of it."""
    rate = "" if receipt["fdr"] is None else f" at a false discovery rate of {receipt['fdr']:g}"
    people.print(
        f"[green]grn[/] {receipt['edges']:,} edges by {receipt['readout']}{rate} from {receipt['cells']:,} cells in "
        f"{receipt['seconds']:.1f} s: {show.plain(receipt.get('key') or receipt['output'])}"
    )
    people.print(f"  {receipt['regulators']:,} regulators x {receipt['targets']:,} targets")
    if receipt["fdr"] is not None and not receipt["edges"]:
        people.print("  no edge is told from chance; where pairs are few, more --permutations tell finer")
    for edge in receipt["strongest"][:SHOWN]:
        said = f"{edge['regulator_name']} -> {edge['target_name']}"
        people.print(f"  {show.plain(said)}: {edge['weight']:.4g}")
