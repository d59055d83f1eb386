"""The library: sources in, one TileDB-SOMA store out, laid out like the CELLxGENE Census.

`ingest` takes a `Source` to a `Receipt`; `open_atlas` reads the store at its last published moment; `Where` builds
queries; `validate` proves what is published, `find_leftovers` names what is not, `retract` takes a dataset out. Knows
no torch and no command line. Read `atlas/ingest.py` first.
"""

from .cell_records import StoredRecords
from .conditions import HasPart, OneOf, Range
from .consolidate import Consolidation, consolidate
from .content import content_hash
from .corpora import Corpus, CorpusSources, corpus_sources, list_corpora, load_corpus, write_manifest
from .doctor import find_leftovers, repair_atlas
from .errors import AtlasError, AtlasInputError, ClusterError, ContractError, SourceError, StoreError
from .filters import Where, between, contains, descendants, is_not, parse_where, passing, where
from .findings import Finding, Receipt, Tally
from .handle import Atlas, CellQuery, open_atlas
from .ingest import ingest
from .mirror import release_part, side_folder, upload_release
from .model_results import ResultWriter, refuse_present, write_results
from .near_copies import NearCopies, find_near_copies
from .neighbours import NeighbourOptions, find_neighbours, nearest_first, restrict_neighbours
from .prepare import IngestOptions
from .qc import QCPolicy
from .record_store import RecordReader
from .result_keys import ResultKey
from .retract import Retraction, retract
from .source_size import SourceSize, measure_source
from .sources import Source, load_manifest, source_from_uri, starter_sources
from .stored_networks import StoredNetwork, list_networks
from .validate import Validation, validate
from .workers import Workers, ingest_with

__all__ = [
    "Atlas",
    "AtlasError",
    "AtlasInputError",
    "CellQuery",
    "ClusterError",
    "Consolidation",
    "ContractError",
    "Corpus",
    "CorpusSources",
    "Finding",
    "HasPart",
    "IngestOptions",
    "NearCopies",
    "NeighbourOptions",
    "OneOf",
    "QCPolicy",
    "Range",
    "Receipt",
    "RecordReader",
    "ResultKey",
    "ResultWriter",
    "Retraction",
    "Source",
    "SourceError",
    "SourceSize",
    "StoreError",
    "StoredNetwork",
    "StoredRecords",
    "Tally",
    "Validation",
    "Where",
    "Workers",
    "between",
    "consolidate",
    "contains",
    "content_hash",
    "corpus_sources",
    "descendants",
    "find_leftovers",
    "find_near_copies",
    "find_neighbours",
    "ingest",
    "ingest_with",
    "is_not",
    "list_corpora",
    "list_networks",
    "load_corpus",
    "load_manifest",
    "measure_source",
    "nearest_first",
    "open_atlas",
    "parse_where",
    "passing",
    "refuse_present",
    "release_part",
    "repair_atlas",
    "restrict_neighbours",
    "retract",
    "side_folder",
    "source_from_uri",
    "starter_sources",
    "upload_release",
    "validate",
    "where",
    "write_manifest",
    "write_results",
]
