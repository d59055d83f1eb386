"""The command that freezes an atlas: `panatlas release`. Words in, values out.

Declared here and hung under `panatlas` by cli.py, because it has a flag per need; its body is in commands.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from .cli_references import Repeatable, Switch  # noqa: TC001 - cyclopts reads the annotations


def release(
    name: str,
    /,
    *,
    split_by: Literal["donor", "dataset", "organism"] = "donor",
    seed: int = 0,
    train: Repeatable = (),
    validation: Repeatable = (),
    test: Repeatable = (),
    allow_leaks: Switch = False,
    atlas: str | None = None,
    dry_run: Switch = False,
    json: Switch = False,
) -> int:
    """Freeze the atlas under a name, with its splits, joint-label counts and content hash.

    Refused where a cell to be trained on equals one of another split. Exit code 3 then; nothing is written.

    Parameters
    ----------
    name
        1-64 letters, digits, ".", "_", "-".
    split_by
        What stays in one split: a donor, a dataset (either over all datasets of its publication), or an organism.
    seed
        Seed of the splits; adding datasets under the same seed moves no cell.
    train
        Put there whatever the seed says: donor:DATASET/DONOR, dataset:NAME or organism:NAME. Repeatable.
    validation
        Likewise. Repeatable.
    test
        Likewise, e.g. organism:mouse; a donor's pin wins over its dataset's, that over its organism's. Repeatable.
    allow_leaks
        Make the release although splits share cells.
    atlas
        Folder of the atlas; PANATLAS_HOME/atlas unless named.
    dry_run
        Work everything out and freeze nothing; only the tables that queries use are kept.
    json
        Print manifest and findings as JSON on stdout.
    """
    pins = {"train": train, "validation": validation, "test": test}
    commands = import_module(".commands", __package__)
    return commands.release(name, (split_by, seed, allow_leaks), pins, atlas, dry_run=dry_run, json=json)
