"""The library: sources in, one TileDB-SOMA store out, laid out like the CELLxGENE Census.

`ingest` takes a `Source` to a `Receipt`; `open_atlas` reads the store at its last published moment; `Where` builds
queries; `validate` proves what is published, `find_leftovers` names what is not. Knows no torch and no command line.
Read `atlas/ingest.py` first.
"""

from .cell_records import StoredRecords
from .conditions import HasPart, OneOf, Range
from .content import content_hash
from .doctor import find_leftovers, repair_atlas
from .errors import AtlasError, AtlasInputError, ContractError, SourceError, StoreError
from .filters import Where, between, contains, descendants, is_not, parse_where, passing, where
from .findings import Finding, Receipt, Tally
from .handle import Atlas, CellQuery, open_atlas
from .ingest import ingest
from .model_results import ResultWriter, refuse_present, write_results
from .neighbours import NeighbourOptions, find_neighbours, nearest_first, restrict_neighbours
from .prepare import IngestOptions
from .qc import QCPolicy
from .record_store import RecordReader
from .result_keys import ResultKey
from .sources import Source, load_manifest, source_from_uri, starter_sources
from .stored_networks import StoredNetwork, list_networks
from .validate import Validation, validate

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
    "ResultKey",
    "ResultWriter",
    "Source",
    "SourceError",
    "StoreError",
    "StoredNetwork",
    "StoredRecords",
    "Tally",
    "Validation",
    "Where",
    "between",
    "contains",
    "content_hash",
    "descendants",
    "find_leftovers",
    "find_neighbours",
    "ingest",
    "is_not",
    "list_networks",
    "load_manifest",
    "nearest_first",
    "open_atlas",
    "parse_where",
    "passing",
    "refuse_present",
    "repair_atlas",
    "restrict_neighbours",
    "source_from_uri",
    "starter_sources",
    "validate",
    "where",
    "write_results",
]
