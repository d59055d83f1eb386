"""The body of `panatlas grn-heads`: choose attention heads on known edges, and keep the choice in a file or a model.

cli_networks.py declares the arguments. What is chosen here `panatlas grn --heads` reads; how a choice is made, and why
what it learnt from is not fair to score, is told in model/head_selection.py.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from model import (
    EdgeScores,
    ModelInputError,
    ReadoutOptions,
    choose_genes,
    head_maps,
    load_model,
    nested_scores,
    read_edge_list,
    read_truth,
    save_model,
    score_network,
    select_heads,
    with_heads,
)

from . import console as show
from . import model_places as places
from . import network_choices as choices
from . import task_inputs as inputs
from .errors import DONE, CatalogInputError
from .network_inputs import check_file, new_file
from .result_files import digest_of_file, refuse_same_file

if TYPE_CHECKING:
    from pathlib import Path

    from model import EdgeTruth, HeadMaps, HeadSelection

    from .cli_networks import GrnOptions

FOLDS = 5
"""Parts of the regulators, each scored by heads that were chosen on the others."""
SHOWN = 5
"""Heads that people are shown."""


def grn_heads(
    source: str,
    place: tuple[Path, Path | None],
    known: tuple[str, Path | None, Path | None],
    genes: str,
    way: tuple[str, int],
    options: GrnOptions,
) -> int:
    """Choose heads."""
    people, began = show.people(), time.monotonic()
    output, folder = place
    check_file(output, (".json",), force=options.force)
    refuse_same_file(output, source)
    if folder is not None and folder.exists():
        raise CatalogInputError("save_model", str(folder), "a folder that does not exist yet")
    model = load_model(inputs.find_model(options.model))
    with closing(inputs.open_input(source, model, options.organism, options.layer)) as asked:
        others, numbers = choices.chosen_cells(asked, options)
        organism = choices.organisms_of(asked, numbers)[0]
        truth = _truth(known[0], known[1], organism)
        held_out = () if known[2] is None else places.read_genes(known[2], [organism], "hold_out")[0]
        choice, unknown = choices.chosen_genes(asked, numbers, genes, options)
        listed = [gene for gene in truth.regulators if not choice.regulators or gene in set(choice.regulators)]
        choice = replace(choice, regulators=tuple(listed), against=others if choice.kind == "across" else None)
        regulators, targets = choose_genes(model, asked.cells, numbers, choice)
        how = ReadoutOptions(inference=replace(ReadoutOptions().inference, batch_size=32))
        maps = head_maps(model, asked.cells, numbers, regulators=regulators, targets=targets, options=how)
    selection = select_heads(
        maps, truth, method=way[0], top=way[1], held_out=held_out, seed=options.seed  # type: ignore[arg-type]
    )  # fmt: skip
    population = choices.name_of(options, numbers)
    selection = replace(selection, facts={**selection.facts, "population": population, "cells": len(numbers)})
    with new_file(output, (".json",), force=options.force) as part:
        part.write_text(selection.to_json() + "\n", encoding="utf-8")
    saved = None if folder is None else save_model(folder, with_heads(model, selection))
    receipt = {
        "command": "grn-heads", "input": source, "output": str(output), "sha256": digest_of_file(output),
        "selection": selection.digest, "method": selection.method, "truth": truth.name, "organism": organism,
        "population": population, "cells": len(numbers), "regulators": len(selection.regulators),
        "targets": len(selection.targets), "held_out": len(held_out), "heads": _heads(selection),
        "fair": _fair(maps, truth, way, options.seed), "model": saved and {"path": str(folder), "digest": saved.digest},
        "unknown_genes": unknown, "findings": [asdict(one) for one in asked.findings],
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    _tell(people, receipt)
    if options.json:
        show.print_json(receipt)
    return DONE


def _truth(said: str, references: Path | None, organism: str) -> EdgeTruth:
    truth = read_edge_list(said, organism) if references is None else read_truth(references, said)
    if truth.organism != organism:
        raise CatalogInputError("truth", f"{truth.name} of {truth.organism}", f"edges between genes of {organism}")
    return truth


def _heads(selection: HeadSelection) -> list[dict[str, Any]]:
    """Return the heads that count, heaviest first."""
    weights, lift = np.array(selection.weights), np.array(selection.precision)
    order = np.argsort(-weights, axis=None, kind="stable")
    at = [np.unravel_index(place, weights.shape) for place in order if weights.flat[place] > 0]
    return [
        {"head": f"{layer}:{head}", "weight": round(float(weights[layer, head]), 6), "lift": float(lift[layer, head])}
        for layer, head in at
    ]


def _fair(maps: HeadMaps, truth: EdgeTruth, way: tuple[str, int], seed: int) -> dict[str, float] | None:
    """Return average precision over chance on regulators that a choice of this kind did not see, beside all heads'."""
    try:
        values, _ = nested_scores(maps, truth, method=way[0], top=way[1], folds=FOLDS, seed=seed)  # type: ignore[arg-type]
        every = np.where(np.isfinite(values), maps.values.mean((0, 1)), np.nan)
        lifts = [
            score_network(EdgeScores(maps.regulators, maps.targets, one, None), truth).pooled["lift"]
            for one in (values, every)
        ]
    except ModelInputError:  # too few regulators to leave some out
        return None
    return {"selected": round(float(lifts[0]), 6), "all_heads": round(float(lifts[1]), 6)}


def _tell(people: Any, receipt: dict[str, Any]) -> None:
    people.print(
        f"[green]grn-heads[/] {len(receipt['heads'])} heads chosen on {receipt['regulators']:,} regulators of "
        f"{show.plain(receipt['truth'])} in {receipt['seconds']:.1f} s: {show.plain(receipt['output'])}"
    )
    if fair := receipt["fair"]:
        people.print(
            f"  on regulators that a choice did not see, {fair['selected']:.2f} times chance; all heads "
            f"{fair['all_heads']:.2f}"
        )
    for one in receipt["heads"][:SHOWN]:
        people.print(f"  {one['head']}: weight {one['weight']:.3f}, {one['lift']:.2f} times chance alone")
