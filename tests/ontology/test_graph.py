"""Closures equal networkx on any graph, cyclic ones included, and bad shapes end in an error instead of a hang."""

from __future__ import annotations

import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import OntologyInputError, graph
from ontology.graph import Closure, closure_from_ancestors, closure_from_parents


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """Draw parents per node; any edge may occur, so cycles, loops and islands do."""
    n = draw(st.integers(1, 9))
    return [draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True)) for _ in range(n)]


def upwards(parents: list[list[int]], without: tuple[tuple[int, int], ...] = ()) -> nx.DiGraph:
    made = nx.DiGraph()
    made.add_nodes_from(range(len(parents)))
    made.add_edges_from((i, p) for i, row in enumerate(parents) for p in row if (i, p) not in without)
    return made


def as_dict(closure: Closure, term: int) -> dict[int, int]:
    above, steps = closure.row(term)
    return dict(zip(above.tolist(), steps.tolist(), strict=True))


@given(graphs())
def test_closures_equal_networkx_once_cycles_are_cut(parents: list[list[int]]) -> None:
    closure, dropped = closure_from_parents(parents)
    oracle = upwards(parents, dropped)
    assert nx.is_directed_acyclic_graph(oracle)
    for i in range(len(parents)):
        expected = dict(nx.single_source_shortest_path_length(oracle, i))
        assert closure.row_with_self(i) == expected
        assert set(closure.below(i).tolist()) == nx.ancestors(oracle, i)
        assert set(closure.children(i).tolist()) == set(oracle.predecessors(i))
        roots = [r for r in expected if oracle.out_degree(r) == 0]
        assert closure.depth[i] == min(expected[r] for r in roots)


@given(graphs())
def test_only_steps_that_lie_on_a_cycle_are_dropped(parents: list[list[int]]) -> None:
    whole = upwards(parents)
    _, dropped = closure_from_parents(parents)
    assert bool(dropped) is not nx.is_directed_acyclic_graph(whole)
    part = {node: i for i, nodes in enumerate(nx.strongly_connected_components(whole)) for node in nodes}
    assert all(part[child] == part[parent] for child, parent in dropped)


@given(graphs())
def test_rows_are_ordered_by_distance_then_position(parents: list[list[int]]) -> None:
    closure, _ = closure_from_parents(parents)
    for i in range(len(parents)):
        above, steps = closure.row(i)
        pairs = list(zip(steps.tolist(), above.tolist(), strict=True))
        assert pairs == sorted(pairs)


@given(graphs())
def test_stated_ancestors_are_taken_as_they_are(parents: list[list[int]]) -> None:
    oracle = upwards(parents)
    stated = [dict(nx.single_source_shortest_path_length(oracle, i)) for i in range(len(parents))]
    closure = closure_from_ancestors(stated)
    for i, row in enumerate(stated):
        assert as_dict(closure, i) == {a: steps for a, steps in row.items() if a != i}


def test_nothing_is_a_closure_too() -> None:
    closure, dropped = closure_from_parents([])
    assert dropped == ()
    assert closure.depth.tolist() == []
    assert closure.nbytes == 8


def test_a_long_cycle_and_a_wide_graph_are_quick() -> None:
    start = time.process_time()
    n = 3_000
    closure, dropped = closure_from_parents([[(i + 1) % n] for i in range(n)])
    assert dropped == ((n - 1, 0),)
    assert closure.depth.max() == n - 1
    wide, _ = closure_from_parents([[]] + [[0]] * 100_000)
    assert len(wide.below(0)) == 100_000
    assert time.process_time() - start < 20  # 3 s where it was written


def test_a_chain_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "PAIR_LIMIT", 1_000)
    with pytest.raises(OntologyInputError, match="at most 1,000 ancestors"):
        closure_from_parents([[], *([i] for i in range(100))])


def test_arrays_are_small() -> None:
    closure, _ = closure_from_parents([[], [0], [1], [0, 2]])
    assert (closure.above.dtype, closure.steps.dtype) == (np.int32, np.uint16)
    assert closure.nbytes == 5 * 8 + 6 * (4 + 2)
