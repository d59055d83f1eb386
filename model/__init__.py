"""The workshop: the network, its objectives, training, and the tasks a trained model answers.

- `ModelConfig`, `preset`: every choice of network and pre-training as data.
- `Network`, `Objective`: the network, and one step's losses by name; `make_ragged`, `make_view`, `seeded`: what they
  are given. `TokenTable`, `make_token_table`: what is known of each gene before training.
- `ProteinEmbedder`: the seam behind which a protein language model sits; `esm2` and `seeded_esm2` make one.
- `embed_proteins`, `load_protein_vectors`: one vector per gene of an organism, kept as a reference snapshot.

What comes lives here and nowhere else: training, checkpoints, and one verb per task (embed, annotate, denoise, ...).
May import `loaders`, `atlas` and `ontology`. Its models and values go to `catalog`, which remembers them. Names load
on first use; torch is imported when a network or an embedder is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import TrainedModel, load_model, save_model
    from .config import ModelConfig, preset
    from .errors import CheckpointError, ModelError, ModelInputError, TrainingDivergedError, WeightsUnavailableError
    from .ledger import Ledger, seen_before
    from .network import Encoded, Network
    from .objective import Objective, make_view
    from .pretrain import Beginning, TrainingRun, resume, train
    from .protein_embedder import Esm2Embedder, ProteinEmbedder, esm2, seeded_esm2
    from .protein_vectors import ProteinVectors, embed_proteins, load_protein_vectors, vectors_name
    from .ragged import Ragged, make_ragged
    from .recipe import DataRecipe, Machine, Recipe, recipe_for
    from .token_table import TokenTable, make_token_table
    from .views import View, seeded

_HOMES = {
    "checkpoint": ("TrainedModel", "load_model", "save_model"),
    "config": ("ModelConfig", "preset"),
    "errors": ("CheckpointError", "ModelError", "ModelInputError", "TrainingDivergedError", "WeightsUnavailableError"),
    "ledger": ("Ledger", "seen_before"),
    "network": ("Encoded", "Network"),
    "objective": ("Objective", "make_view"),
    "pretrain": ("Beginning", "TrainingRun", "resume", "train"),
    "protein_embedder": ("Esm2Embedder", "ProteinEmbedder", "esm2", "seeded_esm2"),
    "protein_vectors": ("ProteinVectors", "embed_proteins", "load_protein_vectors", "vectors_name"),
    "ragged": ("Ragged", "make_ragged"),
    "recipe": ("DataRecipe", "Machine", "Recipe", "recipe_for"),
    "token_table": ("TokenTable", "make_token_table"),
    "views": ("View", "seeded"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Beginning",
    "CheckpointError",
    "DataRecipe",
    "Encoded",
    "Esm2Embedder",
    "Ledger",
    "Machine",
    "ModelConfig",
    "ModelError",
    "ModelInputError",
    "Network",
    "Objective",
    "ProteinEmbedder",
    "ProteinVectors",
    "Ragged",
    "Recipe",
    "TokenTable",
    "TrainedModel",
    "TrainingDivergedError",
    "TrainingRun",
    "View",
    "WeightsUnavailableError",
    "embed_proteins",
    "esm2",
    "load_model",
    "load_protein_vectors",
    "make_ragged",
    "make_token_table",
    "make_view",
    "preset",
    "recipe_for",
    "resume",
    "save_model",
    "seeded",
    "seeded_esm2",
    "seen_before",
    "train",
    "vectors_name",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the file it lives in, once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
