"""The writer's place of an atlas on object storage: one object, made and renewed by conditional writes.

Who makes the object first holds the place until it expires, renews it while at work, and marks it as given back in the
end. Others are told who holds it. The lease of a process that died expires by itself, and is then taken over by a
write on its ETag, so that of several who try one succeeds. Ages are told by the server's clock alone.

A process that was stopped for longer than its lease, and goes on, cannot publish: the ledger has another ETag since.
`hold_on` keeps it from writing into arrays as well.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import StoreError
from .object_store import ObjectChangedError, ObjectPlace, StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE = "writer.lease"
TTL_S = 60.0
"""Seconds a lease is good for when it is not renewed: how long a writer that died keeps others out."""
_SLACK_S = 2.0  # ages are told in whole seconds, by two times of the server's that are each cut to the second
_LAST_S = 10.0  # seconds a renewal that is under way is waited for in the end
_NO_ETAG = f'"{"0" * 32}"'
_SELF = uuid.uuid4().hex  # with its number, this process: what it does not hold any more is free to itself at once
_held: dict[ObjectPlace, Lease] = {}  # by the atlas' folder; of this process
_door = threading.Lock()  # no two threads of this process take a place at once


class Lease:
    """A place that is held; `writer_lease` makes one."""

    def __init__(self, place: ObjectPlace, etag: str | None) -> None:
        """Take the place: nobody's, or one that is given back or expired and has this ETag.

        Raises
        ------
        ObjectChangedError
            If somebody else was quicker.
        """
        self.place, self._ttl = place, TTL_S
        self._name, self._stop = uuid.uuid4().hex, threading.Event()
        began = time.time()
        self._etag = self._write(etag, "held")
        self._until = began + self._ttl
        self._require_conditions()
        self._thread = threading.Thread(target=self._renew, name="writer's lease", daemon=True)
        self._thread.start()

    def _write(self, etag: str | None, state: str) -> str:
        """Write the object; an answer that was lost on the way is found by what the object says."""
        said = {"holder": holder(), "process": process_name(), "state": state, "ttl_s": self._ttl}
        step = uuid.uuid4().hex
        data = json.dumps(said | {"lease": self._name, "step": step}, sort_keys=True).encode()
        try:
            return self.place.write(data, etag)
        except ObjectChangedError:
            now = self.place.read()
            if now is None or self._name.encode() not in now.data:
                raise
            return now.etag if now.data == data else self.place.write(data, now.etag)

    def _require_conditions(self) -> None:
        """Refuse a server that takes a condition and ignores it: two writers could not be told apart."""
        try:
            self.place.write(b"{}", _NO_ETAG)
        except ObjectChangedError:
            return
        said = "it ignores the condition of a write (If-Match), on which one writer at a time depends"
        raise StoreError(str(self.place), "lock", f"{said}; use another S3 server, or a folder")

    def _renew(self) -> None:
        """Write the lease anew three times as often as it expires, until it is given back or lost."""
        while not self._stop.wait(self._ttl / 3):
            began = time.time()
            try:
                self._etag = self._write(self._etag, "held")
            except StoreError:
                continue  # the server may answer again before the lease expires
            except ObjectChangedError:
                self._until = 0.0
                return
            self._until = began + self._ttl

    def check(self) -> None:
        """Raise StoreError if the place may be somebody else's by now."""
        if time.time() >= self._until:
            said = "this process lost its place as the atlas' writer, for it could not renew its lease in time"
            raise StoreError(str(self.place.parent), "write", f"{said}; nothing was published, run this again")

    def give_back(self) -> None:
        """End renewing and mark the place as free; where the server cannot be reached it expires."""
        self._stop.set()
        self._thread.join(_LAST_S)
        if self._thread.is_alive():  # a server that does not answer
            return
        try:
            self._write(self._etag, "free")
        except (StoreError, ObjectChangedError):
            return


def holder() -> str:
    """Return how others are told of this process."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def process_name() -> str:
    """Return what no other process is called, nor a fork of this one."""
    return f"{_SELF}-{os.getpid()}"


@contextmanager
def writer_lease(folder: ObjectPlace) -> Iterator[None]:
    """Hold the only writer's place of the atlas whose ledger is in `folder`.

    Raises
    ------
    StoreError
        If somebody else holds it.
    """
    place = folder / LEASE
    with _door:
        now = place.read()
        said = held_by(place, now) if now else ""
        try:
            lease = None if said else Lease(place, now.etag if now else None)
        except ObjectChangedError:
            lease, said = None, who(place) or "another process is writing"
        if lease is None:
            raise StoreError(str(folder), "lock", f"{said}; wait for it and run this again")
        _held[folder.parent] = lease
    try:
        yield
    finally:
        lease.give_back()
        del _held[folder.parent]


def who(place: ObjectPlace) -> str:
    """Return who holds a lease now, in words; empty where nobody does."""
    now = place.read()
    return held_by(place, now) if now else ""


def held_by(place: ObjectPlace, now: StoredObject) -> str:
    """Return who holds a lease as it was read, in words; empty where it is free, expired, or this process lost it."""
    name, state, ttl = _facts(now.data)
    left = ttl + _SLACK_S - now.age_s
    lost = _own(now.data) and place.parent.parent not in _held
    if state != "held" or left < 0 or lost:
        return ""
    return f"{name} is writing (if it is dead, its place is free in {left:.0f} s)"


def expired(place: ObjectPlace) -> str:
    """Return who held a lease that was never given back and is over, empty where there is none such."""
    now = place.read()
    if now is None or held_by(place, now):
        return ""
    name, state, _ = _facts(now.data)
    return name if state == "held" else ""


def _own(data: bytes) -> bool:
    """Return whether a lease is of this very process."""
    try:
        return json.loads(data)["process"] == process_name()
    except (ValueError, KeyError, TypeError):
        return False


def _facts(data: bytes) -> tuple[str, str, float]:
    """Return holder, state and duration of a lease; of what is none, one that expires like any other."""
    try:
        said = json.loads(data)
        return str(said["holder"]), str(said["state"]), min(float(said["ttl_s"]), 3600.0)
    except (ValueError, KeyError, TypeError):
        return "somebody unknown", "held", TTL_S


def hold_on(uri: object) -> None:
    """Raise StoreError if `uri` is in an atlas that this process writes and whose lease it may have lost."""
    if not _held:
        return
    text = str(uri)
    for root, lease in list(_held.items()):
        if text == str(root) or text.startswith(f"{root}/"):
            lease.check()
