"""Reading a user's own file without trusting it: `open_text` undoes gzip and stops at bounds; what was off is tallied.

The one place where gzip is undone: for tables (table_files.py), annotations (gtf.py), proteins (fasta.py) and
ontologies (ontology_files.py, by `open_bytes`). `ImportReport` is what remains of everything that was dropped or
mended: each fault with its number and a few examples.
"""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from .errors import OntologyInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE_LIMIT = 4 << 30
"""Bytes a file may have, packed or unpacked: the GTF of wheat unpacks to 2 GB; far below a disk-filling gzip bomb."""
EXAMPLES = 5
"""How many offenders of each fault are named."""


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows of an imported file."""

    read: int
    """Rows (or lines that are not comments) that were read."""
    kept: int
    """Rows of the snapshot."""
    faults: Mapping[str, int]
    """What was dropped or mended, and how often; empty where nothing was."""
    examples: Mapping[str, tuple[str, ...]]
    """A few offenders of each fault, as the file spells them."""

    def __str__(self) -> str:
        """Return one line a person can read."""
        found = [
            f"{count:,} {fault} (such as {', '.join(self.examples[fault])})" for fault, count in self.faults.items()
        ]
        return f"{self.kept:,} rows kept of {self.read:,} read" + (f"; {'; '.join(found)}" if found else "")


class Tally:
    """Faults while a file is read; `report` makes an `ImportReport` of them."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}  # in the order in which faults were first met
        self.examples: dict[str, list[str]] = {}

    def add(self, fault: str, offenders: Iterable[object], count: int | None = None) -> None:
        """Count offenders of a fault; `count` where only some of them are handed over."""
        few = list(offenders)
        if not few and not count:
            return
        self.counts[fault] = self.counts.get(fault, 0) + (len(few) if count is None else count)
        named = self.examples.setdefault(fault, [])
        named += [repr(str(each)[:60]) for each in few[: EXAMPLES - len(named)]]

    def report(self, read: int, kept: int) -> ImportReport:
        """Return the tally as it stands."""
        return ImportReport(read, kept, dict(self.counts), {k: tuple(v) for k, v in self.examples.items()})


class _Bounded(io.RawIOBase):
    """A byte stream that refuses to go on beyond a limit, so that a gzip bomb ends as an error."""

    def __init__(self, stream: IO[bytes], path: Path, limit: int) -> None:
        self._stream, self._path, self._limit, self._read = stream, path, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        self._read += len(data)
        if self._read > self._limit:
            raise OntologyInputError("path", str(self._path), f"a file of at most {self._limit} bytes when unpacked")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_text(path: Path, limit: int = FILE_LIMIT) -> Iterator[IO[str]]:
    """Open a text file, plain or gzip, whatever its name says; bytes that are not UTF-8 become U+FFFD.

    Parameters
    ----------
    path
        The file.
    limit
        Bytes it may have when unpacked.

    Raises
    ------
    OntologyInputError
        When there is no such file, it cannot be read, it is too large, or the gzip is damaged.
    """
    with open_bytes(path, limit) as stream:
        yield io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")


@contextmanager
def open_bytes(path: Path, limit: int = FILE_LIMIT) -> Iterator[io.BufferedReader]:
    """Open a file, plain or gzip, whatever its name says; parameters and errors as `open_text`."""
    check_file(path)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise OntologyInputError("path", str(path), f"a file that can be read ({error.strerror})") from error
    with raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        inner: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            yield io.BufferedReader(_Bounded(inner, path, limit), 1 << 18)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise OntologyInputError("path", str(path), f"a whole gzip file ({error})") from error


def check_file(path: Path) -> None:
    """Refuse what is no file of a bearable size.

    Raises
    ------
    OntologyInputError
        Naming the path.
    """
    if not path.is_file():
        raise OntologyInputError("path", str(path), "a file that exists")
    if path.stat().st_size > FILE_LIMIT:
        raise OntologyInputError("path", str(path), f"a file of at most {FILE_LIMIT} bytes")
