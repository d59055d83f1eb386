"""A user's own organisms: `add_organism_row` adds one or changes it, `tentative_organism` takes it back on failure.

An organism is nothing but a row and its references (snapshots.py), so adding one takes no code. What a row may hold is
checked by organism_rows.py, which also reads it back; genes, orthologs and proteins come afterwards.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .cached import locked, write_whole
from .errors import OntologyInputError
from .organism_rows import ANY_ID, DIVISION_LABELS, check_row, keys_of, own_rows, own_rows_path, stored_rows
from .organisms import Organism, get_organism, list_organisms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def add_organism_row(
    name: str,
    label: str,
    taxon: int,
    division: str | None = None,
    aliases: Sequence[str] | None = None,
    **fields: Any,
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
        Ensembl division, a key of `DIVISION_LABELS`, vertebrates if never given; decides which ontologies serve its
        labels unless `labels` does.
    aliases
        Further names people use.
    **fields
        Any of assembly, dataset (BioMart), id_pattern (default: any word), mito_contig, plastid_contig, ribo_pattern,
        symbol_case and labels (label to prefixes to roots), as docs/organisms.md explains them. What is None keeps
        its value in a row that is there.

    Returns
    -------
    Organism
        The new organism, known to this process and every later one with the same home.

    Raises
    ------
    OntologyInputError
        When a field is unknown or malformed, or another organism answers to one of the names or the taxon. A row of
        the user's own may be given again with other fields, never with another label or taxon: stored cells and
        references go by them.
    """
    given = {"label": label, "taxon": taxon, "division": division, "aliases": aliases, **fields}
    given = {field: value for field, value in given.items() if value is not None}
    row = _complete(name, given)
    check_row(name, row)
    _refuse_clash(name, row)  # before a folder is made
    with locked(own_rows_path().parent):
        row = _complete(name, given)
        _refuse_clash(name, row)  # somebody else may have been quicker
        _write({**stored_rows(), name: row})  # with the rows that give way to shipped ones: they are the user's
    return get_organism(name)


@contextmanager
def tentative_organism(name: str, label: str, taxon: int, **fields: Any) -> Iterator[Organism]:
    """Add an organism for the time of the block, and for good when the block ends well; else the row is as it was.

    Parameters
    ----------
    name, label, taxon, **fields
        As in `add_organism_row`.
    """
    before = stored_rows().get(name)
    organism = add_organism_row(name, label, taxon, **fields)
    try:
        yield organism
    except BaseException:
        with locked(own_rows_path().parent):
            rows = {key: row for key, row in stored_rows().items() if key != name}
            _write(rows | ({name: before} if before is not None else {}))
        raise


def _complete(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole row: what is given, over the row that is there, over what an unstated field is.

    Raises
    ------
    OntologyInputError
        When the row that is there has another label or taxon.
    """
    there = own_rows().get(name, {})
    for field in ("label", "taxon"):
        if there and there[field] != given[field]:
            wanted = f"{there[field]!r} as in the row of {name} that is there; another organism takes another name"
            raise OntologyInputError(field, given[field], wanted)
    unstated = {"division": "vertebrates", "aliases": [], "assembly": "unstated", "dataset": "", "id_pattern": ANY_ID}
    row = {**unstated, **there, **given}
    row["aliases"] = list(row["aliases"])
    if "labels" not in row or ("division" in given and "labels" not in given):
        served = DIVISION_LABELS.get(row["division"], {})  # check_row refuses a division that is none
        row["labels"] = {label: {p: list(r) for p, r in prefixes.items()} for label, prefixes in served.items()}
    return row


def _refuse_clash(name: str, row: Mapping[str, Any]) -> None:
    mine = own_rows()
    for other in list_organisms():
        if other.name == name and name in mine:
            continue
        theirs = keys_of(other.name, {"label": other.label, "taxon": other.taxon, "aliases": other.aliases})
        if clash := sorted(keys_of(name, row) & theirs):
            raise OntologyInputError("name", clash[0], f"a name or taxon of no other organism; it is {other.name}'s")
        if other.experiment == "_".join(row["label"].split()).lower():
            wanted = f"a scientific name of no other organism; it is {other.name}'s"
            raise OntologyInputError("label", row["label"], wanted)


def _write(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the user's file in one step."""
    lines = ["# A user's own organisms, in the form of panatlas' data/organisms.toml. Written by add_organism_row."]
    for name, row in rows.items():
        lines += ["", f"[organisms.{name}]"]
        lines += [f"{field} = {_toml(value)}" for field, value in row.items() if field != "labels"]
        lines.append(f"[organisms.{name}.labels]")
        for label, prefixes in row.get("labels", {}).items():
            inner = ", ".join(f"{prefix} = {_toml(list(roots))}" for prefix, roots in prefixes.items())
            lines.append(f"{label} = {{ {inner} }}")
    write_whole(own_rows_path(), ("\n".join(lines) + "\n").encode())


def _toml(value: Any) -> str:
    # Values are printable text, whole numbers, booleans and lists of them (check_row), where JSON is TOML too.
    return json.dumps(value, ensure_ascii=False)
