"""Keys of results: one text, one member's name, either gives back the other, and a strange name is no key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import AtlasInputError, ResultKey

populations = st.text(min_size=1, max_size=8).filter(lambda text: text == text.strip() and "\0" not in text).filter(
    lambda text: text.encode("utf-8", "replace").decode() == text
)  # fmt: skip


@given(populations, st.sampled_from(["none", "0123abcd" * 8]), st.sampled_from(["r1", "a.b_c-d"]))
def test_a_key_comes_back_from_its_text_and_from_its_member(population: str, model: str, release: str) -> None:
    key = ResultKey("grn-pearson.q_value", release, model, population)
    assert ResultKey.parse(str(key)) == key == ResultKey.of_member(key.member)
    assert key.member.isascii()
    assert not set("/ :%\\'\"") & set(key.member)


def test_different_keys_have_different_members() -> None:
    said = ["all", "All", "a~~b", "a/b", "a~2Fb", "a%2Fb", "a b", "ä"]
    assert len({ResultKey("grn-x", "r", "none", one).member for one in said}) == len(said)


@pytest.mark.parametrize(
    ("part", "value"),
    [("kind", "GRN"), ("kind", "a/b"), ("release", ".r"), ("model", "xyz"), ("population", ""), ("population", " a")],
)
def test_parts_outside_the_grammar_are_refused(part: str, value: str) -> None:
    said = {"kind": "grn-x", "release": "r", "model": "none", "population": "all", part: value}
    with pytest.raises(AtlasInputError) as error:
        ResultKey(**said)
    assert error.value.field == part


@pytest.mark.parametrize("member", ["neighbours", "a~~b", "a~~b~~none~~", "a~~b~~none~~~zz", "a~~b~~none~~~41ll"])
def test_members_that_are_no_results_are_passed_over(member: str) -> None:
    assert ResultKey.of_member(member) is None


def test_a_text_with_too_few_parts_is_refused() -> None:
    with pytest.raises(AtlasInputError, match="KIND/RELEASE"):
        ResultKey.parse("grn-x/r/none")


def test_a_key_too_long_for_a_file_system_is_refused() -> None:
    with pytest.raises(AtlasInputError, match="shorter"):
        ResultKey("grn-x", "r", "none", "ä" * 60)
