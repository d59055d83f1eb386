"""The benchmark of what networks cost: powers of what was measured, and sizes that show the whole genome."""

from __future__ import annotations

import pytest

from benchmarks.grn_scale import BLOCKWISE, MOST_MIB, NETWORKS, SIZES, cost_curve, extrapolated
from model.grn_scores import READOUTS


def rows(sizes=(1_000, 2_000, 4_000)) -> list[dict]:
    """Return seconds that grow by the square of the genes, and memory by their root."""
    return [
        {"readout": "one", "genes": n, "seconds": 3e-6 * n**2, "cpu_seconds": 6e-6 * n**2, "peak_mib": 20 * n**0.5}
        for n in sizes
    ]


def test_the_cost_curve_has_the_powers_that_were_put_in_and_leads_beyond_what_was_measured():
    guess = extrapolated(rows(), 16_000)
    assert guess["seconds"] == pytest.approx(3e-6 * 16_000**2, rel=1e-3)
    assert guess["peak_mib"] == pytest.approx(20 * 16_000**0.5, rel=1e-3)
    found = cost_curve([*rows(), {"readout": "one", "genes": 16_000, **guess, "note": "extrapolated"}])
    assert (found["seconds grow as genes to the"], found["memory grows as genes to the"]) == (2.0, 0.5)
    assert (found["most genes"], found["how"]) == (16_000, "extrapolated")
    assert cost_curve(rows((1_000,))) == extrapolated(rows((1_000,)), 2_000) == {}


def test_the_whole_genome_is_asked_by_blocks_by_the_latents_and_by_sampled_trees():
    assert max(SIZES) >= 15_000
    assert MOST_MIB == 8 * 2**10
    assert {str(how.get("readout", name)) for name, how in NETWORKS.items()} <= set(READOUTS)
    assert NETWORKS[BLOCKWISE]["at_once"] < max(SIZES) == max(NETWORKS[BLOCKWISE]["sizes"])
    assert NETWORKS["grnboost2"]["sampled"] == 300
    assert max(NETWORKS["grnboost2"]["sizes"]) == max(SIZES)
    assert "most" not in NETWORKS["criss_cross"]
