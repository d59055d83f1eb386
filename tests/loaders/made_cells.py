"""Cells in memory, and what collation must make of them, told by plain loops over Python numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from loaders.counters import make_key
from loaders.records import PackedCells, encode_cells
from loaders.vocabulary import Vocabulary
from ontology import LABELS

if TYPE_CHECKING:
    from loaders.collate import CollateConfig

ORGANISMS = ("mus_musculus", "homo_sapiens")
COUNTS = [1, 1, 1, 2, 3, 7, 254, 255, 256, 1 << 24]


@dataclass
class MadeCells:
    """Cells of one or two organisms in some datasets; everything may be set."""

    counts: list[dict[int, int]]
    organism: np.ndarray
    dataset: np.ndarray
    n_genes: tuple[int, ...]
    has: dict[tuple[int, int], np.ndarray]
    near: np.ndarray
    far: np.ndarray
    columns: tuple[str, ...] = ("organism", "dataset", "donor", "depth", "cell_type", "cell_culture")
    about: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        words: dict[str, list[str]] = {label: ["unknown"] for label in LABELS}
        words |= {"cell_culture": ["cell line", "unknown", "tissue"], "dataset": ["a", "b", "c"]}
        self.about = {"organisms": [{"organism": name} for name in ORGANISMS], "vocabulary": words}

    @property
    def fingerprint(self) -> str:
        return "made"

    def __len__(self) -> int:
        return len(self.counts)

    def column(self, name: str) -> np.ndarray:
        cells = np.arange(len(self), dtype=np.int32)
        depth = np.array([sum(cell.values()) for cell in self.counts], dtype=np.float32)
        return {
            "organism": self.organism, "dataset": self.dataset, "donor": cells % 7, "depth": depth,
            "cell_type": 0 * cells, "cell_culture": cells % 3,
        }[name]  # fmt: skip

    def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
        return self.column(name)[cells]

    def genes(self) -> pd.DataFrame:
        parts = [
            pd.DataFrame({"organism": o, "feature_id": [f"{ORGANISMS[o][:3]}{g}" for g in range(n)]})
            for o, n in enumerate(self.n_genes)
        ]
        return pd.concat(parts, ignore_index=True).assign(feature_name="x")

    def measured(self, dataset: int, organism: int) -> np.ndarray:
        return self.has[dataset, organism]

    def read(self, cells: np.ndarray) -> PackedCells:
        width = max(self.n_genes)
        rows = [sorted(self.counts[cell].items()) for cell in cells]
        pairs = [pair for row in rows for pair in row]
        indptr = np.cumsum([0, *map(len, rows)])
        data, genes = np.array([c for _, c in pairs], float), np.array([g for g, _ in pairs], np.int64)
        return encode_cells(sp.csr_matrix((data, genes, indptr), shape=(len(rows), width)))

    def will_need(self, cells: np.ndarray, stream: int = 0) -> None:
        pass

    def neighbours(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.near[cells], self.far[cells]


def make_cells(seed: int, n: int = 12, widths: tuple[int, int] = (30, 50), k: int = 4) -> MadeCells:
    """Return cells of two organisms and three datasets that measured different genes; some cells are empty."""
    rng = np.random.default_rng(seed)
    organism, dataset = rng.integers(0, 2, n), rng.integers(0, 3, n)
    has = {(d, o): rng.random(widths[o]) < rng.uniform(0.3, 1) for d in range(3) for o in range(2)}
    counts = []
    for o, d in zip(organism, dataset, strict=True):
        measured = np.flatnonzero(has[d, o])
        size = rng.integers(0, max(2, int(len(measured) * rng.choice([0.2, 1.0]))))
        genes = rng.choice(measured, min(size, len(measured)), replace=False)
        counts.append(dict(sorted(zip(genes.tolist(), rng.choice(COUNTS, len(genes)).tolist(), strict=True))))
    near, far = np.full((n, k), -1, dtype=np.int64), np.full((n, k), np.inf, dtype=np.float32)
    for cell in range(n):
        mates = np.flatnonzero((organism == organism[cell]) & (dataset == dataset[cell]))
        mates = rng.permutation(mates[mates != cell])[: rng.integers(0, k + 1)]
        near[cell, : len(mates)] = mates
        far[cell, : len(mates)] = np.sort(rng.random(len(mates))) + 0.1
    return MadeCells(counts, organism, dataset, widths, has, near, far)


def make_words(cells: MadeCells, seed: int = 0, share: float = 0.8) -> Vocabulary:
    """Return a vocabulary that knows a share of the genes, in an order of its own, organisms the other way round."""
    rng, genes = np.random.default_rng(seed), cells.genes()
    known = []
    for code in (1, 0):
        ids = genes.loc[genes["organism"] == code, "feature_id"].to_numpy()
        known.append(tuple(rng.permutation(ids)[: max(1, int(share * len(ids)))].tolist()))
    whole = Vocabulary(("homo_sapiens", "mus_musculus"), tuple(known))
    return whole.with_classes("cell_culture", ["tissue", "cell line"])


def mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def word_of(key: int, lane: int, index: int) -> int:
    """Return SplitMix64's word by its definition, in Python's whole numbers."""
    gamma = 0x9E3779B97F4A7C15
    seed = mix(mix((key + gamma) % 2**64) ^ (lane * gamma % 2**64))
    return mix(((index + 1) * gamma + seed) % 2**64)


@dataclass
class Expected:
    """One cell of a batch, by feature id."""

    genes: list[str]
    counts: list[int]
    around: list[list[int]]
    distances: list[float]


def expect(
    cells: MadeCells, words: Vocabulary, config: CollateConfig, wanted: list[int], places: list[int], stream: tuple
) -> list[Expected]:
    """Return what a batch must hold, cell by cell; `stream` is (epoch, key)."""
    lane = make_key("collate", config.seed, stream[1], stream[0])
    length = config.length
    if places and (word_of(lane, 1, places[0]) >> 11) * 2.0**-53 < config.shorter_probability:
        span = config.length - config.shortest + 1
        length = config.shortest + int((word_of(lane, 2, places[0]) >> 11) * 2.0**-53 * span)
    return [
        _expect_cell(cells, words, config, cell, word_of(lane, 0, place), length)
        for cell, place in zip(wanted, places, strict=True)
    ]


def _expect_cell(
    cells: MadeCells, words: Vocabulary, config: CollateConfig, cell: int, key: int, length: int
) -> Expected:
    o = int(cells.organism[cell])
    ids = cells.genes().query("organism == @o")["feature_id"].tolist()
    known = set(words.genes[words.organisms.index(ORGANISMS[o])])
    measured = [g for g in np.flatnonzero(cells.has[int(cells.dataset[cell]), o]).tolist() if ids[g] in known]
    mine = cells.counts[cell]
    near, distances = _expect_neighbours(cells, config, cell, key)

    def smallest(genes: list[int], n: int) -> list[int]:
        return sorted(genes, key=lambda g: word_of(key, 0, g))[:n]

    def highest(counts: dict[int, int], n: int) -> set[int]:
        return set(sorted(counts, key=lambda g: (-counts[g], word_of(key, 0, g)))[:n])

    if config.genes:
        context = [ids.index(g) for g in config.genes if g in ids and ids.index(g) in measured]
        context = context if config.context == "list" else context[:length]
    else:
        expressed = {g: c for g, c in mine.items() if ids[g] in known}
        most = config.context == "most_expressed"
        size = min(length, len(measured))
        free = size - int(size * config.from_all)
        context = sorted(highest(expressed, free) if most else smallest(list(expressed), free))
        if config.zeros == "neighbours":
            sums: dict[int, int] = {}
            for other in near:
                for g, c in cells.counts[other].items():
                    if ids[g] in known and g not in mine:
                        sums[g] = sums.get(g, 0) + c
            if len(context) < length:
                best = highest(sums, length - len(context))
                context += [g for g in sums if g in best]
        rest = [g for g in measured if g not in context]
        if config.zeros != "none" and len(context) < length:
            if len(measured) <= length:
                context += rest
            draw = 0
            while len(context) < min(length, len(measured)):
                g = measured[(word_of(key, 1, draw) >> 18) * len(measured) >> 46]
                draw += 1
                if g not in context:
                    context.append(g)
    around = [[cells.counts[other].get(g, 0) for g in context] for other in near]
    around += [[0] * len(context)] * (config.neighbours - len(near))
    distances = distances + [float("inf")] * (config.neighbours - len(near))
    return Expected([ids[g] for g in context], [mine.get(g, 0) for g in context], around, distances)


def _expect_neighbours(cells: MadeCells, config: CollateConfig, cell: int, key: int) -> tuple[list[int], list[float]]:
    there = [slot for slot in range(cells.near.shape[1]) if cells.near[cell, slot] >= 0]
    if config.fewer_neighbours:
        wanted = int((word_of(key, 2, 0) >> 11) * 2.0**-53 * (config.neighbours + 1))
        there = sorted(sorted(there, key=lambda slot: word_of(key, 3, slot))[:wanted])
    there = there[: config.neighbours]
    return cells.near[cell, there].tolist(), cells.far[cell, there].tolist()
