"""Who reads what: an epoch's positions cut into rounds of one batch per rank, from any position on, by arithmetic.

Batch b of an epoch holds positions b*size..(b+1)*size-1 and goes to rank b mod ranks. Every rank has the same number of
batches, because ranks that train together wait for each other. What is left at the end of an epoch:

- training (`whole`): the positions after the last round in which every rank has a full batch are left out;
- evaluation: they make one more round, shared out evenly, and where there is less than one cell per rank they join the
  round before; every position has exactly one reader.

stream.py reads by these, loader.py tells positions by them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LoaderInputError


@dataclass(frozen=True)
class Shares:
    """The rounds of an epoch, or of what is left of it.

    Examples
    --------
    >>> left = Shares(positions=100, size=16, ranks=2, first=32, whole=False)
    >>> len(left), [left.span(n, rank) for n in range(3) for rank in range(2)]
    (3, [(32, 48), (48, 64), (64, 80), (80, 96), (96, 98), (98, 100)])
    >>> left.after(1), left.after(3)
    (64, 100)
    """

    positions: int
    """Positions of the epoch."""
    size: int
    """Cells per batch."""
    ranks: int = 1
    """Processes that share the epoch."""
    first: int = 0
    """Position to begin at."""
    whole: bool = True
    """Leave out what fills no round."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shared."""
        for name, value, least in (("size", self.size, 1), ("ranks", self.ranks, 1), ("first", self.first, 0)):
            if value < least:
                raise LoaderInputError(name, value, f"at least {least}")
        left = self.positions - self.first
        if not self.whole and 0 < left < self.ranks:
            raise LoaderInputError("ranks", self.ranks, f"at most one per cell, and there are {left}")

    @property
    def _round(self) -> int:
        return self.size * self.ranks

    def __len__(self) -> int:
        """Return the batches of each rank."""
        full, rest = divmod(max(self.positions - self.first, 0), self._round)
        return full + (not self.whole and (rest >= self.ranks or (rest > 0 and not full)))

    def span(self, number: int, rank: int) -> tuple[int, int]:
        """Return the first position of a rank's batch, counted from 0, and the one after its last."""
        start = self.first + number * self._round
        if self.whole or number < len(self) - 1:
            return start + rank * self.size, start + (rank + 1) * self.size
        rest = self.positions - start
        return start + rank * rest // self.ranks, start + (rank + 1) * rest // self.ranks

    def after(self, number: int) -> int:
        """Return the position that follows when every rank has had so many batches; all, at the end."""
        return self.positions if number >= len(self) else self.first + number * self._round
