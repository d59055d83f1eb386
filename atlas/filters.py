"""The one query grammar: conditions on obs that are typed, and rendered as SQL whose values are bound, never pasted.

`where(...)` builds a `Where` in Python, `parse_where(...)` reads the same from the command line; both refuse columns
and values the schema does not know. Single conditions are in `conditions`; `handle` and the catalog run the query.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from .conditions import Condition, HasPart, OneOf, Range, Sql, Value, field_type, is_column, is_text
from .errors import AtlasInputError
from .lineage import expand_terms

JOINED_LABELS = ("disease", "self_reported_ethnicity")  # the labels whose values may be joined

Test = Callable[[str], Condition]
"""A condition that still waits for its column: what `between`, `is_not`, `contains` and `descendants` return."""


@dataclass(frozen=True)
class Where:
    """Conditions that all hold. Make one with `where` or `parse_where`, join two with `&`.

    Examples
    --------
    >>> query = where(cell_type=["T cell", "B cell"], nnz=between(500)) & where(disease=is_not("normal"))
    >>> query.columns
    ('cell_type', 'nnz', 'disease')
    >>> where(tissue="lung").to_sql()
    ('("tissue" IN (SELECT unnest(CAST(? AS VARCHAR[]))))', [['lung']])
    """

    conditions: tuple[Condition, ...] = ()
    """What must hold; none selects every cell."""

    def __and__(self, other: Where) -> Where:
        """Return the query whose cells satisfy both."""
        return Where((*self.conditions, *other.conditions))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns the query looks at, in order, once each."""
        return tuple(dict.fromkeys(c.column for c in self.conditions))

    def to_sql(self) -> Sql:
        """Return the query as a boolean SQL expression and its parameters; `TRUE` where it is unconditional."""
        parts = [c.to_sql() for c in self.conditions]
        return " AND ".join(f"({text})" for text, _ in parts) or "TRUE", [p for _, ps in parts for p in ps]


def where(conditions: Where | None = None, /, **columns: Value | Sequence[Value] | Test) -> Where:
    """Build a query from obs columns.

    Parameters
    ----------
    conditions
        A query to add to.
    **columns
        Per column a value, a list of values, or a test: `between`, `is_not`, `contains`, `descendants`.

    Raises
    ------
    AtlasInputError
        If a column is not in the schema (the nearest ones are named) or a value has another type.
    """
    built: list[Condition] = list(conditions.conditions if conditions else ())
    for column, value in columns.items():
        field_type(column)
        if callable(value):
            built.append(value(column))
        elif isinstance(value, str) or not isinstance(value, Iterable):
            built.append(OneOf(column, (value,)))
        else:
            built.append(OneOf(column, tuple(value)))
    return Where(tuple(built))


def passing(query: Where | None = None, *, every_cell: bool = False) -> Where:
    """Return the default view of a query: cells that passed QC, unless every cell is asked for."""
    return (Where() if every_cell else where(qc_pass=True)) & (query or Where())


def between(low: float | None = None, high: float | None = None) -> Test:
    """Ask for values from `low` to `high`, both included; None leaves a side open."""
    return lambda column: Range(column, low, high)


def is_not(*values: Value) -> Test:
    """Ask for cells that have none of `values`."""
    return lambda column: OneOf(column, values, negate=True)


def contains(*values: str) -> Test:
    """Ask for cells one of whose ` || `-joined values is one of `values`."""
    return lambda column: HasPart(column, values)


def descendants(*terms: str) -> Test:
    """Ask for ontology terms and everything below them; `terms` are ids or exact labels.

    The condition is on the label's id column, and on the parts of labels whose values may be joined.
    """
    return lambda column: _below(column, terms)


def _below(column: str, terms: Sequence[str]) -> Condition:
    """Return the condition that a cell's term is one of `terms` or below one of them."""
    label = column.removesuffix("_ontology_term_id")
    ids = f"{label}_ontology_term_id"
    if not is_column(ids):
        raise AtlasInputError(column, "descendants", "a label with ontology terms, e.g. cell_type or tissue")
    found = expand_terms(label, terms)
    return HasPart(ids, found) if label in JOINED_LABELS else OneOf(ids, found)


_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(==|!=|>=|<=|\*=|=|>|<|~)(.*)", re.ASCII | re.DOTALL)


def parse_where(*texts: str) -> Where:
    """Read conditions as the command line gives them, one per text.

    ``COLUMN=A,B`` one of, ``!=`` none of, ``>= <= > <`` bounds, ``*=`` contains, ``~`` descendants of a term. A value
    that holds a comma goes in double quotes; a quote inside is doubled.

    Raises
    ------
    AtlasInputError
        Naming the text, or the column and its nearest matches.

    Examples
    --------
    >>> parse_where('cell_type="CD4-positive, alpha-beta T cell",B cell', "nnz>=500") == where(
    ...     cell_type=["CD4-positive, alpha-beta T cell", "B cell"], nnz=between(500)
    ... )
    True
    """
    return Where(tuple(_parse_condition(text) for text in texts))


def _parse_condition(text: str) -> Condition:
    """Read one condition."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise AtlasInputError("where", text, "COLUMN OPERATOR VALUE, e.g. nnz>=500, cell_type=T cell, tissue~lung")
    column, sign, rest = match.groups()
    kind = field_type(column)
    try:
        row = next(csv.reader([rest], skipinitialspace=True, strict=True), []) or [""]
    except csv.Error as exc:
        allowed = f"values parted by commas, in double quotes if they hold a comma or quote ({exc})"
        raise AtlasInputError("where", text, allowed) from exc
    values = [value.strip() for value in row]
    if sign == "~":
        return _below(column, values)
    if sign == "*=":
        return HasPart(column, tuple(values))
    typed = tuple(_read_value(column, kind, value) for value in values)
    if sign in ("=", "==", "!="):
        return OneOf(column, typed, negate=sign == "!=")
    if len(typed) != 1:
        raise AtlasInputError("where", text, "one bound after < <= > >=")
    bound: dict[str, object] = {"low" if ">" in sign else "high": typed[0]}
    return Range(column, open_low=sign == ">", open_high=sign == "<", **bound)


def _read_value(column: str, kind: pa.DataType, text: str) -> Value:
    """Return a word of the command line as a value of the column's type."""
    if is_text(column):
        return text
    if pa.types.is_boolean(kind):
        if text.lower() not in ("true", "false"):
            raise AtlasInputError(column, text, "true or false")
        return text.lower() == "true"
    try:
        return int(text) if pa.types.is_integer(kind) else float(text)
    except ValueError:
        raise AtlasInputError(column, text, "a whole number" if pa.types.is_integer(kind) else "a number") from None
