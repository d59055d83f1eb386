"""Lightning trains on the stream: the same batches after any stop, by other workers and ranks; splits do not leak."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from loaders import (
    AnnDataCells,
    CellDataModule,
    CellLoader,
    CollateConfig,
    DataOptions,
    LeakageError,
    LoaderInputError,
    LoaderOptions,
    SamplerConfig,
    SamplingPlan,
    StateMismatchError,
    Vocabulary,
)
from tests.factories import make_adata
from tests.loaders.toy_cells import WORDS, ToyCells

if TYPE_CHECKING:
    from pathlib import Path

    from loaders import CellBatch

pytestmark = [
    # Lightning 2.6 uses what torch 2.13 calls by another name
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    # who resumes here saves nothing
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks used to create:UserWarning"),
]

CELLS = ToyCells(1000)  # 7 batches of 100 an epoch
COLLATE = CollateConfig(length=20, neighbours=0)
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


class Recorder(LightningModule):
    """Learns a number, and notes what it was given: (epoch, batch of the epoch, step, cells and genes)."""

    def __init__(self, fails_at: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []
        self.held_out: list[CellBatch] = []
        self.weight, self._fails_at = torch.nn.Parameter(torch.zeros(1)), fails_at

    def training_step(self, batch: CellBatch, number: int) -> torch.Tensor:
        if (self.current_epoch, number) == self._fails_at:
            raise ZeroDivisionError
        what = hash((*batch.cell.tolist(), *batch.genes.tolist(), *batch.counts.tolist()))
        self.seen.append((self.current_epoch, number, self.global_step, what))
        return (self.weight - batch.depth.mean()).square().sum()

    def validation_step(self, batch: CellBatch, number: int) -> None:
        self.held_out.append(batch)

    test_step = validation_step

    def predict_step(self, batch: CellBatch, number: int) -> int:
        self.held_out.append(batch)
        return number

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("groups")


def data(cache: Path, share: tuple[int, int] = (0, 1), *, workers: int = 0, **changes: Any) -> CellDataModule:
    """Return the cells' data module, as another rank sees it where one is named."""
    options = {"batch_size": 100, "window": 250, "loader": LoaderOptions(workers=workers), **changes}
    module = CellDataModule(
        CELLS, WORDS, SamplingPlan(ontology_aware=False), COLLATE, DataOptions(**options), cache=cache
    )
    stream = module._stream
    module._stream = lambda *given, **how: stream(*given, **how).shared(*share)
    return module


def fit(module: CellDataModule, path: str | Path | None = None, **changes: Any) -> Recorder:
    """Train for three epochs, unless told otherwise."""
    recorder = Recorder(changes.pop("fails_at", None))
    settings = {"max_epochs": 3, "enable_checkpointing": "callbacks" in changes, **QUIET, **changes}
    Trainer(**settings).fit(recorder, datamodule=module, ckpt_path=path)
    return recorder


def each_step(folder: Path) -> list[ModelCheckpoint]:
    """Return what saves after every step, and after every epoch."""
    name = "{epoch}-{step}"
    step = ModelCheckpoint(folder / "step", name, every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    return [
        step,
        ModelCheckpoint(folder / "epoch", name, every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
    ]


def done(path: Path) -> int:
    """Return how many batches a checkpoint is after, by Lightning's own count."""
    loops = torch.load(path, weights_only=False)["loops"]["fit_loop"]
    return loops["epoch_loop.batch_progress"]["total"]["processed"]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"max_epochs": None, "max_steps": 18},
        {"max_epochs": None, "max_steps": 9, "accumulate_grad_batches": 2, "val_check_interval": 3},
        {"limit_train_batches": 5, "limit_val_batches": 1, "reload_dataloaders_every_n_epochs": 1},
    ],
    ids=lambda how: " ".join(f"{k}={v}" for k, v in how.items()) or "plain",
)
def test_training_goes_on_as_if_it_had_not_stopped(cache: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    whole = fit(data(cache), callbacks=each_step(tmp_path), **how)
    saved = sorted(tmp_path.rglob("*.ckpt"))
    assert len(saved) > 8
    assert len({what for *_, what in whole.seen}) == len(whole.seen), "no two batches are alike"
    for path in saved:
        rest = fit(data(cache), path, **how)
        assert rest.seen == whole.seen[done(path) :], path
        if done(path) % how.get("accumulate_grad_batches", 1) == 0:
            assert torch.equal(rest.weight, whole.weight)


# Lightning looks for a checkpoint by itself where such a callback is, and says that there is none
@pytest.mark.filterwarnings("ignore:..fit.ckpt_path=None.. was called without a model")
@pytest.mark.filterwarnings("ignore:.fit.ckpt_path=.last.. is set, but there is no last checkpoint")
def test_an_interrupted_step_is_taken_again(cache: Path, tmp_path: Path) -> None:
    whole = fit(data(cache)).seen
    for epoch, number in ((0, 0), (0, 4), (1, 0), (1, 6), (2, 3)):
        recorder, folder = Recorder((epoch, number)), tmp_path / f"{epoch}-{number}"
        trainer = Trainer(max_epochs=3, callbacks=[OnExceptionCheckpoint(folder)], default_root_dir=folder, **QUIET)
        with pytest.raises(ZeroDivisionError):
            trainer.fit(recorder, datamodule=data(cache))
        rest = fit(data(cache), folder / "on_exception.ckpt")
        assert recorder.seen + rest.seen == whole, (epoch, number)


@pytest.mark.parametrize("steps", [1, 3, 5, 7])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (1, 4)])
def test_another_number_of_ranks_goes_on(cache: Path, tmp_path: Path, steps: int, before: int, after: int) -> None:
    fit(data(cache, (0, before)), max_epochs=None, max_steps=steps, callbacks=each_step(tmp_path))
    path = max((tmp_path / "step").iterdir(), key=done)
    state = torch.load(path, weights_only=False)["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    for rank in range(after):
        rest = fit(data(cache, (rank, after)), path, max_epochs=8).seen
        loader = CellLoader(data(cache)._stream(data(cache).plan, whole=True).shared(rank, after))
        loader.load_state_dict(state)
        expected = []
        for epoch in range(state["epoch"], 8):
            loader.set_epoch(epoch)
            expected += [(epoch, hash((*b.cell.tolist(), *b.genes.tolist(), *b.counts.tolist()))) for b in loader]
        assert [(epoch, what) for epoch, _, _, what in rest] == expected


@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")  # no validation
def test_workers_go_on_where_there_were_none_and_end_with_the_training(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(data(cache), callbacks=each_step(tmp_path)).seen
    path = next(p for p in (tmp_path / "step").iterdir() if done(p) == 10)
    module = data(cache, workers=2)
    monkeypatch.setattr(module, "_has", lambda split: False)
    loader = module.train_dataloader
    loaders = []
    monkeypatch.setattr(module, "train_dataloader", lambda: (loaders.append(loader()), loaders[-1])[1])
    assert fit(module, path).seen == whole[10:]
    assert [one._iterator for one in loaders] == [None]


def test_another_plan_cannot_take_it_up(cache: Path, tmp_path: Path) -> None:
    fit(data(cache), max_epochs=None, max_steps=3, callbacks=each_step(tmp_path))
    path = next((tmp_path / "step").iterdir())
    other = CellDataModule(CELLS, WORDS, SamplingPlan(labels=("tissue",), ontology_aware=False), COLLATE, cache=cache)
    with pytest.raises(StateMismatchError, match="start a new stream"):
        fit(other, path)


@pytest.mark.parametrize("ranks", [1, 3])
def test_validation_test_and_prediction_see_each_cell_once_and_alike(cache: Path, ranks: int) -> None:
    parts: dict[str, list[CellBatch]] = {"validation": [], "test": [], "predict": []}
    for rank in range(ranks):
        module = data(cache, (rank, ranks))
        recorder = fit(module, max_epochs=2)
        half = len(recorder.held_out) // 2
        assert [b.genes.tolist() for b in recorder.held_out[:half]] == [
            b.genes.tolist() for b in recorder.held_out[half:]
        ]
        parts["validation"] += recorder.held_out[:half]
        recorder.held_out.clear()
        trainer = Trainer(enable_checkpointing=False, **QUIET)
        trainer.test(recorder, datamodule=module, verbose=False)
        parts["test"] += recorder.held_out
        recorder.held_out.clear()
        trainer.predict(recorder, datamodule=module, return_predictions=False)
        parts["predict"] += recorder.held_out
    split = CELLS.column("split")
    wanted = {"validation": np.flatnonzero(split == 1), "test": np.flatnonzero(split == 2), "predict": np.arange(1000)}
    for name, batches in parts.items():
        cells = np.concatenate([b.cell.numpy() for b in batches])
        places = np.concatenate([b.position.numpy() for b in batches])
        np.testing.assert_array_equal(cells[np.argsort(places)], wanted[name])


def test_leaks_are_refused_before_the_first_batch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    donors = {**CELLS._values, "donor": CELLS.column("donor") % 4}
    leaky = ToyCells(1000)
    leaky.__dict__["_values"] = donors
    module = data(cache)
    module.cells = leaky
    with pytest.raises(LeakageError, match="donor"):
        fit(module)
    assert len(fit(data(cache, refuse_leaks=False), max_epochs=1).seen) == 7
    both = CellDataModule(CELLS, WORDS, SamplingPlan(splits=("train", "validation"), ontology_aware=False), cache=cache)
    assert both.val_dataloader() == [], "what is trained on is not validated on"


def test_genes_can_be_chosen_where_the_model_is(cache: Path) -> None:
    assert fit(data(cache, fill_on_device=True), max_epochs=1).seen == fit(data(cache), max_epochs=1).seen


def test_evaluation_can_be_drawn_and_is_the_same_every_time(cache: Path) -> None:
    module = data(cache, evaluation=SamplerConfig(kind="uniform", replacement=False, draws=120))
    batches = fit(module, max_epochs=2).held_out
    cells = [b.cell.tolist() for b in batches]
    assert [len(c) for c in cells] == [100, 20, 100, 20]
    assert cells[:2] == cells[2:]
    assert set(CELLS.codes("split", np.array(cells[0] + cells[1]))) == {1}


def test_it_travels_to_spawned_ranks(cache: Path) -> None:
    module = CellDataModule(CELLS, WORDS, SamplingPlan(ontology_aware=False), COLLATE, cache=cache)
    before = fit(module, max_epochs=1).seen
    module.trainer = None
    assert fit(pickle.loads(pickle.dumps(module)), max_epochs=1).seen == before


def test_it_serves_without_a_trainer(cache: Path) -> None:
    loader = data(cache).train_dataloader()
    loader.set_epoch(1)
    trained = [what for epoch, *_, what in fit(data(cache), max_epochs=2).seen if epoch == 1]
    assert [hash((*b.cell.tolist(), *b.genes.tolist(), *b.counts.tolist())) for b in loader] == trained


TWO = """
import json, sys
from pathlib import Path
from lightning.pytorch import Trainer
from tests.loaders.test_datamodule import QUIET, Recorder, data

class Teller(Recorder):
    def on_fit_end(self):
        said = {"train": [what for *_, what in self.seen], "held": [b.position.tolist() for b in self.held_out]}
        Path(sys.argv[1], f"{self.global_rank}.json").write_text(json.dumps(said))

if __name__ == "__main__":
    module = data(Path(sys.argv[2]))
    del module._stream  # no longer as another rank: as the one it is
    trainer = Trainer(strategy="ddp_fork", devices=2, max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(Teller(), datamodule=module)
"""


def test_two_processes_share_out_the_epoch(cache: Path, tmp_path: Path, repo: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, str(tmp_path / "two.py"), str(tmp_path), str(cache)]
    environment = {"PYTHONPATH": str(repo), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [len(part["train"]) for part in told] == [3, 3]
    held = sorted(position for part in told for batch in part["held"] for position in batch)
    assert held == list(range(int((CELLS.column("split") == 1).sum())))


@pytest.mark.parametrize("after", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 28}], ids=str)
@pytest.mark.parametrize(
    "before",
    [{"max_steps": 3}, {"max_steps": 7}, {"max_steps": 10}, {"max_epochs": 2}, {"limit_train_batches": 5}],
    ids=str,
)
@pytest.mark.parametrize("limits", [{}, {"limit_val_batches": 0}, {"val_check_interval": 3}], ids=str)
def test_what_is_saved_when_training_ends_loses_no_batch(
    cache: Path, tmp_path: Path, before: dict[str, int], after: dict[str, int], limits: dict[str, int]
) -> None:
    limits = {**limits, **{k: v for k, v in before.items() if k.startswith("limit")}}
    before = {k: v for k, v in before.items() if k.startswith("max")} or {"max_epochs": 1}
    whole = fit(data(cache), **after, **limits).seen
    recorder, kept = Recorder(), ModelCheckpoint(tmp_path, save_last=True)
    trainer = Trainer(callbacks=[kept], **before, **limits, **QUIET)
    trainer.fit(recorder, datamodule=data(cache))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert recorder.seen == whole[: len(recorder.seen)]
    assert done(tmp_path / "after.ckpt") == len(recorder.seen)
    for path in (tmp_path / "last.ckpt", tmp_path / "after.ckpt"):
        assert fit(data(cache), path, **after, **limits).seen == whole[done(path) :], path


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_what_is_saved_when_training_ends_goes_on_with_other_ranks(
    cache: Path, tmp_path: Path, before: int, after: int
) -> None:
    trainer = Trainer(max_steps=2, enable_checkpointing=False, **QUIET)
    trainer.fit(Recorder(), datamodule=data(cache, (0, before)))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    state = {"stream": data(cache)._stream(SamplingPlan(ontology_aware=False), whole=True).sampler.fingerprint}
    for rank in range(after):
        loader = CellLoader(data(cache)._stream(data(cache).plan, whole=True).shared(rank, after))
        loader.load_state_dict(state | {"epoch": 0, "position": 200 * before})
        expected = [hash((*b.cell.tolist(), *b.genes.tolist(), *b.counts.tolist())) for _ in range(2) for b in loader]
        rest = fit(data(cache, (rank, after)), tmp_path / "after.ckpt", max_epochs=2).seen
        assert [what for *_, what in rest] == expected


def test_another_vocabulary_or_collation_cannot_take_it_up(cache: Path, tmp_path: Path) -> None:
    fit(data(cache), max_epochs=None, max_steps=3, callbacks=each_step(tmp_path))
    path = max((tmp_path / "step").iterdir(), key=done)
    kept = torch.load(path, weights_only=True)["CellDataModule"]
    assert Vocabulary.from_json(kept["vocabulary"]) == WORDS
    moved = Vocabulary(WORDS.organisms[::-1], WORDS.genes[::-1])

    def module(words: Vocabulary, collate: CollateConfig, **options: Any) -> CellDataModule:
        chosen = DataOptions(batch_size=100, **options)
        return CellDataModule(CELLS, words, SamplingPlan(ontology_aware=False), collate, chosen, cache=cache)

    with pytest.raises(StateMismatchError, match=r"of vocabulary .*Vocabulary\.from_json.*accept_changes=True"):
        fit(module(moved, COLLATE), path)
    other = replace(COLLATE, length=15, seed=9)
    with pytest.raises(StateMismatchError, match="collation length=20, seed=0, and this one is length=15, seed=9"):
        fit(module(WORDS, other), path)
    assert len(fit(module(moved, other, accept_changes=True), path, max_epochs=1).seen) == 4
    trainer = Trainer(enable_checkpointing=False, **QUIET)
    trainer.test(Recorder(), datamodule=module(WORDS, other), ckpt_path=path, verbose=False)
    with pytest.raises(StateMismatchError, match="of vocabulary"):
        trainer.predict(Recorder(), datamodule=module(moved, COLLATE), ckpt_path=path)


def test_a_training_split_that_fills_no_batch_is_refused(cache: Path) -> None:
    with pytest.raises(LoaderInputError, match="batch_size=5000"):
        fit(data(cache, batch_size=5000))


def test_leaks_are_looked_for_among_the_organisms_of_the_plan_and_not_before_a_prediction(cache: Path) -> None:
    leaky = ToyCells(1000)
    mouse = leaky.column("organism") == 0
    donors = np.where(mouse, leaky.column("donor") % 4, leaky.column("donor"))
    leaky.__dict__["_values"] = {**leaky._values, "donor": donors}

    def module(*organisms: str) -> CellDataModule:
        plan = SamplingPlan(ontology_aware=False, organisms=organisms)
        return CellDataModule(leaky, WORDS, plan, COLLATE, DataOptions(batch_size=50), cache=cache)

    assert fit(module("human"), max_epochs=1).seen
    with pytest.raises(LeakageError, match="donor"):
        fit(module("mouse"), max_epochs=1)
    recorder = Recorder()
    trainer = Trainer(enable_checkpointing=False, **QUIET)
    trainer.predict(recorder, datamodule=module("mouse"), return_predictions=False)
    assert sum(len(b.cell) for b in recorder.held_out) == mouse.sum()


def test_cells_without_donors_can_be_trained_on(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = make_adata(60, 200)
    del adata.obs["donor_id"]
    adata.obs["side"] = ["train"] * 40 + ["validation"] * 20
    cells = AnnDataCells(adata, "human", {"split": "side"})
    module = CellDataModule(cells, None, SamplingPlan(), COLLATE, DataOptions(batch_size=10), cache=cache)
    recorder = Recorder()
    Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(recorder, datamodule=module)
    assert len(recorder.seen) == 4
    assert "20 cells of the second side are of unknown donors" in caplog.text


def test_zeros_of_neighbours_are_refused_on_a_device_at_once(cache: Path) -> None:
    collate = CollateConfig(length=20, zeros="neighbours")
    with pytest.raises(LoaderInputError, match="fill_on_device"):
        CellDataModule(CELLS, WORDS, None, collate, DataOptions(fill_on_device=True), cache=cache)
