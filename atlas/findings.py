"""What an ingest found and what it did: the two values every stage of this floor hands upward.

A `Finding` says what was seen, where, and how to mend it; a `Receipt` balances the books of one source.
Bad data is a finding, a bad call is an exception. Nothing here reads or writes a store.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Status = Literal["written", "unchanged", "rejected", "planned", "retracted"]


@dataclass(frozen=True)
class Finding:
    """One observation about a source, worded for the person who can mend it.

    Examples
    --------
    >>> f = Finding("negative-count", "error", "X row 3", "-1", "integers >= 0", "pass the raw counts")
    >>> str(f)
    'error negative-count at X row 3: found -1, expected integers >= 0; pass the raw counts'
    """

    code: str
    """Stable kebab-case name of the kind of finding; documented in docs/findings.md."""
    severity: Severity
    """`error` rejects the source, `warning` asks for attention, `info` records a decision."""
    where: str
    """Element, column, row or gene the finding is about."""
    found: str
    """What was there, shortened to something a person can read."""
    expected: str
    """What the schema or policy asks for."""
    remedy: str
    """What to do about it."""
    count: int = 1
    """How many cells, genes or values the finding covers."""

    def __str__(self) -> str:
        """Return the finding on one line, as the command line prints it."""
        return (
            f"{self.severity} {self.code} at {self.where}: found {self.found}, expected {self.expected}; {self.remedy}"
        )


@dataclass(frozen=True)
class Tally:
    """Books of one axis or of the counts: what came in equals what was kept plus what was not.

    Examples
    --------
    >>> Tally(came_in=10, kept=7, merged=1, dropped={"unmapped": 2}).balanced
    True
    """

    came_in: int = 0
    """Cells, genes or counts (molecules) in the source."""
    kept: int = 0
    """Those in the atlas under their own row or column."""
    merged: int = 0
    """Those added to another row or column (duplicate genes summed); 0 for cells and counts."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Those that were not stored, by reason code."""

    @property
    def balanced(self) -> bool:
        """True where nothing is unaccounted for."""
        return self.came_in == self.kept + self.merged + sum(self.dropped.values())


@dataclass(frozen=True)
class Receipt:
    """What became of one source: its status, its books and every finding."""

    source_id: str
    """Name of the source in its manifest, or one derived from its URI."""
    organism: str
    """Short organism name, e.g. `human`."""
    status: Status
    """`written`, `unchanged`, `rejected`, `planned` in a dry run, or `retracted` where a dataset was taken out."""
    uri: str
    """Where the source came from."""
    dataset_id: str | None = None
    """Identity of the dataset in the atlas; None where it was rejected before one was known."""
    input_sha256: str | None = None
    """Digest of the input's bytes (of all files, for a directory)."""
    content_sha256: str | None = None
    """Digest of genes, cells, counts and labels as read, independent of file name and compression."""
    cells: Tally = field(default_factory=Tally)
    """Cells in = kept + dropped by reason."""
    genes: Tally = field(default_factory=Tally)
    """Genes in = kept + summed duplicates + unmapped."""
    counts: Tally = field(default_factory=Tally)
    """Molecules in = kept + unmapped + of dropped cells."""
    flagged: dict[str, int] = field(default_factory=dict)
    """Stored cells by QC reason code; a cell may carry several."""
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per label, cells by how the author's text was matched."""
    findings: tuple[Finding, ...] = ()
    """Everything seen on the way, in the order it was seen."""
    releases: dict[str, str] = field(default_factory=dict)
    """Versions the result depends on: schema, genes, ontologies, policy."""
    first_joinid: int | None = None
    """First soma_joinid of the dataset; its cells are the contiguous range from there."""
    seconds: float = 0.0
    """Wall-clock time spent, in seconds."""

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain values, ready for JSON."""
        return asdict(self)
