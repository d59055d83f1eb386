"""The benchmark of loaders judges fairly: mixtures, frequencies, eviction and ratios are what they are called."""

from __future__ import annotations

import sys
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks import loader_environments, loader_leg, loader_legs, loaders


def known(n: int = 6400) -> dict[str, np.ndarray]:
    """Ten datasets of four donors each; groups of 90 % and 10 %, asked for half and half."""
    group = (np.arange(n) % 10 == 0).astype(np.int64)
    return {
        "dataset": np.arange(n) * 10 // n,
        "donor": np.arange(n) * 40 // n,
        "group": group,
        "shares": np.ones(2) / 2,
    }


def batches_of(cells: np.ndarray) -> list[np.ndarray]:
    return list(cells.reshape(-1, 128))


def test_independent_draws_have_chi_squared_about_one_and_all_datasets():
    facts, rng = known(), np.random.default_rng(0)
    row = loader_leg.mixture(batches_of(rng.integers(0, 6400, 128 * 200)), "shuffled", facts)
    assert row["chi2_per_df"] < 8  # one degree of freedom: 0.5 % of fair draws are above
    assert row["datasets"] == 10
    assert 36 < row["donors"] <= 40
    # 128 draws of 100 blocks: 100 * (1 - 0.99 ** 128) different ones are expected
    assert row["blocks"] == pytest.approx(72.4, abs=1)


def test_blocks_in_order_are_told_from_a_mixture():
    row = loader_leg.mixture(batches_of(np.arange(128 * 50)), "shuffled", known())
    assert (row["blocks"], row["datasets"]) == (2.0, pytest.approx(1.2, abs=0.2))


def test_uniform_draws_do_not_pass_for_weighted_ones():
    facts, rng = known(), np.random.default_rng(0)
    uniform = batches_of(rng.integers(0, 6400, 128 * 200))
    assert loader_leg.mixture(uniform, "weighted", facts)["chi2_per_df"] > 1000
    rare, common = np.flatnonzero(facts["group"] == 1), np.flatnonzero(facts["group"] == 0)
    sides = np.where(rng.random(128 * 200) < 0.5, rng.choice(rare, 128 * 200), rng.choice(common, 128 * 200))
    assert loader_leg.mixture(batches_of(sides), "weighted", facts)["chi2_per_df"] < 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page cache is asked as on Linux")
def test_what_is_in_the_page_cache_is_known(tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(bytes(1 << 20))
    assert loader_leg.cached_share([file]) == 1.0
    share = loader_leg.evict([file])  # a file system in memory cannot let go
    assert share == loader_leg.cached_share([file])
    file.read_bytes()
    assert loader_leg.cached_share([file]) == 1.0


def test_processor_time_of_children_counts():
    import subprocess

    before = loader_leg.cpu_seconds()
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert loader_leg.cpu_seconds() - before > 0.3


TOY = """
import itertools, time
import numpy as np

def open_toy(folder, *, draw, workers, buffer):
    bytes_ = (folder / "file").read_bytes()

    def batches():
        for i in itertools.count():
            if i % buffer == 0:
                time.sleep(0.02)  # what filling a buffer takes
            yield bytes_[i:], np.arange(i * 128, i * 128 + 128) % 6400, i % buffer == 0

    return batches()

def prove(folder, kept, seen):
    assert all(batch == (folder / "file").read_bytes()[cells[0] // 128 :] for batch, cells in kept if cells[0])
    return len(seen)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_loader.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "file").write_bytes(bytes(range(200)))
    np.savez(tmp_path / "cells.npz", **known())
    return asdict(loader_legs.Leg("toy", "toy_loader:open_toy", setting={"buffer": 10}, prove="toy_loader:prove")) | {
        "files": ["file"], "seconds": 0.05, "cells": 1000,
    }  # fmt: skip


def test_a_window_holds_whole_buffers_and_all_its_batches_are_proved(toy, tmp_path):
    row = loader_leg.run(toy, tmp_path)
    batches = row["batches_equal_to_store"]
    assert batches % 10 == 0  # from after the first batch of a buffer to after that of a later one
    assert batches >= 20
    # Each buffer sleeps 20 ms for 1,280 cells: a window that began with a full one would tell more.
    assert row["cells_per_s"] <= 64_000
    assert row["first_batch_s"] >= 0.02
    assert row["peak_mib"] > 10


def test_a_cold_window_ends_before_cells_come_again(toy, tmp_path):
    row = loader_leg.run(toy | {"cache": "cold"}, tmp_path)
    assert row["batches_equal_to_store"] == 8  # 1,000 cells in batches of 128
    assert {"cached_before", "cached_after", "disk_mib"} <= set(row)


def test_ratios_are_taken_to_the_best_row_of_each_peer():
    warm = {"table": "warm cache, one process"}
    rows = [
        warm | {"loader": "panatlas packs", "cells_per_s": 900, "cells_per_cpu_s": 900},
        warm | {"loader": "tiledbsoma-ml a", "cells_per_s": 20, "cells_per_cpu_s": 10},
        warm | {"loader": "tiledbsoma-ml b", "cells_per_s": 12, "cells_per_cpu_s": 11},
        warm | {"loader": "annbatch", "note": "not run: needs Python 3.12"},
        {"table": "cold cache", "loader": "panatlas packs, cold", "cells_per_s": 100, "cells_per_cpu_s": 900},
    ]
    loaders.add_ratios(rows)
    assert rows[0]["times_tiledbsoma_ml"] == round(900 / 11, 1)
    assert rows[4]["times_warm_tiledbsoma_ml"] == 100 / 20
    assert not any("annbatch" in key for row in rows for key in row)


def test_every_leg_names_a_function_and_no_two_rows_are_called_alike():
    from benchmarks import loader_ours, loader_peers

    legs = (*loader_legs.OUR_LEGS, *loader_legs.PEER_LEGS)
    assert len({leg.loader for leg in legs}) == len(legs)
    for leg in legs:
        for what in filter(None, (leg.make, leg.prove)):
            module, _, function = what.partition(":")
            home = {"benchmarks.loader_ours": loader_ours, "benchmarks.loader_peers": loader_peers}[module]
            assert callable(getattr(home, function))
        assert bool(leg.prove) == leg.loader.startswith("panatlas")


def test_a_peer_that_cannot_be_installed_is_a_row_that_says_so(tmp_path, monkeypatch):
    settings = {"PATH": "/usr/bin:/bin", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
    monkeypatch.setattr(loader_environments, "index_settings", lambda: iter([dict(settings)]))
    said = loader_environments.make_environment(
        tmp_path / "nobody", sys.executable, ("no-such-distribution-at-all==1",)
    )
    assert said.startswith("not run: no-such-distribution-at-all==1 cannot be installed here")
    leg = next(leg for leg in loader_legs.PEER_LEGS if leg.environment == "peers")
    row = loaders.run_leg(leg, tmp_path, {"peers": said}, seconds=1, cold=1)
    assert row["note"] == said
    assert "cells_per_s" not in row
