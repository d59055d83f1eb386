"""Checkpoints: the same bytes out, the same answers after loading, and whatever was changed is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loaders.vocabulary import Vocabulary
from model.checkpoint import MODEL_FORMAT, TrainedModel, load_model, save_model
from model.config import preset
from model.errors import CheckpointError, ModelInputError
from model.ledger import Ledger
from model.network import Network
from model.objective import make_view
from model.prior_bias import PriorBias
from model.tensor_files import load_tensors, save_tensors, seal
from tests.model.toy_batches import toy_batch, toy_table, toy_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

TINY = preset("tiny").changed(trunk={"width": 16, "layers": 2, "heads": 2, "kv_heads": 1}, cell={"width": 16})
FACTS = {"release": "toy", "seed": 3, "recipe": {"steps": 1}}


def make_model(seed: int = 0, *, prior: bool = False) -> TrainedModel:
    edges = torch.randint(0, 120, (2, 400), generator=torch.Generator().manual_seed(1))
    bias = PriorBias(edges, torch.linspace(-2, 2, 400), toy_vocabulary().n_genes) if prior else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(TINY.changed(trunk={"prior": prior}), toy_vocabulary(), toy_table(), bias)
        for parameter in network.parameters():  # so that none still has the value it is made with
            torch.nn.init.normal_(parameter, std=0.1)
    ledger = Ledger(np.arange(5, dtype=np.uint64), np.arange(5, dtype=np.uint64) + 9, np.array([2, 2, 1, 0, 0], "u1"))
    return TrainedModel(network.eval(), toy_vocabulary(), ledger, FACTS)


def answers(model: TrainedModel) -> list[torch.Tensor]:
    batch, rows = toy_batch()
    with torch.no_grad():
        encoded = model.network.encode(make_view(batch, rows))
        values = model.network.express(encoded, rows, batch.depth, rows.sum(batch.counts))
        return [encoded.embedding, values.mean, values.theta, *model.network.classify(encoded).values()]


@pytest.mark.parametrize("prior", [False, True])
def test_a_loaded_model_answers_as_the_saved_one_to_the_bit(tmp_path: Path, prior: bool) -> None:
    model = make_model(prior=prior)
    saved = save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert all(map(torch.equal, answers(model), answers(loaded)))
    assert not loaded.network.training
    assert (loaded.config, loaded.digest, loaded.facts) == (model.config, saved.digest, FACTS)
    assert loaded.vocabulary.digest == model.vocabulary.digest
    assert loaded.ledger.tally == {"validation": 2, "eligible": 1, "trained": 2}


def test_the_prior_network_of_the_attention_travels_and_matters(tmp_path: Path) -> None:
    model = make_model(prior=True)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").network
    assert torch.equal(loaded.prior.edges, model.network.prior.edges)
    loaded.prior.weights.zero_()
    batch, rows = toy_batch()
    with torch.no_grad():
        changed = loaded.encode(make_view(batch, rows)).embedding
    assert not torch.equal(changed, answers(model)[0])


def test_equal_content_has_an_equal_digest_and_other_content_another(tmp_path: Path) -> None:
    one = save_model(tmp_path / "one", make_model())
    again = save_model(tmp_path / "again", load_model(tmp_path / "one"))
    assert again.digest == one.digest
    for path in sorted((tmp_path / "one").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "one")).read_bytes()
    nudged = make_model()
    with torch.no_grad():
        next(nudged.network.parameters()).view(-1)[0].nextafter_(torch.tensor(9.0))
    others = [nudged, replace(make_model(), facts={**FACTS, "seed": 4}), replace(make_model(), ledger=empty_ledger())]
    digests = {save_model(tmp_path / f"{i}", other).digest for i, other in enumerate(others)}
    assert len(digests | {one.digest}) == 4


def empty_ledger() -> Ledger:
    return Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, make_model())
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of a saved model that may be changed."""
    for path in saved.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(saved)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(saved)).write_bytes(path.read_bytes())
    return tmp_path


def test_a_changed_byte_of_any_file_is_refused_by_the_files_name(copied: Path) -> None:
    files = [p for p in copied.rglob("*") if p.is_file()]
    assert {p.parent.name for p in files} >= {"tokens", "ledger"}
    for path in files:
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=path.name):
            load_model(copied)
        path.write_bytes(before)
    load_model(copied)


def reseal(folder: Path) -> None:
    (folder / "about.json").unlink()
    seal(folder, {"format": MODEL_FORMAT})


def test_a_changed_configuration_does_not_fit_the_weights_even_if_sealed_again(copied: Path) -> None:
    (copied / "config.json").write_text(TINY.changed(trunk={"layers": 3}).to_json())
    reseal(copied)
    with pytest.raises(CheckpointError, match="trunk"):
        load_model(copied)
    (copied / "config.json").write_text(json.dumps({**json.loads(TINY.to_json()), "loader": "os.system"}))
    reseal(copied)
    with pytest.raises(CheckpointError, match="loader"):
        load_model(copied)


@pytest.mark.parametrize("which", ["more genes", "fewer classes", "other tokens"])
def test_weights_of_another_vocabulary_are_refused(copied: Path, which: str) -> None:
    words = toy_vocabulary()
    if which == "more genes":
        other = Vocabulary(words.organisms, ((*words.genes[0], "ENSG00000999999"), words.genes[1]), words.labels)
    elif which == "fewer classes":
        other = Vocabulary(words.organisms, words.genes, {**words.labels, "assay": words.labels["sex"]})
    else:
        other = replace(words, tokens={"sha256": "0" * 64})
    (copied / "vocabulary.json").write_text(other.to_json())
    reseal(copied)
    with pytest.raises(CheckpointError, match="assay" if which == "fewer classes" else "another vocabulary"):
        load_model(copied)


def test_weights_that_are_not_finite_are_no_model(tmp_path: Path) -> None:
    for bad in (torch.nan, torch.inf):
        model = make_model()
        name, weights = list(model.network.named_parameters())[-1]
        with torch.no_grad():
            weights.view(-1)[-1] = bad
        with pytest.raises(CheckpointError, match=name):
            save_model(tmp_path / "model", model)
    assert not list(tmp_path.iterdir())


def test_weights_that_became_infinite_on_disk_are_refused(copied: Path) -> None:
    state = load_tensors(copied, "weights")
    state[name := max(state)].view(-1)[0] = torch.inf
    save_tensors(copied, "weights", state)
    reseal(copied)
    with pytest.raises(CheckpointError, match=name):
        load_model(copied)


HUGE = [
    ({"trunk": {"layers": 20_000}}, "20,000"),
    ({"expression": {"scale": "binned", "bins": 60_000_000}}, "asks for"),
]


@pytest.mark.parametrize(("part", "said"), HUGE, ids=["layers", "bins"])
def test_a_configuration_of_a_huge_network_is_refused_before_one_is_made(copied: Path, part: dict, said: str) -> None:
    (copied / "config.json").write_text(TINY.changed(**part).to_json())
    reseal(copied)
    with pytest.raises(CheckpointError, match=said):
        load_model(copied)


@pytest.mark.parametrize("wrong", ["no such role", "out of order"])
def test_a_ledger_that_cannot_be_searched_is_refused(copied: Path, wrong: str) -> None:
    name = "role" if wrong == "no such role" else "count_hash"
    values = np.load(copied / "ledger" / f"{name}.npy")
    np.save(copied / "ledger" / f"{name}.npy", values + 3 if name == "role" else values[::-1].copy())
    reseal(copied)
    with pytest.raises(CheckpointError, match="ledger"):
        load_model(copied)


def test_a_folder_that_exists_or_is_no_model_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelInputError, match="does not exist"):
        save_model(saved, make_model())
    with pytest.raises(CheckpointError, match="nowhere"):
        load_model(tmp_path / "nowhere")


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_model(tmp_path / "model", replace(make_model(), facts={"what": object()}))
    assert not list(tmp_path.iterdir())
