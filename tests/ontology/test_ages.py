"""Ages in words become stage labels only when unit and number are plain; stages become years where they state a span.

The oracle of the spans is the ontologies' own definitions ("over 3 and under 4 months old"), read from the guide.
"""

from __future__ import annotations

import math
import re

import pytest
from cellxgene_ontology_guide.ontology_parser import OntologyParser
from hypothesis import given
from hypothesis import strategies as st

from ontology import harmonise, load_ontology
from ontology.ages import stage_label, stage_years


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("23-year-old stage", "23-year-old stage"),
        ("23 years", "23-year-old stage"),
        ("23.0 years", "23-year-old stage"),
        ("023 yr old", "23-year-old stage"),
        ("Age: 5 months", "5-month-old stage"),
        ("8wk", "8-week-old stage"),
        ("P7", "7-day-old stage"),
        ("postnatal day 21", "21-day-old stage"),
        ("23", None),
        ("23.5 years", None),
        ("-3 years", None),
        ("1000 years", None),
        ("20-30 years", "20-30 year-old stage"),  # which no ontology has
        ("20-29 years", "third decade stage"),
        ("Age: 100\u2013109 y", "eleventh decade stage"),
        ("10-19 years", "10-19 year-old stage"),
        ("20-29 weeks", None),
        ("80+ years", "80 year-old and over stage"),
        ("80 plus months", None),
        ("23 y.o.", "23-year-old stage"),
        ("E14.5", None),
        ("old", None),
        ("7 parsecs", None),
        ("7 years or so", None),
        ("", None),
    ],
)
def test_ages(text: str, label: str | None) -> None:
    assert stage_label(text) == label


@given(st.text(max_size=200))
def test_any_text_is_an_age_or_not(text: str) -> None:
    found = stage_label(text)
    assert found is None or found.endswith(("-old stage", "decade stage", "year-old and over stage"))


def definitions(prefix: str) -> dict[str, tuple[float, float]]:
    """Return the spans in years that the definitions of current terms state, by a grammar of their own."""
    per_year = {"year": 1.0, "month": 12.0, "week": 365.25 / 7, "day": 365.25}
    unit = "(year|month|week|day)s?"
    stated = re.compile(rf"over (\d+)(?: {unit})?(?: old)? and (?:is )?under (\d+) {unit} old")
    guide, found = OntologyParser(), {}
    ontology = load_ontology(prefix)
    for term_id in ontology:
        if not ontology[term_id].obsolete and (match := stated.search(guide.get_term_description(term_id) or "")):
            low, low_unit, high, high_unit = match.groups()
            found[term_id] = (int(low) / per_year[low_unit or high_unit], int(high) / per_year[high_unit])
    return found


@pytest.mark.parametrize(("prefix", "stated"), [("HsapDv", 150), ("MmusDv", 78)])
def test_years_equal_the_definitions(prefix: str, stated: int) -> None:
    wanted = definitions(prefix)
    assert len(wanted) == stated
    got = {term_id: stage_years(term_id) for term_id in wanted}
    off = {i for i in wanted if got[i] is None or got[i] != pytest.approx(wanted[i], abs=1e-9)}
    # "1-month-old stage" starts at 28 days by its definition, at a month by its name.
    assert off == ({"HsapDv:0000273"} if prefix == "HsapDv" else set())


@pytest.mark.parametrize(
    ("prefix", "terms", "current", "with_years"),
    [("HsapDv", 260, 239, 159), ("MmusDv", 178, 134, 81), ("FBdv", 221, 210, 71), ("ZFA", 3285, 3161, 8)],
)
def test_how_many_stages_have_years(prefix: str, terms: int, current: int, with_years: int) -> None:
    ontology = load_ontology(prefix)
    here = [i for i in ontology if not ontology[i].obsolete]
    spans = [span for i in here if (span := stage_years(i))]
    assert (len(ontology), len(here), len(spans)) == (terms, current, with_years)
    assert all(0 <= low < high for low, high in spans)
    assert not any(stage_years(i) for i in ontology if ontology[i].obsolete)


def test_the_human_stages_without_years_are_prenatal_or_groups() -> None:
    ontology = load_ontology("HsapDv")
    bare = [i for i in ontology if not ontology[i].obsolete and not stage_years(i)]
    prenatal = [i for i in bare if i == "HsapDv:0000045" or "HsapDv:0000045" in ontology.ancestors(i)]
    assert len(prenatal) == 73
    assert {ontology.label(i) for i in set(bare) - set(prenatal)} == {
        *("life cycle", "life cycle stage", "postnatal stage", "pediatric stage"),
        *("adult stage", "prime adult stage", "young adult stage"),
    }


@pytest.mark.parametrize(
    ("term_id", "span"),
    [
        ("HsapDv:0000117", (23, 24)),
        ("HsapDv:0000237", (20, 30)),
        ("HsapDv:0000095", (80, math.inf)),
        ("HsapDv:0000247", (100, math.inf)),
        ("HsapDv:0000227", (60, math.inf)),
        ("HsapDv:0000262", (0, 29 / 365.25)),
        ("HsapDv:0000046", None),
        ("HsapDv:0000003", None),
        ("HsapDv:0000258", None),
        ("MmusDv:0000091", (20 / 12, math.inf)),
        ("MmusDv:0000139", (4 / 365.25, 7 / 365.25)),
        ("MmusDv:0000036", None),
        ("FBdv:00007078", (3 / 365.25, 4 / 365.25)),
        ("ZFS:0000039", (7 / 365.25, 14 / 365.25)),
        ("UBERON:0000113", None),
        ("WBls:0000003", None),
        ("HsapDv:9999999", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_years(term_id: str, span: tuple[float, float] | None) -> None:
    assert stage_years(term_id) == (pytest.approx(span) if span else None)


def test_an_age_in_words_comes_back_as_years() -> None:
    for text, low in (("23 years", 23), ("6 months", 0.5), ("20-29 years", 20)):
        assert harmonise("development_stage", [text], "human")[text].years[0] == low
    assert harmonise("development_stage", ["adult"], "human")["adult"].years is None
