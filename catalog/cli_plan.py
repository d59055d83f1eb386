"""The commands before an ingest: `panatlas plan` and `panatlas sources`. Words in, values out.

Declared here and hung under `panatlas` by cli.py; their bodies are in plan_commands.py, loaded when one runs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations

from .cli_references import Switch  # noqa: TC001 - cyclopts reads the annotations


def plan(
    what: str,
    /,
    *,
    cores: int = 16,
    core_hour: float = 0.05,
    gb_month: float = 0.023,
    doublets: bool = True,
    json: Switch = False,
) -> int:
    """Say what an ingest would come to: cells, bytes, hours and cost, told apart by measured, stated and assumed.

    Parameters
    ----------
    what
        An organism, for its cells in all big corpora; `all`; or a manifest (.toml), whose local files are counted.
    cores
        Processes that work at once.
    core_hour
        US dollars a core-hour costs.
    gb_month
        US dollars a gigabyte stored for a month costs.
    doublets
        Score doublets, the slowest stage.
    json
        Print the plan as JSON on stdout.
    """
    machine = import_module(".planning", __package__).Machine(cores, core_hour, gb_month, doublets)
    return import_module(".plan_commands", __package__).plan(what, machine, json=json)


def sources(
    corpus: str | None = None,
    organism: str | None = None,
    /,
    *,
    root: str = "",
    output: Path | None = None,
    json: Switch = False,
) -> int:
    """List the big public corpora, or write the manifest of one organism in your copy of one.

    Parameters
    ----------
    corpus
        census, scbasecount, tahoe100m or mouse-development. Without one, all are listed with how to get them.
    organism
        Any spelling of the organism.
    root
        Folder of the copy; for the Census also an s3:// address, or nothing for the official store.
    output
        Manifest to write, a new .toml file.
    json
        Print what was found as JSON on stdout.
    """
    return import_module(".plan_commands", __package__).sources(corpus, organism, root, output, json=json)
