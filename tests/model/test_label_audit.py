"""Audits of labels: planted swaps are found, right labels are left alone, and the genes shown are those that differ."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from loaders import AnnDataCells, Cells
from model import ModelInputError, annotate
from model.label_audit import AuditOptions, LabelAudit, audit_labels
from model.marker_tests import compare_cells, marker_scale, read_expression, shared_genes
from tests.model.annotated_cells import CD4, CD8, MONOCYTE, OPTIONS, B, T, annotated_cells, annotating_model
from tests.model.small_runs import small_adata

SWAPPED = 12


class Swapped:
    """Cells of which some have another label than they should."""

    def __init__(self, cells: Cells, codes: np.ndarray) -> None:
        self._cells, self._codes = cells, codes

    def __getattr__(self, name: str) -> object:
        return getattr(self._cells, name)

    def __len__(self) -> int:
        return len(self._cells)

    def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
        return self._codes[cells] if name == "cell_type" else self._cells.codes(name, cells)


class OfTwoPanels:
    """Cells of which one is of a dataset that did not measure some genes."""

    def __init__(self, cells: Swapped, odd: int, lacking: np.ndarray) -> None:
        self._cells, self._odd, self._lacking = cells, odd, lacking
        words = cells.about["vocabulary"]
        self.about = {**cells.about, "vocabulary": {**words, "dataset": [*words["dataset"], "other"]}}

    def __getattr__(self, name: str) -> object:
        return getattr(self._cells, name)

    def __len__(self) -> int:
        return len(self._cells)

    def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
        return (
            (np.asarray(cells) == self._odd).astype(np.int32) if name == "dataset" else self._cells.codes(name, cells)
        )

    def measured(self, dataset: int, organism: int) -> np.ndarray:
        found = self._cells.measured(0, organism).copy()
        found[self._lacking] &= dataset == 0
        return found


@cache
def planted(swapped: int = SWAPPED) -> tuple[Swapped, np.ndarray, np.ndarray]:
    """Return held-out cells of which some monocytes are called B cells, and which these are."""
    cells = annotated_cells()
    words = cells.about["vocabulary"]["cell_type"]
    codes = cells.column("cell_type").copy()
    held = np.flatnonzero(cells.column("split") > 0)
    monocytes = held[codes[held] == words.index(MONOCYTE)]
    moved = np.sort(np.random.default_rng(0).permutation(monocytes)[:swapped])
    codes[moved] = words.index(B)
    return Swapped(cells, codes), held, moved


@cache
def made() -> LabelAudit:
    cells, held, _ = planted()
    return audit_labels(annotating_model(), cells, "cell_type", held, options=OPTIONS)


def test_planted_labels_are_found_and_right_ones_are_left_alone():
    found, (_, held, moved) = made(), planted()
    group = found.groups[(found.groups["given"] == B) & (found.groups["told"] == MONOCYTE)].iloc[0]
    rows = found.cells[(found.cells["given"] == B) & (found.cells["told"] == MONOCYTE)]
    sure = rows[rows["markers"] == "told"]
    assert set(sure["cell"]) <= set(moved.tolist())
    assert len(sure) >= SWAPPED / 2
    assert (group["cells"], group["by_markers"]) == (len(rows), len(sure))
    assert found.groups["by_markers"].max() == group["by_markers"], "nothing else is as wrong"
    assert (sure["margin"] > 0).all()
    assert found.audited == len(held)
    assert found.contradicted < SWAPPED + 0.03 * len(held)


def test_cells_in_doubt_are_those_whose_label_excludes_what_annotate_tells():
    cells, held, _ = planted()
    found = made()
    said = annotate(annotating_model(), cells, held, options=OPTIONS).of("cell_type")
    names = [cells.about["vocabulary"]["cell_type"][code] for code in cells.codes("cell_type", held)]
    lines = {T: {CD4, CD8, T}, CD4: {CD4}, CD8: {CD8}, B: {B}, MONOCYTE: {MONOCYTE}}
    lymphocytes = {CD4, CD8, T, B}
    doubted = [
        cell for cell, given, told in zip(held.tolist(), names, said.terms, strict=True)
        if told != "unknown" and not lines.get(given, lymphocytes) & lines.get(told, lymphocytes)
    ]  # fmt: skip
    assert found.cells["cell"].tolist() == doubted
    probabilities = dict(zip(held.tolist(), said.said_probability, strict=True))
    np.testing.assert_allclose(found.cells["told_probability"], [probabilities[cell] for cell in doubted])
    assert (found.cells["given_probability"] + found.cells["told_probability"] <= 1 + 1e-5).all()
    assert found.groups["cells"].sum() == len(doubted)
    assert found.groups["cells"].is_monotonic_decreasing


def test_the_genes_of_a_group_are_ranked_as_scipy_ranks_them():
    cells, held, _ = planted()
    found = made()
    doubted = found.cells.query("given == @B and told == @MONOCYTE")["cell"].to_numpy()
    said = annotate(annotating_model(), cells, held, options=OPTIONS).of("cell_type")
    given = cells.codes("cell_type", held) == cells.about["vocabulary"]["cell_type"].index(B)
    kept = held[given & np.isin(said.terms, [B, "CL:0000542"])]
    ids = cells.genes()["feature_id"]

    def logs(numbers: np.ndarray) -> pd.DataFrame:
        rows = cells.read(numbers).decode()
        out = np.zeros((len(numbers), len(ids)))
        for i in range(len(numbers)):
            some = slice(rows.indptr[i], rows.indptr[i + 1])
            out[i, rows.indices[some]] = rows.counts[some]
        return pd.DataFrame(np.log1p(1e4 * out / out.sum(1, keepdims=True)), columns=ids)

    one, other = logs(doubted), logs(kept)
    shown = found.genes.query("given == @B and told == @MONOCYTE")
    assert len(shown) == 2 * AuditOptions().genes
    for row in shown.itertuples():
        a, b = one[row.feature_id], other[row.feature_id]
        truth = mannwhitneyu(a, b, method="asymptotic", use_continuity=False)
        assert row.p == pytest.approx(truth.pvalue, rel=1e-3)
        assert np.sign(row.score) == np.sign(truth.statistic - len(a) * len(b) / 2)
        assert (row.share_doubted, row.share_kept) == pytest.approx(((a > 0).mean(), (b > 0).mean()))
    assert shown["score"].is_monotonic_decreasing


def test_markers_place_cells_between_two_kinds():
    cells, held, _ = planted()
    codes, words = annotated_cells().codes("cell_type", held), cells.about["vocabulary"]["cell_type"]
    sides = [held[codes == words.index(term)] for term in (B, MONOCYTE)]
    genes = shared_genes(cells, held)
    one, other = (read_expression(cells, some[:20], genes) for some in sides)
    scale = marker_scale(one, other, 10)
    assert np.mean(scale.place(cells, sides[0][:20])) == pytest.approx(-1, abs=1e-4)
    assert np.mean(scale.place(cells, sides[1][:20])) == pytest.approx(1, abs=1e-4)
    assert (scale.place(cells, sides[0][20:]) < 0).mean() > 0.9, "cells that had no part in it"
    assert (scale.place(cells, sides[1][20:]) > 0).mean() > 0.9
    table = compare_cells(one, other).set_index("gene")["score"]
    assert (table[list(scale.low)] > 0).all()
    assert (table[list(scale.high)] < 0).all()
    assert marker_scale(one, one, 10) is None, "no gene tells cells from themselves"


def test_genes_that_a_dataset_lacks_are_left_out():
    cells, held, _ = planted()
    assert shared_genes(cells, held).tolist() == np.flatnonzero(cells.measured(0, 0)).tolist()


def test_all_doubted_cells_are_placed_by_genes_that_they_measured_drawn_for_the_markers_or_not():
    cells, held, _ = planted(30)
    names, options = cells.genes()["feature_name"], AuditOptions(most_kept=15)

    def audited(some: Cells) -> tuple[pd.Series, LabelAudit]:
        found = audit_labels(annotating_model(), some, "cell_type", held, options=OPTIONS, audit=options)
        return found.groups.query("given == @B and told == @MONOCYTE").iloc[0], found

    group, found = audited(cells)
    markers = [*group["given_markers"].split()[::2], *group["told_markers"].split()[::2]]
    lacking = np.flatnonzero(names.isin(markers).to_numpy())
    doubted = found.cells.query("given == @B and told == @MONOCYTE")["cell"].tolist()
    assert len(doubted) > options.most_kept, "so some have no part in choosing markers"
    for odd in doubted[:: len(doubted) // 3]:
        group, found = audited(OfTwoPanels(cells, odd, lacking))
        assert odd in found.cells["cell"].tolist()
        used = [*group["given_markers"].split(), *group["told_markers"].split()]
        assert used, "others are left"
        assert not set(used) & set(markers)
        assert not set(found.genes.query("given == @B and told == @MONOCYTE")["feature_name"]) & set(markers)


def test_where_markers_are_not_known_it_is_said():
    cells, held, _ = planted()
    options = AuditOptions(least_kept=10_000)
    found = audit_labels(annotating_model(), cells, "cell_type", held, options=OPTIONS, audit=options)
    assert set(found.cells["markers"]) == {"not known"}
    assert found.cells["margin"].isna().all()
    assert (found.contradicted, len(found.genes)) == (0, 0)
    assert found.cells["cell"].tolist() == made().cells["cell"].tolist()
    again = audit_labels(annotating_model(), cells, "cell_type", held, options=OPTIONS)
    pd.testing.assert_frame_equal(again.genes, made().genes)
    pd.testing.assert_frame_equal(again.cells, made().cells)


def test_what_cannot_be_audited_is_refused():
    cells, held, _ = planted()
    model = annotating_model()
    with pytest.raises(ModelInputError, match="one the model has two classes of"):
        audit_labels(model, cells, "disease", held, options=OPTIONS)
    adata = small_adata()[:20].copy()
    del adata.obs["cell_type"]
    with pytest.raises(ModelInputError, match="none has one"):
        audit_labels(model, AnnDataCells(adata, "human"), "cell_type", options=OPTIONS)
