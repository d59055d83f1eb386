"""What a trained model has to beat: simple methods for denoising and imputation, and how all are scored alike.

kNN-smoothing and ALRA are written anew after their papers, as no package has them for Python; MAGIC runs in a
throw-away environment. Each takes counts [cells, genes] and returns a share per gene and cell. Used by tasks.py.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

Matrix = npt.NDArray[np.float64]
PER = 1e4
FLOOR = 0.01
"""Part of the gene means that every prediction is given: a share of 0 would make one molecule infinitely unlikely."""
MIXTURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Parts of the gene means among which a prediction's best is looked for, on other cells than are scored."""
MAGIC = ("magic-impute==3.0.0",)
RUN_MAGIC = """
import sys
import magic
import numpy as np
counts = np.load(sys.argv[1], allow_pickle=False)
normal = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4)
made = magic.MAGIC(random_state=int(sys.argv[3]), n_jobs=1, verbose=0).fit_transform(normal)
np.save(sys.argv[2], np.square(np.maximum(np.asarray(made), 0)), allow_pickle=False)
"""


class PeerError(RuntimeError):
    """A method of another package ended without a result."""


def shares_of(values: Matrix) -> Matrix:
    """Return values as shares that add up to 1 in each cell; even ones where there are none."""
    total = values.sum(1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / values.shape[1])


def gene_means(counts: Matrix) -> Matrix:
    """Return each gene's share of all molecules, one added, as one row [1, genes]."""
    return shares_of(counts.sum(0, keepdims=True) + 1)


def log_normal(counts: Matrix) -> Matrix:
    """Return log(1 + 10^4 share), as scanpy has it; 0 for a cell without counts."""
    return np.log1p(PER * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def components(values: Matrix, n: int, seed: int) -> Matrix:
    """Return principal components of rows, at most as many as there can be."""
    from sklearn.decomposition import PCA

    n = min(n, min(values.shape) - 1)
    return PCA(n, svd_solver="randomized", random_state=seed).fit_transform(values)


def knn_smoothing(counts: Matrix, k: int = 15, n_components: int = 10, seed: int = 0) -> Matrix:
    """Return the summed counts of each cell and its k nearest, found among ever smoother cells.

    Wagner, Yan and Yanai 2018, version 2 (doi:10.1101/217737): in ceil(log2(k + 1)) steps of 1, 3, 7, ... and last k
    neighbours, nearest by the first components of the Freeman-Tukey transform sqrt(x) + sqrt(x + 1) of the cells as
    smoothed so far, scaled to the median depth. Sums are always of the raw counts.

    Parameters
    ----------
    counts
        [cells, genes].
    k
        Neighbours in the last step, fewer than there are cells.
    n_components
        Principal components in which cells are compared.
    seed
        Of the components.
    """
    from sklearn.metrics import pairwise_distances

    k, smooth = min(k, len(counts) - 1), counts
    for step in range(1, int(np.ceil(np.log2(k + 1))) + 1):
        depth = smooth.sum(1, keepdims=True)
        scaled = smooth * np.median(depth) / np.maximum(depth, 1)
        places = components(np.sqrt(scaled) + np.sqrt(scaled + 1), n_components, seed)
        distances = pairwise_distances(places)
        np.fill_diagonal(distances, -1)  # a cell is its own nearest, copies or not
        nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(2**step - 1, k) + 1]
        smooth = counts[nearest].sum(1)
    return smooth


def choose_rank(normal: Matrix, most: int = 100, deviations: float = 6.0, seed: int = 0) -> int:
    """Return ALRA's rank: the last gap between singular values that stands out from those of the noise.

    Linderman et al. 2022: of the first 100 singular values the gaps from the 80th on are noise, and k is the last one
    whose gap is over 6 of their standard deviations above their mean. With fewer cells the last fifth is noise.
    """
    from sklearn.utils.extmath import randomized_svd

    most = min(most, min(normal.shape) - 1)
    values = randomized_svd(normal, most, n_iter=2, random_state=seed)[1]
    gaps = values[:-1] - values[1:]
    noise = gaps[int(0.8 * most) - 2 :]
    clear = np.flatnonzero((gaps - noise.mean()) / noise.std(ddof=1) > deviations)
    return int(clear[-1]) + 1 if len(clear) else 1


def alra(normal: Matrix, rank: int = 0, quantile: float = 0.001, seed: int = 0) -> Matrix:
    """Return log-normalised expression of low rank whose zeros are kept.

    Linderman et al. 2022 (doi:10.1038/s41467-021-27729-z): the approximation of rank k by randomised SVD; per gene,
    what is not above the size of its 0.001 quantile, which is negative as far as there is noise, becomes 0; what is
    left is scaled to the mean and standard deviation of the gene's observed values; what was observed stays above 0.

    Parameters
    ----------
    normal
        log(1 + 10^4 share), [cells, genes].
    rank
        k; 0 to choose it.
    quantile
        Of each gene's approximated values.
    seed
        Of the SVD.
    """
    from sklearn.utils.extmath import randomized_svd

    u, d, v = randomized_svd(normal, rank or choose_rank(normal, seed=seed), n_iter=10, random_state=seed)
    low = (u * d) @ v
    kept = np.where(low <= np.abs(np.quantile(low, quantile, axis=0)), 0, low)
    there, seen = kept != 0, normal > 0
    (mean, spread), (goal, wide) = (_moments(kept, there), _moments(normal, seen))
    scaled = np.isfinite(spread) & np.isfinite(wide) & (spread > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.where(scaled, (kept - mean) * (wide / spread) + goal, kept)
    out = np.where(there, np.maximum(out, 0), 0)
    return np.where(seen & (out == 0), normal, out)


def _moments(values: Matrix, among: npt.NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """Return mean and standard deviation of some values of each gene; NaN where there are too few."""
    n = among.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(among, values, 0).sum(0) / n
        spread = np.sqrt(np.where(among, (values - mean) ** 2, 0).sum(0) / (n - 1))
    return mean, spread


def magic(counts: Matrix, python: str, folder: Path, seed: int = 0) -> Matrix:
    """Return MAGIC's smoothed counts (van Dijk et al. 2018) with its defaults, square root undone, all genes.

    Parameters
    ----------
    counts
        [cells, genes].
    python
        Interpreter of an environment that has it.
    folder
        Where matrices change hands.
    seed
        Of the method.
    """
    given, made = folder / "counts.npy", folder / "magic.npy"
    np.save(given, counts, allow_pickle=False)
    command = [python, "-c", RUN_MAGIC, str(given), str(made), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return np.load(made, allow_pickle=False)


def thinned(counts: Matrix, kept: float, seed: int) -> tuple[Matrix, Matrix]:
    """Return the molecules that are seen, each with probability `kept`, and the others."""
    seen = np.random.default_rng(seed).binomial(counts.astype(np.int64), kept).astype(np.float64)
    return seen, counts - seen


def molecule_nll(counts: Matrix, shares: Matrix) -> Matrix:
    """Return each cell's Poisson -log P(counts) per molecule, nats, [cells]; NaN for a cell of none.

    The mean of a gene is its share times the molecules of the cell that are scored.
    """
    from scipy.special import gammaln, xlogy

    total = counts.sum(1)
    mean = shares_of(shares) * total[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mean - xlogy(counts, mean) + gammaln(counts + 1)).sum(1) / total


def correlation(counts: Matrix, shares: Matrix) -> Matrix:
    """Return each cell's Pearson correlation over all genes of log(1 + 10^4 share), told and counted, [cells]."""
    told, seen = log_normal(shares_of(shares)), log_normal(counts)
    told, seen = (x - x.mean(1, keepdims=True) for x in (told, seen))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (told * seen).sum(1) / np.sqrt((told**2).sum(1) * (seen**2).sum(1))


def scores(unseen: Matrix, told: Matrix, usual: Matrix, seed: int) -> dict[str, Matrix]:
    """Return the scores of a prediction, per cell.

    Parameters
    ----------
    unseen
        Molecules that no method has seen, [cells, genes].
    told
        What a method says, of any scale.
    usual
        Gene means as shares, [1, genes] or [cells, genes].
    seed
        Of the halves: a prediction's best mixture with the gene means is chosen on one half and scored on the other.
    """
    told = shares_of(np.maximum(np.nan_to_num(told), 0))
    mixed: dict[float, Any] = {part: molecule_nll(unseen, (1 - part) * told + part * usual) for part in MIXTURES}
    half = np.random.default_rng(seed).permutation(len(unseen)) % 2 == 0
    best = np.empty(len(unseen))
    for mine in (half, ~half):
        part = min(MIXTURES, key=lambda one: np.nanmean(mixed[one][~mine]) if (~mine).any() else one)
        best[mine] = mixed[part][mine]
    return {"nll": mixed[FLOOR], "nll mixed": best, "pearson": correlation(unseen, told)}
