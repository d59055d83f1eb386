"""Reading the manifests of an atlas' releases: which there are, which is the newest. `releases` writes them.

What SQL, packing and training need to find a release by its name, or the one to use where none is named.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from .errors import CatalogInputError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"


def read_manifest(root: Path, name: str) -> dict[str, Any]:
    """Return the manifest of a release.

    Parameters
    ----------
    root
        Folder of the atlas.
    name
        Name of the release.

    Raises
    ------
    CatalogInputError
        If the atlas has no such release, naming the nearest.
    """
    found = _manifests(root)
    if name not in found:
        near = difflib.get_close_matches(name, found, cutoff=0.0)
        has = f"; nearest: {', '.join(near)}" if near else "; it has none, `panatlas release NAME` makes one"
        raise CatalogInputError("release", name, f"a release of {root}{has}")
    return found[name]


def newest_release(root: Path, until_ms: int | None = None) -> str | None:
    """Return the name of an atlas' newest release: of the latest published moment, and of these the last made.

    Parameters
    ----------
    root
        Folder of the atlas.
    until_ms
        Only releases of this published moment or an earlier one, in milliseconds since 1970.

    Returns
    -------
    None where there is none.
    """
    ages = {
        (facts["tiledb_timestamp_ms"], (root / "releases" / name / MANIFEST).stat().st_mtime_ns, name)
        for name, facts in _manifests(root).items()
        if until_ms is None or facts["tiledb_timestamp_ms"] <= until_ms
    }
    return max(ages)[-1] if ages else None


def releases_with(root: Path, dataset_id: str) -> list[str]:
    """Return the names of an atlas' releases that have a dataset, sorted.

    Parameters
    ----------
    root
        Folder of the atlas.
    dataset_id
        The dataset.
    """
    found = _manifests(root)
    return [name for name in found if any(d.get("dataset_id") == dataset_id for d in found[name].get("datasets", ()))]


def _manifests(root: Path) -> dict[str, dict[str, Any]]:
    """Return the manifests that can be read, by name; folders in the making begin with a dot."""
    found = {}
    for file in sorted(root.glob(f"releases/[!.]*/{MANIFEST}")):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and isinstance(facts.get("tiledb_timestamp_ms"), int):
            found[file.parent.name] = facts
    return found
