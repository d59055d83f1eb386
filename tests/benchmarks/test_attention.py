"""The cost curve of attention: what is measured, what is extrapolated, and what is compared with what."""

from __future__ import annotations

import pytest

from benchmarks import attention


def rows(*pairs: tuple[int, float, float]) -> list[dict]:
    return [{"attention": "exact", "genes": n, "seconds": s, "peak_mib": m} for n, s, m in pairs]


def test_a_curve_is_continued_as_a_power_law_of_exponent_two_at_most():
    found = attention.extrapolated(rows((1, 9.0, 9.0), (1_024, 1.0, 100.0), (2_048, 3.0, 200.0)), 8_192)
    assert found["seconds"] == pytest.approx(3 * 3**2, rel=1e-4)
    assert found["peak_mib"] == pytest.approx(800)
    steep = attention.extrapolated(rows((1_024, 1.0, 100.0), (2_048, 9.0, 50.0)), 4_096)
    assert steep == {"seconds": 36.0, "peak_mib": 50.0}
    assert attention.extrapolated(rows((1_024, 1.0, 1.0)), 2_048) == {}


def test_points_beyond_the_limits_are_left_out_and_said_so(monkeypatch, capsys):
    asked = []

    def point(device, kind, genes, passes):
        asked.append((genes, passes))
        cost = {"forward": 1e-6, "forward and backward": 4e-6}
        return {one: {"seconds": cost[one] * genes**2, "peak_mib": genes / 10} for one in passes}

    monkeypatch.setattr(attention, "point", point)
    found = attention.curve("cpu", "exact", attention.LENGTHS)
    # 4e-6 * 4,096 ** 2 is 67 seconds; 1e-6 * 8,192 ** 2 is as much.
    assert [passes for genes, passes in asked if genes == 4_096] == [["forward"]]
    assert [passes for genes, passes in asked if genes == 8_192] == [[]]
    assert [row["genes"] for row in found["forward"] if "note" not in row] == [1_024, 2_048, 4_096]
    last = found["forward and backward"][-1]
    assert last["note"] == attention.LEFT_OUT
    assert last["seconds"] == pytest.approx(4e-6 * 32_768**2)
    asked.clear()
    attention.curve("cuda", "exact", attention.LENGTHS)
    assert all(len(passes) == 2 for _, passes in asked), "a GPU is asked everything"
    assert "exact 32768" in capsys.readouterr().err


def test_ratios_are_of_measured_rows_of_one_length():
    linear = [
        {"attention": "performer", "genes": 1_024, "seconds": 0.5, "peak_mib": 4.0},
        {"attention": "performer", "genes": 2_048, "seconds": 1.0, "peak_mib": 8.0, "note": attention.LEFT_OUT},
        {"attention": "performer", "genes": 4_096, "seconds": 2.0, "peak_mib": 0.0},
    ]
    exact = rows((1_024, 1.0, 2.0), (2_048, 4.0, 4.0))
    found = attention.with_ratios([*exact, *linear])
    assert (found[2]["times_exact"], found[2]["memory_times_exact"]) == (2.0, 0.5)
    assert not any("times_exact" in row for row in (*found[:2], *found[3:]))


def test_a_point_is_measured_in_a_process_of_its_own():
    found = attention.point("cpu", "criss-cross", 512, list(attention.PASSES))
    forward, both = (found[one] for one in attention.PASSES)
    assert forward["seconds"] > 0 < both["seconds"]
    assert 0 < forward["peak_mib"] <= both["peak_mib"] < 1_000
    assert attention.point("cpu", "criss-cross", 512, []) == {}


def test_a_point_that_fails_says_why():
    found = attention.point("cpu", "no such kind", 64, ["forward"])
    assert found["forward"]["note"].startswith("failed: KeyError")
