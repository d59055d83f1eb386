"""The cache of groups: a folder per choice of cells and labels, built once, whole or absent, mapped by every worker.

A folder holds the cells by group (groups.py), what is known of the groups (weights.py) and the weights of cells, as
.npy files, and a list of their digests. It can be thrown away at any time. plan.py decides what goes in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ontology import locked

from .groups import CellGroups, load_groups
from .sampler import GroupFacts, Sampler, SamplerConfig

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

GROUPS = "groups"
WEIGHTS = "weights.npy"
MAXIMA = "maxima.npy"
SUMS = "weight_sums.npy"
PART = ".groups-part-"
"""How a folder is called until it is whole; a name of its own, because others may write into the cache's folder too."""
LIST = "files.json"
SEEN = "seen.json"
"""Sizes and times of the files that were found sound here, so that they are not read again for their digests."""


@dataclass(frozen=True)
class GroupFiles:
    """What a folder of the cache holds, opened: arrays mapped where they are long."""

    groups: CellGroups
    """The cells by group."""
    facts: GroupFacts
    """What is known of the groups."""
    weights: npt.NDArray[np.float32] | None
    """Weight of each cell by number, or None."""
    maxima: npt.NDArray[np.float64] | None
    """The largest weight in each group, with `weights`."""
    sums: npt.NDArray[np.float64] | None
    """Weights of each group cumulated by blocks (weighted_draws.py), with `weights`."""


class MappedSampler(Sampler):
    """A sampler over a folder of the cache; travels to a worker as the folder's name.

    Parameters
    ----------
    folder
        What `keep_groups` made.
    config
        The order asked for.
    """

    def __init__(self, folder: Path, config: SamplerConfig) -> None:
        self.folder = folder.absolute()  # a worker is sent this name, whatever the folder it is started in
        files = open_groups(self.folder)
        super().__init__(
            files.groups,
            config,
            release=folder.name,  # a digest of the cells and of how they were grouped
            facts=files.facts,
            cell_weights=files.weights,
            maxima=files.maxima,
            weight_sums=files.sums,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle to what opens the files again."""
        return type(self), (self.folder, self.config)


def keep_groups(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, built where it is absent or not what was written.

    Processes that ask for the same folder at once wait for the one that builds it.

    Parameters
    ----------
    folder
        Its final place.
    build
        Writes the files into the folder it is given, which is another.
    """
    with locked(folder.parent):
        if _sound(folder):
            return folder
        for left in folder.parent.glob(f"{PART}*"):  # of a builder that was killed: a live one would hold the lock
            shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
        try:
            build(part)
            files = {p.relative_to(part).as_posix(): _sha256(p) for p in sorted(part.rglob("*")) if p.is_file()}
            states = {name: _state(part / name) for name in files}
            (part / LIST).write_text(json.dumps(files), encoding="utf-8")
            (part / SEEN).write_text(json.dumps(states), encoding="utf-8")
            part.chmod(0o755)
            if folder.exists():  # who mapped the old files keeps them
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def save_facts(folder: Path, facts: GroupFacts) -> None:
    """Write what is known of the groups, for `open_groups`."""
    lists = [np.asarray(members, dtype=np.int32) for members in facts.compatible or ()]
    arrays = {
        "specific": facts.specific,
        "confidence": facts.confidence,
        "compatible": np.concatenate(lists) if lists else None,
        "compatible_sizes": np.array([len(members) for members in lists]) if lists else None,
    }
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)


def open_groups(folder: Path) -> GroupFiles:
    """Open a folder of the cache.

    Raises
    ------
    LoaderInputError
        When it is not one, or no longer there.
    """
    groups = load_groups(folder / GROUPS)
    specific, confidence = _read(folder / "specific.npy"), _read(folder / "confidence.npy")
    members, sizes = _read(folder / "compatible.npy"), _read(folder / "compatible_sizes.npy")
    lists = None if sizes is None else np.split(members, np.cumsum(sizes)[:-1])
    weights, sums = _read(folder / WEIGHTS, mapped=True), _read(folder / SUMS, mapped=True)
    return GroupFiles(groups, GroupFacts(specific, lists, confidence), weights, _read(folder / MAXIMA), sums)


def _read(file: Path, *, mapped: bool = False) -> Any:
    if not file.exists():
        return None
    return np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)


def _sound(folder: Path) -> bool:
    """Tell whether a folder holds what was written; files that have not changed since are not read again."""
    if not folder.is_dir():
        return False
    try:
        files = json.loads((folder / LIST).read_text(encoding="utf-8"))
        seen = json.loads((folder / SEEN).read_text(encoding="utf-8")) if (folder / SEEN).exists() else {}
        now = {name: _state(folder / name) for name in files}
        sound = all(seen.get(name) == now[name] or _sha256(folder / name) == files[name] for name in files)
    except (OSError, ValueError, AttributeError):
        sound = False
    if not sound:
        log.warning("the groups in %s were damaged and are made again", folder)
    elif seen != now:
        (folder / SEEN).write_text(json.dumps(now), encoding="utf-8")
    return sound


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
