"""OBO files as they are in the world: what breaks the parsers is mended and counted, what is no ontology is refused."""

from __future__ import annotations

import gzip
import logging
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ontology import OntologyInputError, load_ontology
from ontology.obo import read_obo, repair_obo
from ontology.obo_parsers import records_by_obonet, records_by_pronto
from ontology.term_table import make_table
from ontology.terms import RELATIONS, Ontology, fold_text

if TYPE_CHECKING:
    from pathlib import Path

# Hand-made; each oddity is one that real files have (biology.md, section 1) or that the format allows.
ODD = r"""format-version: 1.2
data-version: x/2020-01-01
import: http://localhost:9/never.owl
ontology: x/subsets/odd

[Term]
id: X:1
name: !Kung \"people\" {of} \! the\nland
synonym: "a ! b {c} \"d\"" EXACT []
synonym: "wide" BROAD []
synonym: "leaf (exact)" EXACT []
synonym: "hoja (Spanish, exact)" EXACT Spanish [Y:1]
synonym: "unscoped" []
synonym: no quotes EXACT []
xref: http://neurolex.org/wiki/Category\:Cell
xref: :Z
alt_id: X:101
alt_id: X:2

[Term]
id: X:2
name: two {source="y \" }"}
is_a: X:1!  one, without a space
relationship: BFO:0000050 X:3 ! part of by its id
relationship: develops_from X:1
relationship: part_of
is_a:
this line says nothing

[Term]
id: X:3
name: three
is_a: GO:9 {is_inferred="true"} ! undefined
is_obsolete: true
replaced_by: X:1
consider: X:2

[Term]
id: X:2
name: two again
is_a: X:3

[Term]
name: nameless stanza

[Term]
id: X:4
is_obsolete: true
replaced_by: X:1
replaced_by: X:2

[Instance]
id: X:5

[Typedef]
id: part_of
"""


def read(text: str | bytes, relations: tuple[str, ...] = RELATIONS, scopes: tuple[str, ...] = ("EXACT",)) -> Ontology:
    data = text.encode() if isinstance(text, str) else text
    clean, records = read_obo(data, "x.obo", relations, scopes)
    return Ontology("X", clean.version, make_table(records, clean.faults), relations)


def test_odd_files_are_read_as_they_mean() -> None:
    made = read(ODD)
    assert list(made) == ["X:1", "X:2", "X:3", "X:4", "X:101", "GO:9"]
    assert made.label("X:1") == '!Kung "people" {of} ! the\nland'
    assert made["X:1"].synonyms == ('a ! b {c} "d"', "leaf", "hoja")
    assert made.label("X:2") == "two"
    assert made.parents("X:2") == ("X:1", "X:3")
    assert made["X:3"].obsolete
    assert made["X:3"].replaced_by == "X:1"
    assert made["X:3"].consider == ("X:2",)
    assert made["X:4"].replaced_by is None
    assert made["X:4"].consider == ("X:1", "X:2")
    assert made.current("X:101") == "X:1"
    assert not made["X:2"].obsolete  # an alternative id that is a term of its own stays one
    assert made.release == "X x/2020-01-01"


def test_what_was_mended_is_counted_with_its_lines() -> None:
    lines = ODD.splitlines()
    faults = {fault.kind: fault for fault in read(ODD).faults}
    assert {kind: fault.count for kind, fault in faults.items()} == {
        "import not followed": 1,
        "malformed": 5,
        "duplicate": 1,
        "undefined": 1,
    }
    assert faults["undefined"].examples == ("GO:9",)
    assert faults["duplicate"].examples[0].startswith(f"line {lines.index('name: two again') - 1}: X:2")
    numbers = [int(re.match(r"line (\d+)", example)[1]) for example in faults["malformed"].examples]
    assert [lines[n - 1] for n in numbers] == [
        "synonym: no quotes EXACT []",
        "relationship: part_of",
        "is_a:",
        "this line says nothing",
        "[Term]",
    ]
    assert "5 malformed (such as line " in str(faults["malformed"])


def test_relations_and_scopes_may_be_chosen() -> None:
    assert read(ODD, ("is_a",)).parents("X:2") == ("X:1",)
    assert read(ODD, ("part_of",)).parents("X:2") == ("X:3",)
    assert set(read(ODD, ("is_a", "develops_from")).parents("X:2")) == {"X:1"}
    assert read(ODD, scopes=("BROAD", "RELATED"))["X:1"].synonyms == ("wide", "unscoped")


def test_both_parsers_make_the_same_of_a_repaired_file() -> None:
    text = repair_obo(ODD.encode(), "x.obo", RELATIONS, ("EXACT",)).text
    by_obonet, by_pronto = records_by_obonet(text, RELATIONS), records_by_pronto(text, RELATIONS)
    assert by_pronto.keys() == by_obonet.keys() - {"GO:9"}
    for term_id, record in by_pronto.items():
        assert {k: sorted(v) if isinstance(v, tuple) else v for k, v in record.items()} == {
            k: sorted(v) if isinstance(v, tuple) else v for k, v in by_obonet[term_id].items()
        }


def test_pronto_takes_over_where_obonet_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import obonet

    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("too many values to unpack")

    expected = read(ODD)
    monkeypatch.setattr(obonet, "read_obo", fail)
    made = read(ODD)
    assert list(made) == list(expected)
    assert all(made.ancestors(i) == expected.ancestors(i) and made[i] == expected[i] for i in made)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"at least one \[Term\]"),
        (b"<not xml", r"at least one \[Term\]"),
        (b"Prefix(:=<http://x>)\nOntology(<http://x>)", r"at least one \[Term\]"),
        (b"[Typedef]\nid: part_of\n", r"at least one \[Term\]"),
        ("[Term]\nid: X:1\nname: ü".encode("latin-1"), "line 3 holds byte 0xfc"),
        ("[Term]\nid: X:1".encode("utf-16"), "UTF-16"),
        (b"[Term]\nid: X:1\nname: \0", "line 3 holds a zero byte"),
        (bytes(range(256)) * 4, "UTF-8"),
    ],
)
def test_what_is_no_obo_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(OntologyInputError, match=said) as caught:
        read(data)
    assert "x.obo" in str(caught.value)


@pytest.mark.parametrize("text", [ODD.replace("\n", "\r\n"), "\ufeff" + ODD, ODD.replace("\n", "\n\n")])
def test_line_ends_and_marks_change_nothing(text: str) -> None:
    assert [read(text)[i] for i in read(text)] == [read(ODD)[i] for i in read(ODD)]


def test_cycles_end_and_are_named() -> None:
    text = (
        "".join(f"[Term]\nid: X:{i}\nis_a: X:{(i + 1) % 500}\n\n" for i in range(500)) + "[Term]\nid: Y:1\nis_a: Y:1\n"
    )
    start = time.process_time()
    made = read(text)
    assert time.process_time() - start < 10
    (fault,) = made.faults
    assert (fault.kind, fault.count) == ("cycle", 2)
    assert fault.examples == ("X:499 -> X:0", "Y:1 -> Y:1")
    assert made.depth("X:0") == 499


def test_long_lines_are_dropped_not_read() -> None:
    made = read("[Term]\nid: X:1\nname: " + "x" * 200_000 + "\nis_a: X:2\n")
    assert made.label("X:1") == ""
    assert {fault.kind for fault in made.faults} == {"malformed", "undefined"}


def test_qualifiers_and_quotes_without_end_are_quick() -> None:
    start = time.process_time()
    for tail in ('{a="' + "\\" * 50_000, "{" * 50_000, '{"" ' * 10_000, '"' + "\\" * 50_001, " " * 90_000 + "x"):
        read(f'[Term]\nid: X:1\nname: n {tail}\nsynonym: {tail}\nsynonym: "{tail} EXACT\nis_a: {tail}\n')
    assert time.process_time() - start < 10


def test_the_last_of_two_names_counts_and_both_are_told() -> None:
    made = read("[Term]\nid: BFO:0000017\nname: realizable\nname: realizable entity\n")
    assert made.label("BFO:0000017") == "realizable entity"
    assert [str(fault) for fault in made.faults] == ["1 second name (such as line 4: BFO:0000017 realizable)"]


@given(st.text(alphabet='[]Termid:XYZ0123 \n!{}"\\#is_a', max_size=300))
@example("[Term]\nid: X:1\nis_a: \\\n")
@example('[Term]\nid: X:1\nid: X:2\nsynonym: "')
@example("[Term]\nid: :\nis_a: ::\n")
@example("[Term]\nid: a\\\nis_a: b\\ \n")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        made = read("[Term]\nid: A:1\n\n" + text)
    except OntologyInputError:
        return
    assert "A:1" in made
    assert all(set(made.ancestors(i)) <= set(made) for i in made)


def files(shared: Path) -> list[Path]:
    return sorted((shared / "bio").glob("obo_*/*.obo.gz"))


@pytest.mark.shared
def test_every_real_file_is_read_without_the_network(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones, and the small ones made from the guide; the benchmark reads all."""

    def refuse(*args: object) -> None:
        raise AssertionError("a file made the reader ask the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    quiet = logging.getLogger().handlers[:]
    sizes = {}
    for path in files(shared):
        if path.parent.name != "obo_real" and path.stat().st_size > 100_000:
            continue
        text = gzip.decompress(path.read_bytes()).decode()
        made = read(text)
        said = set(re.findall(r"^\[Term\]\r?\nid: (\S+)", text, re.MULTILINE))
        assert said <= set(made)
        undefined = sum(fault.count for fault in made.faults if fault.kind == "undefined")
        assert len(made) >= len(said) + undefined
        assert not [fault for fault in made.faults if fault.kind in ("malformed", "duplicate")]
        names = dict(re.findall(r"^id: (\S+)\r?\nname: ([\w ,-]+)$", text, re.MULTILINE))
        twice = {case.split()[2] for fault in made.faults if fault.kind == "second name" for case in fault.examples}
        assert all(made.label(i) == name.strip() for i, name in names.items() if i in said - twice)
        assert len(names) > len(said) / 10
        sizes[f"{path.parent.name}/{path.name}"] = len(said)
    assert len(sizes) == 27
    assert sizes["obo_real/po.obo.gz"] == 1_793
    assert logging.getLogger().handlers == quiet  # obonet would configure logging for the whole process


@pytest.mark.shared
@pytest.mark.parametrize(("file", "name"), [("cl", "CL"), ("hsapdv", "HsapDv"), ("zfa", "ZFA"), ("pato", "PATO")])
def test_files_made_from_the_guide_equal_it(shared: Path, file: str, name: str) -> None:
    text = gzip.decompress((shared / f"bio/obo_from_guide/{file}.obo.gz").read_bytes())
    made, guide = read(text), load_ontology(name)
    assert set(made) == set(guide)
    short = {i for i in guide if not guide.parents(i) and guide.ancestors(i)}  # the file has no step to them
    for term_id in guide:
        # Terms without a name got their id for one in the file.
        assert fold_text(made.label(term_id)) == (fold_text(guide.label(term_id)) or term_id.casefold())
        assert made[term_id].obsolete == guide[term_id].obsolete
        assert made.parents(term_id) == guide.parents(term_id) or set(made.parents(term_id)) == set(
            guide.parents(term_id)
        )
        if not short & {term_id, *guide.ancestors(term_id)}:
            assert made.ancestors(term_id) == guide.ancestors(term_id)
