"""Who is measured and how: one `Leg` per row of the benchmark of loaders.

Settings of peers are the best of those tried on these cells; where two are close, both are run and ratios are taken to
the better one. What a peer cannot do is said in the notes of loaders.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PEERS = "benchmarks.loader_peers:"
OURS = "benchmarks.loader_ours:"


@dataclass(frozen=True)
class Leg:
    """One loader, in a process of its own."""

    loader: str
    """Name of the row."""
    make: str
    """`module:function` that opens the loader."""
    draw: str = "shuffled"
    """`shuffled`: each cell once an epoch; `weighted`: balanced over joint labels, with replacement."""
    gives: str = "CSR"
    """What a batch is."""
    setting: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the function."""
    files: tuple[str, ...] = ()
    """What it reads, in the bench folder: evicted for a cold cache."""
    environment: str = "own"
    """Name of the environment it runs in."""
    distribution: str = ""
    """Its package, whose version is told."""
    cache: str = "warm"
    """`warm` or `cold`."""
    workers: int = 0
    """Worker processes."""
    prove: str = ""
    """`module:function` that compares its batches with the store."""
    kept: int = 64
    """Batches of the window kept for it, as they were handed out; memory that is kept is memory to be got anew."""
    mixed: bool = True
    """Its batches are draws, whose mixture is judged."""
    also: bool = False
    """Left out by `--quick`."""


def _soma(name: str, io: int, **more: Any) -> Leg:
    """Return tiledbsoma-ml reading `io` cells at once, shuffled in chunks of 64."""
    return Leg(
        f"tiledbsoma-ml {name}", f"{PEERS}tiledbsoma_ml", setting={"io": io, "chunk": 64}, files=("atlas",),
        distribution="tiledbsoma-ml", **more,
    )  # fmt: skip


def _annbatch(name: str, chunk: int, preload: int, **more: Any) -> Leg:
    """Return annbatch reading runs of `chunk` cells, `preload` of them at once."""
    how = {"how": "classes"} if "class" in name else {}
    return Leg(
        f"annbatch {name}", f"{PEERS}annbatch", setting={"chunk": chunk, "preload": preload, **how},
        files=("shuffled.zarr",), environment="annbatch", distribution="annbatch", **more,
    )  # fmt: skip


def _scdataset(name: str, block: int, **more: Any) -> Leg:
    """Return scDataset shuffling blocks, 64 batches fetched at once."""
    return Leg(
        f"scDataset {name}", f"{PEERS}scdataset", setting={"block": block, "fetch": 64}, files=("x.h5ad",),
        environment="peers", distribution="scdataset", **more,
    )  # fmt: skip


def _rows(name: str, **more: Any) -> Leg:
    """Return scDataLoader's way of reading."""
    make, name = f"{PEERS}mapped_rows", f"row by row from h5ad, as scDataLoader {name}"
    return Leg(name, make, gives="dense", files=("x.h5ad",), distribution="h5py", **more)


def _scdl(name: str, **more: Any) -> Leg:
    """Return BioNeMo's memory map."""
    return Leg(
        f"BioNeMo SCDL {name}", f"{PEERS}scdl", gives="torch CSR", files=("scdl",), environment="peers",
        distribution="bionemo-scdl", **more,
    )  # fmt: skip


def _annloader(name: str, *, backed: bool, **more: Any) -> Leg:
    """Return anndata's own loader."""
    setting = {"backed": backed}
    return Leg(f"AnnLoader {name}", f"{PEERS}annloader", setting=setting, distribution="anndata", **more)


def _ours(name: str, function: str, where: str, **more: Any) -> Leg:
    """Return one of ours, from packs or from the store."""
    proof = {"contexts": "prove_contexts"}.get(function, "prove_records" if where == "packs" else "prove_stored")
    files = ("pack",) if where == "packs" else ("atlas",)
    gives = {"records": "packed records", "rows": "CSR", "decoding": "CSR", "contexts": "CellBatch"}[function]
    kept = 8 if function == "contexts" else 64  # of 9 MB each
    return Leg(
        f"panatlas {name}", OURS + function, gives=gives, setting={"where": where}, files=files, prove=OURS + proof,
        kept=kept, distribution="panatlas", **more,
    )  # fmt: skip


OUR_LEGS = (
    _ours("packs packed weighted", "records", "packs", draw="weighted"),
    _ours("packs packed shuffled", "records", "packs", also=True),
    _ours("packs csr weighted", "rows", "packs", draw="weighted"),
    _ours("packs csr shuffled", "rows", "packs", also=True),
    _ours("packs decode alone", "decoding", "packs", draw="weighted", mixed=False),
    _ours("packs model-ready weighted", "contexts", "packs", draw="weighted"),
    _ours("store packed weighted", "records", "store", draw="weighted"),
    _ours("store packed shuffled", "records", "store", also=True),
    _ours("store csr weighted", "rows", "store", draw="weighted", also=True),
    _ours("packs packed weighted, cold", "records", "packs", draw="weighted", cache="cold"),
    _ours("packs packed shuffled, cold", "records", "packs", cache="cold", also=True),
    _ours("store packed weighted, cold", "records", "store", draw="weighted", cache="cold", also=True),
    _ours("packs packed weighted, 1 worker", "records", "packs", draw="weighted", workers=1, also=True),
    _ours("packs packed weighted, 2 workers", "records", "packs", draw="weighted", workers=2),
    _ours("packs model-ready weighted, 1 worker", "contexts", "packs", draw="weighted", workers=1, also=True),
    _ours("packs model-ready weighted, 2 workers", "contexts", "packs", draw="weighted", workers=2, also=True),
    _ours("store packed weighted, 2 workers", "records", "store", draw="weighted", workers=2, also=True),
)

PEER_LEGS = (
    _soma("shuffled, 65,536 at once", 65_536),
    _soma("shuffled, 16,384 at once", 16_384, also=True),
    _annbatch("shuffled, 256 chunks of 32", 32, 256),
    _annbatch("shuffled, 64 chunks of 256", 256, 64, also=True),
    _annbatch("shuffled, 16 chunks of 1,024", 1024, 16, also=True),
    _annbatch("weighted, its class sampler", 32, 256, draw="weighted", also=True),
    _annbatch("weighted, single cells through its interface", 1, 8192, draw="weighted"),
    _scdataset("shuffled, blocks of 64", 64, also=True),
    _scdataset("shuffled, single cells", 1, also=True),
    _scdataset("weighted, single cells", 1, draw="weighted"),
    _scdl("shuffled", also=True),
    _scdl("weighted", draw="weighted"),
    _rows("shuffled", also=True),
    _rows("weighted", draw="weighted"),
    _annloader("backed shuffled", backed=True),
    _annloader("backed weighted", backed=True, draw="weighted", also=True),
    _annloader("in memory shuffled", backed=False, also=True),
    _annloader("in memory weighted", backed=False, draw="weighted", also=True),
    Leg("scipy rows in memory shuffled", f"{PEERS}in_memory", distribution="scipy"),
    Leg("scipy rows in memory weighted", f"{PEERS}in_memory", draw="weighted", distribution="scipy", also=True),
    _soma("shuffled, cold", 65_536, cache="cold"),
    _annbatch("shuffled, cold", 256, 64, cache="cold"),
    _scdataset("shuffled, blocks of 64, cold", 64, cache="cold", also=True),
    _scdl("weighted, cold", draw="weighted", cache="cold", also=True),
    _rows("weighted, cold", draw="weighted", cache="cold", also=True),
    _soma("shuffled, 1 worker", 16_384, workers=1, gives="dense", also=True),
    _soma("shuffled, 2 workers", 16_384, workers=2, gives="dense", also=True),
    _scdataset("weighted, single cells, 1 worker", 1, draw="weighted", workers=1, also=True),
    _scdataset("weighted, single cells, 2 workers", 1, draw="weighted", workers=2),
    _scdl("weighted, 1 worker", draw="weighted", workers=1, also=True),
    _scdl("weighted, 2 workers", draw="weighted", workers=2, also=True),
    _rows("weighted, 1 worker", draw="weighted", workers=1, also=True),
    _rows("weighted, 2 workers", draw="weighted", workers=2, also=True),
)
