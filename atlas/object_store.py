"""Places on object storage: an `s3://` address used like a path, and TileDB's settings for it.

Endpoint, region and credentials come from the ordinary environment (`AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`,
`AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), or from whatever else the AWS tools
look at. TileDB reads and writes the arrays itself; here is what it cannot do and an atlas needs: reading and replacing
one object under a condition, which is how the ledger is published and the writer's lease is held.
"""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .errors import AtlasInputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEME = "s3://"
TRIES = 5
"""Times a request is sent before its failure is told: server errors and broken connections are tried again."""
_PATIENCE_MS = "30000"  # silence after which TileDB sends a request again; its own 3 s are few for a busy server
_PER_DELETE = 1000  # keys of one DeleteObjects request, the most the API takes
_EXPIRED = ("ExpiredToken", "RequestExpired", "TokenRefreshRequired")
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "InvalidToken")


class ObjectChangedError(Exception):
    """An object is not, or no longer, what a conditional write expected; only this floor sees it."""


@dataclass(frozen=True)
class StoredObject:
    """An object as it was read."""

    data: bytes
    """Its bytes."""
    etag: str
    """Names this version of it in conditions."""
    age_s: float
    """Seconds since it was written, by the server's clock, whole seconds."""


@dataclass(frozen=True)
class ObjectPlace:
    """An object or a folder of objects: what of a path's behaviour the atlas needs.

    Examples
    --------
    >>> place = ObjectPlace("bucket", "atlases/human")
    >>> str(place / "ledger" / "ledger.sqlite")
    's3://bucket/atlases/human/ledger/ledger.sqlite'
    """

    bucket: str
    """Name of the bucket."""
    key: str
    """Key of the object, or prefix of the folder, without slashes at its ends."""

    @classmethod
    def parse(cls, uri: str) -> ObjectPlace:
        """Return the place an `s3://` address names.

        Raises
        ------
        AtlasInputError
            If it names no folder in a bucket.
        """
        parts = urlsplit(uri)
        key = parts.path.strip("/")
        plain = parts.netloc and key and not (parts.query or parts.fragment or "@" in parts.netloc)
        if not plain or any(p in ("", ".", "..") for p in key.split("/")):
            said = "s3://BUCKET/FOLDER; endpoint, region and credentials come from AWS_* variables"
            raise AtlasInputError("atlas", uri, said)
        return cls(parts.netloc, key)

    def __str__(self) -> str:
        """Return the address."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> ObjectPlace:
        """Return a place inside of this one."""
        return ObjectPlace(self.bucket, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """Return the last part of the address."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPlace:
        """Return the folder this is in."""
        return ObjectPlace(self.bucket, self.key.rpartition("/")[0])

    def exists(self) -> bool:
        """Return whether there is an object of this very key, or any inside of it."""
        with told(str(self), "look at"):
            found = client().list_objects_v2(Bucket=self.bucket, Prefix=self.key, MaxKeys=1).get("Contents", [])
            if found and found[0]["Key"] == self.key:
                return True
            return bool(client().list_objects_v2(Bucket=self.bucket, Prefix=f"{self.key}/", MaxKeys=1).get("Contents"))

    def read(self) -> StoredObject | None:
        """Return the object, or None where there is none."""
        with told(str(self), "read"):
            try:
                got = client().get_object(Bucket=self.bucket, Key=self.key)
                data = got["Body"].read()
            except client().exceptions.NoSuchKey:
                return None
        sent = got["ResponseMetadata"]["HTTPHeaders"].get("date")
        return StoredObject(data, got["ETag"], _seconds(sent, got["LastModified"]))

    def write(self, data: bytes, replaces: str | None) -> str:
        """Write the object if it is what it is expected to be, and return its new ETag.

        Parameters
        ----------
        data
            All of its bytes.
        replaces
            ETag it must have; None where there must be none.

        Raises
        ------
        ObjectChangedError
            If it is another one by now. That is also what a repeated request is told whose first answer was lost.
        StoreError
            If the object cannot be written; whether it was is then unknown.
        """
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        with told(str(self), "write"):
            try:
                return client().put_object(Bucket=self.bucket, Key=self.key, Body=data, **condition)["ETag"]
            except client().exceptions.ClientError as exc:
                # 409: another conditional write of the same key is under way; 404: it was removed meanwhile.
                if exc.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412) and not _is_bucket(exc):
                    raise ObjectChangedError(str(self)) from exc
                raise

    def inside(self) -> list[str]:
        """Return the keys of every object in this folder, relative to it, sorted."""
        start = f"{self.key}/"
        with told(str(self), "list"):
            pages = client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            return sorted(found["Key"].removeprefix(start) for page in pages for found in page.get("Contents", ()))

    def folders(self, start: str = "") -> set[str]:
        """Return the names of the folders in this one that begin with `start`."""
        prefix = f"{self.key}/{start}"
        with told(str(self), "list"):
            pages = client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
            found = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())]
        return {name.rstrip("/").rpartition("/")[2] for name in found}

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects of this folder, in the order given."""
        for i in range(0, len(names), _PER_DELETE):
            wanted = [{"Key": f"{self.key}/{name}"} for name in names[i : i + _PER_DELETE]]
            with told(str(self), "remove from"):
                done = client().delete_objects(Bucket=self.bucket, Delete={"Objects": wanted, "Quiet": True})
            if failed := done.get("Errors"):
                said = f"{len(failed)} objects stay, e.g. {failed[0]['Key']}: {failed[0].get('Code')}; run this again"
                raise StoreError(str(self), "remove from", said)

    def unfinished(self) -> list[tuple[str, str]]:
        """Return key and id of every multipart upload into this folder that was begun and not ended, sorted."""
        with told(str(self), "list uploads of"):
            pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=f"{self.key}/")
            return sorted((found["Key"], found["UploadId"]) for page in pages for found in page.get("Uploads", ()))

    def abort(self, uploads: Sequence[tuple[str, str]]) -> None:
        """Drop multipart uploads, whose parts are stored and seen by nobody."""
        with told(str(self), "drop uploads of"):
            for key, upload in uploads:
                client().abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)


def _is_bucket(exc: Any) -> bool:
    """Return whether it is the bucket that is missing."""
    return exc.response.get("Error", {}).get("Code") == "NoSuchBucket"


def _seconds(sent: str | None, modified: Any) -> float:
    """Return the age of an object from the answer's date, so that the clock of this machine does not matter."""
    if sent is None:
        return 0.0
    return max(0.0, (parsedate_to_datetime(sent) - modified).total_seconds())


def endpoint() -> str | None:
    """Return the address of the S3 server, None for AWS' own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    """Return the region asked for; None where the environment says nothing."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


_READ = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


def client() -> Any:
    """Return the client of single objects, made once for each state of the environment.

    Raises
    ------
    StoreError
        If the library it needs is not installed.
    """
    return _client(endpoint(), _region(), tuple(os.environ.get(name) for name in _READ))


@functools.lru_cache(maxsize=4)
def _client(address: str | None, region: str | None, _credentials: tuple[str | None, ...]) -> Any:
    try:
        from botocore.config import Config  # noqa: PLC0415 - only who works on object storage needs it
        from botocore.session import Session  # noqa: PLC0415 - likewise
    except ImportError as exc:
        said = "atlases on object storage need botocore: pip install 'panatlas[s3]'"
        raise StoreError(SCHEME, "open", said) from exc
    config = Config(
        retries={"mode": "standard", "total_max_attempts": TRIES},
        connect_timeout=10,
        read_timeout=60,
        s3={"addressing_style": "path"} if address else None,
        request_checksum_calculation="when_required",  # servers that are not AWS' own know none of its newer ones
        response_checksum_validation="when_required",
    )
    session = Session()
    known = region or session.get_config_variable("region") or "us-east-1"
    return session.create_client("s3", region_name=known, endpoint_url=address, config=config)


def tiledb_settings() -> dict[str, str]:
    """Return TileDB's settings for the S3 server the environment names; also what official clients are to be given."""
    address, settings = endpoint(), {"vfs.s3.connect_max_tries": str(TRIES), "vfs.s3.request_timeout_ms": _PATIENCE_MS}
    if region := _region():
        settings["vfs.s3.region"] = region
    if address:
        parts = urlsplit(address)
        settings |= {
            "vfs.s3.endpoint_override": f"{parts.netloc}{parts.path.rstrip('/')}",
            "vfs.s3.scheme": parts.scheme,
            "vfs.s3.use_virtual_addressing": "false",
        }
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    given = {f"vfs.s3.{name}": os.environ.get(name.upper(), "") for name in names}
    return settings | {name: value for name, value in given.items() if value}


@contextmanager
def told(uri: str, step: str) -> Iterator[None]:
    """Tell faults of a single object's request as StoreError, with the remedy."""
    client()  # says what to install where botocore is missing
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as above

    try:
        yield
    except ClientError as exc:
        facts = exc.response.get("Error", {})
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        said = f"{facts.get('Code', status)} {facts.get('Message', '')}".strip()
        raise StoreError(uri, step, explained(said)) from exc
    except (BotoCoreError, OSError) as exc:
        raise StoreError(uri, step, explained(str(exc))) from exc


def explained(said: str) -> str:
    """Return what a server or client said of a fault, and what to do about it."""
    server = endpoint() or "AWS"
    if any(code in said for code in _EXPIRED):
        remedy = "the credentials have expired; renew AWS_ACCESS_KEY_ID and its companions, and run this again"
    elif any(code in said for code in _REFUSED):
        remedy = "the server refuses the credentials; check AWS_ACCESS_KEY_ID and what it may do in this bucket"
    elif "NoSuchBucket" in said:
        remedy = "make the bucket first; panatlas makes none"
    elif "credentials" in said.lower():
        remedy = "give credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where there is one"
    else:
        remedy = f"see that {server} can be reached and answers, and run this again"
    return f"{said.rstrip('.')}; {remedy}"
