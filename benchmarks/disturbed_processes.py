"""Ingests as processes that can be killed: each a fork of one process that has imported everything and opened nothing.

Importing takes longer than an ingest of a few cells, and a kill that falls there tells nothing. A fork is safe as long
as its parent has no TileDB context, and no threads but the allocator's and Arrow's, which begin anew in a child. Run as
a script this is that process: it reads what to do as lines of JSON and answers each by one. Used by kills.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEASE_S = 4.0
"""Seconds after which others may take the place of a killed writer on object storage; panatlas' own 60 are long."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; minus the signal that killed it."""
    cpu_s: float
    """What it used."""
    wall_s: float
    """How long it was there."""
    said: str
    """What it wrote to stderr."""

    @property
    def killed(self) -> bool:
        """Return whether it was killed."""
        return self.code == -signal.SIGKILL


class Processes:
    """Starts `panatlas` commands as processes of their own; use it in a `with`.

    Parameters
    ----------
    folder
        Where what they say is kept.
    source, organism
        A source to get ready with: what an ingest of it reads of genes and ontologies is in memory then.
    """

    def __init__(self, folder: Path, source: Path, organism: str) -> None:
        self._folder, self._count = folder, 0
        self._begun: dict[int, tuple[float, Path]] = {}
        command = [sys.executable, "-P", __file__, str(source), organism]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear()

    def __enter__(self) -> Processes:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the parent of all."""
        self._parent.stdin.close()
        self._parent.wait(30)
        self._parent.stdout.close()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Start a command and return its process id."""
        self._count += 1
        told = self._folder / f"said-{self._count}.txt"
        told.touch()  # one that is killed at once says nothing
        pid = self._ask({"arguments": list(arguments), "environment": dict(environment or {}), "said": str(told)})
        self._begun[pid] = (time.monotonic(), told)
        return pid

    def wait(self, pid: int) -> Ended:
        """Wait until a process has ended."""
        status, cpu = self._ask({"wait": pid})
        began, told = self._begun.pop(pid)
        said = told.read_text(encoding="utf-8", errors="replace")
        told.unlink()
        return Ended(os.waitstatus_to_exitcode(status), cpu, time.monotonic() - began, said)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(arguments, environment))

    def kill(self, arguments: Sequence[str], after: float, environment: Mapping[str, str] | None = None) -> Ended:
        """Start a command and kill it so many seconds later; it may have ended before."""
        pid = self.start(arguments, environment)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)  # of one that has ended the parent keeps the number until it is waited for
        return self.wait(pid)

    def _ask(self, what: dict[str, Any]) -> Any:
        """Have the parent do something, and return its answer."""
        self._parent.stdin.write(json.dumps(what) + "\n")
        self._parent.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        """Return the next answer."""
        line = self._parent.stdout.readline()
        if not line:
            raise RuntimeError("the process that starts ingests has ended")
        return json.loads(line)


def serve(source: str, organism: str) -> None:
    """Get ready, then start and await processes as standard input says."""
    import pyarrow as pa

    from atlas import IngestOptions, Source, ingest
    from catalog import commands

    assert commands
    nowhere = f"{source}.none"
    ingest(Source(organism, source), nowhere, IngestOptions(doublets=False, dry_run=True))
    answers, ready = os.fdopen(os.dup(1), "w"), _threads()
    # the process itself, the allocator's thread, Arrow's of reading the gene table; a TileDB context has many more
    if len(ready) > 2 + pa.cpu_count() + 1:
        raise RuntimeError(f"no safe fork beside threads {ready}")
    _tell(answers, "ready")
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status, usage = os.wait4(asked["wait"], 0)
            _tell(answers, [status, usage.ru_utime + usage.ru_stime])
            continue
        assert _threads() == ready, "nothing was done here since"
        pid = os.fork()
        if not pid:
            os._exit(_become(asked))
        _tell(answers, pid)


def _tell(answers: Any, what: Any) -> None:
    """Give one answer."""
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _threads() -> list[str]:
    """Return the names of this process' threads, the main one first; none where the system does not tell."""
    tasks = Path("/proc/self/task")
    numbers = sorted(int(task.name) for task in tasks.iterdir()) if tasks.exists() else []
    return [(tasks / str(number) / "comm").read_text().strip() for number in numbers]


def _become(asked: dict[str, Any]) -> int:
    """Run a command in this process, which is new, and return its exit code."""
    from atlas import lease
    from catalog.cli import run

    lease.TTL_S = LEASE_S
    os.environ.update(asked["environment"])
    nothing, said = os.open(os.devnull, os.O_RDWR), os.open(asked["said"], os.O_WRONLY)
    for number, place in ((0, nothing), (1, nothing), (2, said)):
        os.dup2(place, number)
    try:
        return run(asked["arguments"])
    except BaseException:  # noqa: BLE001 - as Python tells what nobody caught; nothing of the parent may go on here
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    serve(*sys.argv[1:])
