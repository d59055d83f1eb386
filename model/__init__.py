"""The workshop: the network, its objectives, training, and the tasks a trained model answers.

Nothing is built here yet, and nothing pretends to be. What comes lives here and nowhere else: configuration and
presets, the network, losses, training, checkpoints, and one verb per task (embed, annotate, denoise, ...).
May import `loaders`, `atlas` and `ontology`. Its models and values go to `catalog`, which remembers them.
"""

from __future__ import annotations

__all__: list[str] = []
"""Public names of the floor; none yet."""
