"""The library: sources in, one TileDB-SOMA store out, laid out like the CELLxGENE Census.

`ingest` takes a `Source` to a `Receipt`; `open_atlas` reads the store at its last published moment; `Where` builds
queries. Knows no torch and no command line. Read `atlas/ingest.py` first.
"""

from .cell_records import StoredRecords
from .conditions import HasPart, OneOf, Range
from .errors import AtlasError, AtlasInputError, ContractError, SourceError, StoreError
from .filters import Where, between, contains, descendants, is_not, parse_where, passing, where
from .findings import Finding, Receipt, Tally
from .handle import Atlas, CellQuery, open_atlas
from .ingest import ingest
from .neighbours import NeighbourOptions, find_neighbours, nearest_first, restrict_neighbours
from .prepare import IngestOptions
from .qc import QCPolicy
from .record_store import RecordReader
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
    "NeighbourOptions",
    "OneOf",
    "QCPolicy",
    "Range",
    "Receipt",
    "RecordReader",
    "Source",
    "SourceError",
    "StoreError",
    "StoredRecords",
    "Tally",
    "Where",
    "between",
    "contains",
    "descendants",
    "find_neighbours",
    "ingest",
    "is_not",
    "load_manifest",
    "nearest_first",
    "open_atlas",
    "parse_where",
    "passing",
    "restrict_neighbours",
    "source_from_uri",
    "starter_sources",
    "where",
]
