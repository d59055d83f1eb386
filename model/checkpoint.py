"""A trained model on disk and back: `save_model`, `load_model`. Weights, choices, words, gene tokens, and what it saw.

A folder of safetensors, JSON and plain .npy files with the sha256 of each, so that a changed file is named and loading
runs no code. Its digest is the model's name wherever results are kept. Made by pretrain.py; every task starts here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loaders import Vocabulary

from .config import ModelConfig
from .errors import CheckpointError
from .ledger import Ledger
from .network import Network
from .prior_bias import PriorBias
from .tensor_files import load_tensors, new_folder, save_tensors, seal, unseal
from .token_table import TokenTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

MODEL_FORMAT = "panatlas model 1"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network and all it takes to use it."""

    network: Network
    """In evaluation mode."""
    vocabulary: Vocabulary
    """What its tokens and classes mean."""
    ledger: Ledger
    """The cells it has seen."""
    facts: Mapping[str, Any]
    """How it was trained: release, seed, steps, collation, and more, as JSON values."""
    digest: str = ""
    """sha256 over all its files; empty before it is saved."""

    @property
    def config(self) -> ModelConfig:
        """Return its choices."""
        return self.network.config

    @property
    def table(self) -> TokenTable:
        """Return what it knows of each gene."""
        return self.network.tokens.table


def save_model(folder: Path | str, model: TrainedModel) -> TrainedModel:
    """Write a model as a folder, there whole or not at all.

    Parameters
    ----------
    folder
        Must not exist.
    model
        The model; the prior gene network of its attention, if it has one, goes with the weights.

    Returns
    -------
    TrainedModel
        The same with its digest, which depends on its files only: equal weights, choices and facts, equal digest.

    Raises
    ------
    ModelInputError
        When the folder exists.
    CheckpointError
        When weights are not finite: a run that diverged is no model.
    """
    folder = Path(folder)
    state = model.network.state_dict()
    _prove_finite(folder, state)
    with new_folder(folder) as part:
        save_tensors(part, "weights", state)
        if prior := model.network.prior:
            save_tensors(part, "prior", {"edges": prior.edges, "weights": prior.weights})
        (part / "config.json").write_text(model.config.to_json(), encoding="utf-8")
        (part / "vocabulary.json").write_text(model.vocabulary.to_json(), encoding="utf-8")
        (part / "facts.json").write_text(json.dumps(dict(model.facts), indent=1, sort_keys=True) + "\n", "utf-8")
        model.table.save(part / "tokens")
        model.ledger.save(part / "ledger")
        digest = seal(part, {"format": MODEL_FORMAT})
    return replace(model, digest=digest)


def weights_digest(model: TrainedModel) -> str:
    """Return a sha256 of the weights of a model that is not saved yet, which has no digest of its own."""
    digest = hashlib.sha256()
    for name, value in model.network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> TrainedModel:
    """Return the model of a folder, ready to be used.

    Parameters
    ----------
    folder
        Written by `save_model`.
    device
        Where its weights go.

    Raises
    ------
    CheckpointError
        When it is no model, a file was changed, or its parts do not fit each other.
    """
    folder = Path(folder)
    digest = unseal(folder, MODEL_FORMAT)["sha256"]
    try:
        config = ModelConfig.from_json((folder / "config.json").read_text(encoding="utf-8"))
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        table = TokenTable.load(folder / "tokens")
        words = (vocabulary.tokens or {}).get("sha256", table.digest)
        if len(table) != vocabulary.n_genes or words != table.digest:
            why = "its gene tokens are of another vocabulary than its words"
            raise CheckpointError(str(folder), why, "copy it again")
        state = load_tensors(folder, "weights")
        prior = None
        if config.trunk.prior:
            edges = load_tensors(folder, "prior")
            prior = PriorBias(edges["edges"], edges["weights"], vocabulary.n_genes)
        _prove_sizes(config, state, lambda: Network(config, vocabulary, table, prior))
        with torch.random.fork_rng(devices=()):  # its first weights are overwritten
            network = Network(config, vocabulary, table, prior)
        network.load_state_dict(state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(str(folder), f"its parts do not fit ({error})"[:300], "copy it again") from error
    _prove_finite(folder, state)
    return TrainedModel(network.eval().to(device), vocabulary, Ledger.load(folder / "ledger"), facts, digest)


def _prove_finite(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for weights of which no result can come."""
    if wrong := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise CheckpointError(str(folder), f"{wrong[0]} has values that are not finite", "train from an earlier state")


def _prove_sizes(config: ModelConfig, state: Mapping[str, Tensor], make: Callable[[], Network]) -> None:
    """Raise ValueError where a configuration asks for other sizes than the weights have, before memory is taken."""
    if max(config.trunk.layers, config.cell.layers) > len(state):
        raise ValueError(f"{config.trunk.layers:,} and {config.cell.layers:,} layers, {len(state):,} tensors")
    with torch.device("meta"):
        asked = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    there = {name: tuple(value.shape) for name, value in state.items()}
    if wrong := sorted(name for name in asked.keys() | there.keys() if asked.get(name) != there.get(name)):
        raise ValueError(f"{wrong[0]} is {there.get(wrong[0])} where its configuration asks for {asked.get(wrong[0])}")
