"""The model that comes with the package: where its files lie, beside their card, shipped/README.md.

benchmarks/shipped.py makes them. The command line reads it where no model is named, so that the same command gives the
same answer on every machine, whatever was trained there.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).with_name("shipped")
"""One folder per model, as `save_model` writes it, with its calibration beside it."""


def shipped_model(name: str | None = None) -> Path | None:
    """Return the folder of the model that came with the package.

    Parameters
    ----------
    name
        Which one; None for the only one, or the first by name.

    Returns
    -------
    Path or None
        None where none of that name came with it.
    """
    there = sorted(file.parent for file in SHIPPED.glob("*/about.json"))
    mine = [folder for folder in there if name in (None, folder.name)]
    return mine[0] if mine else None
