"""Every shipped override names a current, allowed term, was made by somebody for a reason, and takes effect."""

from __future__ import annotations

import datetime as dt
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology import LABELS, OntologyInputError, get_organism, harmonise
from ontology.allowed import ontology_of, refusal
from ontology.match import CULTURES, why_not_overridden
from ontology.overrides import (
    HEADER,
    Override,
    add_overrides,
    find_override,
    load_overrides,
    load_user_overrides,
    overrides_digest,
    user_overrides_path,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("own_home")
HUMAN = get_organism("human")

ROWS = [
    pytest.param(label, row, id=f"{label}-{row.organism}-{row.text}")
    for label in LABELS
    for row in load_overrides(label)
]


def organism_of(row: Override) -> str:
    return "human" if row.organism == "*" else row.organism


@pytest.mark.parametrize(("label", "row"), ROWS)
def test_a_row_is_sound(label: str, row: Override) -> None:
    assert all((row.text.strip(), row.who, row.why))
    assert dt.date.fromisoformat(row.when)
    if label == "cell_culture":
        assert row.term_id in CULTURES
        return
    for term_id in row.term_id.split(" || "):
        ontology = ontology_of(term_id)
        assert ontology is not None
        assert not ontology[term_id].obsolete
        assert refusal(label, term_id, get_organism(organism_of(row))) == ""


@pytest.mark.parametrize(("label", "row"), ROWS)
def test_a_row_takes_effect(label: str, row: Override) -> None:
    match = harmonise(label, [row.text], organism_of(row))[row.text]
    assert match.term_id == row.term_id
    assert match.how in ("override", "synonym", "label")


def test_rows_are_not_repeated() -> None:
    for label in LABELS:
        keys = [(row.text.casefold(), row.organism) for row in load_overrides(label)]
        assert len(keys) == len(set(keys)), label


def test_a_row_holds_for_its_organism_only() -> None:
    assert find_override("cell_type", "CD14 Mono", get_organism("human")) == "CL:0001054"
    assert find_override("cell_type", "CD14 Mono", get_organism("mouse")) is None
    stages = {
        name: find_override("development_stage", "Adult", get_organism(name)) for name in ("human", "mouse", "fly")
    }
    assert stages == {"human": "HsapDv:0000258", "mouse": "MmusDv:0000110", "fly": None}


def test_a_row_whose_term_is_not_allowed_is_not_used() -> None:
    # "M" is male everywhere, and "F" is female; worms have males and hermaphrodites only.
    assert find_override("sex", "M", get_organism("worm")) == "PATO:0000384"
    assert find_override("sex", "F", get_organism("worm")) is None


def keep(label: str, rows: list[Override]) -> int:
    return add_overrides({label: rows})[label]


def row(text: str, term_id: str = "CL:0000236", organism: str = "human") -> Override:
    return Override(text, term_id, organism, "ann", "2026-01-02", "saw them")


def test_the_users_rows_are_used_at_once_and_beat_the_shipped_ones() -> None:
    assert harmonise("cell_type", ["zorgblatt", "NK"], "human")["zorgblatt"].how == "unmapped"
    assert keep("cell_type", [row("Zorg_Blatt"), row("zorgblatt"), row("NK", "CL:0000084", "*")]) == 3
    matches = harmonise("cell_type", ["zorgblatt", "zorg blatt", "NK"], "human")
    assert [(m.term_id, m.how) for m in matches.values()] == [
        ("CL:0000236", "override"),
        ("CL:0000236", "override"),
        ("CL:0000084", "override"),
    ]


def test_among_the_users_rows_the_organisms_own_comes_first() -> None:
    keep("cell_type", [row("blatt", "CL:0000236", "*"), row("blatt", "CL:0000084", "mouse")])
    assert [find_override("cell_type", "blatt", get_organism(o)) for o in ("human", "mouse")] == [
        "CL:0000236",
        "CL:0000084",
    ]


def test_another_home_has_other_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("cell_type", [row("blatt")])
    assert find_override("cell_type", "blatt", HUMAN) == "CL:0000236"
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "other"))
    assert find_override("cell_type", "blatt", HUMAN) is None


def test_a_file_changed_by_hand_is_read_again() -> None:
    keep("cell_type", [row("blatt")])
    path = user_overrides_path("cell_type")
    text = path.read_text("utf-8")
    path.write_text(text.replace("CL:0000236", "CL:0000084"), "utf-8")
    assert find_override("cell_type", "blatt", HUMAN) == "CL:0000084"
    path.unlink()
    assert find_override("cell_type", "blatt", HUMAN) is None


def test_a_row_that_may_not_be_used_leaves_the_shipped_one() -> None:
    keep("cell_type", [row("NK", "CL:0000255")])  # eukaryotic cell, which no cell may be called
    assert find_override("cell_type", "NK", HUMAN) == "CL:0000623"


def test_a_word_that_is_no_culture_is_not_used() -> None:
    keep("cell_culture", [row("on a dish", "dish"), row("in a well", "cell line")])
    assert harmonise("cell_culture", ["on a dish"], "human")["on a dish"].how == "unmapped"
    assert harmonise("cell_culture", ["in a well"], "human")["in a well"].term_id == "cell line"


def test_rows_are_kept_once_and_contradictions_not_at_all() -> None:
    assert keep("cell_type", [row("blatt"), row("  BLATT ")]) == 1
    before = user_overrides_path("cell_type").read_bytes()
    assert keep("cell_type", [row("blatt")]) == 0
    with pytest.raises(OntologyInputError, match="CL:0000236 for 'blatt', as ann decided on 2026-01-02"):
        keep("cell_type", [row("new"), row("blatt", "CL:0000084")])
    with pytest.raises(OntologyInputError, match="a value in every field"):
        keep("cell_type", [Override("x", "CL:0000084", "human", "", "2026-01-02", "why")])
    assert user_overrides_path("cell_type").read_bytes() == before


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_is_found_again(text: str) -> None:
    if not text.strip():
        return
    path = user_overrides_path("cell_type")
    path.unlink(missing_ok=True)
    keep("cell_type", [row("first"), row(text, "CL:0000084")])
    assert find_override("cell_type", text, HUMAN) == "CL:0000084"
    assert len(load_user_overrides("cell_type")) == (1 if text.casefold().strip() == "first" else 2)


def test_a_users_file_is_added_to_and_never_written_anew() -> None:
    path = user_overrides_path("cell_type")
    path.parent.mkdir(parents=True)
    header, foo, bar = "\t".join(HEADER), "foo\tCL:0000084\t*\tme\t2026-01-01\twhy", "bar\tCL:0000236\t*\ta\tb\tc"
    for text in (
        f"# lab notes\n\n{header}\r\n{foo}\r\n# more notes\n{bar}",
        "# lab notes, and no header yet",
        "",
    ):
        path.write_bytes(text.encode())
        before = load_user_overrides("cell_type")
        assert keep("cell_type", [row("new")]) == 1
        assert path.read_bytes().startswith(text.encode())
        assert load_user_overrides("cell_type") == (*before, row("new"))


def test_two_rows_about_one_text_are_refused_by_line() -> None:
    keep("cell_type", [row("foo")])
    path = user_overrides_path("cell_type")
    text = path.read_text("utf-8") + "FOO\tCL:0000084\thuman\tyou\t2026-01-02\twhy\n"
    path.write_text(text, "utf-8")
    for ask in (lambda: load_user_overrides("cell_type"), lambda: keep("cell_type", [row("bar")])):
        with pytest.raises(OntologyInputError, match=r"line 3=.*than line 2 has"):
            ask()
    assert path.read_text("utf-8") == text


def test_rows_of_several_labels_are_kept_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"cell_type": [row("a")], "tissue": [row("b", "UBERON:0002048")]}
    with pytest.raises(OntologyInputError, match="as ann decided"):
        add_overrides({**both, "sex": [row("c", "PATO:0000383"), row("c", "PATO:0000384")]})
    folder = user_overrides_path("tissue").parent
    assert [path.name for path in folder.iterdir()] == [".lock"]
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "no space left")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        add_overrides(both)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_two_curators_at_once_lose_nothing() -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: keep("cell_type", [row(f"text {i}")]), range(24)))
    assert len(load_user_overrides("cell_type")) == 24
    assert [p.name for p in user_overrides_path("cell_type").parent.iterdir() if p.name.startswith(".part")] == []


@pytest.mark.parametrize(
    "text",
    ["not a table", "text\tterm_id\n", "text\tterm_id\torganism\twho\twhen\twhy\na\tb\n", "\0", "a" * 100],
)
def test_a_file_that_is_no_table_is_refused_by_line(text: str) -> None:
    path = user_overrides_path("cell_type")
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    with pytest.raises(OntologyInputError, match=r"cell_type\.tsv, line"):
        find_override("cell_type", "blatt", HUMAN)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OntologyInputError, match="UTF-8"):
        load_user_overrides("cell_type")


def test_the_digest_is_of_the_rows_in_force() -> None:
    shipped = overrides_digest()
    assert len(shipped) == 64
    keep("cell_type", [row("a"), row("b")])
    mine = overrides_digest()
    assert mine != shipped
    path = user_overrides_path("cell_type")
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n", "utf-8")  # order says nothing
    assert overrides_digest() == mine
    path.unlink()
    assert overrides_digest() == shipped


@pytest.mark.parametrize(
    ("label", "text", "organism", "why"),
    [
        ("cell_type", "zorgblatt", "human", ""),
        ("cell_type", "NK", "human", ""),  # a shipped override gives way to the user's
        ("cell_type", "T cell", "human", "by label to CL:0000084"),
        ("cell_type", "pDC", "human", "by synonym"),
        ("cell_type", "CL:9999999", "human", "an id"),
        ("cell_type", "unknown", "human", "as unknown"),
        ("cell_type", "", "human", "as missing"),
        ("disease", "flu-ish || worse", "human", "several"),
        ("organism", "unicorn", "human", "takes no overrides"),
        ("self_reported_ethnicity", "European", "mouse", "takes no overrides"),
        ("cell_culture", "on a dish", "human", ""),
    ],
)
def test_what_an_override_can_reach(label: str, text: str, organism: str, why: str) -> None:
    said = why_not_overridden(label, text, get_organism(organism))
    assert why in said
    assert bool(said) == bool(why)
