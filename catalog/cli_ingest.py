"""The command that fills an atlas: `panatlas ingest`. Words in, values out.

Declared here and hung under `panatlas` by cli.py, because it has a flag per need; its body is in commands.py.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations

from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations


def ingest(
    organism: str,
    /,
    *,
    source: Repeatable = (),
    manifest: Path | None = None,
    atlas: str | None = None,
    dry_run: Switch = False,
    doublets: bool = True,
    neighbours: bool = True,
    json: Switch = False,
) -> int:
    """Add sources to the atlas: read, prove counts, standardise, measure, screen, append, verify, record.

    Parameters
    ----------
    organism
        Any spelling: human, "Mus musculus", 9606. Without a source its starter sources are ingested.
    source
        h5ad, 10x h5, 10x mtx folder or zarr: a path, https://, s3://, pypi: or census: address. Repeatable.
    manifest
        A TOML file that declares sources; those of the organism are taken.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    dry_run
        Say what would be read, mapped, dropped and written, and write nothing.
    doublets
        Score doublets, the slowest stage.
    neighbours
        Find each cell's nearest neighbours, which training reads beside it.
    json
        Print the receipts as JSON on stdout.
    """
    options = {"dry_run": dry_run, "doublets": doublets, "neighbours": neighbours}
    return import_module(".commands", __package__).ingest(organism, source, manifest, atlas, options, json=json)
