"""The kitchen: cells of an atlas, chosen, streamed and plated as tensors.

Nothing is cooked here yet: cells are streamed by the official `tiledbsoma-ml` today (README, "Trainer"). What comes
lives here and nowhere else: the vocabulary that travels with a model, samplers, the resumable stream, collation.
May import `atlas` and `ontology`; knows torch tensors and no network. Its batches go to `model`.
"""

from __future__ import annotations

__all__: list[str] = []
"""Public names of the floor; none yet."""
