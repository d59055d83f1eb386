"""The body of `panatlas grn`: find cells, genes and maybe a model, infer a network, write it, and tell of it.

cli_networks.py declares the arguments, network_choices.py chooses, network_tools.py works with what comes out. What a
network is, and how edges are found and tested, lives in `model`.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

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
from . import network_choices as choices
from . import task_inputs as inputs
from .errors import DONE, CatalogInputError
from .network_inputs import check_file, new_file
from .result_files import digest_of_file, refuse_same_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from atlas import Finding
    from model import TrainedModel

    from .cli_networks import EdgeOptions, GrnOptions, ScoreOptions

SUFFIXES = (".h5ad", ".parquet")
GENOME_PER_TARGET = 100
"""Strongest edges that each target keeps where a network is of all genes."""
LONGEST_LAYER = "stability"
"""Name of the layer whose key is the longest."""
SHOWN = 5
"""Edges that people are shown; the receipt has ten."""


def grn(
    source: str,
    place: tuple[Path | None, bool],
    chosen: tuple[str, str, float | None],
    options: GrnOptions,
    edges: EdgeOptions,
    scored: ScoreOptions,
) -> int:
    """Infer a network."""
    people, began = show.people(), time.monotonic()
    readout, genes, _ = chosen
    output = _check(source, place, readout, options)
    choices.prove_options(readout, edges, scored)
    needs_model = readouts.find_readout(readout).needs_model
    model = load_model(inputs.find_model(options.model)) if needs_model or options.model else None
    with closing(inputs.open_input(source, model, options.organism, options.layer)) as asked:
        others, numbers = choices.chosen_cells(asked, options)
        name = choices.name_of(options, numbers)
        if output is None:
            _prove_key(asked, numbers, _edgeless(readout, model if needs_model else None, name), options)
        findings = _findings(asked, model if needs_model else None, numbers, scored)
        show.show_findings(people, [one for one in findings if one.severity == "warning"])
        known = None if edges.known is None else digest_of_file(edges.known)
        how = _how(asked, model if needs_model else None, numbers, chosen, options, (edges, scored))
        choice, unknown = choices.chosen_genes(asked, numbers, genes, options)
        if choice.kind == "across":
            choice = replace(choice, against=others)
        with people.status(f"{readout}: {len(numbers):,} cells") if people.is_terminal else nullcontext():
            network = _infer(asked, model, numbers, choice, chosen, how, edges)
        network = _told(choices.kept(network, edges, known), asked, name)
    where = _write(network, asked, output, options)
    facts = network.facts
    receipt = {
        "command": "grn", "input": source, **where, "edges": len(network), "readout": readout, "fdr": chosen[2],
        "regulators": facts["regulators"], "targets": facts["targets"], "cells": network.cells,
        "organism": network.organism, "population": network.population, "network_sha256": network.digest,
        **{name: facts.get(name) for name in ("model", "pairs", "pairs_without_score", "pairs_tested", "resampled")},
        "chosen": _chosen(readout, facts["options"]), "steps": facts.get("steps", []),
        "strongest": _strongest(network, 10), "unknown_genes": unknown,
        "findings": [asdict(one) for one in findings], "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _tell(people, receipt)
    if options.json:
        show.print_json(receipt)
    return DONE


def _check(source: str, place: tuple[Path | None, bool], readout: str, options: GrnOptions) -> Path | None:
    """Return the file to be written, None for the atlas; refuse what cannot be right before anything is read."""
    output, to_atlas = place
    if readout not in READOUTS:
        raise CatalogInputError("readout", readout, f"one of {', '.join(READOUTS)}")
    if (output is None) != to_atlas:
        raise CatalogInputError("output", output and str(output), "either --output FILE, or --to-atlas")
    if to_atlas and not source.startswith(inputs.RELEASE):
        raise CatalogInputError("to_atlas", source, "release:NAME: what the atlas holds is of its own cells")
    if output is not None:
        check_file(output, SUFFIXES, force=options.force)
        refuse_same_file(output, source)
    return output


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
    keys = [(key, atlas.experiment(name)) for name in choices.organisms_of(asked, numbers)]
    refuse_present(atlas.results, keys, force=options.force)


def _findings(
    asked: inputs.TaskInput, model: TrainedModel | None, numbers: npt.NDArray[np.int64], scored: ScoreOptions
) -> list[Finding]:
    if model is None:
        return list(asked.findings)
    some = replace(asked, numbers=numbers)
    genes, seen = inputs.count_genes(some, model), seen_before(model.ledger, asked.cells, numbers)
    return [*asked.findings, *inputs.warnings_of(some, genes, seen, context_of(model, _reading(scored)).length)]


def _reading(scored: ScoreOptions) -> InferenceOptions:
    return InferenceOptions(length=scored.length, batch_size=scored.batch_size, device=scored.device)


def _how(
    asked: inputs.TaskInput,
    model: TrainedModel | None,
    numbers: npt.NDArray[np.int64],
    chosen: tuple[str, str, float | None],
    options: GrnOptions,
    said: tuple[EdgeOptions, ScoreOptions],
) -> ReadoutOptions:
    """Return how the network is read."""
    edges, scored = said
    per_target = edges.per_target
    if per_target is None:
        per_target = GENOME_PER_TARGET if chosen[1] in ("all", "tfs") else 0
    return ReadoutOptions(
        inference=_reading(scored), contexts=scored.contexts, heads=choices.chosen_heads(scored, model),
        layers=tuple(scored.layers), over_cells=scored.over_cells, perturbation=scored.perturbation,
        expression=scored.expression, trees=scored.trees, seed=options.seed, adjust=tuple(edges.adjust),
        known=choices.known_of(edges.known, choices.organisms_of(asked, numbers)[0]), per_target=per_target,
        targets_at_once=edges.targets_at_once or 0,
    )  # fmt: skip


def _infer(
    asked: inputs.TaskInput,
    model: TrainedModel | None,
    numbers: npt.NDArray[np.int64],
    choice: GeneChoice,
    chosen: tuple[str, str, float | None],
    how: ReadoutOptions,
    edges: EdgeOptions,
) -> GeneNetwork:
    readout, _, fdr = chosen
    if fdr is None:
        return infer_grn(model, asked.cells, numbers, readout=readout, genes=choice, options=how)
    null = NullOptions(
        kind=edges.null, permutations=edges.permutations, bootstraps=edges.bootstraps, fdr=fdr, seed=how.seed
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


def _chosen(readout: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen of how a network is read, as far as the read-out has use for it."""
    uses = [name for name, mine in choices.USES.items() if readout in mine]
    return {name: options[name] for name in sorted([*uses, "adjust", "known", "per_target", "targets_at_once"])}


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
