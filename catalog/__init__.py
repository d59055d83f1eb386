"""Front desk: remembers and composes. What the command line does, as functions.

- `ingest_organism`: sources in, receipts out; one bad source never stops the rest.
- `export_tables`, `sql`: obs and datasets of an atlas as read-only Parquet, and SQL over them.
- `search_cells`, `describe_atlas`: what is in the atlas.
- `make_release`: an atlas frozen under a name, with splits and joint-label counts; `diff_releases` compares two.

Names load on first use: `import catalog` opens no store and imports no torch. It does check that all five floors come
from this installation, because their names are generic enough to be taken.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CatalogError, CatalogInputError, InstallError, QueryError, ReleaseExistsError

if TYPE_CHECKING:
    from .diff import ReleaseDiff, diff_releases
    from .info import describe_atlas
    from .releases import Release, make_release
    from .search import Found, search_cells
    from .tables import Tables, export_tables
    from .views import sql
    from .workflows import IngestRun, default_atlas, ingest_organism

FLOORS = ("ontology", "atlas", "loaders", "model", "catalog")
_HOMES = {
    "diff": ("ReleaseDiff", "diff_releases"),
    "releases": ("Release", "make_release"),
    "info": ("describe_atlas",),
    "search": ("Found", "search_cells"),
    "views": ("sql",),
    "tables": ("Tables", "export_tables"),
    "workflows": ("IngestRun", "default_atlas", "ingest_organism"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CatalogError",
    "CatalogInputError",
    "Found",
    "IngestRun",
    "InstallError",
    "QueryError",
    "Release",
    "ReleaseDiff",
    "ReleaseExistsError",
    "Tables",
    "default_atlas",
    "describe_atlas",
    "diff_releases",
    "export_tables",
    "ingest_organism",
    "make_release",
    "search_cells",
    "sql",
]


def check_floors() -> None:
    """Refuse to go on where a floor's name belongs to somebody else: a stray `model.py`, PyPI's `ontology`.

    Raises
    ------
    InstallError
        Naming the floor and the file that would be imported in its place.
    """
    here = Path(__file__).resolve().parent.parent
    for floor in FLOORS:
        spec = find_spec(floor)
        origin = spec.origin if spec is not None else None
        if origin is None or Path(origin).resolve() != here / floor / "__init__.py":
            raise InstallError(floor, origin or "nowhere")


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


check_floors()
