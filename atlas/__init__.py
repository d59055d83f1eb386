"""The library: sources in, one TileDB-SOMA store out, laid out like the CELLxGENE Census.

`ingest` takes a `Source` to a `Receipt`; `open_atlas` reads the store at its last published moment; `Where` builds
queries. Knows no torch and no command line. Read `atlas/ingest.py` first.
"""

from .conditions import HasPart, OneOf, Range
from .errors import AtlasError, AtlasInputError, ContractError, SourceError, StoreError
from .filters import Where, between, contains, descendants, is_not, parse_where, passing, where
from .findings import Finding, Receipt, Tally
from .handle import Atlas, CellQuery, open_atlas
from .ingest import ingest
from .prepare import IngestOptions
from .qc import QCPolicy
from .sources import Source, load_manifest, source_from_uri, starter_sources

__all__ = [
    "Atlas",
    "AtlasError",
    "AtlasInputError",
    "CellQuery",
    "ContractError",
    "Finding",
    "HasPart",
    "IngestOptions",
    "OneOf",
    "QCPolicy",
    "Range",
    "Receipt",
    "Source",
    "SourceError",
    "StoreError",
    "Tally",
    "Where",
    "between",
    "contains",
    "descendants",
    "ingest",
    "is_not",
    "load_manifest",
    "open_atlas",
    "parse_where",
    "passing",
    "source_from_uri",
    "starter_sources",
    "where",
]
