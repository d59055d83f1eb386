"""The kitchen: cells of an atlas, chosen, streamed and plated as tensors.

- `Sampler`, `SamplerConfig`, `Weighting`, `GroupFacts`: which cell comes when; a position answers for itself.
- `CellGroups`, `build_groups`, `load_groups`, `group_maxima`: cells by joint label, mapped from files.
- `Pack`, `PackWriter`, `make_pack`, `PackOptions`: a release's cells as memory-mapped records; one small read a draw.
- `PackedCells`, `CellRows`: cells as records and as sparse rows.
- `group_weights`, `compatible_groups`: how group sizes become shares of the draws.

May import `atlas` and `ontology`; knows torch tensors and no network. Its batches go to `model`. Until its own stream
is here, cells come through the official `tiledbsoma-ml` (README, "Trainer"). Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import LoaderError, LoaderInputError, PackError, StateMismatchError
    from .groups import CellGroups, build_groups, group_maxima, load_groups
    from .pack import Pack, PackWriter
    from .packing import PackOptions, make_pack
    from .records import CellRows, PackedCells
    from .sampler import GroupFacts, Sampler, SamplerConfig
    from .weights import Weighting, compatible_groups, group_weights

_HOMES = {
    "errors": ("LoaderError", "LoaderInputError", "PackError", "StateMismatchError"),
    "groups": ("CellGroups", "build_groups", "group_maxima", "load_groups"),
    "pack": ("Pack", "PackWriter"),
    "packing": ("PackOptions", "make_pack"),
    "records": ("CellRows", "PackedCells"),
    "sampler": ("GroupFacts", "Sampler", "SamplerConfig"),
    "weights": ("Weighting", "compatible_groups", "group_weights"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CellGroups",
    "CellRows",
    "GroupFacts",
    "LoaderError",
    "LoaderInputError",
    "Pack",
    "PackError",
    "PackOptions",
    "PackWriter",
    "PackedCells",
    "Sampler",
    "SamplerConfig",
    "StateMismatchError",
    "Weighting",
    "build_groups",
    "compatible_groups",
    "group_maxima",
    "group_weights",
    "load_groups",
    "make_pack",
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
