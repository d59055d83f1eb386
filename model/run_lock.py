"""Whose turn it is on a run, `alone`, and its small JSON files, `write_changed`; for pretrain.py and study.py."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ontology import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Yield whether this process may work on a run; the system drops the lock of a process that dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def write_changed(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON, whole or not at all, unless the file says them already."""
    text = json.dumps(values, indent=1) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text.encode())
