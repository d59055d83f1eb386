"""Proof that a source holds raw counts: every stored value is looked at, none is sampled.

A count is a finite integer from 0 to 2**24, the largest float32 holds exactly. The proof also carries the digest of
what was read, which depends on names, author columns and counts only, so that a renamed or recompressed copy has the
same one. Reading is in `cells`; what becomes of the proof is decided in `ingest`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from .errors import ContractError
from .findings import Finding
from .matrices import first_values
from .refusal import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .cells import RawCells

LARGEST_COUNT = 2**24  # float32 holds every integer up to here
ROWS = 256  # rows per block of the proof; the result does not depend on it
SAMPLE_ROWS = 256  # rows whose sums tell one normalisation from another; only the wording of a refusal rests on them
LOG_CEILING = 30.0  # natural logs of counts stay far below: exp(30) is 1e13 molecules


@dataclass(frozen=True)
class CountProof:
    """What a pass over every value found: the matrix holds raw counts."""

    nnz: int
    """Values above 0."""
    total: int
    """Sum of all counts (molecules, or reads where the assay has no UMI)."""
    maximum: int
    """Largest count of one gene in one cell."""
    zeros: int
    """Zeros that were stored explicitly; they are dropped."""
    sha256: str
    """Digest of gene names, cell names, author columns and counts."""


class _Fault:
    """A kind of value that is no count: how many so far, and where and what the first was."""

    def __init__(self) -> None:
        self.count, self.where, self.example = 0, "", ""


def prove_counts(cells: RawCells, progress: Callable[[int], None] = lambda _done: None) -> CountProof:
    """Return the proof that every value of a source is a raw count.

    Parameters
    ----------
    cells
        An open source.
    progress
        Called with the cells looked at so far.

    Raises
    ------
    ContractError
        With one finding per kind of fault: `negative-count`, `non-finite-count`, `fractional-count` (or
        `log-normalised`, `depth-normalised`, `scaled-values` where the values show what was done to them),
        `count-too-large`, `no-counts`. Also whatever reading a block refuses.
    """
    digest = ContentDigest(cells)
    faults = {code: _Fault() for code in ("non-finite-count", "negative-count", "fractional-count", "count-too-large")}
    nnz = total = maximum = zeros = 0
    sample: csr_matrix | None = None
    for start, block in cells.stored_blocks(ROWS):
        progress(start + block.shape[0])
        clean = _note_faults(block, start, cells, faults)
        if not clean:
            sample = block[:SAMPLE_ROWS] if sample is None else sample
            continue
        stored = block.nnz
        full = bool(np.count_nonzero(block.data) == stored)  # else zeros are taken out, of a copy
        counts = csr_matrix((block.data.astype(np.uint32), block.indices, block.indptr), block.shape, copy=not full)
        if not full:
            counts.eliminate_zeros()
        zeros += stored - counts.nnz
        nnz += counts.nnz
        total += int(counts.data.sum(dtype=np.uint64))
        maximum = max(maximum, int(counts.data.max(initial=0)))
        digest.update(counts)
    found = [_finding(code, fault, sample, cells) for code, fault in faults.items() if fault.count]
    if not found and nnz == 0:
        found = [Finding("no-counts", "error", cells.matrix, "only zeros", "counts above 0", "export the counts again")]
    if found:
        raise ContractError(cells.dataset, found)
    return CountProof(nnz, total, maximum, zeros, digest.hexdigest())


def _note_faults(block: csr_matrix, start: int, cells: RawCells, faults: dict[str, _Fault]) -> bool:
    """Add the values of a block that are no counts to `faults`; return whether there are none."""
    data = block.data
    if data.dtype.kind in "bu" and data.dtype.itemsize <= 2:
        return True
    if data.size and data.dtype.kind == "f":
        finite = np.isfinite(data)
        whole = np.floor(data) == data
        masks = {"non-finite-count": ~finite, "fractional-count": finite & ~whole}
    else:
        masks = {}
    masks |= {"negative-count": data < 0, "count-too-large": (data > LARGEST_COUNT) & np.isfinite(data)}
    clean = True
    for code, mask in masks.items():
        count = int(np.count_nonzero(mask))
        if not count:
            continue
        clean = False
        fault = faults[code]
        if not fault.count:
            place = int(np.argmax(mask))
            row = start + int(np.searchsorted(block.indptr, place, side="right")) - 1
            gene = shorten(cells.gene_names[int(block.indices[place])])
            fault.where = f"{cells.matrix} cell {shorten(cells.obs.index[row])}, gene {gene}"
            fault.example = str(data[place])
        fault.count += count
    return clean


def _finding(code: str, fault: _Fault, sample: csr_matrix | None, cells: RawCells) -> Finding:
    expected = f"integers from 0 to {LARGEST_COUNT}"
    found = f"{fault.example} and {fault.count - 1} more" if fault.count > 1 else fault.example
    if code == "count-too-large":
        remedy = "no gene has that many molecules in a cell; check the matrix"
    else:
        elsewhere = [name for name in cells.others if _holds_counts(cells, name)]
        remedy = (
            f"{' and '.join(elsewhere)} of the same file looks like counts: name it as `matrix` in the manifest"
            if elsewhere
            else "pass the raw counts"
        )
        guess = _normalisation(sample) if code == "fractional-count" and sample is not None else None
        if guess is not None:
            code, said = guess
            found = f"{found}: {said}"
    return Finding(code, "error", fault.where, found, expected, remedy, fault.count)


def _holds_counts(cells: RawCells, name: str) -> bool:
    try:
        values = first_values(cells.others[name])
    except (ContractError, OSError):  # another element that cannot be read is no advice
        return False
    return bool(
        values.size and np.isfinite(values).all() and (values >= 0).all() and (values == np.floor(values)).all()
    )


def _normalisation(sample: csr_matrix) -> tuple[str, str] | None:
    """Return (code, description) of what was done to counts, where their values show it."""
    rows = sample.astype(np.float64)
    rows.data[~np.isfinite(rows.data)] = 0.0
    if rows.nnz and rows.data.min() < 0:
        return "scaled-values", "values below zero beside fractions, as scaling or regression leaves them"
    sums = np.asarray(rows.sum(axis=1)).ravel()
    target = _common(sums)
    if target is not None:
        return "depth-normalised", f"every cell sums to {target:,.6g}, as normalising to a fixed depth leaves it"
    if rows.nnz and rows.data.max() < LOG_CEILING:
        exponents = rows.copy()
        exponents.data = np.expm1(exponents.data)
        target = _common(np.asarray(exponents.sum(axis=1)).ravel())
        if target is not None:
            return "log-normalised", f"log1p of values that sum to {target:,.6g} in every cell"
        integers = np.abs(exponents.data - np.rint(exponents.data)) < 1e-3
        if exponents.nnz and integers.mean() > 0.99:
            return "log-normalised", "log1p of integers"
    return None


def _common(sums: np.ndarray) -> float | None:
    """Return the value all non-zero sums share to a thousandth, if they do."""
    sums = sums[sums > 0]
    if len(sums) < 2:
        return None
    middle = float(np.median(sums))
    return middle if bool((np.abs(sums - middle) <= 1e-3 * middle).all()) else None


class ContentDigest:
    """SHA-256 of what a source says, whatever file says it: blocks may come in any size."""

    def __init__(self, cells: RawCells) -> None:
        self._head = hashlib.sha256(b"panatlas content 1\n")
        for label, values in (("genes", cells.gene_names), ("cells", cells.obs.index)):
            _feed_texts(self._head, label, values)
        for name in sorted(map(str, cells.obs.columns)):
            _feed_column(self._head, name, cells.obs[name])
        self._sizes, self._columns, self._values = (hashlib.sha256() for _ in range(3))

    def update(self, counts: csr_matrix) -> None:
        """Add the next rows: canonical, without stored zeros, values below 2**32."""
        self._sizes.update(np.diff(counts.indptr).astype("<u4").tobytes())
        self._columns.update(counts.indices.astype("<u4").tobytes())
        self._values.update(counts.data.astype("<u4").tobytes())

    def hexdigest(self) -> str:
        """Return the digest of everything so far, in hex."""
        whole = self._head.copy()
        for part in (self._sizes, self._columns, self._values):
            whole.update(part.digest())
        return whole.hexdigest()


def _feed_texts(digest: Any, label: str, values: Iterable[object]) -> None:
    """Add texts with their lengths, so that no two lists of texts look the same; a null differs from an empty text."""
    texts = [None if v is None else str(v).encode("utf-8", errors="surrogatepass") for v in values]
    sizes = np.array([-1 if t is None else len(t) for t in texts], dtype="<i8")
    digest.update(f"{len(label.encode())} {len(texts)} ".encode() + label.encode())
    digest.update(sizes.tobytes())
    digest.update(b"".join(t for t in texts if t))


def _feed_column(digest: Any, name: str, column: pd.Series | pd.DataFrame) -> None:
    if isinstance(column, pd.DataFrame):  # two columns of one name: both count
        for i in range(column.shape[1]):
            _feed_column(digest, name, column.iloc[:, i])
        return
    kind = column.dtype.kind
    if kind in "iub":
        digest.update(f"{len(name.encode())} {kind == 'b':d} ".encode() + name.encode())
        digest.update(column.to_numpy().astype("<i8").tobytes())
    elif kind == "f":
        numbers = column.to_numpy().astype("<f8")
        numbers[np.isnan(numbers)] = np.nan  # one bit pattern for every nan
        digest.update(f"{len(name.encode())} f ".encode() + name.encode() + numbers.tobytes())
    else:
        codes, texts = pd.factorize(column, use_na_sentinel=True)  # in order of appearance, so categories do not matter
        _feed_texts(digest, name, texts)
        digest.update(codes.astype("<i8").tobytes())
