"""Where a run stands, on disk: a trainer's checkpoint as safetensors shards and JSON, so that loading runs no code.

Lightning hands over one nested dictionary (weights, optimiser, schedule, loops, the loader's position) and gets the
same one back. Shards stay below 16 MiB, so that a run can move between machines in small pieces: a model of 4 million
parameters takes four. Larger models move as weights only and begin a new warm-up (`warm_start`, see pretrain.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from .errors import CheckpointError, ModelInputError
from .tensor_files import load_tensors, new_folder, save_tensors, seal, unseal

STATE_FORMAT = "panatlas run state 1"
NEEDED = frozenset({"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"})
"""What a trainer goes on from."""


class ShardedState(CheckpointIO):
    """Writes and reads a trainer's checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint as a folder, there whole or not at all; a former one of the same name is replaced."""
        tensors: dict[str, torch.Tensor] = {}
        plain = _plain(checkpoint, tensors, "")
        with new_folder(Path(path), replace=True) as part:
            save_tensors(part, "tensors", tensors)
            (part / "values.json").write_text(json.dumps(plain) + "\n", encoding="utf-8")
            seal(part, {"format": STATE_FORMAT})

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint; everything is read without running code, whatever `weights_only` says.

        Raises
        ------
        CheckpointError
            When the folder is no checkpoint, or not as it was written.
        """
        unseal(Path(path), STATE_FORMAT)
        tensors = load_tensors(Path(path), "tensors")
        try:
            said = json.loads((Path(path) / "values.json").read_text(encoding="utf-8"))
            found = _whole(said, tensors)
            missing = NEEDED - set(found)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            why = f"its values cannot be read ({error})"[:200]
            raise CheckpointError(str(path), why, "take an earlier state") from error
        if missing:
            raise CheckpointError(str(path), f"it has no {min(missing)}", "take an earlier state")
        return found

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        shutil.rmtree(path, ignore_errors=True)


def _plain(value: Any, tensors: dict[str, torch.Tensor], where: str) -> Any:
    """Return a value as JSON and collect its tensors; every container says its kind, because keys may be numbers."""
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):05d}{where[:80]}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_plain(k, tensors, where), _plain(v, tensors, f"{where}/{k}")] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_plain(one, tensors, f"{where}/{i}") for i, one in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelInputError("checkpoint", f"{where}: {type(value).__name__}", "tensors, numbers, texts and containers")


def _whole(said: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return what `_plain` was given."""
    if not isinstance(said, dict):
        return said
    ((kind, inside),) = said.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {_whole(k, tensors): _whole(v, tensors) for k, v in inside}
    if kind not in ("list", "tuple"):
        raise ValueError(f"{kind!r} is no kind of value")
    items = [_whole(one, tensors) for one in inside]
    return tuple(items) if kind == "tuple" else items
