"""Curating labels: `panatlas curate labels.csv` writes a table of what mapped how, `--accept` takes the answers back.

What maps and what may be accepted is the ontology floor's (`ontology/curate.py`), spreadsheets are label_tables'. Here
columns get their meaning, the table lies beside its input and loses no answer when it is written again, and accepted
rows become this user's overrides, all or none.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from atlas import ContractError, Finding, provenance, standardise
from ontology import LABELS, curate, get_organism, overrides

from .errors import CatalogInputError
from .label_tables import read_rows, write_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd

SUGGESTIONS = tuple(f"suggestion_{i}" for i in range(1, 6))
ANSWERS = ("accept", "who", "when", "why")
HEADER = (
    *("label", "organism", "text", "n", "how", "term_id", "term_label", "confidence", "reason"),
    *SUGGESTIONS,
    *ANSWERS,
)
"""Columns of a curator's table; the last four are the curator's."""
COUNTS = ("n", "n_cells", "count")
"""Columns that say how many cells a line stands for."""
OUT = ".curated.csv"
MAX_TEXTS = 200_000
"""Most distinct texts of a file; beyond, the column is no label."""
MAX_HELD = 32 << 20
"""Most characters of a file's distinct texts together, all held in memory; beyond, they are no labels."""
_SHOWN = 20  # refused rows that are named


@dataclass(frozen=True)
class Curation:
    """A curator's table, as written."""

    table: Path
    """Where it lies."""
    rows: tuple[dict[str, Any], ...]
    """Its rows, by the names of `HEADER`."""
    without_suggestions: int
    """Unmapped texts that got no suggestions because there were too many; they stand last among the unmapped."""
    carried: int
    """Answered rows the table held already whose text is not among those of this call; they stand at its end."""

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return, per label and way of matching, how many texts and how many cells or lines."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for row in self.rows:
            here = found.setdefault(row["label"], {}).setdefault(row["how"], {"texts": 0, "cells": 0})
            here["texts"] += 1
            here["cells"] += row["n"]
        return found

    def lines(self) -> list[str]:
        """Return what people are told."""
        said = []
        for label, hows in self.summary().items():
            parts = ", ".join(f"{how} {n['texts']}" for how, n in hows.items())
            said.append(f"{label}: {sum(n['texts'] for n in hows.values())} texts ({parts})")
        if self.without_suggestions:
            said.append(f"{self.without_suggestions} rarer texts were left without suggestions")
        if self.carried:
            said.append(f"{self.carried} answers about other texts were there already and stand at the end")
        again = f"panatlas curate {shlex.quote(str(self.table))} --accept"
        said.append(f"{self.table}: fill in accept, who and why, then run {again}")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "table": str(self.table),
            "summary": self.summary(),
            "without_suggestions": self.without_suggestions,
            "carried": self.carried,
            "rows": list(self.rows),
        }


@dataclass(frozen=True)
class Acceptance:
    """What became of a table that came back."""

    added: Mapping[str, int]
    """Label to overrides that are new."""
    files: tuple[Path, ...]
    """Files that hold them."""
    answered: int
    """Rows that were filled in; those not new were there already."""
    digest: str
    """sha256 of all overrides now in force, as receipts name it."""

    def lines(self) -> list[str]:
        """Return what people are told."""
        added = sum(self.added.values())
        said = [f"{self.answered} rows accepted: {added} new overrides, {self.answered - added} known or said twice"]
        said += [f"{path}" for path in self.files]
        if added:
            said.append("they hold from the next ingest on; what an atlas holds already keeps its labels")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self) | {"files": [str(path) for path in self.files], "added": dict(self.added)}


def curate_table(
    file: Path, *, label: str | None = None, column: str | None = None, organism: str = "human"
) -> Curation:
    """Map a file's author labels and write the curator's table beside it.

    Answers that are in the table already stay in it, whatever is asked for now, until an override in force says the
    same.

    Parameters
    ----------
    file
        CSV or TSV (gzipped or not) with a column per label, or with columns `label` and `text`; or a file of cells.
        Labels are found by their own names and those of atlas/data/columns.tsv. `organism` and `n` are optional.
    label
        Only this one of the nine labels.
    column
        The column that holds it, where its name does not say so.
    organism
        Whose cells rows describe that do not say.

    Raises
    ------
    CatalogInputError
        If the file cannot be read, or no column is a label's.
    ContractError
        If a file of cells cannot be opened.
    UnknownOrganismError
        If an organism is not known.
    """
    if label is not None and label not in LABELS:
        raise CatalogInputError("label", label, f"one of {', '.join(LABELS)}")
    if column is not None and label is None:
        raise CatalogInputError("column", column, "a label beside it: --label cell_type")
    counts = _count(file, label, column, get_organism(organism).name)
    found, left = curate.curate_labels(counts)
    target = _table_beside(file)
    given = _answers_in(target)
    rows = tuple(_row(one, given.pop((one.label, one.organism, one.match.text), {})) for one in found)
    write_rows(target, HEADER, ([row[name] for name in HEADER] for row in (*rows, *given.values())))
    return Curation(target, rows, left, len(given))


def accept_table(file: Path, *, organism: str = "human", who: str | None = None) -> Acceptance:
    """Take a curator's filled table: every accepted row becomes an override of this user, or none does.

    Parameters
    ----------
    file
        A table that `curate_table` wrote, with `accept` (a term id, or the number of a suggestion) and `why` filled in.
    organism
        Organism of rows that name none.
    who
        Curator of rows that name none.

    Raises
    ------
    CatalogInputError
        If the file is no such table.
    ContractError
        If a row cannot be kept; each is named with its line and the reason, and nothing is written.
    """
    answers = list(_filled(file, organism, who or ""))
    judged = curate.judge_answers(answers)
    if judged.refused:
        expected, remedy = "a decision that can be kept", "correct the row or empty its accept, and run it again"
        findings = [
            Finding("override-refused", "error", f"{a.where}, {a.label} {a.text[:60]!r}", why, expected, remedy)
            for a, why in judged.refused[:_SHOWN]
        ]
        raise ContractError(f"{file.name} ({len(judged.refused)} of {len(answers)} answers)", findings)
    added = overrides.add_overrides(judged.overrides)
    files = tuple(overrides.user_overrides_path(label) for label in added)
    return Acceptance(added, files, len(answers), overrides.overrides_digest())


def _count(file: Path, label: str | None, column: str | None, organism: str) -> Counter[tuple[str, str, str]]:
    """Return how many cells or lines carry each (label, organism, text) of a file."""
    if file.is_dir() or file.suffix in (".h5ad", ".h5"):
        said = _said_in_cells(provenance.read_obs(file), file, label, column)
    else:
        said = _said_in_rows(file, label, column)
    counts: Counter[tuple[str, str, str]] = Counter()
    names: dict[str, str] = {"": organism, "*": organism}  # a curator's table may be curated again
    held = 0
    for one, named, text, n in said:
        if named not in names:
            names[named] = get_organism(named).name
        held += len(text) if (one, names[named], text) not in counts else 0
        counts[one, names[named], text] += n
        if len(counts) > MAX_TEXTS or held > MAX_HELD:
            most = f"at most {MAX_TEXTS} distinct texts of {MAX_HELD} characters; is {one} really a label?"
            raise CatalogInputError("file", str(file), most)
    if not counts:
        raise CatalogInputError("file", str(file), "at least one row")
    return counts


def _said_in_rows(file: Path, label: str | None, column: str | None) -> Iterator[tuple[str, str, str, int]]:
    """Yield label, organism, text and cells of a table's rows."""
    columns: dict[str, str] | None = None
    names: dict[str, str] = {}
    for where, row in read_rows(file):
        n = next((_number(row[c], where, file) for c in COUNTS if c in row), 1)
        if columns is None:
            names = standardise.label_columns(tuple(row))
            long = {"label", "text"} <= set(row) and column is None
            columns = {} if long else _columns(tuple(row), label, column, file)
        said = row.get(names.get("organism", ""), "").strip()
        if not columns:
            if row["label"] not in LABELS:
                raise CatalogInputError("label", row["label"], f"one of {', '.join(LABELS)}, in line {where}")
            if label in (None, row["label"]):
                yield row["label"], said, row.get("text", ""), n
        for one, name in columns.items():
            yield one, said, row.get(name, ""), n


def _said_in_cells(
    obs: pd.DataFrame, file: Path, label: str | None, column: str | None
) -> Iterator[tuple[str, str, str, int]]:
    """Yield label, organism, text and cells of a file's obs."""
    named = standardise.label_columns(tuple(obs.columns)).get("organism")
    organisms = obs[named].astype(object).fillna("").astype(str) if named else None
    for one, name in _columns(tuple(obs.columns), label, column, file).items():
        texts = obs[name].astype(object).fillna("").astype(str)
        for said, text in texts.groupby(organisms, sort=True) if organisms is not None else [("", texts)]:
            yield from ((one, said, str(value), int(n)) for value, n in text.value_counts().sort_index().items())


def _columns(names: Iterable[str], label: str | None, column: str | None, file: Path) -> dict[str, str]:
    """Return label to the column that holds it."""
    names = tuple(str(name) for name in names)
    if column is not None and label is not None:
        if column not in names:
            raise CatalogInputError("column", column, f"one of {', '.join(names[:20])}")
        return {label: column}
    found = standardise.label_columns(names)
    found = (
        {label: found[label]} if label in found else {k: v for k, v in found.items() if k != "organism" and not label}
    )
    if not found:
        wanted = f"a column for {label}" if label else "a column for one of the nine labels"
        has = ", ".join(names[:20])
        raise CatalogInputError("file", str(file), f"{wanted}; it has {has}: name one with --label and --column")
    return found


def _number(text: str, where: int, file: Path) -> int:
    if not re.fullmatch(r"\d{1,12}(\.0)?", text.strip(), re.ASCII):
        raise CatalogInputError("n", text[:40], f"a whole number of cells in line {where} of {file.name}")
    return int(text.strip().split(".")[0])


def _table_beside(file: Path) -> Path:
    """Return where a file's table is written; a curator's table is written where it lies.

    Only a plain `.csv` loses its ending: labels.csv, labels.tsv and labels.h5ad have a table each.
    """
    return file if file.name.endswith(OUT) else file.with_name(file.name.removesuffix(".csv") + OUT)


def _row(one: curate.Curated, former: Mapping[str, str]) -> dict[str, Any]:
    match = one.match
    near = [_shown(i, label) for i, label in match.suggestions]
    values = (
        *(one.label, one.organism, match.text, one.n, match.how, match.term_id, match.label, match.confidence),
        match.reason,
        *(near + [""] * len(SUGGESTIONS))[: len(SUGGESTIONS)],
        *(former.get(name, "") for name in ANSWERS),
    )
    return dict(zip(HEADER, values, strict=True))


def _shown(term_id: str, label: str) -> str:
    """Return a suggestion as a cell: its id, then its label in brackets; a word of cell_culture alone."""
    return term_id if term_id == label else f"{term_id} ({label})"


def _suggested(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ids a row suggests."""
    return tuple(row.get(name, "").partition(" (")[0].strip() for name in SUGGESTIONS)


def _answers_in(table: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the answered rows of a table that is about to be written again, but those already in force.

    The key is label, organism and text; of several rows for one the others have their line in it, so that none is lost.
    A suggestion's number becomes the id it meant, and `n` 0: what comes back unasked stands in no line of the input.
    """
    if not table.is_file():
        return {}
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for where, row in read_rows(table):
        if not {"label", "text", *ANSWERS} <= set(row):
            raise CatalogInputError("file", str(table), "a curator's table, or nothing: it would be overwritten")
        if not any(row[name].strip() for name in ANSWERS):
            continue
        answer = _answer(f"line {where}", row, "", "")
        if curate.in_force(answer):
            continue
        ids, said = answer.suggestions, answer.accept
        chosen = ids[int(said) - 1] if re.fullmatch("[1-5]", said) and ids[int(said) - 1] else said
        key = (row["label"], row.get("organism", ""), row["text"])
        key = (*key, answer.where) if key in found else key
        found[key] = {name: row.get(name, "") for name in HEADER} | {"n": "0", "accept": chosen}
    return found


def _filled(file: Path, organism: str, who: str) -> Iterator[curate.Answer]:
    """Yield the answers of a table, in its order."""
    for where, row in read_rows(file):
        missing = [name for name in ("label", "text", "accept") if name not in row]
        if missing:
            raise CatalogInputError("file", str(file), f"a curator's table with the columns {', '.join(missing)}")
        if row["accept"].strip():
            yield _answer(f"line {where}", row, organism, who)


def _answer(where: str, row: Mapping[str, str], organism: str, who: str) -> curate.Answer:
    """Return a row as an answer; a number that a spreadsheet made 1.0 is 1 again."""
    return curate.Answer(
        where, row["label"].strip(), row["text"], row.get("organism", "").strip() or organism,
        re.sub(r"^(\d)\.0$", r"\1", row["accept"].strip()), row.get("who", "").strip() or who,
        row.get("when", ""), row.get("why", ""), _suggested(row),
    )  # fmt: skip
