"""Open a source's file as `RawCells`: find its format, check it, hand it to the right reader.

The order matters: `preflight` looks at structure with nothing followed or inflated, then a reader decodes names and
offers rows, then `prove_counts` looks at every value. Fetching is in `fetch`; standardising starts from what is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cell_labels import join_labels
from .cells import Parts, RawCells
from .preflight import open_hdf5
from .preflight_mtx import check_mtx, find_mtx
from .preflight_zarr import check_zarr
from .prove import CountProof, prove_counts
from .read_10x import read_10x_h5, read_10x_mtx
from .read_h5ad import read_anndata
from .refusal import refusal

if TYPE_CHECKING:
    from .sources import Source

__all__ = ["CountProof", "RawCells", "open_source", "prove_counts"]

_CORRECT = "correct the format in the manifest, or point at the folder itself"


def open_source(source: Source, path: Path) -> RawCells:
    """Return the cells of a fetched source. Use the result as a context manager.

    Parameters
    ----------
    source
        Its `format` (`auto` looks at the file), its `matrix` and `labels` if such are named, and its name for messages.
    path
        File or folder that `fetch_source` returned.

    Raises
    ------
    ContractError
        If the file is hostile, damaged, of another format, or its names and matrix contradict each other.
    AtlasInputError
        If its table of labels cannot be read, or is of other cells.
    """
    dataset, wanted = source.id or source.uri, source.matrix
    kind = detect_format(path, dataset) if source.format == "auto" else source.format
    if kind in ("zarr", "10x-mtx") and not path.is_dir():
        raise refusal(dataset, "not-a-folder", "the path", path.name, f"a folder, as format {kind} says", _CORRECT)
    if kind in ("h5ad", "10x-h5"):
        handle = open_hdf5(path, dataset)
        try:
            parts = (read_anndata if _is_anndata(handle, source.format) else read_10x_h5)(handle, dataset, wanted)
            return _labelled(source, RawCells(dataset, _closing(parts, handle.close)))
        except BaseException:
            handle.close()
            raise
    if kind == "zarr":
        return _labelled(source, RawCells(dataset, read_anndata(check_zarr(path, dataset), dataset, wanted)))
    return _labelled(source, RawCells(dataset, read_10x_mtx(check_mtx(path, dataset), dataset, wanted)))


def _labelled(source: Source, cells: RawCells) -> RawCells:
    """Join the manifest's table of labels, if it names one."""
    if source.labels is None:
        return cells
    try:
        cells.obs, findings = join_labels(cells.obs, Path(source.labels).expanduser())
    except BaseException:
        cells.close()
        raise
    cells.findings += tuple(findings)
    return cells


def detect_format(path: Path, dataset: str) -> str:
    """Return the format of a file or folder by what is in it, never by its name.

    An HDF5 file is `h5ad` here; whether it is 10x or AnnData is decided after preflight.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs")):
            return "zarr"
        if find_mtx(path):
            return "10x-mtx"
        held = ", ".join(sorted(p.name for p in path.iterdir())[:8])
        raise refusal(
            dataset,
            "unknown-format",
            "the folder",
            held or "nothing",
            "a zarr group or a 10x mtx folder",
            "point at the folder that holds matrix.mtx or zarr.json",
        )
    return "h5ad"


def _is_anndata(handle: Any, declared: str) -> bool:
    if declared in ("h5ad", "10x-h5"):
        return declared == "h5ad"
    return "obs" in handle or "var" in handle or "X" in handle


def _closing(parts: Parts, close: Any) -> Parts:
    return Parts(parts.matrix, parts.reader, parts.obs, parts.var, parts.uns, parts.others, parts.findings, close)
