"""Fixtures of the model tests: a home of their own, and a checkpoint as fair-esm writes them, of no trained weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: small networks gain nothing by two, which wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty panatlas home."""
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make_checkpoint(path: Path, *, seed: int = 1, layers: int = 2, dim: int = 64, heads: int = 4) -> Path:
    """Write a checkpoint in fair-esm's layout; its weights are torch's own first draw from the seed."""
    import torch
    from esm.model.esm2 import ESM2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ESM2(layers, dim, heads, "ESM-1b", token_dropout=True)
    settings = argparse.Namespace(
        encoder_layers=layers, encoder_embed_dim=dim, encoder_attention_heads=heads, token_dropout=True, arch="esm2"
    )
    weights = {}
    for name, values in network.state_dict().items():
        if not name.startswith("contact_head"):
            weights[("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name] = values
    torch.save({"cfg": {"model": settings}, "model": weights}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a small checkpoint file; the stem is a user's, and no contact-regression file lies beside it."""
    return make_checkpoint(tmp_path / "mine.pt")
