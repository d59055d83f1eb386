"""Ages in words become stage labels only when unit and number are plain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology.ages import stage_label


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
        ("20-30 years", None),
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
    assert found is None or found.endswith("-old stage")
