"""The library: sources in, one TileDB-SOMA store out, laid out like the CELLxGENE Census.

`ingest` takes a `Source` to a `Receipt`; `open_atlas` reads the store at its last published moment; `Where` builds
queries. Knows no torch and no command line. Read `atlas/ingest.py` first.
"""

from .errors import AtlasError, AtlasInputError, ContractError, SourceError, StoreError
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
    "IngestOptions",
    "QCPolicy",
    "Receipt",
    "Source",
    "SourceError",
    "StoreError",
    "Tally",
    "ingest",
    "load_manifest",
    "open_atlas",
    "source_from_uri",
    "starter_sources",
]
