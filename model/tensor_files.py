"""Tensors and plain values on disk, without pickle: safetensors shards of bounded size and JSON beside them.

What checkpoint.py (a trained model) and resume_state.py (a run in the middle) are written with. A folder is there whole
or not at all; its `about.json` names every file with its sha256, and reading proves them first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import CheckpointError, ModelInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

ABOUT = "about.json"
PART = ".part-"
"""Begins the names of folders that are being written."""
SHARD_BYTES = 15 << 20
"""Tensor bytes of a shard; with its header it stays below 16 MiB, which mail, chat and most object stores take."""


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to write in, which becomes `folder` at the end, or vanishes where writing fails.

    Raises
    ------
    ModelInputError
        When the folder exists and is not to be replaced.
    """
    if folder.exists() and not replace:
        raise ModelInputError("folder", str(folder), "a folder that does not exist yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            former = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
            folder.rename(former / folder.name)
            part.rename(folder)
            shutil.rmtree(former, ignore_errors=True)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def seal(folder: Path, facts: Mapping[str, Any]) -> str:
    """Write `about.json` with some facts and the sha256 of every file of a folder; return the digest over all files."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    about = {**facts, "sha256": digest, "files": files}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return digest


def unseal(folder: Path, kind: str) -> dict[str, Any]:
    """Return the facts of a sealed folder after proving that its files are those that were sealed.

    Raises
    ------
    CheckpointError
        When it is no folder of that kind, or a file is missing, added to the list or changed.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files = dict(about["files"])
        said = about["format"], about["sha256"]
        inside = {name: (folder / name).resolve().is_relative_to(folder.resolve()) for name in files}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            str(folder), f"its {ABOUT} cannot be read ({error})"[:200], f"name a folder with {kind}"
        ) from error
    if said[0] != kind:
        raise CheckpointError(str(folder), f"it holds {said[0]!r:.60}", f"name a folder with {kind}")
    if hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest() != said[1]:
        raise CheckpointError(str(folder), "its list of files was changed", "copy it again")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        known = name in {ABOUT, *files} if path.is_file() else path.is_dir()
        if path.is_symlink() or not known:
            raise CheckpointError(str(folder), f"{name} is not one of its files", "remove it, or copy the folder again")
    for name, digest in files.items():
        path = folder / name
        if not inside[name] or not path.is_file() or file_digest(path) != digest:
            raise CheckpointError(str(folder), f"{name} is missing or was changed", "copy it again")
    return about


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as `STEM-00000.safetensors` and on; a tensor larger than a shard is cut along its elements."""
    shard: dict[str, Tensor] = {}
    number = room = 0
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        most = max(1, shard_bytes // flat.element_size())
        for piece, part in enumerate(flat.split(most) if len(flat) else [flat]):
            if shard and room + part.nbytes > shard_bytes:
                save_file(shard, folder / f"{stem}-{number:05d}.safetensors")
                shard, room, number = {}, 0, number + 1
            shard[f"{name}:{piece}"] = part.clone()  # shared memory would be refused
            room += part.nbytes
    save_file(shard, folder / f"{stem}-{number:05d}.safetensors")
    said = {"shards": number + 1, "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()}}
    (folder / f"{stem}.json").write_text(json.dumps(said) + "\n", encoding="utf-8")


def load_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """Return the tensors that `save_tensors` wrote, on the CPU.

    Raises
    ------
    CheckpointError
        When shards are missing or do not fit the shapes.
    """
    pieces: dict[str, Tensor] = {}
    out, file = {}, f"{stem}.json"
    try:
        said = json.loads((folder / file).read_text(encoding="utf-8"))
        for shard in range(said["shards"]):
            file = f"{stem}-{shard:05d}.safetensors"
            pieces |= load_file(folder / file)
        for name, shape in said["shapes"].items():
            file = f"{stem}, {name},"
            parts, number = [], 0
            while (part := pieces.get(f"{name}:{number}")) is not None:
                parts, number = [*parts, part], number + 1
            out[name] = (parts[0] if number == 1 else torch.cat(parts)).reshape(shape)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(str(folder), f"{file} cannot be read ({error})"[:300], "copy it again") from error
    return out
