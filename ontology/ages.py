"""Ages: text to stage labels ("23 years" means "23-year-old stage"), and stages to years.

Towards stages only completed units that stage ontologies spell out are read. A bare number has no unit and is not
guessed at; embryonic days are left to a curator, since a Theiler or Carnegie stage spans several. Towards years a
stage counts where its name, a synonym or (for seven) its definition states a span. match.py looks the labels up,
atlas stores the years.
"""

from __future__ import annotations

import math
import re
from functools import cache

from .allowed import ontology_of

UNITS = {
    **dict.fromkeys(("y", "yr", "yrs", "yo", "y/o", "y.o.", "year", "years"), "year"),
    **dict.fromkeys(("m", "mo", "mos", "mth", "month", "months"), "month"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), "week"),
    **dict.fromkeys(("d", "day", "days"), "day"),
}
AGE = re.compile(r"(?:age[d:]?\s*)?(\d{1,3})(?:\.0)?[\s-]*([a-z/.]+?)(?:[\s-]*old)?(?:\s*stage)?")
RANGE = re.compile(r"(?:age[d:]?\s*)?(\d{1,3})\s*(?:-|to|\u2013)\s*(\d{1,3})[\s-]*([a-z/.]+?)(?:[\s-]*old)?")
AND_OVER = re.compile(r"(?:age[d:]?\s*)?(\d{1,3})\s*(?:\+|plus)[\s-]*([a-z/.]+?)(?:[\s-]*old)?")
POSTNATAL = re.compile(r"(?:p|pnd|postnatal day)\s?(\d{1,3})")
DECADES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh")
"""Decades of life as stage ontologies spell them; the third is from 20 up to 30."""

DAYS = {"year": 365.25, "week": 7.0, "day": 1.0}
"""Length of a unit in days; a month is a twelfth of a year."""
_UNIT = r"[\s-]*(year|month|week|day)s?(?:[\s-]*old)?"
_STAGE = r"(?:\s(?:child|mature))?(?:\s*stage)?"
SPAN = re.compile(rf"(\d{{1,3}})(?:-(\d{{1,3}}))?{_UNIT}{_STAGE}")
OPEN = re.compile(rf"(?:(\d{{1,3}}){_UNIT}(?:\sand\sover\sstage|\sstage\sand\sover)|(\d{{1,3}})\+ (year)s)")
IN_BRACKETS = re.compile(r"[a-z ]+ stage \((\d{1,3})-(\d{1,3}) (yo|months|days)\)")
SINCE_ECLOSION = re.compile(r"day (\d{1,3}) of adulthood")  # fly
SINCE_FERTILISATION = re.compile(r"(?:larval|juvenile):days? (\d{1,3})(?:-(\d{1,3}))?")  # zebrafish

BY_DEFINITION = {
    "HsapDv:0000261": (28 / 365.25, 1.0),  # infant stage: over 28 days and under 12 months
    "HsapDv:0000267": (40.0, 60.0),  # middle aged stage: over 40 and under 60
    "HsapDv:0000247": (100.0, math.inf),  # centenarian stage: over 100
    "MmusDv:0000138": (0.0, 22 / 365.25),  # nursing stage: from birth until 22 days old
    "MmusDv:0000136": (42 / 365.25, 1.5),  # prime adult stage: over 6 weeks and under 18 months
    "MmusDv:0000135": (10 / 12, 1.5),  # middle aged stage: over 10 and under 18 months
    "MmusDv:0000134": (1.5, math.inf),  # late adult stage: over 18 months
}
"""Spans in years of stages that state them in the ontology's definition but not in their name. Left out: adult and
mature stages without an upper end, of which the lower bound says next to nothing."""


def stage_label(text: str) -> str | None:
    """Return the stage label that an age in words amounts to, or None where the text is no such age.

    Examples
    --------
    >>> stage_label("23 years"), stage_label("P7"), stage_label("8 weeks old"), stage_label("23")
    ('23-year-old stage', '7-day-old stage', '8-week-old stage', None)
    >>> stage_label("20-29 years"), stage_label("80+ years")
    ('third decade stage', '80 year-old and over stage')
    """
    folded = " ".join(text[:64].split()).casefold()
    if found := POSTNATAL.fullmatch(folded):
        return f"{int(found[1])}-day-old stage"
    if found := AND_OVER.fullmatch(folded):
        return f"{int(found[1])} year-old and over stage" if UNITS.get(found[2]) == "year" else None
    if found := RANGE.fullmatch(folded):
        return _range_label(int(found[1]), int(found[2])) if UNITS.get(found[3]) == "year" else None
    found = AGE.fullmatch(folded)
    unit = UNITS.get(found[2]) if found else None
    return f"{int(found[1])}-{unit}-old stage" if found and unit else None


def _range_label(low: int, high: int) -> str:
    """Return the label of a span of years whose last year is `high`; most spans have no stage, and match nothing."""
    if high == low + 9 and low % 10 == 0 and 20 <= low <= 100:
        return f"{DECADES[low // 10]} decade stage"
    return f"{low}-{high} year-old stage"


@cache
def stage_years(term_id: str) -> tuple[float, float] | None:
    """Return the span of a stage in years, from and up to, or None where it states none.

    Mammals count from birth, so prenatal stages have no such age: weeks after fertilisation are not turned into years
    before a birth whose day nobody states. Flies count from eclosion and zebrafish from fertilisation, as their
    ontologies do. What has no upper end is open (infinity). Stages without a number (adult stage, Theiler stage 27), of
    other ontologies, and obsolete ones state none.

    Parameters
    ----------
    term_id
        Id of a development stage; any other text states no span.

    Returns
    -------
    tuple[float, float] or None
        Years, the lower bound included, the upper not.

    Examples
    --------
    >>> stage_years("HsapDv:0000117"), stage_years("HsapDv:0000095"), stage_years("HsapDv:0000046")
    ((23.0, 24.0), (80.0, inf), None)
    """
    if term_id.split(":", 1)[0] not in ("HsapDv", "MmusDv", "FBdv", "ZFS"):
        return None
    ontology = ontology_of(term_id)
    if ontology is None or term_id not in ontology or ontology[term_id].obsolete:
        return None
    if term_id in BY_DEFINITION:
        return BY_DEFINITION[term_id]
    term = ontology[term_id]
    for name in (term.label, *term.synonyms):
        if span := _span(name):
            return span
    return None


def _span(name: str) -> tuple[float, float] | None:
    """Return the years that a stage's name states; "4-6 days" runs up to day 7, as its makers define it."""
    folded = name.casefold()
    if found := OPEN.fullmatch(folded):
        return (_years(int(found[1] or found[3]), found[2] or found[4]), math.inf)
    if found := SPAN.fullmatch(folded):
        return _from_to(found[1], found[2], found[3])
    if found := IN_BRACKETS.fullmatch(folded):
        return _from_to(found[1], found[2], {"yo": "year", "months": "month", "days": "day"}[found[3]])
    if found := SINCE_ECLOSION.fullmatch(folded):
        return _from_to(found[1], None, "day")
    if found := SINCE_FERTILISATION.fullmatch(folded):
        return _from_to(found[1], found[2], "day")
    decade, _, rest = folded.partition(" ")
    if decade in DECADES and rest == "decade stage":
        return (10.0 * DECADES.index(decade), 10.0 * DECADES.index(decade) + 10)
    return None


def _from_to(low: str, high: str | None, unit: str) -> tuple[float, float]:
    return (_years(int(low), unit), _years(int(high or low) + 1, unit))


def _years(count: int, unit: str) -> float:
    return count / 12 if unit == "month" else count * DAYS[unit] / DAYS["year"]
