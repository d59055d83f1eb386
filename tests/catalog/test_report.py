"""The report opens from disk, fetches and runs nothing, escapes what strangers wrote, and shows the receipts' books."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from atlas import Finding, QCPolicy, Receipt, Tally
from atlas.policy import MitoLimits
from catalog import panels
from catalog.report import render_report, write_report
from ontology import LABELS

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "br", "link", "img", "input", "hr", "base"}
HOSTILE = "<script>alert('x')</script>\"'&\x00\x1b\ud800\u202e</bdi></svg><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A page read strictly: every tag is closed in order; attributes, text and books are kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.rows: list[dict[str, str]] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self._book: str | None = None
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        found = {name: value or "" for name, value in attrs}
        assert len(found) == len(attrs), f"attribute twice in {tag}"
        self.attributes += [(tag, name, value) for name, value in found.items()]
        self.ids += [found["id"]] if "id" in found else []
        if "data-source" in found:
            self.rows.append({"source": found["data-source"]})
        if "data-book" in found:
            self._book = found["data-book"]
            self.rows[-1][self._book] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> out of order"
        if tag == "td":
            self._book = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._book:
            self.rows[-1][self._book] += data


def cells(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Return obs of `n` cells as the store gives it."""
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(8, 0.6, n).round()
    frame = pd.DataFrame(
        {
            "raw_sum": counts, "nnz": (counts**0.8).astype(np.int64), "raw_mean_nnz": 2.0, "raw_variance_nnz": 3.0,
            "pct_mito": (rng.beta(2, 30, n) * 100).astype(np.float32), "pct_ribo": np.float32(9),
            "pct_top20": (rng.beta(9, 30, n) * 100).astype(np.float32),
            "doublet_score": rng.beta(1, 12, n).astype(np.float32), "sample_id": rng.choice(["s1", "s2"], n),
            "suspension_type": "cell", "n_measured_vars": 20_000, "qc_flags": rng.choice(["", "doublet|high-mito"], n),
        }
    )  # fmt: skip
    frame["qc_pass"] = frame["qc_flags"] == ""
    for column in panels.LABEL_COLUMNS:
        frame[column] = pd.Categorical(
            rng.choice(["label", "unmapped"] if column.endswith("_match") else ["a", "b"], n)
        )
    return frame[list(panels.COLUMNS)]


def receipt(name: str = "one", **changes: object) -> Receipt:
    """Return the receipt of a source whose books balance."""
    finding = Finding("unmapped-genes", "warning", "var", "3 names", "known names", "add ids")
    given = {
        "status": "written", "uri": f"/data/{name}.h5ad",
        "cells": Tally(303, 300, 0, {"no-counts": 3}), "genes": Tally(1_000, 990, 4, {"unmapped": 5, "ambiguous": 1}),
        "counts": Tally(1_234_567, 1_234_500, 0, {"unmapped-genes": 67}), "findings": (finding,), "seconds": 1.5,
        "releases": {"policy": f"1 {QCPolicy().fingerprint()}", "schema": "1.0.0"}, "dataset_id": f"id-{name}",
    }  # fmt: skip
    return Receipt(name, "human", **{**given, **changes})


def page(*pairs: tuple[Receipt, pd.DataFrame], more: tuple[Receipt, ...] = ()) -> tuple[str, Page]:
    text = render_report("Homo sapiens atlas", [r for r, _ in pairs] + list(more), pairs)
    return text, Page(text)


def test_one_file_without_scripts_and_without_anything_from_outside() -> None:
    text, read = page((receipt(), cells()))
    assert text.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    assert not [a for a in read.attributes if a[1].startswith("on")]
    for tag, name, value in read.attributes:
        if name in ("href", "src", "action", "data", "xlink:href", "poster", "srcset"):
            assert (tag, name) == ("a", "href")
            assert value.startswith("#")
    assert not re.search(r"https?:|url\(|@import|javascript:|data:", text)
    assert len(read.ids) == len(set(read.ids))
    assert {v[1:] for _, n, v in read.attributes if n == "href"} <= set(read.ids)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_what_strangers_wrote_stays_text() -> None:
    frame = cells()
    for column in (*panels.LABEL_COLUMNS, "sample_id", "suspension_type"):
        frame[column] = pd.Categorical([HOSTILE] * len(frame))
    finding = Finding(*([HOSTILE] * 6))
    bad = receipt(
        HOSTILE, findings=(finding,), releases={HOSTILE: HOSTILE}, uri=HOSTILE, dataset_id=HOSTILE,
        cells=Tally(301, 300, 0, {HOSTILE: 1}), genes=Tally(9, 8, 0, {HOSTILE: 1}),
    )  # fmt: skip
    text = render_report(HOSTILE, [bad], [(bad, frame)])
    read = Page(text)
    assert not {"script", "img"} & set(read.tags)
    assert not [a for a in read.attributes if a[1].startswith("on")]
    assert "<script>alert('x')</script>" in "".join(read.text)  # shown, as text
    assert not re.search("[\x00\x1b\ud800]", text)
    text.encode("utf-8")


def test_the_books_are_the_receipts() -> None:
    stored, lost = receipt("stored"), receipt("lost", status="rejected", cells=Tally(), genes=Tally(), counts=Tally())
    broken = receipt("broken", cells=Tally(10, 8))
    _, read = page((stored, cells()), more=(lost, broken))
    assert [r["source"] for r in read.rows] == ["stored", "lost", "broken"]
    for axis in ("cells", "genes", "counts"):
        tally, row = getattr(stored, axis), read.rows[0]
        assert int(row[f"{axis}.came_in"].replace(",", "")) == tally.came_in
        assert int(row[f"{axis}.kept"].replace(",", "")) == tally.kept
        rest = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) [a-z]", row[f"{axis}.rest"])]
        assert sum(rest) + tally.kept == tally.came_in
        assert all(reason in row[f"{axis}.rest"] for reason in tally.dropped)
        assert f"{axis}.kept" not in read.rows[1]  # nothing was read of it, which is not 0
    assert "does not balance" in read.rows[2]["cells.rest"]
    assert "does not balance" not in read.rows[0]["cells.rest"]
    everything = " ".join(read.text)
    assert "unmapped-genes" in everything
    assert "add ids" in everything


def test_the_section_says_what_the_cells_say() -> None:
    frame = cells()
    section = panels.describe_dataset(receipt(), frame, QCPolicy())
    facts = dict(section.facts)
    assert facts["cells stored"] == "300"
    assert facts["pass QC"].startswith(f"{int((frame['qc_flags'] == '').sum())} (")
    assert facts["median counts"] == f"{np.median(frame['raw_sum']):,.0f}"
    assert [row.label for row in section.labels] == list(LABELS)
    for row in section.labels:
        match = frame[f"{row.label}_match"].astype(str)
        assert row.how == ", ".join(f"{k} {n}" for k, n in match.value_counts().items())
        assert sum(n for _, n, _ in row.values) == 300
    assert {s.name: s.cells for s in section.samples} == frame["sample_id"].value_counts().to_dict()
    flagged = int((frame["qc_flags"] == "doublet|high-mito").sum())
    reasons = next(f.svg for f in section.figures if f.title == "QC reasons")
    assert re.findall(r">([\w-]+)</text>.*?>([\d,]+) · ", reasons) == [
        ("passing", str(300 - flagged)), ("doublet", str(flagged)), ("high-mito", str(flagged)),
    ]  # fmt: skip


def test_bounds_are_drawn_only_for_the_policy_that_screened() -> None:
    frame, other = cells(), QCPolicy(mito=MitoLimits(max_pct_cell=7.0)).fingerprint()
    mine = panels.describe_dataset(receipt(), frame, QCPolicy())
    theirs = panels.describe_dataset(receipt(releases={"policy": f"1 {other}"}), frame, QCPolicy())
    assert any('class="bound"' in f.svg for f in mine.figures)
    assert not any('class="bound"' in f.svg for f in theirs.figures)
    assert {s.bounds for s in theirs.samples} == {"fixed bounds only"}


def test_the_same_input_gives_the_same_bytes() -> None:
    first = render_report("t", [receipt()], [(receipt(), cells())])
    shuffled = cells().sample(frac=1, random_state=3).reset_index(drop=True)
    assert render_report("t", [receipt()], [(receipt(), cells())]) == first
    assert render_report("t", [receipt()], [(receipt(), shuffled)]) == first


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_cells(n: int) -> None:
    _, read = page((receipt(), cells().iloc[:n]))
    assert "svg" in read.tags


def test_nothing_measurable_is_said_and_not_drawn_as_zero() -> None:
    frame = cells().assign(pct_mito=np.float32(np.nan), doublet_score=np.float32(np.nan))
    text, _ = page((receipt(), frame))
    assert text.count("not measurable: no cell has a value") == 4  # label and text of two charts
    assert "which is not 0 %" in text


def test_many_samples_are_cut_and_counted() -> None:
    frame = cells(900).assign(sample_id=[f"s{i % 90}" for i in range(900)])
    text, _ = page((receipt(), frame))
    assert "and 50 smaller samples" in text


def test_the_page_says_every_reason_and_threshold() -> None:
    from atlas.policy import REASONS

    _, read = page((receipt(), cells()))
    words = "".join(read.text)
    assert all(code in words and reason.description in words for code, reason in REASONS.items())
    assert "mito.max_pct_cell = 20.0" in words


@pytest.mark.index
def test_an_ingest_leaves_a_report_of_its_atlas(starter_home: Path, tmp_path: Path) -> None:
    from atlas import open_atlas

    atlas = open_atlas(str(starter_home / "atlas"))
    path = write_report(atlas, "Homo sapiens", tmp_path / "new")
    assert path == tmp_path / "new" / "human.html"
    assert [p.name for p in path.parent.iterdir()] == ["human.html"]  # nothing left beside it
    text = path.read_text(encoding="utf-8")
    read = Page(text)
    assert write_report(atlas, "human", tmp_path / "new").read_text(encoding="utf-8") == text
    written = {r["source_id"]: r for r in atlas.receipts() if r["status"] == "written"}
    assert {row["source"] for row in read.rows} == set(written)
    for row in read.rows:
        assert int(row["cells.kept"].replace(",", "")) == written[row["source"]]["cells"]["kept"]
        assert int(row["counts.came_in"].replace(",", "")) == written[row["source"]]["counts"]["came_in"]
