"""Single conditions on one obs column, each checked against the schema and rendered as SQL.

Values never become program text: they are bound parameters. `filters` puts conditions together and is where users
start; nothing here reads a store.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from ontology import SEPARATOR

from . import schema
from .errors import AtlasInputError

Value = str | int | float | bool
Sql = tuple[str, list[object]]
"""A boolean SQL expression with `?` marks, and the parameters bound to them in order."""

_TYPES = {field.name: field.type for field in schema.OBS}
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Condition(Protocol):
    """What every condition can do: name its column and render itself."""

    @property
    def column(self) -> str:
        """Column of obs."""
        ...

    def to_sql(self) -> Sql:
        """Return the condition as SQL with bound parameters."""
        ...


@dataclass(frozen=True)
class OneOf:
    """The column has one of some values, or none of them; without values it selects nothing, or everything."""

    column: str
    """Column of obs."""
    values: tuple[Value, ...]
    """Values of the column's type."""
    negate: bool = False
    """True selects the cells that have none of the values; NaN is none of any values."""

    def __post_init__(self) -> None:
        """Refuse an unknown column and values of another type."""
        object.__setattr__(self, "values", tuple(dict.fromkeys(_checked(self.column, v) for v in self.values)))

    def to_sql(self) -> Sql:
        """Return the condition as SQL with one bound list."""
        if not self.values:
            return str(self.negate).upper(), []
        members = f"(SELECT unnest(CAST(? AS {_sql_type(self.column)}[])))"
        test = f'"{self.column}" {"NOT IN" if self.negate else "IN"} {members}'
        if self.negate and pa.types.is_floating(_TYPES[self.column]):
            test = f'("{self.column}" IS NULL OR {test})'  # the tables hold what was not measured as NULL
        return test, [list(self.values)]


@dataclass(frozen=True)
class Range:
    """The column lies between two bounds; NaN lies nowhere."""

    column: str
    """A numeric column of obs."""
    low: float | None = None
    """Lower bound, in the column's unit; None for none."""
    high: float | None = None
    """Upper bound, in the column's unit; None for none."""
    open_low: bool = False
    """True leaves the lower bound itself out."""
    open_high: bool = False
    """True leaves the upper bound itself out."""

    def __post_init__(self) -> None:
        """Refuse text and truth columns, bounds of another type, and a range without bounds."""
        if is_text(self.column) or pa.types.is_boolean(_TYPES[self.column]):
            raise AtlasInputError(self.column, "a range", "values: only numeric columns are ordered")
        if self.low is None and self.high is None:
            raise AtlasInputError(self.column, "a range without bounds", "at least one bound")
        for name in ("low", "high"):
            if (bound := getattr(self, name)) is not None:
                object.__setattr__(self, name, _checked(self.column, bound))

    def _tests(self) -> list[tuple[str, Value]]:
        """Return each bound with its comparison."""
        low = [] if self.low is None else [(">" if self.open_low else ">=", self.low)]
        high = [] if self.high is None else [("<" if self.open_high else "<=", self.high)]
        return low + high

    def to_sql(self) -> Sql:
        """Return the condition as SQL; DuckDB sorts NaN above every number, so it is left out by name."""
        tests = [f'"{self.column}" {sign} CAST(? AS {_sql_type(self.column)})' for sign, _ in self._tests()]
        if pa.types.is_floating(_TYPES[self.column]):
            tests.append(f'NOT isnan("{self.column}")')
        return " AND ".join(tests), [bound for _, bound in self._tests()]


@dataclass(frozen=True)
class HasPart:
    """One of the values joined by ` || ` in a cell is one of some values."""

    column: str
    """A categorical column of obs."""
    values: tuple[str, ...]
    """Values looked for among the parts."""

    def __post_init__(self) -> None:
        """Refuse a column that is not categorical."""
        field_type(self.column)
        if self.column not in schema.categories(schema.OBS):
            raise AtlasInputError(self.column, "contains", "a categorical column, e.g. disease")
        object.__setattr__(self, "values", tuple(dict.fromkeys(str(_checked(self.column, v)) for v in self.values)))

    def to_sql(self) -> Sql:
        """Return the condition as SQL with one bound list."""
        return f"list_has_any(string_split(\"{self.column}\", '{SEPARATOR}'), CAST(? AS VARCHAR[]))", [
            list(self.values)
        ]


def is_column(name: str) -> bool:
    """Return whether obs has a column of this name."""
    return name in _TYPES


def field_type(column: str) -> pa.DataType:
    """Return a column's type, or say which columns are meant."""
    if column not in _TYPES:
        near = difflib.get_close_matches(str(column), _TYPES, n=3, cutoff=0.5)
        raise AtlasInputError("column", column, f"a column of obs; nearest: {', '.join(near) or 'see docs/query.md'}")
    return _TYPES[column]


def is_text(column: str) -> bool:
    """Return whether a column holds strings."""
    kind = field_type(column)
    return pa.types.is_dictionary(kind) or pa.types.is_large_string(kind)


def _sql_type(column: str) -> str:
    """Return DuckDB's name of a column's type; comparing in it keeps 0.1 equal to a stored 0.1."""
    kind = _TYPES[column]
    if pa.types.is_floating(kind):
        return "FLOAT" if kind == pa.float32() else "DOUBLE"
    return "VARCHAR" if is_text(column) else "BOOLEAN" if pa.types.is_boolean(kind) else "BIGINT"


def _checked(column: str, value: object) -> Value:
    """Return a value as the column's type, or refuse it; nothing is rounded or truncated."""
    kind = field_type(column)
    if isinstance(value, np.generic):
        value = value.item()
    if is_text(column):
        if not isinstance(value, str):
            raise AtlasInputError(column, value, "text")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise AtlasInputError(column, value, "text without NUL and without lone surrogates, which no store holds")
        return value
    if pa.types.is_boolean(kind):
        if not isinstance(value, bool):
            raise AtlasInputError(column, value, "True or False")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AtlasInputError(column, value, "a number")
    if pa.types.is_integer(kind):
        if not float(value).is_integer() or not -(2**63) < value < 2**63:
            raise AtlasInputError(column, value, "a whole number of at most 63 bits")
        return int(value)
    if not math.isfinite(value) or (kind == pa.float32() and abs(value) > _FLOAT32_MAX):
        raise AtlasInputError(column, value, "a finite number the column can hold; NaN equals nothing")
    return float(value)
