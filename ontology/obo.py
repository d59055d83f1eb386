"""OBO text to records: what real files break parsers with is repaired first, then obonet reads it, else pronto.

`repair_obo` keeps the few tags a term is made of and drops the rest: `import:` lines (which would reach the network),
xrefs, definitions, subsets and undeclared relations, which is where the parsers stumble. Names and synonyms are read
here, because obonet cuts a text at ` ! ` and at `{`. What was dropped or mended is counted with its lines.
docs/decisions/0009 has the measurements. ontology_files.py opens files and calls this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import OntologyInputError
from .obo_parsers import PARSER_FAULTS, SAME_RELATION, records_by_obonet, records_by_pronto, with_alternatives
from .term_table import Fault, count_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .obo_parsers import Record

LINE_LIMIT = 100_000
"""Characters of a line; the longest of 34 real files has 13 thousand."""

_ID = r"[^\s!{\"]+"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*([A-Z]+)?')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "W": " "}
# The Plant Ontology repeats the scope in the text: `leaf primordium (exact)`, `hoja (Spanish, exact)`.
_SCOPE_IN_TEXT = re.compile(r"(?:[A-Z][a-z]+, )?exact(?:, [a-z]+)?\)")


@dataclass(frozen=True)
class CleanObo:
    """An OBO file reduced to what every parser reads."""

    text: str
    """Stanzas of ids, relations and obsoletion, nothing else."""
    names: Mapping[str, str]
    """Name of each defined term."""
    synonyms: Mapping[str, tuple[str, ...]]
    """Its synonyms of the scopes asked for."""
    name: str
    """What the header calls the ontology; empty where it does not say."""
    version: str
    """The header's data-version, else date; empty where it has neither."""
    faults: tuple[Fault, ...]
    """What was dropped or mended."""


def read_obo(
    data: bytes, where: str, relations: tuple[str, ...], scopes: tuple[str, ...]
) -> tuple[CleanObo, dict[str, Record]]:
    """Return the repaired file and its records for an `Ontology`.

    Raises
    ------
    OntologyInputError
        When it is no OBO text at all; the message names the line.
    """
    clean = repair_obo(data, where, relations, scopes)
    reasons = []
    for reader in (records_by_obonet, records_by_pronto):
        try:
            records = reader(clean.text, relations)
        except PARSER_FAULTS as error:
            reasons.append(f"{reader.__name__.removeprefix('records_by_')}: {type(error).__name__}: {error}"[:200])
            continue
        # In the order of the file; ids that are used and not defined are no records, `make_table` counts them.
        whole = {i: records[i] | {"label": name, "synonyms": clean.synonyms[i]} for i, name in clean.names.items()}
        return clean, with_alternatives(whole)
    raise OntologyInputError("path", where, f"OBO that a parser reads ({'; '.join(reasons)})")


def repair_obo(data: bytes, where: str, relations: tuple[str, ...], scopes: tuple[str, ...]) -> CleanObo:
    """Return the file with what parsers stumble over taken out.

    Parameters
    ----------
    data
        The unpacked bytes of the file.
    where
        Its name, for messages.
    relations
        Relations to keep, `is_a` among them or not.
    scopes
        Scopes of the synonyms to keep, e.g. `EXACT`.

    Raises
    ------
    OntologyInputError
        When the bytes are not UTF-8 text or hold no `[Term]` stanza.
    """
    text = _decoded(data, where)
    repair = _Repair(relations, scopes)
    for number, line in enumerate(text.splitlines(), start=1):
        repair.take(number, line)
    repair.end_stanza()
    if not repair.names:
        raise OntologyInputError("path", where, "OBO with at least one [Term] stanza that has an id: line")
    # pronto refuses a relation that no [Typedef] declares.
    typedefs = "".join(f"\n[Typedef]\nid: {name}\nname: {name}\n" for name in sorted({*relations} - {"is_a"}))
    faults = tuple(f for kind, cases in repair.cases.items() for f in count_fault(kind, cases))
    header = repair.header
    return CleanObo(
        text="format-version: 1.4\nontology: repaired\n" + "".join(repair.out) + typedefs,
        names=repair.names,
        synonyms=repair.synonyms,
        name=header.get("ontology", ""),
        version=header.get("data-version") or header.get("date", ""),
        faults=faults,
    )


def _decoded(data: bytes, where: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise OntologyInputError("path", where, "UTF-8 text; this is UTF-16, save it again as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OntologyInputError(
            "path", where, f"UTF-8 text; line {line} holds byte 0x{data[error.start]:02x}, save it again as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise OntologyInputError("path", where, f"text; line {line} holds a zero byte, so this is no ontology")
    return text


class _Repair:
    """The state of one pass over the lines of a file."""

    def __init__(self, relations: tuple[str, ...], scopes: tuple[str, ...]) -> None:
        self.relations, self.scopes = frozenset(relations), frozenset(scopes)
        self.header: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.synonyms: dict[str, tuple[str, ...]] = {}
        self.out: list[str] = []
        self.cases: dict[str, list[str]] = {}
        self._stanza = "header"
        self._start = 0
        self._lines: list[str] = []
        self._id, self._name, self._others = "", "", []

    def take(self, number: int, line: str) -> None:
        """Read one line."""
        line = line.strip()
        if not line or line.startswith("!"):
            return
        if line.startswith("["):
            self.end_stanza()
            self._stanza, self._start = line.split("]")[0][1:], number
            return
        tag, colon, value = line.partition(":")
        if not colon or len(line) > LINE_LIMIT or re.search(r"\s", tag):
            self._fault("malformed", number, line)
            return
        value = value.strip()
        if self._stanza == "header":
            if tag == "import":
                self._fault("import not followed", number, value)
            self.header.setdefault(tag, value)
        elif self._stanza == "Term":
            self._take_clause(number, tag, value)

    def _take_clause(self, number: int, tag: str, value: str) -> None:
        if tag == "name":
            if self._name:  # two names merged from two sources: in the real files the last is the official one
                self._fault("second name", number, f"{self._id} {self._name}")
            self._name = _unescape(_without_qualifiers(value))
        elif tag == "synonym":
            self._take_synonym(number, value)
        elif tag == "is_obsolete":
            if value.lower().startswith("true"):
                self._lines.append("is_obsolete: true")
        elif tag == "relationship":
            found = re.match(rf"({_ID})\s+({_ID})", value)
            relation = SAME_RELATION.get(found[1], found[1]) if found else ""
            if found is None:
                self._fault("malformed", number, f"relationship: {value}")
            elif relation in self.relations:
                self._lines.append(f"relationship: {relation} {found[2]}")
        elif tag in ("id", "is_a", "alt_id", "replaced_by", "consider"):
            found = re.match(_ID, value)
            if found is None:
                self._fault("malformed", number, f"{tag}: {value}")
            elif tag == "id":
                self._id = self._id or found[0]
            elif tag != "is_a" or "is_a" in self.relations:
                self._lines.append(f"{tag}: {found[0]}")

    def _take_synonym(self, number: int, value: str) -> None:
        found = _QUOTED.match(value)
        if found is None:
            self._fault("malformed", number, f"synonym: {value}")
            return
        scope = found[2] or "RELATED"  # as the format says where none is given
        if scope in self.scopes:
            self._others.append(_without_scope(_unescape(found[1])))

    def end_stanza(self) -> None:
        """Write the stanza that ends here."""
        if self._stanza == "Term" and not self._id:
            self._fault("malformed", self._start, "[Term] without an id")
        elif self._stanza == "Term" and self._id in self.names:
            self._fault("duplicate", self._start, f"{self._id}, defined before; the first counts")
        elif self._stanza == "Term":
            self.names[self._id] = self._name
            self.synonyms[self._id] = tuple(dict.fromkeys(filter(None, self._others)))
            self.out.append("\n".join(("\n[Term]", f"id: {self._id}", *dict.fromkeys(self._lines), "")))
        self._stanza, self._lines = "", []
        self._id, self._name, self._others = "", "", []

    def _fault(self, kind: str, number: int, text: str) -> None:
        self.cases.setdefault(kind, []).append(f"line {number}: {text}")


def _without_qualifiers(value: str) -> str:
    """Return a value without `{source="..."}` at its end. No expression: on hostile lines they take minutes."""
    front, brace, inside = value.rpartition("{")
    return front.rstrip() if brace and inside.endswith("}") and "=" in inside else value


def _without_scope(text: str) -> str:
    front, _, inside = text.rpartition("(")
    return front.rstrip() if front and _SCOPE_IN_TEXT.fullmatch(inside) else text


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), text)
