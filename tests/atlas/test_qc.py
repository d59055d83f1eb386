"""The screen flags by the policy, within a sample, whatever the order of the cells; scipy computes the bounds again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from atlas import AtlasInputError
from atlas.qc import METRICS, REASONS, CellMinimums, DoubletLimits, MadLimits, MitoLimits, QCPolicy, flatten, screen

GENES = 20_000


def cells(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return metrics of ordinary cells with a few bad ones among them."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(8, 0.5, n).round() * np.where(rng.random(n) < 0.05, 0.02, 1.0)
    frame = pd.DataFrame(dict.fromkeys(METRICS, 1.0), index=range(n))
    frame["raw_sum"] = depth.round()
    frame["nnz"] = (depth**0.8).round()
    frame["pct_mito"] = (rng.beta(2, 30, n) * 100 + 40 * (rng.random(n) < 0.03)).clip(0, 100)
    frame["pct_top20"] = (rng.beta(10, 30, n) * 100 + 50 * (rng.random(n) < 0.03)).clip(0, 100)
    frame["doublet_score"] = rng.beta(1, 12, n)
    return frame


def run(frame: pd.DataFrame, samples: np.ndarray | None = None, policy: QCPolicy | None = None, genes: int = GENES):
    samples = np.full(len(frame), "a") if samples is None else samples
    return screen(frame, samples, np.full(len(frame), "cell"), genes, policy or QCPolicy())


def carries(flags: np.ndarray, code: str) -> np.ndarray:
    return np.array([code in f.split("|") for f in flags])


@pytest.mark.parametrize(
    ("code", "metric", "log", "multiplier", "floor"),
    [
        ("count-outlier", "raw_sum", True, 5.0, 0.0),
        ("gene-outlier", "nnz", True, 5.0, 0.0),
        ("mito-outlier", "pct_mito", False, 3.0, 5.0),
        ("top20-outlier", "pct_top20", False, 5.0, 0.0),
    ],
)
def test_outliers_are_those_scipy_finds(code: str, metric: str, log: bool, multiplier: float, floor: float) -> None:
    frame = cells()
    samples = np.where(np.arange(len(frame)) % 3 == 0, "a", "b")
    want = np.zeros(len(frame), dtype=bool)
    for sample in "ab":
        x = frame[metric].to_numpy()[samples == sample]
        x = np.log1p(x) if log else x
        away = x - np.median(x)
        distance = np.abs(away) if log else away
        bad = distance > multiplier * median_abs_deviation(x)
        want[samples == sample] = bad & (x > floor)
    assert want.any()
    assert not want.all()
    assert carries(run(frame, samples).flags, code).tolist() == want.tolist()


def test_fixed_bounds() -> None:
    frame = cells(600)
    result = run(frame)
    expected = {
        "low-counts": frame["raw_sum"] < 500,
        "low-genes": frame["nnz"] < 200,
        "high-mito": frame["pct_mito"] > 20,
        "doublet": frame["doublet_score"] > 0.25,
    }
    for code, want in expected.items():
        assert want.any(), code
        assert carries(result.flags, code).tolist() == want.tolist(), code
        assert result.counts[code] == want.sum()
    assert result.passing.tolist() == [f == "" for f in result.flags]


def test_nuclei_have_a_bound_of_their_own() -> None:
    frame = pd.DataFrame(dict.fromkeys((*METRICS, "doublet_score"), [900.0] * 3))
    frame["pct_mito"], frame["doublet_score"] = 12.0, np.nan
    kinds = np.array(["cell", "nucleus", "na"])
    assert screen(frame, np.full(3, "a"), kinds, GENES, QCPolicy()).flags.tolist() == ["", "high-mito", ""]


def test_codes_are_sorted_and_known() -> None:
    for text in np.unique(run(cells(800)).flags):
        codes = text.split("|") if text else []
        assert codes == sorted(codes)
        assert set(codes) <= set(REASONS)


def test_an_empty_cell_is_said_to_be_empty_and_moves_no_median() -> None:
    frame = cells(120)
    empty = pd.DataFrame(dict.fromkeys((*METRICS, "doublet_score"), [0.0] * 200))
    empty[["pct_mito", "pct_top20"]] = np.nan
    both = pd.concat([frame, empty], ignore_index=True)
    alone, joined = run(frame), run(both)
    assert joined.counts["no-counts"] == 200
    assert carries(joined.flags[120:], "no-counts").all()
    assert joined.flags[:120].tolist() == alone.flags.tolist()
    assert joined.samples == alone.samples


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = cells(300, seed)
    samples, kinds = rng.choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1]), rng.choice(["cell", "nucleus"], 300)
    order = rng.permutation(300)
    first = screen(frame, samples, kinds, GENES, QCPolicy())
    again = screen(frame.iloc[order].reset_index(drop=True), samples[order], kinds[order], GENES, QCPolicy())
    assert again.flags.tolist() == first.flags[order].tolist()
    assert again.counts == first.counts
    assert again.samples == first.samples


@given(seed=st.integers(0, 10_000), shift=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_samples_do_not_touch_each_other(seed: int, shift: float) -> None:
    mine, theirs = cells(120, seed), cells(200, seed + 1)
    theirs["raw_sum"] = (theirs["raw_sum"] * shift).round()
    samples = np.array(["mine"] * 120 + ["theirs"] * 200)
    joined = run(pd.concat([mine, theirs], ignore_index=True), samples)
    assert joined.flags[:120].tolist() == run(mine, samples[:120]).flags.tolist()


STRICTER = {
    "whole_transcriptome_genes": lambda v, r: v,  # no order: it chooses between two sets of minimums
    "whole.counts": lambda v, r: v + r, "whole.genes": lambda v, r: v + r,
    "panel.counts": lambda v, r: v + r, "panel.genes": lambda v, r: v + r,
    "mito.max_pct_cell": lambda v, r: v / (1 + r), "mito.max_pct_nucleus": lambda v, r: v / (1 + r),
    "mito.outlier_floor_pct": lambda v, r: v / (1 + r), "mito.min_genes": lambda v, r: v,  # acts before the screen
    "mad.counts": lambda v, r: v / (1 + r), "mad.genes": lambda v, r: v / (1 + r),
    "mad.top20": lambda v, r: v / (1 + r), "mad.mito": lambda v, r: v / (1 + r),
    "mad.min_cells": lambda v, r: max(v - r, 0),
    "doublets.max_score": lambda v, r: v / (1 + r), "doublets.expected_rate": lambda v, r: v,
    "doublets.min_cells": lambda v, r: v, "doublets.max_cells": lambda v, r: v, "version": lambda v, r: v,
}  # fmt: skip


def tightened(policy: QCPolicy, steps: dict[str, int]) -> QCPolicy:
    for name, step in steps.items():
        outer, _, inner = name.partition(".")
        value = STRICTER[name](flatten(policy)[name], step)
        part = dataclasses.replace(getattr(policy, outer), **{inner: value}) if inner else value
        policy = dataclasses.replace(policy, **{outer: part})
    return policy


def test_every_threshold_has_a_direction() -> None:
    assert set(STRICTER) == set(flatten(QCPolicy()))


@given(
    seed=st.integers(0, 500),
    steps=st.dictionaries(st.sampled_from(sorted(STRICTER)), st.integers(0, 60)),
    genes=st.sampled_from([248, GENES]),
)
@settings(max_examples=60, deadline=None)
def test_a_stricter_policy_keeps_a_subset(seed: int, steps: dict[str, int], genes: int) -> None:
    frame = cells(200, seed)
    samples = np.where(np.arange(200) < 170, "a", "b")
    lax, strict = run(frame, samples, genes=genes), run(frame, samples, tightened(QCPolicy(), steps), genes=genes)
    assert not (strict.passing & ~lax.passing).any()


def test_constant_metrics_flag_nobody() -> None:
    frame = pd.DataFrame(dict.fromkeys(METRICS, np.full(200, 900.0)))
    frame["pct_mito"], frame["pct_top20"], frame["doublet_score"] = 3.0, 100 / 3, 0.05
    wobbled = frame.assign(pct_top20=np.float32(100 / 3) + np.arange(200) % 2 * np.float32(4e-6))
    for case in (frame, wobbled):
        result = run(case)
        assert result.passing.all()
        assert "whose MAD is 0" in result.not_measurable["count-outlier"]
        assert result.samples[0].limits.keys() <= {"pct_top20"}


def test_one_odd_cell_among_equals_is_not_an_outlier() -> None:
    frame = pd.DataFrame(dict.fromkeys(METRICS, np.full(200, 900.0)))
    frame["pct_mito"], frame["doublet_score"] = 0.0, np.nan
    frame.loc[0, ["raw_sum", "pct_mito"]] = 1_000.0, 4.0
    assert run(frame).passing.all()


def test_a_small_sample_keeps_the_fixed_bounds_and_it_is_said() -> None:
    frame = cells(49)
    frame.loc[0, "raw_sum"] = 3.0
    result = run(frame)
    assert not {c for text in result.flags for c in text.split("|")} & {"count-outlier", "gene-outlier", "mito-outlier"}
    assert "low-counts" in result.flags[0]
    assert result.not_measurable["count-outlier"] == "49 cells in 1 sample under 50 cells"
    assert result.samples[0].limits == {}
    assert [f.code for f in result.findings] == ["qc-not-measurable"] * len(result.not_measurable)


def test_what_was_not_measured_flags_nobody_and_is_said() -> None:
    frame = cells(100).assign(pct_mito=np.nan, doublet_score=np.nan)
    result = run(frame)
    assert not {"high-mito", "mito-outlier", "doublet"} & set(result.counts)
    assert result.not_measurable["high-mito"].startswith("100 of 100 cells")
    assert "mito-outlier" not in result.not_measurable  # once is enough
    assert result.not_measurable["doublet"].startswith("100 of 100 cells")


def test_a_panel_is_held_to_its_own_minimums() -> None:
    frame = cells(200).assign(raw_sum=12.0, nnz=6.0, pct_top20=np.linspace(60, 100, 200), pct_mito=np.nan)
    frame["doublet_score"] = np.nan
    assert run(frame, genes=248).passing.all()
    assert run(frame, genes=248).not_measurable["top20-outlier"] == "200 of 200 cells: 248 measured genes are a panel"
    assert carries(run(frame, genes=GENES).flags, "low-counts").all()


def test_limits_are_in_the_units_of_the_metric() -> None:
    frame = cells(500)
    low, high = run(frame).samples[0].limits["raw_sum"]
    flagged = carries(run(frame).flags, "count-outlier")
    inside = frame["raw_sum"].between(low, high)
    assert flagged.tolist() == (~inside).tolist()
    assert run(frame).samples[0].limits["pct_mito"][0] == -np.inf


def test_no_cells() -> None:
    result = run(cells(5).iloc[:0])
    assert len(result.flags) == 0
    assert result.counts == {}
    assert result.samples == ()
    assert result.findings == ()


def test_bad_calls_name_what_is_wrong() -> None:
    with pytest.raises(AtlasInputError, match="a table that also has pct_mito, doublet_score"):
        run(cells(5).drop(columns=["pct_mito", "doublet_score"]))
    with pytest.raises(AtlasInputError, match=r"samples=\(4,\)"):
        run(cells(5), np.full(4, "a"))


def test_the_policy_used_is_named() -> None:
    policy = QCPolicy(
        whole=CellMinimums(1, 1), mito=MitoLimits(max_pct_cell=1.0), mad=MadLimits(mito=1.0),
        doublets=DoubletLimits(max_score=0.1),
    )  # fmt: skip
    assert run(cells(60), policy=policy).policy == policy.fingerprint()
