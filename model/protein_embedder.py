"""What turns proteins into vectors: the seam `ProteinEmbedder`, and ESM2 behind it, trained or not.

`esm2("esm2_t6_8M_UR50D.pt")` reads real weights, `seeded_esm2()` draws meaningless ones and adds the share of each
amino acid. An untrained network knows nothing of biology: its vectors tell which residues a protein is made of and, a
little, in which order; its name says `untrained` wherever a vector goes. protein_vectors.py embeds whole organisms.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from .errors import ModelInputError
from .esm_weights import SIZES, fetch_checkpoint, read_checkpoint, untrained, weights_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""Order of the composition features: the twenty amino acids by letter."""
LONGEST = 1022
"""Residues that ESM2 was made for: 1,024 positions less the two marks around a protein. The rest is cut off."""
COMPOSITION_SCALE = 32.0
"""What shares of amino acids are multiplied with beside the network's vector. Shares vary by 0.02 between proteins, the
network's columns by 0.15; of 10 to 100, 30 to 50 placed most orthologs together (docs/proteins.md)."""
GPU_TOKENS = 16_384
"""Tokens of a batch on a GPU, padding included: at 1,024 tokens and 20 heads, 1.3 GB of attention a layer."""


class ProteinEmbedder(Protocol):
    """What `embed_proteins` asks of a protein language model; any object that has these will do."""

    @property
    def name(self) -> str:
        """Return the name under which its vectors are kept; it must say so where weights are untrained."""

    @property
    def dim(self) -> int:
        """Return the length of a vector."""

    @property
    def longest(self) -> int:
        """Return how many residues it reads; longer proteins are cut before they reach it."""

    @property
    def batch_tokens(self) -> int:
        """Return residues and padding it is best given at once; 0 for one protein at a time."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Return what its vectors depend on, such as weights and pooling; it is kept with them and keys the cache."""

    def embed(self, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector per sequence, `[n, dim]`; what else is in the call changes rounding at most."""


class Esm2Embedder:
    """An ESM2 network asked for the mean of its last layer over the residues, marks and padding left out.

    Parameters
    ----------
    network
        As read_checkpoint or untrained give it.
    name, facts
        See `ProteinEmbedder`; the digest of the weights is added where `facts` has none (`weights_sha256`).
    composition
        Append the shares of the twenty amino acids, times `COMPOSITION_SCALE`.
    device
        `cpu`, `cuda` or `cuda:0`.
    autocast
        Compute in bfloat16 where torch allows; the name then ends in `-bf16`, because the vectors differ.

    Raises
    ------
    ModelInputError
        When the device is not there.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        name: str,
        facts: Mapping[str, str],
        *,
        composition: bool = False,
        device: str = "cpu",
        autocast: bool = False,
    ) -> None:
        import torch  # noqa: PLC0415 - seconds to import; the facade stays light

        try:
            self._device = torch.device(device)
            self._network = network.to(self._device)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
            raise ModelInputError("device", device, f"cpu, or a GPU that torch sees ({error})") from error
        self._composition, self._autocast = composition, autocast
        self._tokens = _token_table(network)
        self.name = name + ("-bf16" if autocast else "")
        self.dim = int(network.embed_dim) + composition * len(RESIDUES)
        self.longest = LONGEST
        # Alone, a protein's vector is the same to the last bit whatever else is embedded; a CPU gains nothing by more.
        self.batch_tokens = 0 if self._device.type == "cpu" else GPU_TOKENS
        pooling = f"mean of the last layer over at most {LONGEST} residues"
        scaled = f"; then amino-acid shares times {COMPOSITION_SCALE:g}" if composition else ""
        precision = "bfloat16" if autocast else "float32"
        digest = facts.get("weights_sha256") or weights_sha256(network)
        self.facts = MappingProxyType(
            {**facts, "pooling": pooling + scaled, "precision": precision, "weights_sha256": digest}
        )

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Esm2Embedder({self.name}, {self.dim} numbers, {self._device})"

    def embed(self, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector per sequence, `[n, dim]`, all run as one batch; sequences are cut at `longest`.

        Raises
        ------
        ModelInputError
            When a sequence is empty or not of letters.
        """
        import torch  # noqa: PLC0415 - as above

        cut = [sequence[: self.longest] for sequence in sequences]
        if bad := [sequence for sequence in cut if not (sequence.isascii() and sequence.isalpha())]:
            raise ModelInputError("sequence", bad[0][:40], "one or more letters of amino acids")
        if not cut:
            return np.empty((0, self.dim), dtype=np.float32)
        codes = [np.frombuffer(sequence.upper().encode(), dtype=np.uint8) for sequence in cut]
        alphabet, layer = self._network.alphabet, int(self._network.num_layers)
        tokens = np.full((len(cut), max(map(len, cut)) + 2), alphabet.padding_idx, dtype=np.int64)
        tokens[:, 0] = alphabet.cls_idx
        for row, code in zip(tokens, codes, strict=True):
            row[1 : len(code) + 1] = self._tokens[code]
            row[len(code) + 1] = alphabet.eos_idx
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            states = self._network(torch.from_numpy(tokens).to(self._device), repr_layers=[layer])
            last = states["representations"][layer].float()
            means = [last[row, 1 : len(code) + 1].mean(dim=0) for row, code in enumerate(codes)]
            vectors = torch.stack(means).cpu().numpy()
        if self._composition:
            vectors = np.concatenate([vectors, _composition(codes)], axis=1)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def esm2(weights: str | Path, *, device: str = "cpu", autocast: bool = False) -> Esm2Embedder:
    """Return ESM2 with the weights of a checkpoint; the name holds their size and the first digits of their digest.

    Parameters
    ----------
    weights
        Path of a local checkpoint (a .pt file of fair-esm; read without running anything in it). Where no file is
        called so: a size that is downloaded from fair-esm's server on first use (8M, 35M, 150M, 650M, 3B, 15B), or its
        name there (esm2_t6_8M_UR50D).
    device, autocast
        See `Esm2Embedder`.

    Raises
    ------
    CheckpointError
        When the file is absent or is no ESM2 checkpoint.
    WeightsUnavailableError
        When a size cannot be downloaded.
    """
    path, named = Path(weights), {name: size for size, name in SIZES.items()} | {size: size for size in SIZES}
    if not path.is_file() and (size := named.get(str(weights))):
        path = fetch_checkpoint(size)
    network = read_checkpoint(path)
    digest = weights_sha256(network)
    name = f"esm2-{int(network.num_layers)}x{int(network.embed_dim)}-{digest[:8]}"
    # Facts key the cache of vectors: what the file is called is none of them.
    facts = {"weights": "read from a checkpoint", "weights_sha256": digest}
    return Esm2Embedder(network, name, facts, device=device, autocast=autocast)


def seeded_esm2(layers: int = 2, dim: int = 64, seed: int = 0, *, device: str = "cpu") -> Esm2Embedder:
    """Return an untrained ESM2 with amino-acid composition beside it: a stand-in where no weights can be had.

    Parameters
    ----------
    layers, dim
        Size of the network; dim a multiple of 16.
    seed
        What its weights are drawn from, alike on every machine.

    Raises
    ------
    ModelInputError
        When a number is out of range.
    """
    network = untrained(layers, dim, seed)
    facts = {"weights": f"untrained, drawn from seed {seed}: no biology was learnt", "seed": str(seed)}
    name = f"esm2-untrained-{layers}x{dim}-seed{seed}+composition"
    return Esm2Embedder(network, name, facts, composition=True, device=device)


def _token_table(network: torch.nn.Module) -> npt.NDArray[np.int64]:
    """Return ESM2's token by ASCII code; letters it does not know (J) are X, any residue."""
    known = network.alphabet.tok_to_idx
    table = np.full(128, known["X"], dtype=np.int64)
    for letter in "ACDEFGHIKLMNOPQRSTUVWXYZB":
        table[ord(letter)] = known[letter]
    return table


def _composition(codes: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    letters = np.frombuffer(RESIDUES.encode(), dtype=np.uint8)
    shares = [np.bincount(code, minlength=128)[letters] / len(code) for code in codes]
    return (np.array(shares) * COMPOSITION_SCALE).astype(np.float32)
