"""Errors of the ontology floor: each names what was asked, what was found and who can act.

Every leaf inherits `OntologyError` and a builtin, so callers may catch either. Author text that maps to nothing is
no error: it is a `Match` or an unmapped gene, reported as data.
"""

from __future__ import annotations


class OntologyError(Exception):
    """Root of everything this floor raises on purpose."""


class OntologyInputError(OntologyError, ValueError):
    """A call with an argument outside what is allowed; the caller acts.

    Examples
    --------
    >>> raise OntologyInputError("label", "colour", "one of cell_type, tissue")
    Traceback (most recent call last):
    ontology.errors.OntologyInputError: label='colour' is not allowed; expected one of cell_type, tissue
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}={got!r} is not allowed; expected {allowed}")
        self.field, self.got, self.allowed = field, got, allowed


class UnknownOrganismError(OntologyError, LookupError):
    """A name that no row of organisms carries; the caller acts.

    Examples
    --------
    >>> raise UnknownOrganismError("humen", ("human",))
    Traceback (most recent call last):
    ontology.errors.UnknownOrganismError: no organism is called 'humen'; nearest: human
    """

    def __init__(self, asked: object, nearest: tuple[str, ...], known: tuple[str, ...] = ()) -> None:
        if nearest:
            hint = f"nearest: {', '.join(nearest)}"
        else:  # nothing is near: show what names look like
            more = f" and {len(known) - 5} more" if len(known) > 5 else ""
            hint = f"known are {', '.join(known[:5])}{more}; panatlas add-organism adds one"
        super().__init__(f"no organism is called {repr(asked)[:80]}; {hint}")
        self.asked, self.nearest = asked, nearest


class UnknownTermError(OntologyError, KeyError):
    """A term id that an ontology does not hold; the caller acts.

    Examples
    --------
    >>> str(UnknownTermError("CL:9", "CL v2026-03-26"))
    "'CL:9' is not a term of CL v2026-03-26"
    """

    def __init__(self, term_id: object, ontology: str) -> None:
        super().__init__(f"{term_id!r} is not a term of {ontology}")
        self.term_id, self.ontology = term_id, ontology

    def __str__(self) -> str:
        """Return the sentence itself; KeyError would show its repr."""
        return str(self.args[0])


class ReferenceMissingError(OntologyError, LookupError):
    """A reference that no pinned source carries, such as an organism's gene table; the maintainer acts.

    Examples
    --------
    >>> raise ReferenceMissingError("gene table", "sheep", "pass one of: human, mouse")
    Traceback (most recent call last):
    ontology.errors.ReferenceMissingError: no gene table is pinned for sheep; pass one of: human, mouse
    """

    def __init__(self, what: str, organism: str, remedy: str) -> None:
        super().__init__(f"no {what} is pinned for {organism}; {remedy}")
        self.what, self.organism, self.remedy = what, organism, remedy


class ReferenceMismatchError(OntologyError, ValueError):
    """A reference whose bytes are not the pinned ones; refused, the maintainer acts.

    Examples
    --------
    >>> raise ReferenceMismatchError("came==0.1.13", "sha256 ab", "sha256 cd")
    Traceback (most recent call last):
    ontology.errors.ReferenceMismatchError: came==0.1.13 is not what was pinned: expected sha256 ab, got sha256 cd
    """

    def __init__(self, what: str, expected: str, got: str) -> None:
        super().__init__(f"{what} is not what was pinned: expected {expected}, got {got}")
        self.what, self.expected, self.got = what, expected, got


class SourceUnavailableError(OntologyError, OSError):
    """A reference that could not be fetched; the operator checks the connection or the index settings.

    Examples
    --------
    >>> raise SourceUnavailableError("came==0.1.13", "connection refused", "check the index settings")
    Traceback (most recent call last):
    ontology.errors.SourceUnavailableError: could not fetch came==0.1.13: connection refused; check the index settings
    """

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(f"could not fetch {what}: {reason}; {remedy}")
        self.what, self.reason, self.remedy = what, reason, remedy
