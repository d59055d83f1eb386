"""A user's own organisms: `add_organism_row` adds one, or changes it.

An organism is nothing but a row and its references (snapshots.py), so adding one takes no code. What a row may hold is
checked by organism_rows.py, which also reads it back; genes, orthologs and proteins come afterwards.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OntologyInputError
from .organism_rows import ANY_ID, DIVISION_LABELS, check_row, keys_of, own_rows, own_rows_path
from .organisms import Organism, get_organism, list_organisms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def add_organism_row(
    name: str, label: str, taxon: int, division: str = "vertebrates", aliases: Sequence[str] = (), **fields: Any
) -> Organism:
    """Add an organism of the user's own, or change one; its references (genes, orthologs, proteins) come afterwards.

    Parameters
    ----------
    name
        Short name for the command line: lower-case letters, digits and hyphens.
    label
        Scientific name as NCBITaxon spells it.
    taxon
        NCBI taxonomy id.
    division
        Ensembl division, a key of `DIVISION_LABELS`; decides which ontologies serve its labels unless `labels` does.
    aliases
        Further names people use.
    **fields
        Any of assembly, dataset (BioMart), id_pattern (default: any word), mito_contig, plastid_contig, ribo_pattern,
        symbol_case and labels (label to prefixes to roots), as docs/organisms.md explains them; None leaves one out.

    Returns
    -------
    Organism
        The new organism, known to this process and every later one with the same home.

    Raises
    ------
    OntologyInputError
        When a field is unknown or malformed, or another organism answers to one of the names or the taxon. A row of
        the user's own may be given again, which replaces it; a shipped one may not.
    """
    given = {field: value for field, value in fields.items() if value is not None}
    row: dict[str, Any] = {"label": label, "taxon": taxon, "division": division, "aliases": list(aliases), **given}
    row.setdefault("assembly", "unstated")
    row.setdefault("dataset", "")
    row.setdefault("id_pattern", ANY_ID)
    check_row(name, row)
    row.setdefault("labels", {k: {p: list(r) for p, r in v.items()} for k, v in DIVISION_LABELS[division].items()})
    mine = own_rows()
    for other in list_organisms():
        if other.name == name and name in mine:
            continue
        theirs = keys_of(other.name, {"label": other.label, "taxon": other.taxon, "aliases": other.aliases})
        if clash := sorted(keys_of(name, row) & theirs):
            raise OntologyInputError("name", clash[0], f"a name or taxon of no other organism; it is {other.name}'s")
        if other.experiment == "_".join(label.split()).lower():
            raise OntologyInputError("label", label, f"a scientific name of no other organism; it is {other.name}'s")
    _write({**mine, name: row})
    return get_organism(name)


def _write(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the user's file in one step."""
    path = own_rows_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["# A user's own organisms, in the form of panatlas' data/organisms.toml. Written by add_organism_row."]
    for name, row in rows.items():
        lines += ["", f"[organisms.{name}]"]
        lines += [f"{field} = {_toml(value)}" for field, value in row.items() if field != "labels"]
        lines.append(f"[organisms.{name}.labels]")
        for label, prefixes in row.get("labels", {}).items():
            inner = ", ".join(f"{prefix} = {_toml(list(roots))}" for prefix, roots in prefixes.items())
            lines.append(f"{label} = {{ {inner} }}")
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
            out.flush()
            os.fsync(out.fileno())
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def _toml(value: Any) -> str:
    # Values are printable text, whole numbers, booleans and lists of them (check_row), where JSON is TOML too.
    return json.dumps(value, ensure_ascii=False)
