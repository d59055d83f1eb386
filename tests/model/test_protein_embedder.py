"""ESM2 behind the seam: right numbers, whatever the batch; nothing in a checkpoint is run; untrained is called so."""

from __future__ import annotations

import argparse
import http.server
import os
import pickle
import subprocess
import sys
import threading
import urllib.error
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from model import (
    CheckpointError,
    ModelInputError,
    WeightsUnavailableError,
    esm2,
    esm_weights,
    protein_embedder,
    seeded_esm2,
)
from model.esm_weights import untrained
from tests.model.conftest import make_checkpoint

INSULIN = (
    "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN"
)
GLOBIN = "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFK"
ROUNDING = 2e-5  # of numbers of size 1 to 10


@pytest.fixture(scope="module")
def small():
    return seeded_esm2()


def test_the_vector_is_what_fair_esm_gives(checkpoint):
    """Against the library's own loader-free path: its alphabet, batch converter and whole network, pooled by hand."""
    import torch
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    torch.manual_seed(1)
    whole = ESM2(2, 64, 4, "ESM-1b", token_dropout=True).eval()
    converter = Alphabet.from_architecture("ESM-1b").get_batch_converter()
    _, _, tokens = converter([("a", INSULIN), ("b", GLOBIN)])
    with torch.no_grad():
        states = whole(tokens, repr_layers=[2])["representations"][2].numpy()
    expected = [states[0, 1 : len(INSULIN) + 1].mean(axis=0), states[1, 1 : len(GLOBIN) + 1].mean(axis=0)]
    embedder = esm2(checkpoint)
    assert embedder.dim == 64
    np.testing.assert_allclose(embedder.embed([INSULIN, GLOBIN]), expected, atol=ROUNDING)


def test_the_name_says_size_and_digest_and_not_what_the_file_is_called(checkpoint, tmp_path):
    embedder = esm2(checkpoint)
    assert embedder.name == f"esm2-2x64-{embedder.facts['weights_sha256'][:8]}"
    boast = esm2(make_checkpoint(tmp_path / "esm2_t33_650M_UR50D.pt"))
    assert boast.name == embedder.name  # the same weights
    assert esm2(make_checkpoint(tmp_path / "b.pt", seed=2)).name != embedder.name


def test_a_renamed_checkpoint_is_the_same_embedder_and_is_hashed_once(checkpoint, tmp_path, monkeypatch):
    hashed, real = [], protein_embedder.weights_sha256
    monkeypatch.setattr(protein_embedder, "weights_sha256", lambda network: hashed.append(1) or real(network))
    one = esm2(checkpoint)
    assert hashed == [1]
    other = esm2(checkpoint.rename(tmp_path / "renamed.pt"))
    assert dict(one.facts) == dict(other.facts)  # they key the cache of vectors


def test_untrained_is_called_untrained(small):
    assert small.name == "esm2-untrained-2x64-seed0+composition"
    assert small.facts["weights"].startswith("untrained")
    assert seeded_esm2(3, 32, 5).name == "esm2-untrained-3x32-seed5+composition"


def test_a_seed_is_one_network_everywhere(small):
    # The digest was read off once; it is numpy's PCG64 and exact arithmetic, so no machine or torch may change it.
    assert small.facts["weights_sha256"] == "5bc5e92cc6879885ee3eb0ebb5e60d970eb27743c5b58e7e830b97c6e6291722"
    assert seeded_esm2(seed=1).facts["weights_sha256"] != small.facts["weights_sha256"]


def test_composition_is_the_share_of_each_amino_acid(small):
    shares = small.embed([INSULIN, "MKXB"])[:, 64:] / 32
    for letter, share in zip("ACDEFGHIKLMNPQRSTVWY", shares[0], strict=True):
        assert share == pytest.approx(INSULIN.count(letter) / len(INSULIN), abs=1e-6)
    assert shares[1].sum() == pytest.approx(0.5)  # X and B are no amino acid of their own


def test_batch_mates_change_rounding_at_most(small):
    alone = np.concatenate([small.embed([sequence]) for sequence in (INSULIN, "MK", GLOBIN * 9)])
    together = small.embed([INSULIN, "MK", GLOBIN * 9])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=ROUNDING)
    assert np.abs(alone[0] - alone[2]).max() > 1000 * ROUNDING  # or the comparison would see nothing


def test_only_residues_are_pooled(small):
    """Marks and padding out: a vector that held them would differ from one pooled by hand over the residues."""
    import torch

    network = small._network
    seen = {}
    handle = network.emb_layer_norm_after.register_forward_hook(lambda module, given, out: seen.update(out=out))
    try:
        vector = small.embed(["MKLVW", GLOBIN])[0, :64]
    finally:
        handle.remove()
    states = seen["out"].transpose(0, 1)[0]  # (token, dim) of the first protein
    by_hand = torch.stack([states[i] for i in range(1, 6)]).mean(dim=0).numpy()
    np.testing.assert_allclose(vector, by_hand, atol=ROUNDING)
    assert np.abs(states[:8].mean(dim=0).numpy() - vector).max() > 1000 * ROUNDING


def test_long_proteins_are_cut(small):
    long = (GLOBIN * 20)[:1500]
    assert np.array_equal(small.embed([long]), small.embed([long[:1022]]))
    assert not np.array_equal(small.embed([long]), small.embed([long[:1021]]))


def test_letters(small):
    assert np.array_equal(small.embed(["mklv"]), small.embed(["MKLV"]))
    assert np.array_equal(small.embed(["MKJ"])[:, :64], small.embed(["MKX"])[:, :64])
    assert small.embed([]).shape == (0, 84)
    for bad in ("", "MK*", "MK V", "MKÉ", "<mask>"):
        with pytest.raises(ModelInputError, match="amino acids"):
            small.embed(["MK", bad])


def test_one_thread_or_two(small):
    import torch

    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(small.embed([INSULIN, GLOBIN * 9]))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0], found[1], atol=ROUNDING)


def test_the_callers_random_numbers_are_left_alone(checkpoint):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    seeded_esm2()
    esm2(checkpoint)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("layers", "dim", "seed"), [(0, 64, 0), (2, 60, 0), (2, 0, 0), (2, 64, -1), (1000, 64, 0)])
def test_impossible_sizes_are_refused(layers, dim, seed):
    with pytest.raises(ModelInputError):
        seeded_esm2(layers, dim, seed)


def test_an_absent_device_is_refused():
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(ModelInputError, match="device"):
            seeded_esm2(1, 16, device=device)


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_malicious_checkpoint_is_refused_and_nothing_runs(tmp_path, checkpoint):
    import torch

    mark = tmp_path / "ran"
    whole = torch.load(checkpoint, weights_only=False)
    for number, evil in enumerate(
        (Bomb(mark), {**whole, "extra": Bomb(mark)}, {**whole, "cfg": {"model": argparse.Namespace(x=Bomb(mark))}})
    ):
        path = tmp_path / f"esm2_evil{number}.pt"
        torch.save(evil, path)
        with pytest.raises(CheckpointError, match="weights only"):
            esm2(path)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(CheckpointError):
        esm2(plain)
    assert not mark.exists()
    # The bomb is live: a reader that trusts files would have set it off.
    pickle.loads(plain.read_bytes())
    assert mark.exists()


def broken(whole, case):
    """Return a checkpoint with one thing wrong."""
    import torch

    weights, settings = dict(whole["model"]), vars(whole["cfg"]["model"])
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    if case == "weight missing":
        del weights[name]
    elif case == "weight misshapen":
        weights[name] = weights[name][:5]
    elif case == "weight unknown":
        weights["encoder.sentence_encoder.more"] = weights[name]
    elif case == "not a number":
        weights[name] = weights[name] * float("nan")
    elif case == "not a tensor":
        weights[name] = 7
    elif case == "integers":
        weights[name] = weights[name].to(torch.int64)
    elif case == "huge":
        settings = {**settings, "encoder_layers": 10**9}
    elif case == "heads do not divide":
        settings = {**settings, "encoder_attention_heads": 3}
    elif case == "layers in words":
        settings = {**settings, "encoder_layers": "two"}
    elif case == "no settings":
        return {"model": weights}
    elif case == "a list":
        return [1, 2, 3]
    return {"cfg": {"model": argparse.Namespace(**settings)}, "model": weights}


@pytest.mark.parametrize("case", [
    "weight missing", "weight misshapen", "weight unknown", "not a number", "not a tensor", "integers", "huge",
    "heads do not divide", "layers in words", "no settings", "a list",
])  # fmt: skip
def test_a_checkpoint_that_is_no_esm2_is_refused(tmp_path, checkpoint, case):
    import torch

    path = tmp_path / "broken.pt"
    torch.save(broken(torch.load(checkpoint, weights_only=False), case), path)
    with pytest.raises(CheckpointError, match="was refused"):
        esm2(path)


def test_damaged_files_are_refused(tmp_path, checkpoint):
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:-1000])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("cut.pt", "text.pt", "empty.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            esm2(tmp_path / name)


def test_half_precision_checkpoints_are_read_in_full(tmp_path, checkpoint):
    import torch

    whole = torch.load(checkpoint, weights_only=False)
    whole["model"] = {name: values.half() for name, values in whole["model"].items()}
    torch.save(whole, tmp_path / "half.pt")
    close = esm2(tmp_path / "half.pt").embed([INSULIN])
    np.testing.assert_allclose(close, esm2(checkpoint).embed([INSULIN]), atol=0.02)


def test_a_size_that_cannot_be_downloaded_names_the_way_out(own_home, tmp_path, monkeypatch):
    def refuse(url, timeout):
        assert url == "https://dl.fbaipublicfiles.com/fair-esm/models/esm2_t6_8M_UR50D.pt"
        assert timeout
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(WeightsUnavailableError, match="no route to host; pass a local checkpoint"):
        esm2("8M")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(WeightsUnavailableError, match="ESM2 8M"):
        esm2(Path("esm2_t6_8M_UR50D"))
    with pytest.raises(CheckpointError, match="no such file"):
        esm2("9M")


def test_a_download_is_kept_whole_or_not_at_all(own_home, tmp_path, monkeypatch, checkpoint):
    data = checkpoint.read_bytes()

    class Answer:
        def __init__(self, body):
            self.parts, self.headers = [body, b""], {"Content-Length": str(len(data))}

        def __enter__(self):
            return self

        def __exit__(self, *told):
            return None

        def read1(self, size):
            return self.parts.pop(0)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Answer(data[:-5]))
    with pytest.raises(WeightsUnavailableError, match="bytes came"):
        esm2("8M")
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Answer(data))
    assert esm2("8M").name == esm2(checkpoint).name
    monkeypatch.setattr("urllib.request.urlopen", None)  # the second time nothing is asked for
    assert esm2("8M").name == esm2(checkpoint).name


class Portal(http.server.BaseHTTPRequestHandler):
    """A server that answers everything alike, whatever was asked."""

    body = b"<html>please log in</html>"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(self.body)

    def log_message(self, *told):
        return


@pytest.fixture
def portal(own_home, tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(esm_weights, "SERVER", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_no_checkpoint_is_not_kept(portal, own_home, checkpoint, monkeypatch):
    for _ in range(2):
        with pytest.raises(WeightsUnavailableError, match="what came is no checkpoint"):
            esm2("8M")
        assert [path for path in own_home.rglob("*") if path.is_file()] == []
    monkeypatch.setattr(Portal, "body", checkpoint.read_bytes())
    assert esm2("8M").name == esm2(checkpoint).name


def test_a_download_has_an_end(portal, own_home, checkpoint, monkeypatch):
    monkeypatch.setattr(Portal, "body", checkpoint.read_bytes())
    monkeypatch.setattr(esm_weights, "WIDEST", 0.001)
    with pytest.raises(WeightsUnavailableError, match="more than 8,000 bytes came"):
        esm2("8M")
    monkeypatch.setattr(esm_weights, "WIDEST", 8)
    monkeypatch.setattr(esm_weights, "PATIENCE", -1e9)
    with pytest.raises(WeightsUnavailableError, match="bytes came in time"):
        esm2("8M")
    assert [path for path in own_home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("trick", ["stride 0", "shared storage", "packed"])
def test_a_small_file_that_claims_large_weights_is_refused(tmp_path, trick):
    import torch

    made = untrained(6, 320, 0).state_dict()
    room = torch.zeros(max(values.numel() for values in made.values()), dtype=torch.float16)
    weights = {}
    for name, values in made.items():
        shaped = torch.zeros(1, dtype=torch.float16).expand(values.numel()) if trick == "stride 0" else room
        weights["encoder.sentence_encoder." + name] = shaped[: values.numel()].view(values.shape)
    settings = argparse.Namespace(encoder_layers=6, encoder_embed_dim=320, encoder_attention_heads=20)
    path = tmp_path / "bomb.pt"
    torch.save({"cfg": {"model": settings}, "model": weights}, path)
    if trick == "packed":
        with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as packed:
            for member in plain.infolist():
                packed.writestr(member.filename, plain.read(member))
        path = (tmp_path / "z").rename(tmp_path / "packed.pt")
    claimed = sum(2 * values.numel() for values in made.values())
    assert path.stat().st_size < claimed / 8
    why = {"stride 0": "number by number", "shared storage": r"its weights claim [\d,]+ bytes", "packed": "unpacks to"}
    with pytest.raises(CheckpointError, match=why[trick]):
        esm2(path)


def test_what_ingest_and_the_command_line_use_imports_no_torch():
    names = "ModelConfig preset CheckpointError ProteinVectors load_protein_vectors embed_proteins vectors_name"
    code = f"import sys, model; [getattr(model, name) for name in {names!r}.split()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
