"""The best a decoder could do is what it makes of real cells of the target, scored as counterfactuals are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import counterfactual as bench
from model import counterfactual_blocks, halve, report_counterfactual, swaps_to
from tests.model.small_runs import small_adata, small_cells
from tests.model.test_counterfactual import IDS, OPTIONS, populations, sharp_model


def test_decoded_target_cells_are_scored_by_what_is_decoded_of_them_and_of_those_to_be_changed():
    halves, model, genes = halve(*populations()), sharp_model(), IDS[:60][::-1]
    swaps = swaps_to(model, halves.reference, ["cell_type"], 1.0, OPTIONS)
    report = report_counterfactual(model, halves, swaps, genes, options=OPTIONS)
    (row,) = bench._ceiling(model, halves, report, OPTIONS)
    means = []
    for part in (halves.source, halves.target):
        blocks = counterfactual_blocks(model, small_cells(), [], part.numbers, genes=genes, options=OPTIONS)
        counts = np.concatenate([one.factual for one in blocks])
        means.append((counts / small_adata().X[part.numbers].sum(1, keepdims=True)).mean(0) * 1e4)
    told, seen = np.log2((means[1] + 1) / (means[0] + 1)), report.changes["observed_change"].to_numpy()
    assert (row["group"], row["method"]) == ("all", "decoded target cells")
    assert row["spearman"] == pytest.approx(spearmanr(told, seen).statistic, abs=1e-3)
    assert row["explained"] == pytest.approx(1 - ((told - seen) ** 2).sum() / (seen**2).sum(), abs=1e-3)
    assert set(row) == set(report.scores)
    same = replace(halves, target=halves.source)
    (idle,) = bench._ceiling(model, same, report, OPTIONS)
    assert idle["explained"] == pytest.approx(0, abs=1e-6), "the same cells are no change"
