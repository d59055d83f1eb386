"""Curated overrides: author texts that a person has mapped, one row each in data/overrides/<label>.tsv.

Columns: text, term_id, organism (`*` for any), who, when, why. A row for the organism beats one for any. Rows are
believed only where their id is still a current, allowed term; the tests hold every shipped row to that.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from .allowed import ontology_of, refusal
from .terms import fold_text

if TYPE_CHECKING:
    from .organisms import Organism


@dataclass(frozen=True)
class Override:
    """One curated decision."""

    text: str
    """The author's text; compared without case, underscores as blanks."""
    term_id: str
    """Term it means."""
    organism: str
    """Short name of the organism it holds for, or `*`."""
    who: str
    """Curator."""
    when: str
    """Date, ISO 8601."""
    why: str
    """What the decision rests on."""


@cache
def load_overrides(label: str) -> tuple[Override, ...]:
    """Return the curated rows of a label; none where the label has no file."""
    file = resources.files(__package__).joinpath(f"data/overrides/{label}.tsv")
    if not file.is_file():
        return ()
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return tuple(Override(**row) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def find_override(label: str, text: str, organism: Organism) -> str | None:
    """Return the id a curator chose for a text, or None; an id that may not be used any more counts as none."""
    index = _index(label)
    folded = fold_text(text)
    chosen = index.get((folded, organism.name)) or index.get((folded, "*"))
    if chosen is None or label == "cell_culture":
        return chosen
    ontology = ontology_of(chosen)
    current = ontology.current(chosen) if ontology is not None and chosen in ontology else None
    return current if current and not refusal(label, current, organism) else None


@cache
def _index(label: str) -> dict[tuple[str, str], str]:
    return {(fold_text(row.text), row.organism): row.term_id for row in load_overrides(label)}
