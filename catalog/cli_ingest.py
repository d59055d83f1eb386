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
    workers: int = 0,
    scheduler: str | None = None,
    scratch: Path | None = None,
    json: Switch = False,
) -> int:
    """Add sources to the atlas: read, prove counts, standardise, measure, screen, append, verify, record.

    Parameters
    ----------
    organism
        Any spelling: human, "Mus musculus", 9606. Without a source its starter sources are ingested.
    source
        h5ad, 10x h5, 10x mtx folder or zarr: a path, https://, s3://, pypi:, census: or synthetic: address. Repeatable.
    manifest
        A TOML file that declares sources; those of the organism are taken.
    atlas
        Folder of the atlas, or its s3:// address; PANATLAS_HOME/atlas unless named.
    dry_run
        Say what would be read, mapped, dropped and written, and write nothing.
    doublets
        Score doublets, the slowest stage.
    neighbours
        Find each cell's nearest neighbours, which training reads beside it.
    workers
        Processes to start on this machine, which look at several sources at once; the atlas becomes the same.
    scheduler
        Address of a running dask scheduler whose workers do so instead: tcp://host:8786 or tls://host:8786.
    scratch
        Folder for what workers hand over, shared with their machines; one in PANATLAS_HOME unless named.
    json
        Print the receipts as JSON on stdout.
    """
    options = {"dry_run": dry_run, "doublets": doublets, "neighbours": neighbours}
    chosen = (workers, scheduler, scratch)
    body = import_module(".commands", __package__).ingest
    return body(organism, source, manifest, atlas, options, chosen, json=json)
