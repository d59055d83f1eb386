"""What commands on gene networks choose before and after a network is read: cells, genes, heads, and edges to keep.

network_commands.py infers networks of it, network_heads.py chooses heads.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model import (
    GeneChoice,
    HeadSelection,
    ModelInputError,
    edges_above,
    heads_of,
    read_edge_list,
    read_network,
    spanning_backbone,
    top_edges,
)
from model import grn_scores as readouts
from model import head_selection as selections

from . import model_places as places
from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from model import GeneNetwork, TrainedModel

    from . import task_inputs as inputs
    from .cli_networks import EdgeOptions, GrnOptions, ScoreOptions

HEAD = re.compile(r"(\d{1,4}):(\d{1,4})")
"""How a single head is named: layer and head, from 0."""
MOST_SELECTION = 1 << 26
"""Bytes of a file with selected heads."""
WITH_HEADS = ("attention", "mean_cell_attention", "criss_cross")
USES = {
    "heads": WITH_HEADS,
    "layers": WITH_HEADS,
    "perturbation": ("perturbation",),
    "trees": ("extra_trees", "grnboost2"),
    "over_cells": ("attention", "criss_cross"),
    "contexts": tuple(name for name, one in readouts.BY_NAME.items() if one.needs_model and name != "token_similarity"),
    "expression": tuple(name for name, one in readouts.BY_NAME.items() if not one.needs_model),
}
"""Which read-outs have use for an option."""


def chosen_cells(asked: inputs.TaskInput, options: GrnOptions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
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


def name_of(options: GrnOptions, numbers: npt.NDArray[np.int64]) -> str:
    """Return what the population is called."""
    return "&".join([*options.population, *([] if options.cells is None else [f"cells={len(numbers)}"])]) or "all"


def chosen_genes(
    asked: inputs.TaskInput, numbers: npt.NDArray[np.int64], said: str, options: GrnOptions
) -> tuple[GeneChoice, list[str]]:
    """Return which genes are meant, and names in files that nobody knows."""
    organisms = organisms_of(asked, numbers)
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


def organisms_of(asked: inputs.TaskInput, numbers: npt.NDArray[np.int64]) -> list[str]:
    """Return the names of the organisms that some cells are of."""
    names = asked.cells.about["organisms"]
    return [str(names[code]["organism"]) for code in np.unique(asked.cells.codes("organism", numbers))]


def prove_options(readout: str, edges: EdgeOptions, scored: ScoreOptions) -> None:
    """Refuse what cannot be right whatever the cells are, before anything is read.

    Raises
    ------
    CatalogInputError
        When an option is out of range, or of another read-out.
    """
    plain = type(scored)()
    for name, mine in USES.items():
        value = getattr(scored, name)
        if readout not in mine and tuple(np.atleast_1d(value)) != tuple(np.atleast_1d(getattr(plain, name))):
            said = " ".join(map(str, np.atleast_1d(value)))
            option = "--" + name.replace("_", "-")
            raise CatalogInputError(name, said, f"no {option} with {readout}; it is of {', '.join(mine)}")
    for name in ("top", "per_target", "targets_at_once"):
        value = getattr(edges, name)
        if value is not None and value < 1:
            raise CatalogInputError(name, value, "1 or more")
    if edges.above is not None and not np.isfinite(edges.above):
        raise CatalogInputError("above", edges.above, "a number")
    if edges.known is not None and not edges.known.is_file():
        raise CatalogInputError("known", str(edges.known), "a table of edges, or a network, that is there")


def chosen_heads(scored: ScoreOptions, model: TrainedModel | None) -> HeadSelection | str:
    """Return whose attention counts: mean, max, or a selection of a file, of the model, or of heads that are named.

    Raises
    ------
    CatalogInputError
        When it is none of these, several are named that are not single heads, or layers beside a selection.
    """
    layers = model.config.trunk.layers if model is not None else 0
    if model is not None and (wrong := [one for one in scored.layers if not 0 <= one < layers]):
        raise CatalogInputError("layers", wrong[0], f"0 to {layers - 1}, the layers of this model")
    said = list(scored.heads) or ["mean"]
    if said in (["mean"], ["max"]) or model is None:
        return said[0]
    single = [HEAD.fullmatch(one) for one in said]
    if not all(single) and len(said) > 1:
        raise CatalogInputError(
            "heads", " ".join(said), "several only as single heads, such as --heads 3:0 --heads 1:2"
        )
    if scored.layers:
        allowed = "no --layers with selected heads, which say themselves what counts"
        raise CatalogInputError("layers", " ".join(map(str, scored.layers)), allowed)
    if all(single):
        return selections.given_heads(model, [(int(one[1]), int(one[2])) for one in single if one])
    path = Path(said[0]).expanduser()
    if not path.is_file():
        try:
            return heads_of(model, said[0])
        except ModelInputError as error:
            carried = ", ".join(model.facts.get("heads", {})) or "none"
            allowed = f"mean, max, a head such as 0:1, a file that is there, or what the model carries: {carried}"
            raise CatalogInputError("heads", said[0], allowed) from error
    try:
        if path.stat().st_size > MOST_SELECTION:
            raise CatalogInputError("heads", str(path), f"a file of at most {MOST_SELECTION >> 20} MiB")
        return HeadSelection.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ModelInputError) as error:
        raise CatalogInputError("heads", str(path), f"what `panatlas grn-heads` wrote ({error})") from error


def known_of(path: Path | None, organism: str) -> frozenset[tuple[str, str]]:
    """Return the edges of a prior network, by feature ids; none where there is none.

    Raises
    ------
    ModelInputError
        When it cannot be read, or is of no gene of the organism.
    """
    if path is None:
        return frozenset()
    frame = read_network(path).edges() if path.suffix == ".h5ad" else read_edge_list(path, organism).edges
    return frozenset(zip(frame["regulator"].astype(str), frame["target"].astype(str), strict=True))


def kept(network: GeneNetwork, edges: EdgeOptions, digest: str | None = None) -> GeneNetwork:
    """Return the edges that are wanted of a network, and in its facts how many each step left.

    Parameters
    ----------
    network
        The network, already of known edges only where these are asked for.
    edges
        What is wanted.
    digest
        Of the file of known edges as it was read, which may be another one by now.
    """
    steps: list[dict[str, Any]] = []
    if edges.known is not None:
        name = edges.known.name
        steps.append({"kept": "known", "file": name, "sha256": digest, "edges": len(network)})
    if edges.above is not None:
        network = edges_above(network, edges.above)
        steps.append({"kept": "above", "weight": edges.above, "edges": len(network)})
    if edges.top is not None:
        network = top_edges(network, edges.top)
        steps.append({"kept": "top", "number": edges.top, "edges": len(network)})
    if edges.backbone:
        network = spanning_backbone(network)
        steps.append({"kept": "backbone", "edges": len(network)})
    return replace(network, facts={**network.facts, "steps": steps}) if steps else network
