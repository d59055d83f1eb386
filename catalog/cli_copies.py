"""The command that looks for copies across datasets: `panatlas duplicates`. Words in, values out.

Declared here and hung under `panatlas` by cli.py; its body is in copies_commands.py, loaded when it runs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations

from .cli_references import Switch  # noqa: TC001 - cyclopts reads the annotations


def duplicates(
    organism: str,
    /,
    *,
    output: Path | None = None,
    min_shared: float = 0.85,
    min_genes: int = 100,
    force: Switch = False,
    atlas: str | None = None,
    json: Switch = False,
) -> int:
    """Find cells of different datasets that are copies or nearly so; say which to keep and why, change nothing.

    Parameters
    ----------
    organism
        Any spelling of the organism.
    output
        Table of the pairs, .csv or .parquet.
    min_shared
        Least share of molecules two cells have in common.
    min_genes
        Cells with fewer genes are left out: they can look alike by chance.
    force
        Write over an output that is there.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    json
        Print what was found as JSON on stdout.
    """
    thresholds = (min_shared, min_genes)
    body = import_module(".copies_commands", __package__)
    return body.duplicates(organism, output, thresholds, atlas, force=force, json=json)
