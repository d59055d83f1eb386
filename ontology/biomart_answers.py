"""What an answer of BioMart must look like: checks for its listings, and rows of its queries, proved before use.

BioMart answers errors, maintenance pages and half tables alike with status 200, so the text itself is judged here. A
passing fault (database down, cut short) is tried again by biomart_http.py; a lasting one says what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from .biomart_http import BadAnswerError
from .errors import ReferenceMismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

STAMP = "[success]"
"""Last line of a whole answer, sent because the query asks for a completion stamp."""
ROOTS = {"registry": "MartRegistry", "configuration": "DatasetConfig"}
"""Root element of the listings that are XML."""
WIDTHS = {"datasets": (8, 1), "attributes": (4, 0), "filters": (6, 0)}
"""Of the listings that are tables: fewest columns that biomart 0.9.2 reads, and which of them is the name."""


def check_listing(kind: str, text: str) -> None:
    """Prove a registry, datasets, attributes, filters or configuration listing before the package parses it.

    Raises
    ------
    BadAnswerError
        Naming the fault; the package would raise IndexError or ParseError, or believe it.
    """
    _refuse_excuses(text, xml=kind in ROOTS)
    if kind in ROOTS:
        # Entities are how a few hundred bytes of XML become gigabytes; BioMart's own XML defines none.
        if "<!ENTITY" in text:
            raise BadAnswerError(f"a {kind} that defines XML entities", passing=False)
        try:
            root = ET.fromstring(text)  # noqa: S314 - no entity gets here
        except ET.ParseError as error:
            raise BadAnswerError(f"a {kind} that is no whole XML ({error})", passing=True) from error
        if root.tag != ROOTS[kind]:
            raise BadAnswerError(f"a {kind} whose root is <{root.tag[:40]}>, not <{ROOTS[kind]}>", passing=False)
        marts = root.findall("MartURLLocation") if kind == "registry" else []
        keys = {"name", "displayName", "serverVirtualSchema"}
        if any(not keys <= set(mart.attrib) or not mart.get("name") for mart in marts):
            raise BadAnswerError("a registry with marts that lack a name or a schema", passing=False)
        return
    lines = [line for line in text.split("\n") if line.strip()]
    width, named = WIDTHS[kind]
    fields = (line.split("\t") for line in lines)
    narrow = next((n for n, row in enumerate(fields, 1) if len(row) < width or not row[named].strip()), None)
    if narrow is not None or not text.endswith("\n"):
        where = f"line {narrow or len(lines)} of {len(lines)}"
        raise BadAnswerError(f"a list of {kind} that is cut short or of another form at {where}", passing=True)


def check_count(text: str) -> None:
    """Prove the answer to a count: one whole number.

    Raises
    ------
    BadAnswerError
        Where it is anything else.
    """
    _refuse_excuses(text, xml=False)
    if not re.fullmatch(r"\d{1,12}", text.strip(), re.ASCII):
        raise BadAnswerError(f"{text.strip()[:60]!r} where a count was asked for", passing=False)


def check_complete(text: str) -> None:
    """Prove that the answer to a query is a table that reached its end.

    Raises
    ------
    BadAnswerError
        For an error message, a web page, an empty answer, or one without its completion stamp.
    """
    _refuse_excuses(text, xml=False)
    if not text.endswith(f"{STAMP}\n") and not text.endswith(f"\n{STAMP}"):
        raise BadAnswerError(f"an answer cut short: its last line is {text[-60:]!r}, not {STAMP}", passing=True)


def read_rows(text: str, columns: Sequence[tuple[str, str]], what: str) -> list[tuple[str, ...]]:
    """Return the rows of a complete answer in the order of `columns`, without the repeated ones.

    Parameters
    ----------
    text
        An answer that `check_complete` let pass.
    columns
        (attribute, heading) pairs; headings are the display names that the dataset lists.
    what
        The dataset and server, for the message.

    Raises
    ------
    ReferenceMismatchError
        When headings are missing, new or twice there, or a row has another number of fields. Headings in another
        order are no error: the columns are put in order by name.
    """
    lines = text.removesuffix("\n").removesuffix(STAMP).removesuffix("\n").split("\n")
    header = lines[0].split("\t")
    wanted = [heading for _, heading in columns]
    if sorted(header) != sorted(wanted) or len(set(wanted)) != len(wanted):
        lost = [f"{attribute} ({heading})" for attribute, heading in columns if heading not in header]
        remedy = "name the server of another release with --host, or import a file"
        got = f"{header[:20]}; not there: {', '.join(lost) or 'none'}; {remedy}"
        raise ReferenceMismatchError(what, f"the columns {wanted}", got)
    order = [header.index(heading) for heading in wanted]
    rows: dict[tuple[str, ...], None] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != len(header):
            raise ReferenceMismatchError(
                what, f"{len(header)} fields per line", f"{len(fields)} in line {number}; fetch it again, or import"
            )
        # uniqueRows="1" makes a mart drop repeated rows, but only within the batches it works in.
        rows[tuple(fields[i] for i in order)] = None
    return list(rows)


def _refuse_excuses(text: str, *, xml: bool) -> None:
    """Refuse what BioMart sends with status 200 in place of data."""
    head = text[:2000].lstrip().lower()
    if not head:
        raise BadAnswerError("an empty answer", passing=True)
    if "<html" in head or "<!doctype html" in head or (head.startswith("<") and not xml):
        raise BadAnswerError(f"a web page, as under maintenance: {' '.join(head.split())[:60]!r}", passing=True)
    found = re.search(
        # Blanks of one line only: across lines, each empty line would be gone through from all before it.
        r"^[^\S\n]*(?:Query ERROR|ERROR:|Problem retrieving|Can't locate object method)[^\n]*",
        text,
        re.MULTILINE,
    )
    if found:
        # A query the mart does not understand stays wrong; a database that is away comes back.
        raise BadAnswerError(found[0].strip()[:300], passing="Exception::Database" in found[0])
