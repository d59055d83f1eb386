"""The policy is data: documented to the last field, refused where it makes no sense, told apart by its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import TYPE_CHECKING

import pytest

from atlas import AtlasInputError
from atlas.policy import REASONS, CellMinimums, DoubletLimits, MadLimits, MitoLimits, QCPolicy, flatten

if TYPE_CHECKING:
    from pathlib import Path


def test_fingerprint_is_the_digest_of_the_canonical_json() -> None:
    policy = QCPolicy()
    text = json.dumps(dataclasses.asdict(policy), sort_keys=True, separators=(",", ":"))
    assert policy.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_every_threshold_changes_the_fingerprint() -> None:
    seen = {QCPolicy().fingerprint()}
    for name, value in flatten(QCPolicy()).items():
        changed = value + "b" if isinstance(value, str) else type(value)(value + (1 if value >= 1 else 0.01))
        outer, _, inner = name.partition(".")
        part = dataclasses.replace(getattr(QCPolicy(), outer), **{inner: changed}) if inner else changed
        seen.add(dataclasses.replace(QCPolicy(), **{outer: part}).fingerprint())
    assert len(seen) == 1 + len(flatten(QCPolicy()))


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (lambda: QCPolicy(mito=MitoLimits(max_pct_cell=101.0)), "mito.max_pct_cell=101.0"),
        (lambda: QCPolicy(mito=MitoLimits(max_pct_nucleus=float("nan"))), "mito.max_pct_nucleus=nan"),
        (lambda: QCPolicy(whole=CellMinimums(counts=-1, genes=0)), "whole.counts=-1"),
        (lambda: QCPolicy(mad=MadLimits(counts=-0.1)), "mad.counts=-0.1"),
        (lambda: QCPolicy(doublets=DoubletLimits(max_score=1.5)), "doublets.max_score=1.5"),
        (lambda: QCPolicy(doublets=DoubletLimits(min_cells=100, max_cells=150)), "doublets.max_cells=150"),
        (lambda: QCPolicy(version=""), "version=''"),
    ],
)
def test_senseless_thresholds_are_refused_by_name(policy: object, field: str) -> None:
    with pytest.raises(AtlasInputError, match=re.escape(f"QCPolicy.{field} is not allowed")):
        policy()


def test_a_panel_has_minimums_of_its_own() -> None:
    policy = QCPolicy()
    assert policy.minimums(4_999) is policy.panel
    assert policy.minimums(5_000) is policy.whole


def test_reasons_are_sorted_and_name_real_thresholds() -> None:
    assert list(REASONS) == sorted(REASONS)
    names = set(flatten(QCPolicy()))
    assert not {t for reason in REASONS.values() for t in reason.thresholds} - names
    behind_a_reason = {t for reason in REASONS.values() for t in reason.thresholds}
    assert names - behind_a_reason == {"version"}


def test_the_page_states_every_threshold_and_reason(repo: Path) -> None:
    page = (repo / "docs/qc.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*?) \|", page, re.MULTILINE))
    shown = {name: str(value) for name, value in flatten(QCPolicy()).items()}
    assert {name: rows.get(name) for name in shown} == shown
    told = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]*?) \|", page, re.MULTILINE))
    assert {code: told.get(code) for code in REASONS} == {code: r.description for code, r in REASONS.items()}
    units = re.findall(r"^\| `[\w.]+` \| [^|]*? \| ([^|]*?) \|", page, re.MULTILINE)
    assert len(units) >= len(shown)
    assert all(units)
