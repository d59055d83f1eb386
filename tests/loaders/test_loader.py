"""The loader: a state that is exact at the batch handed out, workers that change nothing and never stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import (
    CellLoader,
    CellStream,
    CollateConfig,
    Collator,
    LoaderInputError,
    LoaderOptions,
    Sampler,
    SamplerConfig,
    SamplingPlan,
    StateMismatchError,
    StreamOptions,
    WorkerError,
    build_groups,
    make_sampler,
    make_vocabulary,
    open_cells,
)
from tests.loaders.toy_cells import WORDS, Fragile, ToyCells

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loaders import CellBatch, Cells, Pack

CELLS = ToyCells(900)
GROUPS = build_groups([CELLS.column("cell_type")], 5, len(CELLS))
SAMPLER = Sampler(GROUPS, SamplerConfig(draws=470), release="toy")


def stream(sampler: Sampler = SAMPLER, **options: Any) -> CellStream:
    """Return a stream of collated batches of 32 cells."""
    collate = Collator(WORDS, CELLS, CollateConfig(length=20, neighbours=0)).collate
    return CellStream(CELLS, sampler, collate, StreamOptions(**{"batch_size": 32, "window": 100, **options}))


def told(batches: Iterable[CellBatch]) -> list[tuple[Any, ...]]:
    """Return what is in each batch: cells, positions, and the genes and counts drawn for them."""
    return [tuple(tuple(t.tolist()) for t in (b.cell, b.position, b.genes, b.counts)) for b in batches]


def epoch(loader: CellLoader, number: int) -> list[tuple[Any, ...]]:
    loader.set_epoch(number)
    return told(loader)


EPOCHS = [epoch(CellLoader(stream()), number) for number in range(3)]
FLAT = [batch for batches in EPOCHS for batch in batches]


def taken_up(state: dict[str, Any], ranks: int, last: int = 3) -> list[tuple[Any, ...]]:
    """Return what comes after a state, by so many ranks, woven together."""
    out = []
    loaders = [CellLoader(stream(ranks=ranks, rank=rank)) for rank in range(ranks)]
    for loader in loaders:
        loader.load_state_dict(state)
    for number in range(state["epoch"], last):
        parts = [epoch(loader, number) for loader in loaders]
        assert len({len(part) for part in parts}) == 1
        out += [part[i] for i in range(len(parts[0])) for part in parts]
    return out


def test_epochs_differ_and_return() -> None:
    loader = CellLoader(stream())
    assert len(loader) == len(EPOCHS[0]) == 14
    assert [epoch(loader, number) for number in (2, 0, 1)] == [EPOCHS[2], EPOCHS[0], EPOCHS[1]]
    assert epoch(loader, 1) == EPOCHS[1], "an epoch can be had again"
    assert not set(EPOCHS[0]) & set(EPOCHS[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2), st.integers(0, 14), st.integers(1, 3), st.integers(1, 3))
def test_a_stream_is_taken_up_anywhere_by_any_number_of_ranks(number: int, done: int, before: int, ranks: int) -> None:
    loader = CellLoader(stream(ranks=before, rank=before - 1))
    loader.set_epoch(number)
    done = min(done, len(loader))
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = loader.state_dict()
    at = len(EPOCHS[0]) * number + (done * before if done < len(loader) else 14)
    rest = taken_up(state, ranks)
    epochs = [EPOCHS[n] for n in range(number + 1, 3)]
    left = FLAT[at : 14 * (number + 1)]
    whole = left[: len(left) // ranks * ranks] + [b for e in epochs for b in e[: 14 // ranks * ranks]]
    assert rest == whole


def test_a_state_is_of_the_batch_handed_out() -> None:
    loader = CellLoader(stream())
    assert loader.state_dict()["position"] == 0
    for done, _ in enumerate(loader, 1):
        assert (
            loader.state_dict() == {"stream": SAMPLER.fingerprint, "epoch": 0, "position": min(32 * done, 470)}
            or done == 14
        )
    assert loader.state_dict()["position"] == 470, "what fills no batch is done with, too"


def test_iterations_without_set_epoch_are_of_one_epoch_after_another() -> None:
    loader = CellLoader(stream())
    assert [told(loader) for _ in range(3)] == EPOCHS
    loader = CellLoader(stream())
    next(iter(loader))
    assert told(loader) == EPOCHS[0], "what was broken off begins again"
    state = loader.state_dict()
    assert state["epoch"] == 0
    again = CellLoader(stream())
    again.load_state_dict(state)
    assert [told(again) for _ in range(3)] == [[], *EPOCHS[1:]]
    again.load_state_dict(state | {"position": 320})
    assert told(again) == EPOCHS[0][10:]


def test_a_state_is_for_one_iteration_of_its_epoch() -> None:
    loader = CellLoader(stream())
    state = {"stream": SAMPLER.fingerprint, "epoch": 1, "position": 320}
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    loader.set_epoch(1)
    assert told(loader) == EPOCHS[1][10:]
    assert epoch(loader, 1) == EPOCHS[1]
    loader.load_state_dict(state)
    assert epoch(loader, 2) == EPOCHS[2]


def test_the_state_of_another_stream_is_refused(tmp_path: Path) -> None:
    state = CellLoader(stream()).state_dict()
    others = [
        Sampler(GROUPS, SamplerConfig(draws=470), release="r2"),
        Sampler(GROUPS, SamplerConfig(draws=470, seed=1), release="toy"),
    ]
    plan = SamplingPlan(ontology_aware=False)
    others += [make_sampler(CELLS, one, cache=tmp_path) for one in (plan, replace(plan, splits=("test",)))]
    for sampler in others:
        with pytest.raises(StateMismatchError, match="start a new stream"):
            CellLoader(stream(sampler)).load_state_dict(state)


def test_a_loader_has_one_iteration_at_a_time() -> None:
    loader = CellLoader(stream())
    first = iter(loader)
    next(first)
    assert told(loader) == EPOCHS[0]
    with pytest.raises(LoaderInputError, match="another was started"):
        next(first)
    second = iter(loader)
    next(second)
    loader.close()
    with pytest.raises(LoaderInputError, match="or the loader was closed"):
        next(second)


@pytest.mark.parametrize("options", [{"workers": -1}, {"prefetch": 0}])
def test_options_that_cannot_work_are_said(options: dict[str, int]) -> None:
    with pytest.raises(LoaderInputError, match=next(iter(options))):
        LoaderOptions(**options)


def workers_of(loader: CellLoader) -> list[int]:
    return [worker.pid for worker in loader._iterator._workers]


def are_gone(pids: list[int]) -> bool:
    """Tell whether processes end within 20 s."""
    for _ in range(200):
        if not any(
            Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
            for pid in pids
        ):
            return True
        time.sleep(0.1)
    return False


def test_workers_give_what_a_loop_gives() -> None:
    with CellLoader(stream(), LoaderOptions(workers=2, prefetch=3)) as loader:
        assert epoch(loader, 0) == EPOCHS[0]
        first = workers_of(loader)
        assert epoch(loader, 1) == EPOCHS[1]
        loader.set_epoch(1)
        batches = iter(loader)
        for _ in range(5):
            next(batches)
        state = loader.state_dict()
        assert state["position"] == 160, "not what the workers have ahead"
        assert taken_up(state, 1) == EPOCHS[1][5:] + EPOCHS[2], "by no worker"
        loader.load_state_dict({**state, "epoch": 2, "position": 96})
        assert told(loader) == EPOCHS[2][3:], "by two, with others' batches still under way"
        assert workers_of(loader) == first, "kept"
        batches = iter(loader)
        next(batches)
    assert are_gone(first)


def test_a_stream_begun_on_a_pack_goes_on_in_a_worker_on_the_store(atlas: str, pack: Pack, tmp_path: Path) -> None:
    words = make_vocabulary(pack)
    plan = SamplingPlan(config=SamplerConfig(draws=300), expressed_weights=True)

    def loader(cells: Cells, workers: int) -> CellLoader:
        sampler = make_sampler(cells, plan, words, tmp_path / cells.__class__.__name__)
        collate = Collator(words, cells, CollateConfig(length=40, neighbours=2)).collate
        one = CellStream(cells, sampler, collate, StreamOptions(batch_size=32, window=64, neighbours=2))
        return CellLoader(one, LoaderOptions(workers=workers))

    begun = loader(open_cells(pack.path), 0)
    whole = told(begun)
    assert len(whole) == 9
    begun.set_epoch(0)
    batches = iter(begun)
    for _ in range(4):
        next(batches)
    with loader(open_cells(atlas, "r1"), 1) as rest:
        rest.load_state_dict(begun.state_dict())
        assert told(rest) == whole[4:]


def test_workers_that_fail_or_die_are_told_and_replaced() -> None:
    for dies, said in ((False, "record=4711 is not allowed"), (True, "killed by SIGKILL; mostly because memory")):
        one = CellStream(CELLS, SAMPLER, Fragile(100, dies=dies), StreamOptions(batch_size=32))
        loader = CellLoader(one, LoaderOptions(workers=1, prefetch=1))
        batches = iter(loader)
        seen = [next(batches), next(batches)]
        pids = workers_of(loader)
        with pytest.raises(WorkerError, match=said):
            seen.extend(batches)
        assert [batch[0] for batch in seen] == [0, 32, 64][: len(seen)]
        assert loader.state_dict()["position"] == 32 * len(seen)
        assert are_gone(pids)
    one = CellStream(CELLS, SAMPLER, Fragile(100), StreamOptions(batch_size=32))
    with pytest.raises(LoaderInputError, match="4711"):
        list(CellLoader(one))


SCRIPT = """
import time
from loaders import CellLoader, CellStream, LoaderOptions, Sampler, SamplerConfig, build_groups
from tests.loaders.toy_cells import ToyCells

if __name__ == "__main__":
    cells = ToyCells(900)
    sampler = Sampler(build_groups([cells.column("cell_type")], 5, 900), SamplerConfig(), release="toy")
    loader = CellLoader(CellStream(cells, sampler), LoaderOptions(workers=1))
    for batch in loader:
        print(*[worker.pid for worker in loader._iterator._workers], flush=True)
        time.sleep(60)
"""


def test_an_interrupt_ends_everything(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "train.py")]
    env = {**os.environ, "PYTHONPATH": str(repo)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        pids = [int(pid) for pid in running.stdout.readline().split()]
        assert pids, running.stderr.read()
        os.killpg(running.pid, signal.SIGINT)  # what a terminal does
        assert running.wait(timeout=30) != 0
        assert "KeyboardInterrupt" in running.stderr.read()
    assert are_gone(pids)
