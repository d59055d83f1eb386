"""Tables as files, CSV or Parquet by their names: `write_tables` writes some together, whole or not at all.

What an audit or a score found has rows of its own, so it is a table and no h5ad (result_files.py). Equal tables have
equal bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ontology import write_whole

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

KINDS = (".csv", ".parquet")
"""How a table's file name ends."""


def check_tables(paths: Mapping[str, Path], *, force: bool) -> None:
    """Raise CatalogInputError where a table cannot go: another kind of name, a folder, or a file that is there."""
    for path in paths.values():
        if path.suffix not in KINDS or path.is_dir():
            raise CatalogInputError("output", str(path), f"a file whose name ends in {' or '.join(KINDS)}")
        if path.exists() and not force:
            raise CatalogInputError("output", str(path), "a file that does not exist yet; --force writes over it")


def beside(path: Path, name: str) -> Path:
    """Return the place of a further table: `audit.csv` and `genes` give `audit.genes.csv`."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def write_tables(tables: Mapping[Path, pd.DataFrame]) -> None:
    """Write tables, the first one last, so that where it is the others are."""
    for path, frame in reversed(tables.items()):
        stream = io.BytesIO()
        if path.suffix == ".csv":
            frame.to_csv(stream, index=False, lineterminator="\n", float_format="%.9g")
        else:
            frame.to_parquet(stream, index=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, stream.getvalue())
