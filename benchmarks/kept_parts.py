"""What a long benchmark has worked out, part by part on disk, so that one that was stopped goes on where it stopped.

Parts lie under a digest of everything that decides them, the code that makes them included: another model, other cells
or a changed line begin anew. They go when the benchmark ends, so that a run that is asked for again is one. Used by
tasks.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


class KeptParts:
    """Parts of one run.

    Parameters
    ----------
    folder
        Where runs of this benchmark keep their parts.
    decides
        What decides them, as JSON values.
    code
        Files whose text decides them too.
    """

    def __init__(self, folder: Path, decides: Mapping[str, Any], code: Iterable[Path] = ()) -> None:
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
        for file in sorted(code):
            digest.update(f"\n{file.name}\n".encode() + file.read_bytes())
        self.folder = folder / digest.hexdigest()[:16]

    def of(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part, JSON values: as it is kept, else as it is made now; both are the same."""
        place = self.folder / f"{name}.json"
        if not place.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = place.with_suffix(".part")
            part.write_text(json.dumps(make()), encoding="utf-8")
            part.replace(place)
        return json.loads(place.read_text(encoding="utf-8"))

    def clear(self) -> None:
        """Forget the parts of this run."""
        shutil.rmtree(self.folder, ignore_errors=True)
