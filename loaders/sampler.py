"""The sampler: which cell is at position k of an epoch, for any k, in any process, without drawing what came before.

A position is answered by counter-based random numbers (counters.py) from (release, configuration, seed, epoch, k) and
nothing else. So the order is the same for one worker or sixty-four and one rank or five hundred, ranks and workers
share it out by arithmetic, and resuming is a number. Groups and weights come from groups.py and weights.py; the cells
are fetched elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .alias import AliasTable, make_alias_table
from .counters import make_key, permute, random_units
from .errors import LoaderInputError, StateMismatchError
from .weighted_draws import draw_weighted, sum_weights
from .weights import Weighting, group_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .groups import CellGroups

Cells = npt.NDArray[np.int64]
ATTEMPTS = 8
"""Rejections per draw before cumulated weights are searched; which one it was changes no probability."""


@dataclass(frozen=True)
class SamplerConfig:
    """What decides the order of cells, besides the release."""

    kind: Literal["sequential", "uniform", "balanced"] = "balanced"
    """In order; each cell alike; or groups by `weighting`, then cells inside."""
    replacement: bool = True
    """False: no cell of a group comes again before all of its group came; sequential never repeats."""
    draws: int | None = None
    """Positions per epoch; None means as many as there are cells."""
    seed: int = 0
    """Seed of the order."""
    weighting: Weighting = field(default_factory=Weighting)
    """How group sizes become weights, for `balanced`."""

    def __post_init__(self) -> None:
        """Refuse fractions, and make equal numbers alike: a stream's fingerprint has them."""
        object.__setattr__(self, "replacement", bool(self.replacement))
        for name in ("draws", "seed"):
            value = getattr(self, name)
            if value is None and name == "draws":
                continue
            if not isinstance(value, int | float | np.number) or value != int(value):
                raise LoaderInputError(name, value, "a whole number")
            object.__setattr__(self, name, int(value))


@dataclass(frozen=True, eq=False)
class GroupFacts:
    """What is known of the groups besides their sizes; all optional. See weights.py."""

    specific: npt.NDArray[np.bool_] | None = None
    """Bool per group: all its labels are leaves."""
    compatible: Sequence[Cells] | None = None
    """Per group that is not specific, the groups its cells may belong to."""
    confidence: npt.NDArray[np.float64] | None = None
    """Factor per group in (0, 1]."""


class Sampler:
    """Cells by position.

    Parameters
    ----------
    groups
        The cells that may be drawn, by group.
    config
        The order asked for.
    release
        Name or hash of the release that the cell numbers belong to.
    facts
        Coarse groups and confidences.
    cell_weights, maxima
        Weight by cell number, above 0, and the largest of each group (`group_maxima`): how often a cell is drawn among
        those of its group. Both or neither.
    weight_sums
        Of the cell weights (`sum_weights`); None computes them when they are first needed.

    Raises
    ------
    LoaderInputError
        When the configuration contradicts itself.
    """

    def __init__(
        self,
        groups: CellGroups,
        config: SamplerConfig,
        *,
        release: str,
        facts: GroupFacts | None = None,
        cell_weights: npt.NDArray | None = None,
        maxima: npt.NDArray[np.float64] | None = None,
        weight_sums: npt.NDArray[np.float64] | None = None,
    ) -> None:
        if config.kind not in ("sequential", "uniform", "balanced"):
            raise LoaderInputError("kind", config.kind, "sequential, uniform or balanced")
        if config.draws is not None and config.draws < 1:
            raise LoaderInputError("draws", config.draws, "at least 1, or None")
        if (cell_weights is None) != (maxima is None):
            raise LoaderInputError("maxima", maxima, "given together with cell_weights, by `group_maxima`")
        if cell_weights is not None and not (config.kind == "balanced" and config.replacement):
            # Weighted draws without replacement have no O(1) position: each would depend on all before it.
            raise LoaderInputError("cell_weights", config, "kind balanced with replacement")
        self.groups, self.config = groups, config
        self._facts = facts or GroupFacts()
        self._cell_weights, self._maxima, self._weight_sums = cell_weights, maxima, weight_sums
        self.fingerprint = f"{make_key(release, sorted(asdict(config).items()), self._digest()):016x}"
        self._key = make_key(self.fingerprint)
        self._remember()

    def _remember(self) -> None:
        """Keep what an epoch needs, of the present one and the one before."""
        self._table = lru_cache(maxsize=2)(self._make_table)
        self._quotas = lru_cache(maxsize=2)(self._make_quotas)
        self._walked = lru_cache(maxsize=2)(self._make_walked)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what can be made again."""
        return {name: value for name, value in vars(self).items() if name not in ("_table", "_quotas", "_walked")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was pickled."""
        vars(self).update(state)
        self._remember()

    def _digest(self) -> int:
        """Return a key of the groups and what is known of them; cell weights are the release's, whose name is in it."""
        facts = self._facts
        arrays = [self.groups.counts, facts.specific, facts.confidence, *(facts.compatible or ())]
        return make_key(self._maxima is not None, *(make_key(b"" if a is None else a.tobytes()) for a in arrays))

    def __len__(self) -> int:
        """Return the positions of an epoch."""
        if self.config.kind == "sequential":
            return min(self.config.draws or len(self.groups), len(self.groups))
        return self.config.draws or len(self.groups)

    def draw(self, epoch: int, start: int, count: int) -> Cells:
        """Return the cells at positions start..start+count-1 of an epoch, cut at its end.

        Returns
        -------
        int64 cell numbers.

        Raises
        ------
        LoaderInputError
            When a number is negative.
        """
        if min(epoch, start, count) < 0:
            raise LoaderInputError("position", (epoch, start, count), "none negative")
        return self.cells_at(epoch, np.arange(start, min(start + count, len(self))))

    def cells_at(self, epoch: int, positions: Cells) -> Cells:
        """Return the cells at any positions of an epoch, int64, in any order; for readers that plan ahead.

        Raises
        ------
        LoaderInputError
            When a position is not in the epoch.
        """
        if epoch < 0 or (len(positions) and not 0 <= positions.min() <= positions.max() < len(self)):
            raise LoaderInputError("positions", (epoch, positions), f"of an epoch from 0, each in 0..{len(self) - 1}")
        if self.config.kind == "sequential":
            return self._cells(positions)
        at = positions.astype(np.uint64)
        if self.config.kind == "uniform":
            return self._uniform(epoch, at)
        return self._balanced(epoch, at) if self.config.replacement else self._stratified(epoch, at)

    def batches(self, epoch: int, size: int, *, first: int = 0, step: int = 1, offset: int = 0) -> Iterator[Cells]:
        """Yield batches first+offset, first+offset+step, ... of an epoch; the last may be short.

        Parameters
        ----------
        epoch
            Epoch from 0.
        size
            Cells per batch.
        first
            Batch the epoch is taken up at.
        step, offset
            Readers there are, and which one this is (rank times workers plus worker): each batch has one reader.
        """
        if not 0 <= offset < step:
            raise LoaderInputError("offset", offset, f"0..{step - 1}")
        for batch in range(first + offset, -(-len(self) // size), step):
            yield self.draw(epoch, batch * size, size)

    def shares(self, epoch: int = 0) -> npt.NDArray[np.float64]:
        """Return each group's share of the draws of an epoch."""
        if self.config.kind != "balanced":
            return self.groups.counts / len(self.groups)
        facts = self._facts
        shares = group_weights(
            self.groups.counts, self.config.weighting, epoch=epoch, draws=len(self),
            specific=facts.specific, compatible=facts.compatible, confidence=facts.confidence,
        )  # fmt: skip
        # Machines round powers differently in the last bit; 45 bits are alike on all, and enough for any group.
        return np.rint(shares * 2.0**45) * 2.0**-45

    def state_dict(self, epoch: int, position: int) -> dict[str, int | str]:
        """Return what a checkpoint needs: the stream's fingerprint and two numbers."""
        return {"stream": self.fingerprint, "epoch": epoch, "position": position}

    def resume(self, state: dict[str, int | str]) -> tuple[int, int]:
        """Return epoch and position of a saved state.

        Raises
        ------
        StateMismatchError
            When it was saved by another release, seed or configuration.
        """
        if state.get("stream") != self.fingerprint:
            raise StateMismatchError(str(state.get("stream")), self.fingerprint)
        return int(state["epoch"]), int(state["position"])

    def _cells(self, slots: Cells) -> Cells:
        return self.groups.order[slots].astype(np.int64)

    def _lane(self, epoch: int, *what: object) -> int:
        return make_key(self._key, epoch, *what)

    def _uniform(self, epoch: int, positions: npt.NDArray[np.uint64]) -> Cells:
        total = len(self.groups)
        if self.config.replacement:
            slots = (random_units(self._lane(epoch, "cell"), 0, positions) * total).astype(np.int64)
        else:
            rounds, within = np.divmod(positions + np.uint64(epoch * len(self)), np.uint64(total))
            sizes = np.full(len(positions), total, dtype=np.uint64)
            slots = permute(self._lane(0, "cell"), within, sizes, rounds).astype(np.int64)
        return self._cells(slots)

    def _balanced(self, epoch: int, positions: npt.NDArray[np.uint64]) -> Cells:
        group = self._table(epoch).draw(random_units(self._lane(epoch, "group"), 0, positions))
        first = self.groups.offsets[group]
        sizes = self.groups.offsets[group + 1] - first
        key = self._lane(epoch, "cell")
        cells = self._cells(first + (random_units(key, 0, positions) * sizes).astype(np.int64))
        if self._cell_weights is None or self._maxima is None:
            return cells
        ceiling = self._maxima[group]
        open_ = np.arange(len(cells))
        for attempt in range(1, ATTEMPTS):
            at = positions[open_]
            level = random_units(key, 2 * attempt, at) * ceiling[open_]
            open_ = open_[level >= self._cell_weights[cells[open_]]]
            if not len(open_):
                return cells
            again = (random_units(key, 2 * attempt + 1, positions[open_]) * sizes[open_]).astype(np.int64)
            cells[open_] = self._cells(first[open_] + again)
        cells[open_] = self._exact(group[open_], random_units(key, 2 * ATTEMPTS, positions[open_]))
        return cells

    def _exact(self, groups: Cells, units: npt.NDArray[np.float64]) -> Cells:
        """Draw inside groups by their cumulated weights: what rejection gave up on, with the same distribution."""
        assert self._cell_weights is not None
        if self._weight_sums is None:
            self._weight_sums = sum_weights(self.groups, self._cell_weights)
        return draw_weighted(self.groups, self._cell_weights, self._weight_sums, groups, units)

    def _stratified(self, epoch: int, positions: npt.NDArray[np.uint64]) -> Cells:
        """Give each group its quota of an epoch's shuffled positions, and walk its cells in a keyed order."""
        ends = self._quotas(epoch)
        total = np.full(len(positions), ends[-1], dtype=np.uint64)
        slot = permute(self._lane(epoch, "slot"), positions, total).astype(np.int64)
        group = np.searchsorted(ends, slot, side="right")
        before = self._walked(epoch)[group]
        nth = before + slot - np.where(group > 0, ends[group - 1], 0)
        sizes = np.diff(self.groups.offsets)[group]
        rounds, within = np.divmod(nth.astype(np.uint64), sizes.astype(np.uint64))
        tweak = rounds * np.uint64(len(self.groups.offsets)) + group.astype(np.uint64)
        inside = permute(self._lane(0, "cell"), within, sizes.astype(np.uint64), tweak).astype(np.int64)
        return self._cells(self.groups.offsets[group] + inside)

    def _make_walked(self, epoch: int) -> Cells:
        """Return how many cells of each group came in earlier epochs; a curriculum changes the quotas until it ends."""
        settled = min(epoch, self.config.weighting.curriculum_epochs)
        walked = np.zeros(len(self.groups.offsets) - 1, dtype=np.int64)
        for earlier in range(settled):
            walked += np.diff(self._quotas(earlier), prepend=0)
        return walked + (epoch - settled) * np.diff(self._quotas(epoch), prepend=0)

    def _make_table(self, epoch: int) -> AliasTable:
        return make_alias_table(self.shares(epoch))

    def _make_quotas(self, epoch: int) -> Cells:
        """Return the cumulated whole draws of each group: shares rounded so that they sum to the epoch."""
        exact = self.shares(epoch) * len(self)
        whole = np.floor(exact).astype(np.int64)
        most = np.argsort(-(exact - whole), kind="stable")[: len(self) - int(whole.sum())]
        whole[most] += 1
        return np.cumsum(whole)
