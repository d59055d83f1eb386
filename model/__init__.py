"""The workshop: the network, its objectives, training, and the tasks a trained model answers.

What lives here so far is the protein part of a gene's token:

- `ProteinEmbedder`: the seam behind which a protein language model sits; `esm2` and `seeded_esm2` make one.
- `embed_proteins`, `load_protein_vectors`: one vector per gene of an organism, kept as a reference snapshot.

What comes lives here and nowhere else: configuration and presets, the network, losses, training, checkpoints, and one
verb per task (embed, annotate, denoise, ...). May import `loaders`, `atlas` and `ontology`. Its models and values go to
`catalog`, which remembers them. Names load on first use; torch is imported when an embedder is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import CheckpointError, ModelError, ModelInputError, WeightsUnavailableError
    from .protein_embedder import Esm2Embedder, ProteinEmbedder, esm2, seeded_esm2
    from .protein_vectors import ProteinVectors, embed_proteins, load_protein_vectors, vectors_name

_HOMES = {
    "errors": ("CheckpointError", "ModelError", "ModelInputError", "WeightsUnavailableError"),
    "protein_embedder": ("Esm2Embedder", "ProteinEmbedder", "esm2", "seeded_esm2"),
    "protein_vectors": ("ProteinVectors", "embed_proteins", "load_protein_vectors", "vectors_name"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError",
    "Esm2Embedder",
    "ModelError",
    "ModelInputError",
    "ProteinEmbedder",
    "ProteinVectors",
    "WeightsUnavailableError",
    "embed_proteins",
    "esm2",
    "load_protein_vectors",
    "seeded_esm2",
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
