"""What every source that is a folder must be: ordinary files, all inside it, not without number.

`preflight_zarr` and `preflight_mtx` go on from here; HDF5 files are in `preflight`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILES = 2_000_000  # files of a zarr group: 350 million cells in chunks of a few thousand stay below
TRUST = "open the folder only if you trust it, and write it again"


def walk_folder(root: Path, dataset: str, *, allow_links: bool) -> Iterator[tuple[Path, int]]:
    """Yield (file, depth) below a folder, refusing links that leave it, devices, and too many files.

    Any link at all is refused unless `allow_links`.
    """
    count = 0
    for folder, folders, files in os.walk(root, followlinks=False):
        here = Path(folder)
        for name in (*folders, *files):
            item = here / name
            count += 1
            if count > MAX_FILES:
                raise refusal(
                    dataset,
                    "too-many-files",
                    "the folder",
                    f"over {MAX_FILES:,}",
                    f"at most {MAX_FILES:,}",
                    "rechunk the group",
                )
            if item.is_symlink() and not (allow_links and item.resolve().is_relative_to(root)):
                raise refusal(
                    dataset,
                    "folder-symlink",
                    str(item.relative_to(root)),
                    f"a link to {item.readlink()}",
                    "files in the folder itself",
                    "replace the link by the file if you trust it",
                )
            if not item.is_symlink() and not item.is_dir() and not item.is_file():
                raise refusal(dataset, "folder-symlink", name, "a device or a pipe", "ordinary files", TRUST)
        for name in files:
            yield here / name, len(here.relative_to(root).parts)
