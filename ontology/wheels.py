"""Pinned data wheels: fetch one through the user's own package index and keep only the members that are wanted.

`fetch_wheel_member("came==0.1.13", sha256, "came/sample_data.zip/raw-Baron_human.h5ad")` returns a path in the cache.
uv does the fetching because pip refuses the metadata of some old wheels and because uv checks the hash before it
unpacks; the wheel lands in a temporary folder and is never imported. A second call needs no network. This is the only
file of the floor that reaches one; package_index.py says which index. Readers of the members: genes, atlas sources.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from .cached import intact, keep
from .errors import OntologyInputError, ReferenceMismatchError, SourceUnavailableError
from .package_index import index_settings
from .places import cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

MEMBER_LIMIT = 2 << 30
"""Largest member that is unpacked, in bytes: ten times the largest pinned one, far below a disk-filling zip bomb."""
FETCH_TIMEOUT = 900
"""Seconds one fetch may take; 20 MB over a slow line, with uv's own retries."""
REMEDY = (
    "check the connection and the package index settings (UV_DEFAULT_INDEX or PIP_INDEX_URL), "
    "or work without it by passing your own data with --source"
)


def fetch_wheel_member(requirement: str, sha256: str, member: str) -> Path:
    """Return one file of a pinned wheel, fetched on first use and from the cache ever after.

    Parameters
    ----------
    requirement
        Name and exact version, e.g. `came==0.1.13`.
    sha256
        Hex digest of the wheel; another wheel of that name and version is refused.
    member
        Path inside the wheel; it may go on inside a zip archive there.

    Raises
    ------
    OntologyInputError
        When the requirement is not pinned exactly, the digest is malformed, or the member's path leaves the wheel.
    SourceUnavailableError
        When the index cannot be reached or does not have the wheel. Nothing is left half done.
    ReferenceMismatchError
        When the wheel's digest differs or the member is not in it.
    """
    return fetch_wheel_members(requirement, sha256, (member,))[0]


def fetch_wheel_members(requirement: str, sha256: str, members: Sequence[str]) -> tuple[Path, ...]:
    """Return several files of a pinned wheel, fetching it at most once; see `fetch_wheel_member`."""
    _check_request(requirement, sha256, members)
    # The digest is in the folder's name, so a changed pin can never be answered from an older wheel's files.
    folder = cache_dir() / "wheels" / f"{requirement.replace('==', '-')}-{sha256[:12]}"
    targets = tuple(folder.joinpath(*PurePosixPath(member).parts) for member in members)
    missing = [(member, target) for member, target in zip(members, targets, strict=True) if not intact(target)]
    if missing:
        log.info("fetching %s from the package index", requirement)
        with tempfile.TemporaryDirectory(prefix="panatlas-wheel-") as scratch:
            tree = Path(scratch) / "tree"
            _install(requirement, sha256, Path(scratch))
            for member, target in missing:
                _keep(requirement, tree, member, target)
    return targets


def _check_request(requirement: str, sha256: str, members: Sequence[str]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!]*", requirement):
        raise OntologyInputError("requirement", requirement, "a name and an exact version, such as came==0.1.13")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise OntologyInputError("sha256", sha256, "64 lower-case hex digits")
    for member in members:
        parts = member.split("/")
        if "\\" in member or "\0" in member or ":" in member or any(part in ("", ".", "..") for part in parts):
            raise OntologyInputError("member", member, "a relative path of plain names inside the wheel")


def _install(requirement: str, sha256: str, scratch: Path) -> None:
    """Unpack the wheel under `scratch / "tree"`, trying the user's index settings from nearest to farthest."""
    listing = scratch / "requirements.txt"
    listing.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="ascii")
    command = [
        *(sys.executable, "-m", "uv", "--no-progress", "pip", "install", "--no-deps", "--only-binary", ":all:"),
        # Hashes make every index equally trustworthy, so all of them may be asked.
        *("--require-hashes", "--index-strategy", "unsafe-best-match", "--python", sys.executable),
        *("--target", str(scratch / "tree"), "-r", str(listing)),
    ]
    reason = "no index answered"
    for settings in index_settings():
        try:
            done = subprocess.run(  # noqa: S603 - fixed command, checked arguments, no shell
                command, env=settings, capture_output=True, text=True, timeout=FETCH_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            reason = f"no answer within {FETCH_TIMEOUT} s"
            continue
        except OSError as error:
            raise SourceUnavailableError(requirement, f"uv cannot be run ({error})", "reinstall panatlas") from error
        if done.returncode == 0:
            return
        if mismatch := re.search(r"Computed:\s*sha256:([0-9a-f]{64})", done.stderr):
            raise ReferenceMismatchError(requirement, f"sha256 {sha256}", f"sha256 {mismatch[1]}")
        reason = _reason(done.stderr)
        log.debug("uv failed: %s", done.stderr)
    raise SourceUnavailableError(requirement, f"the package index could not serve it ({reason})", REMEDY)


def _reason(stderr: str) -> str:
    """Return uv's last words without credentials that an index URL may carry."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    text = lines[-1].removeprefix("cause: ") if lines else "uv gave no reason"
    return re.sub(r"//[^/@\s]+@", "//***@", text)[:300]


def _keep(requirement: str, tree: Path, member: str, target: Path) -> None:
    """Copy one member into the cache, whole or not at all."""
    outer, inner = _locate(tree, PurePosixPath(member).parts)
    if outer is None:
        raise ReferenceMismatchError(requirement, f"a member {member}", "a wheel without it")
    with keep(target) as out:
        if inner:
            _copy_zipped(requirement, outer, inner, out)
        else:
            with outer.open("rb") as stream:
                _copy(requirement, member, stream, out)


def _locate(tree: Path, parts: tuple[str, ...]) -> tuple[Path | None, str]:
    """Return the file that holds the member and, where that is an archive, the name inside it."""
    here = tree
    for depth, part in enumerate(parts, start=1):
        here = here / part
        if here.is_symlink():
            return None, ""
        if here.is_file():
            rest = "/".join(parts[depth:])
            return (here, rest) if not rest or zipfile.is_zipfile(here) else (None, "")
    return None, ""


def _copy_zipped(requirement: str, archive: Path, name: str, out: IO[bytes]) -> None:
    with zipfile.ZipFile(archive) as opened:
        try:
            stream = opened.open(name)
        except KeyError as error:
            raise ReferenceMismatchError(
                requirement, f"a member {archive.name}/{name}", "a wheel without it"
            ) from error
        with stream:
            _copy(requirement, name, stream, out)


def _copy(requirement: str, member: str, stream: IO[bytes], out: IO[bytes]) -> None:
    size = 0
    while chunk := stream.read(1 << 20):
        size += len(chunk)
        if size > MEMBER_LIMIT:
            raise ReferenceMismatchError(f"{requirement} {member}", f"at most {MEMBER_LIMIT} bytes", "more")
        out.write(chunk)
