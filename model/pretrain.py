"""`train` and `resume`: from some cells to a trained model in a folder, in one leg or in many.

A run's folder holds `run.json` (recipe, and where its cells are), `start` (the network before the first step, its
vocabulary and gene tokens), `log`, `states` (the last two), `best` (weights), and at the end `model` and
`receipt.json`. Everything a leg needs is in there but the cells.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from loaders import make_vocabulary, open_cells
from ontology import write_whole

from .checkpoint import TrainedModel, load_model, save_model, weights_digest
from .config import read_config
from .errors import CheckpointError, ModelInputError
from .fitting import check, fit
from .gene_levels import measure_levels
from .ledger import Ledger
from .network import Network
from .recipe import Machine, Recipe, fitted
from .run_lock import alone, write_changed
from .tensor_files import PART
from .token_table import make_token_table
from .tuning import Tuning, count_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loaders import Cells, Vocabulary

    from .config import ModelConfig
    from .prior_bias import PriorBias
    from .protein_vectors import ProteinVectors

RUN_FORMAT = "panatlas run 1"
_NAME_ONE = "name the folder of a run, which `panatlas train` made"
LINEAGE = ("base", "grown_from", "added")
"""Facts of a model that is begun with that those of the trained one keep: which model it was, and what it was given."""
WAIT_S = 600
"""Longest that another rank waits for the first one to lay out the folder."""


class PriorNetwork(Protocol):
    """A prior gene network that fits any vocabulary."""

    @property
    def digest(self) -> str:
        """Return what tells it from others."""

    def bias(self, vocabulary: Vocabulary) -> PriorBias:
        """Return it as a bias of attention among a vocabulary's genes."""


@dataclass(frozen=True)
class Beginning:
    """What a run begins with besides the references at hand."""

    vectors: Mapping[str, ProteinVectors] = field(default_factory=dict)
    """Protein vectors by experiment name, such as homo_sapiens, all of one width."""
    regulators: Sequence[str] = ()
    """Feature ids of transcription factors, of any organism; `tf` masks need them."""
    prior: PriorNetwork | None = None
    """A prior gene network, where the configuration asks for one."""
    model: TrainedModel | None = None
    """A trained model whose weights, vocabulary and gene tokens are begun with; its ledger is kept."""


@dataclass(frozen=True)
class TrainingRun:
    """What came of a leg."""

    folder: Path
    """Of the run."""
    finished: bool
    """All steps were taken, or training stopped early; otherwise `resume` goes on."""
    facts: dict[str, Any]
    """loss_first, loss_last, steps, cells_per_s, data_wait, device, release, seed, and more: JSON values."""

    @property
    def model(self) -> TrainedModel:
        """Return the trained model; raises CheckpointError where the run is not finished."""
        return load_model(self.folder / "model")


def train(
    cells: Cells,
    config: ModelConfig,
    recipe: Recipe,
    folder: Path | str,
    *,
    machine: Machine | None = None,
    beginning: Beginning | None = None,
    place: tuple[str, str | None] | None = None,
) -> TrainingRun:
    """Train a network on some cells.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData.
    config
        The network; a model that is begun with must have the same one.
    recipe
        How it is trained.
    folder
        Of the run. One that exists must be of the same run, which goes on where it stood.
    machine
        Where and how fast.
    beginning
        What is known of genes, and a trained model to go on from.
    place
        Atlas and release, or pack and None, that `resume` opens the cells from; None when the caller brings them.

    Returns
    -------
    TrainingRun
        Not finished where `machine.minutes` were over first.

    Raises
    ------
    ModelInputError
        When the folder is of another run, or parts contradict each other.
    LeakageError
        When cells that are trained on are, or share donors with, held-out ones.
    TrainingDivergedError
        When the loss is no number, or leaves and does not come back.
    """
    folder, recipe, beginning = Path(folder), fitted(recipe, config), beginning or Beginning()
    said = {
        "format": RUN_FORMAT, "recipe": _json(recipe), "config": json.loads(config.to_json()),
        "cells": {"fingerprint": cells.fingerprint, "place": None if place is None else list(place)},
        "regulators": sorted(beginning.regulators),
        "vectors": {name: one.about["embedder"] for name, one in sorted(beginning.vectors.items())},
        "prior": beginning.prior.digest if beginning.prior and config.trunk.prior else None,
        "start": (beginning.model.digest or weights_digest(beginning.model)) if beginning.model else None,
    }  # fmt: skip
    if not _first_rank():
        _wait_for(folder / "run.json")
    elif (folder / "run.json").exists():
        former = _read_run(folder)
        if former["cells"]["fingerprint"] == cells.fingerprint:  # the same cells may lie elsewhere by now
            former["cells"]["place"] = said["cells"]["place"] = said["cells"]["place"] or former["cells"]["place"]
            write_changed(folder / "run.json", former)
        if other := [name for name in said if former.get(name) != said[name]]:
            raise ModelInputError("folder", str(folder), f"a new one: the run in it has another {' and '.join(other)}")
    else:
        said["begun"] = _lay_out(folder, cells, config, recipe, beginning, machine or Machine())
        write_changed(folder / "run.json", said)
    return resume(folder, cells=cells, machine=machine)


def resume(
    folder: Path | str,
    *,
    cells: Cells | None = None,
    machine: Machine | None = None,
) -> TrainingRun:
    """Go on with a run where its last saved state stands, to the bit on one kind of machine.

    Parameters
    ----------
    folder
        Of the run.
    cells
        Its cells; None opens them from where they were.
    machine
        Where and how fast; need not be the one before.

    Raises
    ------
    CheckpointError
        When the folder holds no run, or a damaged one.
    ModelInputError
        When the cells are others, or nobody says where they are.
    """
    folder = Path(folder)
    if not _first_rank():
        return _leg(folder, cells, machine or Machine())
    with alone(folder) as mine:
        if not mine:
            raise ModelInputError("folder", str(folder), "a run that no other process is at work on")
        return _leg(folder, cells, machine or Machine())


def _leg(folder: Path, cells: Cells | None, machine: Machine) -> TrainingRun:
    """Make one leg of a run, and at its end the model and the receipt."""
    began = time.time()
    said = _read_run(folder)
    if (facts := _read_receipt(folder)).get("finished"):
        return TrainingRun(folder, True, facts)
    recipe = read_config(Recipe, said["recipe"], "recipe")
    if cells is None:
        if said["cells"]["place"] is None:
            raise ModelInputError("cells", None, "the cells, which this run does not know where to find")
        cells = open_cells(*said["cells"]["place"])
    if cells.fingerprint != said["cells"]["fingerprint"]:
        raise ModelInputError("cells", cells.fingerprint[:12], f"those of the run, {said['cells']['fingerprint'][:12]}")
    first = load_model(folder / "start")
    if first.digest != said["begun"] or json.loads(first.config.to_json()) != said["config"]:
        raise CheckpointError(str(folder), "its start is of another run", "take the folder that was saved whole")
    regulators = _regulators(first.vocabulary, said["regulators"])
    done = fit(folder, cells, first, recipe, machine, regulators)
    facts = {
        "folder": str(folder), "finished": done.finished, "release": cells.about.get("release"),
        "seed": recipe.seed, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "parameters": sum(one.numel() for one in first.network.parameters()), "start": said["start"], **done.facts,
        "trained_parameters": count_weights(first.network, recipe.tuning.parts)["tuned"],
    }  # fmt: skip
    if done.finished and done.network is not None:
        ledger = done.ledger.joined(first.ledger if len(first.ledger) else None)
        kept = ("release", "seed", "steps", "draws", "cells_seen")
        about = {name: facts.get(name) for name in kept} | {
            "recipe": said["recipe"], "cells": cells.fingerprint, "content_sha256": cells.about.get("content_sha256"),
            "start": said["start"], "vectors": said.get("vectors", {}), "roles": ledger.tally, **_lineage(first),
        }  # fmt: skip
        shutil.rmtree(folder / "model", ignore_errors=True)
        made = save_model(folder / "model", TrainedModel(done.network, first.vocabulary, ledger, about))
        facts |= {"model": made.digest, "roles": ledger.tally}
    if _first_rank():
        write_whole(folder / "receipt.json", (json.dumps(facts, indent=1) + "\n").encode())
        if done.finished:
            shutil.rmtree(folder / "states", ignore_errors=True)
    return TrainingRun(folder, done.finished, facts)


def _lay_out(
    folder: Path, cells: Cells, config: ModelConfig, recipe: Recipe, beginning: Beginning, machine: Machine
) -> str:
    """Keep the network before its first step, with its vocabulary and gene tokens; return its digest."""
    others = [one for one in folder.glob("*") if not one.name.startswith(PART)]
    if others and not (folder / "start").exists():
        raise ModelInputError("folder", str(folder), "an empty folder, or one that does not exist yet")
    if "tf" in config.tasks.masks and not beginning.regulators:
        raise ModelInputError("regulators", "none", "feature ids of transcription factors, which masks of `tf` need")
    start = beginning.model
    if start is None:
        vocabulary = make_vocabulary(cells)
        table = make_token_table(vocabulary, beginning.vectors)
        vocabulary = replace(vocabulary, tokens={"sha256": table.digest})
        prior = beginning.prior.bias(vocabulary) if beginning.prior and config.trunk.prior else None
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(recipe.seed)
            network, ledger = Network(config, vocabulary, table, prior), _empty_ledger()
        if network.linear is not None:
            measure_levels(network.linear, cells, vocabulary, recipe.data)
    else:
        if start.config.to_json() != config.to_json():
            raise ModelInputError("config", "another one", "the configuration of the model that is begun with")
        network, vocabulary, ledger = start.network, start.vocabulary, start.ledger
    facts = {"start": start.digest if start else None} | ({} if start is None else _lineage(start))
    first = TrainedModel(network, vocabulary, ledger, facts)
    _regulators(vocabulary, beginning.regulators)
    check(cells, first, recipe, machine)
    shutil.rmtree(folder / "start", ignore_errors=True)
    return save_model(folder / "start", first).digest


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        known = said["format"] == RUN_FORMAT
        for name in ("recipe", "config", "begun", "regulators", "start"):
            said[name]
        said["cells"]["fingerprint"], said["cells"]["place"]
        said["recipe"].setdefault("tuning", _json(Tuning()))  # a run from before there was one
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(str(folder), f"it holds no run ({error})"[:200], _NAME_ONE) from error
    if not known:
        raise CheckpointError(str(folder), f"its run is of format {said['format']!r:.40}", _NAME_ONE)
    return said


def _lineage(model: TrainedModel) -> dict[str, Any]:
    return {name: model.facts[name] for name in LINEAGE if name in model.facts}


def _read_receipt(folder: Path) -> dict[str, Any]:
    """Return what the last leg left, nothing where there was none."""
    if not (folder / "receipt.json").exists():
        return {}
    try:
        return dict(json.loads((folder / "receipt.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        path = str(folder / "receipt.json")
        raise CheckpointError(path, f"it cannot be read ({error})"[:200], "delete it, and resume") from error


def _regulators(vocabulary: Vocabulary, ids: Sequence[str]) -> torch.Tensor | None:
    """Return which tokens are transcription factors."""
    if not ids:
        return None
    out = np.zeros(vocabulary.n_genes, dtype=bool)
    for organism in vocabulary.organisms:
        found = vocabulary.gene_tokens(organism, list(ids))
        out[found[found >= 0]] = True
    if not out.any():
        raise ModelInputError("regulators", ids[0], "feature ids of genes that the vocabulary has")
    return torch.from_numpy(out)


def _empty_ledger() -> Ledger:
    return Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))


def _json(value: Any) -> Any:
    """Return a dataclass as JSON values."""
    return json.loads(json.dumps(asdict(value), default=methodcaller("item")))


def _first_rank() -> bool:
    """Return whether this process is the one that writes; launchers number processes in the environment."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


def _wait_for(path: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not path.exists():
        if time.monotonic() > end:
            raise CheckpointError(str(path), f"rank 0 did not write it in {WAIT_S} s", "look at rank 0's messages")
        time.sleep(0.2)
