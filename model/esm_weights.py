"""ESM2 networks with weights in them: `read_checkpoint`, `fetch_checkpoint`, and `untrained` ones drawn from a seed.

A checkpoint is read without running anything in it: torch's weights-only reader, with `argparse.Namespace` allowed
because fair-esm keeps its settings in one; every shape is checked before a network is built, and nothing may unpack to
more bytes than the file has. Files of contact regression are not needed: only residue vectors are used, so contact and
letter heads are taken off.
protein_embedder.py turns these networks into vectors.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import logging
import pickle
import re
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ontology import cache_dir, cached

from .errors import CheckpointError, ModelInputError, WeightsUnavailableError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SIZES = {
    "8M": "esm2_t6_8M_UR50D",
    "35M": "esm2_t12_35M_UR50D",
    "150M": "esm2_t30_150M_UR50D",
    "650M": "esm2_t33_650M_UR50D",
    "3B": "esm2_t36_3B_UR50D",
    "15B": "esm2_t48_15B_UR50D",
}
"""Parameters to the names under which fair-esm serves its trained networks."""
SERVER = "https://dl.fbaipublicfiles.com/fair-esm/models"
"""Where fair-esm's own loader downloads from."""
TIMEOUT = 60  # seconds without a byte
PATIENCE, SLOWEST = 600, 250_000  # seconds a download may take beside its size at this many bytes a second
WIDEST = 8  # bytes a parameter may take in a download; fair-esm's have 2 or 4
SLACK = 1 << 16  # bytes that small weights of a checkpoint may have beyond its size
MOST_LAYERS, MOST_DIM = 96, 10_240  # twice the largest ESM2
REMEDY = "pass a local checkpoint of ESM2 (a .pt file of fair-esm), or use the untrained network"
NOT_ESM2 = "take a .pt file of ESM2 as fair-esm serves it"
_PREFIX = re.compile(r"^(?:model\.)?encoder\.(?:sentence_encoder\.)?")
_UNUSED = ("lm_head.", "contact_head.")


def read_checkpoint(path: str | Path) -> torch.nn.Module:
    """Return the ESM2 network of a checkpoint, in float32 on the CPU, ready to be asked.

    Raises
    ------
    CheckpointError
        When the file is absent, is no ESM2, or holds anything but weights and settings; nothing in it is run.
    """
    import torch  # noqa: PLC0415 - seconds to import; the facade stays light

    source = Path(path)
    if not source.is_file():
        raise CheckpointError(str(path), "there is no such file", NOT_ESM2)
    _check_packing(source)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Another pickle protocol than torch's own is no reason to refuse what the reader can read.
            warnings.filterwarnings("ignore", category=UserWarning, message="Detected pickle protocol")
            found = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        # What torch says of pickles tells people to read them without its guard.
        said = type(error).__name__ if isinstance(error, pickle.UnpicklingError) or not str(error) else str(error)
        reason = f"it cannot be read as weights only ({said.splitlines()[0][:200]})"
        raise CheckpointError(str(path), reason, NOT_ESM2) from error
    settings, weights = _parts(source, found)
    layers, dim, heads = (settings[name] for name in ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads"))
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        network = _bare_network(layers, dim, heads, token_dropout=bool(settings.get("token_dropout", True)))
    _check_shapes(source, network, weights)
    _check_values(source, weights)
    network.load_state_dict(weights, assign=True)
    return network.float().eval().requires_grad_(False)


def fetch_checkpoint(size: str) -> Path:
    """Return the path of fair-esm's own checkpoint of a size, downloaded on first use.

    A file that torch hub already has is used where it lies.

    Raises
    ------
    ModelInputError
        When there is no such size.
    WeightsUnavailableError
        When it cannot be downloaded whole, in time, or what comes is no checkpoint; nothing is kept then.
    """
    import torch  # noqa: PLC0415 - as above

    if size not in SIZES:
        raise ModelInputError("size", size, f"one of {', '.join(SIZES)}")
    file = f"{SIZES[size]}.pt"
    for target in (Path(torch.hub.get_dir()) / "checkpoints" / file, cache_dir() / "esm2" / file):
        if target.is_file():
            return target
    log.info("fetching %s/%s", SERVER, file)
    try:
        with cached.whole_file(target) as out:
            _download(f"{SERVER}/{file}", out, int(float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]] * WIDEST))
            out.flush()
            read_checkpoint(out.name)  # a portal's login page has status 200 too
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = str(getattr(error, "reason", error))
        raise WeightsUnavailableError(f"ESM2 {size} from {SERVER}", reason, REMEDY) from error
    except CheckpointError as error:
        reason = f"what came is no checkpoint ({error.reason})"
        raise WeightsUnavailableError(f"ESM2 {size} from {SERVER}", reason, REMEDY) from error
    return target


def _download(url: str, out: IO[bytes], most: int) -> None:
    """Copy what an address serves; raises WeightsUnavailableError where it is cut short, too long or too slow."""
    end, got = time.monotonic() + PATIENCE + most / SLOWEST, 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - https, fixed host
        said = str(answer.headers.get("Content-Length") or "")
        while block := answer.read1(1 << 20):
            got += out.write(block)
            if got > most:
                raise WeightsUnavailableError(url, f"more than {most:,} bytes came", REMEDY)
            if time.monotonic() > end:
                raise WeightsUnavailableError(url, f"only {got:,} bytes came in time", REMEDY)
    if said.isdigit() and int(said) != got:
        raise WeightsUnavailableError(url, f"{got:,} of {int(said):,} bytes came", REMEDY)


def untrained(layers: int, dim: int, seed: int) -> torch.nn.Module:
    """Return an ESM2 network that has learnt nothing: its weights are numbers drawn from `seed`.

    They are drawn by numpy as plain uniform numbers of Glorot's width (embeddings: of unit variance), not by torch, so
    that one seed gives one network on every machine and with every version of torch.

    Raises
    ------
    ModelInputError
        When a number is out of range.
    """
    import torch  # noqa: PLC0415 - as above

    if not 1 <= layers <= MOST_LAYERS:
        raise ModelInputError("layers", layers, f"1 to {MOST_LAYERS}")
    if not 16 <= dim <= MOST_DIM or dim % 16:
        raise ModelInputError("dim", dim, f"a multiple of 16, up to {MOST_DIM}")
    if seed < 0:
        raise ModelInputError("seed", seed, "0 or more")
    network, random = _bare_network(layers, dim, dim // 16, token_dropout=True), np.random.default_rng(seed)
    with torch.no_grad():
        for name, values in sorted(network.named_parameters()):
            if values.ndim == 2:
                width = 3**0.5 if name.startswith("embed_tokens") else (6 / sum(values.shape)) ** 0.5
                drawn = (random.random(tuple(values.shape)) * 2 - 1) * width
                values.copy_(torch.from_numpy(drawn.astype(np.float32)))
            else:
                values.fill_(float("layer_norm" in name and name.endswith("weight")))
    return network.eval().requires_grad_(False)


def weights_sha256(network: torch.nn.Module) -> str:
    """Return the digest of every parameter's name, shape and float32 values: the same for one network in any file.

    Buffers are left out: they follow from the size, and their last bit may differ between processors.
    """
    digest = hashlib.sha256()
    for name, values in sorted(network.named_parameters()):
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _bare_network(layers: int, dim: int, heads: int, *, token_dropout: bool) -> torch.nn.Module:
    """Return an ESM2 without its letter and contact heads."""
    import torch  # noqa: PLC0415 - as above

    with warnings.catch_warnings():
        # fair-esm 2.0.0 decorates with torch.jit.script, which torch >= 2.9 calls deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=r".*torch\.jit.*")
        from esm.model.esm2 import ESM2  # noqa: PLC0415 - imports torch
    # Drawing the weights that are replaced below must not move the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        network = ESM2(layers, dim, heads, "ESM-1b", token_dropout)
    network.lm_head = network.contact_head = torch.nn.Identity()
    return network


def _parts(path: Path, found: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the settings and the weights of a checkpoint by their names inside the network."""
    import torch  # noqa: PLC0415 - as above

    try:
        settings = vars(found["cfg"]["model"])
        weights = {_PREFIX.sub("", name): values for name, values in found["model"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(path), f"it has no {error} of an ESM2 checkpoint", NOT_ESM2) from error
    weights = {name: values for name, values in weights.items() if not name.startswith(_UNUSED)}
    for name, most in (
        ("encoder_layers", MOST_LAYERS),
        ("encoder_embed_dim", MOST_DIM),
        ("encoder_attention_heads", MOST_DIM),
    ):
        value = settings.get(name)
        if not isinstance(value, int) or not 1 <= value <= most:
            raise CheckpointError(str(path), f"its {name} is {value!r}", NOT_ESM2)
    if settings["encoder_embed_dim"] % (2 * settings["encoder_attention_heads"]):
        raise CheckpointError(str(path), "its width is no even multiple of its heads", NOT_ESM2)
    if not all(isinstance(values, torch.Tensor) and values.is_floating_point() for values in weights.values()):
        raise CheckpointError(str(path), "its weights are not all tensors of floating-point numbers", NOT_ESM2)
    return settings, weights


def _check_shapes(path: Path, network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    given = {name: tuple(values.shape) for name, values in weights.items()}
    if wrong := sorted(set(expected.items()) ^ set(given.items())):
        names = sorted({name for name, _ in wrong})
        raise CheckpointError(
            str(path), f"{len(names)} of its weights are missing, unknown or misshapen, such as {names[0]}", NOT_ESM2
        )


def _check_packing(path: Path) -> None:
    """Refuse a zip (torch's format) that unpacks to more than it is: torch stores its numbers as they are."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(member.file_size for member in packed.infolist())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CheckpointError(str(path), f"it is a damaged zip ({error})", NOT_ESM2) from error
    if unpacked > path.stat().st_size + SLACK:
        raise CheckpointError(str(path), f"it unpacks to {unpacked:,} bytes, more than it has", NOT_ESM2)


def _check_values(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Refuse weights that repeat a few stored numbers: 27 kB can claim to be 302 MB; and what are no numbers."""
    # Tensors may share their numbers, or show one number many times over (stride 0); each is a copy once in float32.
    if sparse := [name for name, values in weights.items() if not values.is_contiguous()]:
        raise CheckpointError(str(path), f"{sparse[0]} is not stored number by number", NOT_ESM2)
    claimed, there = sum(values.numel() * values.element_size() for values in weights.values()), path.stat().st_size
    if claimed > there + SLACK:
        raise CheckpointError(str(path), f"its weights claim {claimed:,} bytes of a file of {there:,}", NOT_ESM2)
    if broken := [name for name, values in weights.items() if not values.isfinite().all()]:
        raise CheckpointError(str(path), f"{broken[0]} holds values that are no numbers", NOT_ESM2)
