"""Ingests that are killed at random moments, run out of disk, and cross each other: what is read then, and in the end.

An ingest of three sources is killed at a moment drawn evenly from the time it takes, run again, killed again, at most
five times, and then run to its end. After each kill the content hash of what readers see is that of a whole number of
sources, in the end that of ingests nobody disturbed. The processes are real ones, on a folder and on an S3 server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.disturbed_atlas import Undisturbed
    from benchmarks.disturbed_processes import Processes

SEED = 0
READS = ("data/drosophila_embryo_cxg7.h5ad",)
CHAIN = 5
"""Kills before an ingest is let to its end."""
OFFICIAL = 5
"""The official client reads after each so many kills."""
FULL = {"folder": 200, "S3": 12, "disks": 16, "pairs": 50, "pairs on S3": 2}
QUICK = {"folder": 3, "S3": 1, "disks": 2, "pairs": 1, "pairs on S3": 1}
NOTES = (
    "Three sources of 120 cells and 1,500 genes, resampled from real cells of the fly, without doublets. After each "
    "kill a reader opens the atlas: `between` counts where it is neither as before nor as after a source, told by the "
    "content hash; after every fifth cellxgene-census reads all cells too. `wrong in the end` counts atlases that, run "
    "again to the end, have another content hash than undisturbed ones, findings of `validate`, or leftovers. Where "
    "kills fell is told by what they left.",
    "A process is a fork of one that has imported everything, so that kills fall into the ingest and not into Python's "
    "start. On the S3 server (moto, on this machine) leases last 4 s in place of 60.",
    "Disks: an ext4 file system in a file, filled but for `room`. `silent` counts ingests that stopped without saying "
    "that the disk is full, `changed` those after which readers see another atlas. With room made the same command is "
    "run again.",
    "Pairs: two processes begin at once, of a and b, and of b and c; one that is refused is run again at once. "
    "`not named` counts refusals that do not say who is writing.",
)
COLUMNS = (
    "what", "kills", "sizes", "pairs", "room", "runs", "to the end", "between", "full", "silent", "changed", "refused",
    "not named", "read by the official client", "wrong in the end",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where atlases are disturbed."""

    what: str
    """`folder` or `S3`."""
    base: str
    """Address that names of atlases are put behind."""
    environment: dict[str, str] = field(default_factory=dict)
    """What processes need to reach it."""

    def clear(self, uri: str) -> None:
        """Remove an atlas."""
        from atlas import store
        from atlas.object_store import ObjectPlace

        place = store.place_of(uri)
        if isinstance(place, ObjectPlace):
            place.remove(place.inside())
        else:
            shutil.rmtree(place)

    def await_lease(self, uri: str) -> None:
        """Wait until a killed writer's place is free, which takes as long as its lease on object storage."""
        from atlas import lease, store

        if self.environment:
            while lease.who(store.place_of(uri) / store.LEDGER / lease.LEASE):
                time.sleep(0.2)


@dataclass(frozen=True)
class Run:
    """What is needed to disturb an ingest."""

    folder: Path
    """Where sources, manifests and atlases are made."""
    processes: Processes
    """Who ingests."""
    files: dict[str, Path]
    """The sources by name."""
    meant: Undisturbed
    """What ingests give that nobody disturbs."""
    sizes: dict[str, int]
    """How many of each kind."""


def kill_all(run: Run, place: Place) -> list[dict[str, Any]]:
    """Return the rows of kills at one place."""
    from benchmarks.disturbed_atlas import NAMES, STAGES, command, look, manifest, stage

    rng = np.random.default_rng((SEED, place.what == "S3"))
    sources, fell = manifest(run.folder, run.files, NAMES), Counter()
    told, uri, seconds = Counter(kills=0), f"{place.base}/killed", undisturbed_seconds(run, place)
    while told["kills"] < run.sizes[place.what]:
        before, left = look(uri), min(CHAIN, run.sizes[place.what] - told["kills"])
        while left and len(before.datasets) < len(NAMES):
            # A little longer than what is left takes, so that some fall after it; those that never fell do not count.
            after_s = rng.uniform(0, 1.1) * sum(s for name, s in seconds.items() if name not in before.datasets)
            ended = run.processes.kill(command(sources, uri), after_s, place.environment)
            assert ended.killed or ended.code == 0, ended.said
            after = look(uri)
            if ended.killed:
                left -= 1
                told["kills"] += 1
                fell[stage(before, after)] += 1
                official = told["kills"] % OFFICIAL == 0 and bool(after.datasets)
                told["read by the official client"] += official
                told["between"] += tell(place, run.meant.faults(uri, before, after, official=official))
            place.await_lease(uri)
            before = after
        ended = run.processes.run(command(sources, uri), place.environment)
        told["to the end"] += 1
        told["wrong in the end"] += tell(place, [ended.said] if ended.code else run.meant.final_faults(uri))
        place.clear(uri)
        print(f"{place.what}: {dict(told)} {dict(fell)}", file=sys.stderr, flush=True)
    columns = ("kills", "between", "read by the official client", "to the end", "wrong in the end")
    rows: list[dict[str, Any]] = [{"table": "killed", "what": place.what, **{c: told[c] for c in columns}}]
    return rows + [{"table": "where kills fell", "what": s, f"kills, {place.what}": fell[s]} for s in STAGES]


def undisturbed_seconds(run: Run, place: Place) -> dict[str, float]:
    """Return how long each source takes at a place."""
    from benchmarks.disturbed_atlas import NAMES, command, manifest, seconds_of

    uri = f"{place.base}/timed"
    ended = run.processes.run(command(manifest(run.folder, run.files, NAMES), uri), place.environment)
    assert ended.code == 0, ended.said
    seconds = seconds_of(uri)
    place.clear(uri)
    return seconds


def tell(place: Place, faults: list[str]) -> int:
    """Return 1 where there are faults, told to whoever waits; 0 where all is well."""
    for fault in faults:
        print(f"WRONG, {place.what}: {fault}", file=sys.stderr, flush=True)
    return bool(faults)


def cross_all(run: Run, place: Place, pairs: int) -> list[dict[str, Any]]:
    """Return the row of pairs of ingests at one place."""
    from benchmarks.disturbed_atlas import NAMES, command, look, manifest

    rng = np.random.default_rng((SEED, 2))
    told = Counter()
    uri = f"{place.base}/crossed"
    halves = [command(manifest(run.folder, run.files, names), uri) for names in (NAMES[:2], NAMES[1:])]
    for pair in range(pairs):
        order = halves[:: 1 if pair % 2 else -1]
        with_two = {run.processes.start(order[0], place.environment): order[0]}
        time.sleep(rng.uniform(0, 0.5))
        with_two[run.processes.start(order[1], place.environment)] = order[1]
        everyone = set(with_two)
        while with_two:
            pid, asked = next(iter(with_two.items()))
            del with_two[pid]
            ended = run.processes.wait(pid)
            told["runs"] += 1
            if ended.code == 0:
                continue
            said = " ".join(ended.said.split())
            refused = ended.code == 4 and "is writing" in said
            told["refused"] += refused
            told["not named"] += refused and not any(f"process {one} on" in said for one in everyone - {pid})
            assert refused, ended.said
            again = run.processes.start(asked, place.environment)
            everyone.add(again)
            with_two[again] = asked
        there = look(uri)
        wrong = [] if there.hash == run.meant.hashes[NAMES] and not there.left else [f"{there.datasets} {there.left}"]
        told["wrong in the end"] += tell(place, wrong)
        place.clear(uri)
    print(f"pairs, {place.what}: {dict(told)}", file=sys.stderr, flush=True)
    columns = ("runs", "refused", "not named", "wrong in the end")
    return [{"table": "two at once", "what": place.what, "pairs": pairs, **{c: told[c] for c in columns}}]


@contextmanager
def object_storage() -> Iterator[Place]:
    """Give a bucket on an S3 server of this machine."""
    from tests.object_server import BUCKET, object_server

    with object_server() as server:
        kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
        os.environ.update(server.environment)
        try:
            yield Place("S3", f"s3://{BUCKET}", server.environment)
        finally:
            for name in server.environment:
                del os.environ[name]
            os.environ.update(kept)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows; `quick` disturbs each kind once or twice."""
    from benchmarks.disturbed_atlas import ORGANISM, Undisturbed, make_sources
    from benchmarks.disturbed_processes import Processes
    from benchmarks.kept_parts import KeptParts
    from benchmarks.small_disks import starve_all

    sizes, here = QUICK if quick else FULL, Path(__file__).resolve().parent
    code = [
        *here.glob("disturbed_*.py"),
        here / "small_disks.py",
        here / "kills.py",
        *(here.parent / "atlas").glob("*.py"),
    ]
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)
        parts = KeptParts(folder.parent / "kills", {"seed": SEED}, code)
        files = make_sources(folder, SEED)
        with Processes(folder, files["a"], ORGANISM) as processes:
            run, place = (
                Run(folder, processes, files, Undisturbed(processes, folder, files), sizes),
                Place("folder", tmp),
            )
            rows = parts.of(f"folder-{sizes['folder']}", lambda: kill_all(run, place))
            rows += parts.of(f"disks-{sizes['disks']}", lambda: starve_all(run, SEED))
            rows += parts.of(f"pairs-{sizes['pairs']}", lambda: cross_all(run, place, sizes["pairs"]))
            with object_storage() as server:
                rows += parts.of(f"S3-{sizes['S3']}", lambda: kill_all(run, server))
                pairs = sizes["pairs on S3"]
                rows += parts.of(f"S3-pairs-{pairs}", lambda: cross_all(run, server, pairs))
        parts.clear()
    return merged(rows)


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, those on where kills fell last and with all places in one."""
    stages: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["table"] == "where kills fell":
            stages.setdefault(row["what"], {}).update(row)
    return [row for row in rows if row["table"] != "where kills fell"] + list(stages.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(main(quick=parser.parse_args().quick), indent=1))
