"""Names of results in the store: which kind, of which release, by which model, over which cells.

`<kind>/<release>/<model hash>/<population>` is what people read and say. SOMA wants one name per member of a
collection, and AnnData none with slashes, so the member is the four parts joined by `~~`, whatever is neither letter,
digit, `_`, `.` nor `-` written as `~` and two hexadecimal digits a byte: official clients read such names as they are,
and they are folders anywhere. Used by whatever writes results of models beside the cells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from .errors import AtlasInputError

NO_MODEL = "none"
"""Stands for the model where a result needs none, as a baseline."""
SEPARATOR = "~~"
LONGEST = 200
"""Letters of a member's name; file systems end at 255 bytes."""

_KIND = re.compile(r"[a-z][a-z0-9._-]*")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL = re.compile(r"none|[0-9a-f]{8,64}")
_MEMBER = re.compile(r"[A-Za-z0-9._~-]+")


@dataclass(frozen=True, order=True)
class ResultKey:
    """What names a result.

    Examples
    --------
    >>> key = ResultKey("grn-pearson", "r1", "none", "cell_type=CL:0000084")
    >>> str(key), key.member
    ('grn-pearson/r1/none/cell_type=CL:0000084', 'grn-pearson~~r1~~none~~cell_type~3DCL~3A0000084')
    >>> ResultKey.of_member(key.member) == key == ResultKey.parse(str(key))
    True
    """

    kind: str
    """Lower-case letters, digits, `.`, `_` and `-`, such as `grn-pearson`."""
    release: str
    """Name of the release whose cells were looked at."""
    model: str
    """Digest of the model, or its first eight digits or more; `none` where there is none."""
    population: str = "all"
    """Which of the release's cells, such as `cell_type=CL:0000084`."""

    def __post_init__(self) -> None:
        """Check the parts."""
        for name, pattern in (("kind", _KIND), ("release", _RELEASE), ("model", _MODEL)):
            if not pattern.fullmatch(getattr(self, name)):
                raise AtlasInputError(name, getattr(self, name), f"a text like {pattern.pattern}")
        if not self.population or "\0" in self.population or self.population != self.population.strip():
            raise AtlasInputError("population", self.population, "a text that neither begins nor ends with a blank")
        if len(self.member) > LONGEST:
            raise AtlasInputError("key", str(self), f"a shorter one: {LONGEST} letters as it is stored")

    def __str__(self) -> str:
        """Return the parts with slashes between them."""
        return "/".join((self.kind, self.release, self.model, self.population))

    @property
    def member(self) -> str:
        """Return the name of the member of a SOMA collection."""
        return SEPARATOR.join(map(_safe, (self.kind, self.release, self.model, self.population)))

    @classmethod
    def parse(cls, said: str) -> ResultKey:
        """Return the key that a text with slashes says; a population may hold slashes itself.

        Raises
        ------
        AtlasInputError
            When it is none.
        """
        parts = said.split("/", 3)
        if len(parts) != 4:
            raise AtlasInputError("key", said, "KIND/RELEASE/MODEL/POPULATION")
        return cls(*parts)

    @classmethod
    def of_member(cls, member: str) -> ResultKey | None:
        """Return the key of a member's name, None where it is no result."""
        parts = member.split(SEPARATOR)
        if len(parts) != 4 or not _MEMBER.fullmatch(member):
            return None
        try:
            key = cls(*(unquote(part.replace("~", "%"), errors="strict") for part in parts))
        except (AtlasInputError, UnicodeDecodeError):
            return None
        return key if key.member == member else None


def _safe(part: str) -> str:
    return quote(part, safe="").replace("~", "%7E").replace("%", "~")
