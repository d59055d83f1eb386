"""Ages in words to stage labels: "23 years" means the term labelled "23-year-old stage", if there is exactly one.

Only completed units that stage ontologies spell out are read. A bare number has no unit and is not guessed at;
embryonic days are left to a curator, since a Theiler or Carnegie stage spans several.
"""

from __future__ import annotations

import re

UNITS = {
    **dict.fromkeys(("y", "yr", "yrs", "yo", "y/o", "year", "years"), "year"),
    **dict.fromkeys(("m", "mo", "mos", "mth", "month", "months"), "month"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), "week"),
    **dict.fromkeys(("d", "day", "days"), "day"),
}
AGE = re.compile(r"(?:age[d:]?\s*)?(\d{1,3})(?:\.0)?[\s-]*([a-z/]+?)(?:[\s-]*old)?(?:\s*stage)?")
POSTNATAL = re.compile(r"(?:p|pnd|postnatal day)\s?(\d{1,3})")


def stage_label(text: str) -> str | None:
    """Return the stage label that an age in words amounts to, or None where the text is no such age.

    Examples
    --------
    >>> stage_label("23 years"), stage_label("P7"), stage_label("8 weeks old"), stage_label("23")
    ('23-year-old stage', '7-day-old stage', '8-week-old stage', None)
    """
    folded = " ".join(text[:64].split()).casefold()
    if found := POSTNATAL.fullmatch(folded):
        return f"{int(found[1])}-day-old stage"
    found = AGE.fullmatch(folded)
    unit = UNITS.get(found[2]) if found else None
    return f"{int(found[1])}-{unit}-old stage" if found and unit else None
