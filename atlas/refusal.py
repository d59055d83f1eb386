"""How the read side says no: one error finding, wrapped in the `ContractError` that rejects the source.

Only the wording of refusals lives here. The checks are in `preflight`, `matrices`, `read_*` and `prove`;
the receipt that carries the finding onward is made by the ingest.
"""

from __future__ import annotations

from .errors import ContractError
from .findings import Finding

SHORT = 160  # characters of a file's own text that a message repeats: enough to recognise it, no room to flood a log


def shorten(value: object) -> str:
    r"""Return a value as one printable line of at most 160 characters.

    Examples
    --------
    >>> shorten("a" * 200)[-3:]
    '...'
    >>> shorten(chr(27) + "[31mred")
    '\\x1b[31mred'
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)[: SHORT + 1])
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def refusal(dataset: str, code: str, where: str, found: object, expected: str, remedy: str) -> ContractError:
    """Return the error that rejects a source for one reason.

    Parameters
    ----------
    dataset
        Name of the source as the user knows it.
    code
        Kebab-case code of the finding.
    where
        Element of the file the finding is about; shortened and made printable.
    found
        What was there; shortened and made printable.
    expected
        What would have been accepted.
    remedy
        What the curator can do about it.

    Examples
    --------
    >>> print(refusal("a.h5ad", "no-cells", "obs", 0, "at least one cell", "export the cells again"))
    a.h5ad was rejected: error no-cells at obs: found 0, expected at least one cell; export the cells again
    """
    return ContractError(dataset, [Finding(code, "error", shorten(where), shorten(found), expected, remedy)])
