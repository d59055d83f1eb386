"""Label spaces equal a brute-force closure by networkx, keep their digest everywhere, and refuse what is not theirs."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import Ontology, OntologyInputError, ReferenceMismatchError, UnknownTermError, load_ontology
from ontology import label_space as module
from ontology.label_space import LabelSpace, make_label_space

T, CD4, CD8, B = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236"


@st.composite
def uses(draw: st.DrawFn) -> tuple[nx.DiGraph, list[str]]:
    """Draw a hierarchy (edges point up, to smaller names) and the ids in use."""
    n = draw(st.integers(1, 10))
    made = nx.DiGraph()
    made.add_nodes_from(f"X:{i}" for i in range(n))
    for i in range(1, n):
        made.add_edges_from((f"X:{i}", f"X:{p}") for p in draw(st.sets(st.integers(0, i - 1), max_size=3)))
    return made, draw(st.lists(st.sampled_from(sorted(made)), min_size=1))


def ontology_of(graph: nx.DiGraph) -> Ontology:
    rows = {i: {"label": f"name of {i}", "deprecated": False, "parents": sorted(graph[i])} for i in graph}
    return Ontology("X", "v1", rows)


@given(uses())
def test_spaces_equal_a_brute_force_closure(drawn: tuple[nx.DiGraph, list[str]]) -> None:
    graph, ids = drawn
    space = make_label_space(ontology_of(graph), [*ids, "unknown", None, "na", ""])
    used, closed = set(ids), nx.transitive_closure_dag(graph)
    leaves = sorted(i for i in used if not any(closed.has_edge(j, i) for j in used))
    assert space.leaves == tuple(leaves)
    assert space.classes == (*leaves, *sorted(used - set(leaves)))
    assert space.labels == tuple(f"name of {i}" for i in space.classes)
    expected = [[c == leaf or closed.has_edge(leaf, c) for leaf in leaves] for c in space.classes]
    assert space.below.tolist() == expected
    assert space.below.any(axis=1).all()  # a coarse class has leaves, or it would be one
    for label in space.classes:
        positive, unknown = space.targets(label)
        mine = {leaf for leaf in leaves if leaf == label or closed.has_edge(leaf, label)}
        for code, other in enumerate(space.classes):
            theirs = {leaf for leaf in leaves if leaf == other or closed.has_edge(leaf, other)}
            above = other == label or closed.has_edge(label, other)
            assert positive[code] == above
            assert unknown[code] == (not above and bool(mine & theirs))
        assert {leaf for leaf, may in zip(leaves, space.leaf_targets(label), strict=True) if may} == mine


@given(uses(), st.randoms(use_true_random=False))
def test_order_and_repeats_change_nothing(drawn: tuple[nx.DiGraph, list[str]], shuffler: random.Random) -> None:
    graph, ids = drawn
    made = make_label_space(ontology_of(graph), ids)
    again = ids * 2
    shuffler.shuffle(again)
    other = make_label_space(ontology_of(graph), again)
    assert other == made
    assert other.to_json() == made.to_json()
    assert hash(other) == hash(made)
    kept = LabelSpace.from_json(made.to_json())
    assert kept == made
    assert (kept.classes, kept.labels, kept.n_leaves, kept.release) == (
        made.classes, made.labels, made.n_leaves, made.release,
    )  # fmt: skip
    assert kept.decode(kept.encode(ids)) == tuple(ids)


def test_a_coarse_label_leaves_its_leaves_open_and_its_siblings_closed() -> None:
    space = make_label_space(load_ontology("CL"), [T, CD4, CD8, B])
    positive, unknown = space.targets(T)
    assert {i for i, yes in zip(space.classes, positive, strict=True) if yes} == {T}
    assert {i for i, yes in zip(space.classes, unknown, strict=True) if yes} == {CD4, CD8}
    positive, unknown = space.targets(CD4)
    assert {i for i, yes in zip(space.classes, positive, strict=True) if yes} == {T, CD4}
    assert not unknown.any()
    positive, unknown = space.targets("unknown")
    assert not positive.any()
    assert unknown.all()
    assert space.leaf_targets(None).all()


def test_digests_are_the_same_in_another_process() -> None:
    code = (
        "from ontology.ontologies import load_ontology; from ontology.label_space import make_label_space;"
        f"print(make_label_space(load_ontology('CL'), {{'{B}', '{CD8}', '{T}', '{CD4}'}}).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {make_label_space(load_ontology("CL"), [T, CD4, CD8, B]).digest}


def test_the_digest_sees_classes_and_links() -> None:
    cl = load_ontology("CL")
    digests = {make_label_space(cl, ids).digest for ids in ([], [T], [CD4], [T, CD4], [T, B])}
    assert len(digests) == 5
    flat = {i: {"label": "", "deprecated": False, "ancestors": {}} for i in (T, CD4)}
    assert make_label_space(Ontology("CL", cl.version, flat), [T, CD4]) != make_label_space(cl, [T, CD4])


def test_cells_without_term_have_the_code_minus_one() -> None:
    space = make_label_space(load_ontology("CL"), [T, B])
    codes = space.encode([B, "unknown", "na", "", None, float("nan"), T])  # type: ignore[list-item]
    assert codes.tolist() == [1, -1, -1, -1, -1, -1, 0]
    assert codes.dtype == np.int32
    assert space.decode([-1, 0]) == ("unknown", T)
    with pytest.raises(UnknownTermError, match=CD4):
        space.encode([T, CD4])
    assert space.encode([T, CD4], strict=False).tolist() == [0, -1]
    for wrong in (2, -2):
        with pytest.raises(OntologyInputError, match="-1 to 1"):
            space.decode([wrong])


def test_a_label_may_draw_on_several_ontologies() -> None:
    space = make_label_space([load_ontology("CL"), load_ontology("FBbt")], [T, "FBbt:00005106", "FBbt:00007002"])
    assert space.leaves == (T, "FBbt:00005106")  # neuron, and cell above it
    assert space.release == f"{load_ontology('CL').release}; {load_ontology('FBbt').release}"
    with pytest.raises(UnknownTermError, match="UBERON:0002048"):
        make_label_space([load_ontology("CL")], ["UBERON:0002048"])


def test_a_space_of_nothing_is_empty() -> None:
    space = make_label_space(load_ontology("CL"), ["unknown"])
    assert (len(space), space.below.shape, space.encode([None]).tolist()) == (0, (0, 0), [-1])
    assert LabelSpace.from_json(space.to_json()) == space


def test_a_real_space_is_quick_and_complete() -> None:
    cl = load_ontology("CL")
    ids = random.Random(0).sample([i for i in cl if not cl[i].obsolete], 1_000)
    space = make_label_space(cl, ids)
    assert len(space) == 1_000
    for code in range(0, 1_000, 37):
        below = cl.descendants(space.classes[code], with_self=True)
        assert {space.leaves[i] for i in np.flatnonzero(space.below[code])} == below & set(space.leaves)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "{}", '{"format": "other"}', "[" * 100_000),
        '{"format": "panatlas label space 1", "classes": ["a"], "labels": ["a"], "n_leaves": 1, "above": [[7]]}',
        '{"format": "panatlas label space 1", "classes": ["a"], "labels": ["a"], "n_leaves": 1, "above": [["b"]]}',
        '{"format": "panatlas label space 1", "classes": ["a"], "labels": [], "n_leaves": "x", "above": [[]]}',
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(OntologyInputError):
        LabelSpace.from_json(text)


def test_a_changed_space_is_refused() -> None:
    said = json.loads(make_label_space(load_ontology("CL"), [T, CD4]).to_json())
    for change in ({"above": [[], []]}, {"classes": [T, B]}, {"labels": ["one"]}, {"digest": "0" * 64}):
        with pytest.raises(ReferenceMismatchError):
            LabelSpace.from_json(json.dumps(said | change))


def test_too_many_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLASS_LIMIT", 2)
    with pytest.raises(OntologyInputError, match="at most 2"):
        make_label_space(load_ontology("CL"), [T, CD4, CD8])
