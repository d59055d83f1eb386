"""A disk with as little room as is asked for, and ingests that run out of it at many points. Used by kills.py.

An ext4 file system in a file, mounted; a ballast file takes all of it but the room. Taking the ballast away is what
somebody does who makes room. It needs leave to mount; where that is not given, the row says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.disturbed_atlas import NAMES, command, look, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.kills import Run

DISK = 128 << 20
"""Bytes of the disk, several times what is ingested."""


class SmallDisk:
    """A file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def leave(self, room: int) -> None:
        """Leave so many bytes free."""
        self.clear()
        free = os.statvfs(self.folder)
        taken = free.f_bavail * free.f_frsize - room
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, taken)

    def clear(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink(missing_ok=True)
        os.sync()

    def free(self) -> int:
        """Return the bytes that are free."""
        free = os.statvfs(self.folder)
        return free.f_bavail * free.f_frsize


@contextmanager
def small_disk() -> Iterator[SmallDisk | str]:
    """Give a mounted disk, or say why there is none."""
    with tempfile.TemporaryDirectory() as tmp:
        image, folder = Path(tmp) / "image", Path(tmp) / "disk"
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK)
        make = ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-b", "4096", str(image)]
        try:
            for step in (make, ["mount", "-o", "loop", str(image), str(folder)]):
                subprocess.run(step, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            yield f"not run: {(getattr(exc, 'stderr', '') or str(exc)).strip()}"
            return
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def starve_all(run: Run, seed: int) -> list[dict[str, Any]]:
    """Return the rows of ingests on a disk that runs full."""
    tables = {"table": "a disk that runs full"}
    with small_disk() as disk:
        if isinstance(disk, str):
            return [{**tables, "what": "any", "note": disk}]
        sizes = run.sizes["disks"]
        rows = []
        for n, what in ((0, "the first source"), (1, "sources after one that is there")):
            rooms = starving_rooms(run, disk, n, sizes // 2, seed)
            rows.append({**tables, "what": what, **starve(run, disk, n, rooms)})
            print(rows[-1], file=sys.stderr, flush=True)
        rows.append({**tables, "what": "the scratch folder of a worker", **starve_worker(run, disk)})
        return rows


def begin(run: Run, uri: Path, n: int) -> None:
    """Make the atlas of the first `n` sources anew."""
    shutil.rmtree(uri, ignore_errors=True)
    if n:
        ended = run.processes.run(command(manifest(run.folder, run.files, NAMES[:n]), str(uri)))
        assert ended.code == 0, ended.said


def starving_rooms(run: Run, disk: SmallDisk, n: int, sizes: int, seed: int) -> list[int]:
    """Return sizes, bytes: spread evenly between nothing and what one more source takes, each shifted a little."""
    uri = disk.folder / "atlas"
    begin(run, uri, n)
    free = disk.free()
    begin(run, uri, n + 1)
    needed = free - disk.free()
    shifts = np.random.default_rng((seed, 3, n)).uniform(0, 1, sizes)
    return [int(needed * (i + shift) / sizes) for i, shift in enumerate(shifts)]


def starve(run: Run, disk: SmallDisk, n: int, rooms: list[int]) -> dict[str, Any]:
    """Return what became of ingests with so much room, into an atlas of `n` sources."""
    uri, sources, told = disk.folder / "atlas", manifest(run.folder, run.files, NAMES[: n + 1]), Counter()
    kept = run.folder / "kept"
    begin(run, kept, n)
    for room in rooms:
        shutil.rmtree(uri, ignore_errors=True)
        if n:
            shutil.copytree(kept, uri)
        disk.leave(room)
        ended = run.processes.run(command(sources, str(uri)))
        told["full"] += ended.code != 0
        said = " ".join(ended.said.split())
        told["silent"] += tell(ended.code != 0 and not (ended.code == 4 and says_full(said)), f"{room}: {ended}")
        there = look(str(uri))
        changed = ended.code != 0 and there.hash != run.meant.hashes[NAMES[:n]]
        told["changed"] += tell(changed, f"{room}: {there.datasets}")
        disk.clear()
        ended = run.processes.run(command(sources, str(uri)))
        there = look(str(uri))
        wrong = ended.code != 0 or there.hash != run.meant.hashes[NAMES[: n + 1]] or bool(there.left)
        told["wrong in the end"] += tell(wrong, f"{room}: {ended} {there}")
    shutil.rmtree(kept, ignore_errors=True)
    room = f"{min(rooms) >> 10:,} to {max(rooms) >> 10:,} KiB"
    columns = ("full", "silent", "changed", "wrong in the end")
    return {"sizes": len(rooms), "room": room, **{c: told[c] for c in columns}}


def starve_worker(run: Run, disk: SmallDisk) -> dict[str, Any]:
    """Return what became of ingests whose worker had too little room for what it hands over."""
    told, uri = Counter(), run.folder / "handed"
    rooms = (16 << 10, 64 << 10)  # for nearly nothing of it; for a part
    arguments = [*command(manifest(run.folder, run.files, NAMES[:2]), str(uri)), "--workers", "1"]
    line = [sys.executable, "-P", "-m", "catalog.cli", *arguments, "--scratch", str(disk.folder / "scratch")]
    for room in rooms:
        shutil.rmtree(uri, ignore_errors=True)
        begin(run, uri, 1)
        disk.leave(room)
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
        said = " ".join(ended.stderr.split())
        told["full"] += ended.returncode != 0
        told["silent"] += tell(ended.returncode != 0 and not (ended.returncode == 4 and says_full(said)), said)
        told["changed"] += tell(ended.returncode != 0 and look(str(uri)).hash != run.meant.hashes["a"], said)
        disk.clear()
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
        there = look(str(uri))
        wrong = ended.returncode != 0 or there.hash != run.meant.hashes["ab"] or bool(there.left)
        told["wrong in the end"] += tell(wrong, f"a worker, {room}: {ended.stderr}")
    shutil.rmtree(uri)
    return {
        "sizes": len(rooms),
        "room": f"{min(rooms) >> 10} to {max(rooms) >> 10} KiB",
        **{c: told[c] for c in ("full", "silent", "changed", "wrong in the end")},
    }


def says_full(said: str) -> bool:
    """Return whether a message says that the disk is full, in the system's words or SQLite's."""
    return "No space left" in said or "disk is full" in said


def tell(wrong: bool, fault: str) -> int:
    """Return 1 where something is wrong, told to whoever waits; 0 where all is well."""
    if wrong:
        print(f"WRONG, disk: {fault}", file=sys.stderr, flush=True)
    return int(wrong)
