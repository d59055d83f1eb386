"""The kitchen: cells of an atlas, chosen, streamed and plated as tensors.

- `Sampler`, `SamplerConfig`, `Weighting`, `GroupFacts`: which cell comes when; a position answers for itself.
- `SamplingPlan`, `make_sampler`: which cells, grouped by which labels; `CellGroups` and friends underneath.
- `Cells`: what every source of cells answers; `open_cells` finds the right one. `Pack` (memory-mapped records, made by
  `make_pack`, fetched by `open_pack`), `StoreCells` (the atlas itself), `AnnDataCells` (an AnnData in memory),
  `SourceCells` (a file, read as needed).
- `Vocabulary`, `CellBatch`: the contract between data and model. `Collator`, `DeviceCollator` make the batches.
- `CellStream`, `CellLoader`, `CellDataModule`: batches for a trainer, resumable to the batch.
- `find_leaks`, `refuse_leaks`: whether two selections share cells or donors.

May import `atlas` and `ontology`; knows torch tensors and no network. Batches go to `model`. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anndata_cells import AnnDataCells
    from .batch import CellBatch, PaddedBatch
    from .cell_vocabulary import make_vocabulary
    from .cells import NO_CELL, SPLITS, Cells
    from .collate import CollateConfig, Collator
    from .datamodule import CellDataModule, DataOptions
    from .device import DeviceCollator, decode_on
    from .errors import (
        BatchError,
        CellsError,
        LeakageError,
        LoaderError,
        LoaderInputError,
        PackError,
        StateMismatchError,
        VocabularyError,
        WorkerError,
    )
    from .groups import CellGroups, build_groups, group_maxima, load_groups
    from .label_classes import NO_CLASS
    from .leakage import Leak, find_leaks, refuse_leaks
    from .loader import CellLoader, LoaderOptions
    from .opening import open_cells
    from .pack import Pack, PackWriter
    from .pack_mirror import open_pack
    from .packing import PackOptions, make_pack
    from .plan import SamplingPlan, make_sampler, organism_codes
    from .record_batch import RecordBatch
    from .records import CellRows, PackedCells, encode_cells
    from .relabelled import RelabelledCells
    from .sampler import GroupFacts, Sampler, SamplerConfig
    from .source_cells import SourceCells
    from .store_cells import StoreCells, open_store_cells
    from .stream import CellStream, StreamOptions
    from .vocabulary import Vocabulary
    from .weights import Weighting, compatible_groups, group_weights

_HOMES = {
    "anndata_cells": ("AnnDataCells",),
    "batch": (
        "CellBatch",
        "PaddedBatch",
    ),
    "cell_vocabulary": ("make_vocabulary",),
    "cells": (
        "NO_CELL",
        "SPLITS",
        "Cells",
    ),
    "collate": (
        "CollateConfig",
        "Collator",
    ),
    "datamodule": (
        "CellDataModule",
        "DataOptions",
    ),
    "device": (
        "DeviceCollator",
        "decode_on",
    ),
    "errors": (
        "BatchError",
        "CellsError",
        "LeakageError",
        "LoaderError",
        "LoaderInputError",
        "PackError",
        "StateMismatchError",
        "VocabularyError",
        "WorkerError",
    ),
    "groups": (
        "CellGroups",
        "build_groups",
        "group_maxima",
        "load_groups",
    ),
    "label_classes": ("NO_CLASS",),
    "leakage": (
        "Leak",
        "find_leaks",
        "refuse_leaks",
    ),
    "loader": (
        "CellLoader",
        "LoaderOptions",
    ),
    "opening": ("open_cells",),
    "pack": (
        "Pack",
        "PackWriter",
    ),
    "pack_mirror": ("open_pack",),
    "packing": (
        "PackOptions",
        "make_pack",
    ),
    "plan": (
        "SamplingPlan",
        "make_sampler",
        "organism_codes",
    ),
    "record_batch": ("RecordBatch",),
    "records": (
        "CellRows",
        "PackedCells",
        "encode_cells",
    ),
    "sampler": (
        "GroupFacts",
        "Sampler",
        "SamplerConfig",
    ),
    "relabelled": ("RelabelledCells",),
    "source_cells": ("SourceCells",),
    "store_cells": (
        "StoreCells",
        "open_store_cells",
    ),
    "stream": (
        "CellStream",
        "StreamOptions",
    ),
    "vocabulary": ("Vocabulary",),
    "weights": (
        "Weighting",
        "compatible_groups",
        "group_weights",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "NO_CELL",
    "NO_CLASS",
    "SPLITS",
    "AnnDataCells",
    "BatchError",
    "CellBatch",
    "CellDataModule",
    "CellGroups",
    "CellLoader",
    "CellRows",
    "CellStream",
    "Cells",
    "CellsError",
    "CollateConfig",
    "Collator",
    "DataOptions",
    "DeviceCollator",
    "GroupFacts",
    "Leak",
    "LeakageError",
    "LoaderError",
    "LoaderInputError",
    "LoaderOptions",
    "Pack",
    "PackError",
    "PackOptions",
    "PackWriter",
    "PackedCells",
    "PaddedBatch",
    "RecordBatch",
    "RelabelledCells",
    "Sampler",
    "SamplerConfig",
    "SamplingPlan",
    "SourceCells",
    "StateMismatchError",
    "StoreCells",
    "StreamOptions",
    "Vocabulary",
    "VocabularyError",
    "Weighting",
    "WorkerError",
    "build_groups",
    "compatible_groups",
    "decode_on",
    "encode_cells",
    "find_leaks",
    "group_maxima",
    "group_weights",
    "load_groups",
    "make_pack",
    "make_sampler",
    "make_vocabulary",
    "open_cells",
    "open_pack",
    "open_store_cells",
    "organism_codes",
    "refuse_leaks",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the file it lives in, once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
