"""The wire to one BioMart: every request bounded in time, size and tries; same query, same order of attempts.

Knows HTTP and nothing of genes. What an answer must look like is told by the caller (biomart_answers.py), who is
biomart.py. Proxies and certificates come from the usual environment variables, which requests reads.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from .errors import OntologyInputError, SourceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

log = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes per read
REDIRECTS = 5  # a mirror or https costs one or two
BUSY = (429, 500, 502, 503, 504)
REMEDY = "try again later (finished pages are kept), name another server with --host, or import a file"


class BadAnswerError(Exception):
    """An answer that is not what was asked for; `passing` where another try may cure it. Never leaves this floor."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.reason, self.passing = reason, passing


@dataclass(frozen=True)
class Limits:
    """How long, how often and how much a BioMart may answer."""

    connect: float = 10.0
    """Seconds to connect."""
    idle: float = 120.0
    """Seconds without a byte; a mart thinks before its first one."""
    total: float = 900.0
    """Seconds of one answer, from request to last byte."""
    tries: int = 4
    """Attempts for one answer."""
    pause: float = 2.0
    """Seconds before the second attempt; each further pause is twice the former. No jitter."""
    max_bytes: int = 256 << 20
    """Largest answer after decompression; a page is a few MB, the largest known configuration under 10 MB."""

    def __post_init__(self) -> None:
        for name in ("connect", "idle", "total", "tries", "max_bytes"):
            if getattr(self, name) <= 0:
                raise OntologyInputError(name, getattr(self, name), "a number above 0")
        if self.pause < 0:
            raise OntologyInputError("pause", self.pause, "seconds, 0 or more")


class Wire:
    """Requests to one martservice, answered with text or one of this floor's errors."""

    def __init__(self, url: str, limits: Limits, session: requests.Session | None = None) -> None:
        import requests  # noqa: PLC0415 - only processes that fetch pay for it

        self.url, self.limits = url, limits
        if session is None:
            session = requests.Session()
            session.headers["User-Agent"] = "panatlas"  # a busy mart's keepers see who asks
        self._session = session

    def get(self, params: Mapping[str, str], what: str, check: Callable[[str], None]) -> str:
        """Return the answer to a GET; `check` raises `BadAnswerError` where it is not one.

        Raises
        ------
        SourceUnavailableError
            When no attempt brings a sound answer, naming `what` and the last reason.
        """
        return self._ask("GET", {"params": dict(params)}, what, check)

    def post(self, query: str, what: str, check: Callable[[str], None]) -> str:
        """Return the answer to a query, sent as a form so that lists of ids never overflow an address; see `get`."""
        return self._ask("POST", {"data": {"query": query}}, what, check)

    def _ask(self, method: str, sent: dict, what: str, check: Callable[[str], None]) -> str:
        import requests  # noqa: PLC0415
        import urllib3  # noqa: PLC0415

        reason = ""
        for attempt in range(self.limits.tries):
            if attempt:
                log.warning("%s: %s; attempt %d of %d", what, reason, attempt + 1, self.limits.tries)
                time.sleep(self.limits.pause * 2 ** (attempt - 1))
            try:
                text = self._once(method, sent)
                check(text)
                return text
            except BadAnswerError as error:
                reason = error.reason
                if not error.passing:
                    break
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
                reason = f"{type(error).__name__}: {error}"[:300]
            except requests.RequestException as error:
                reason = f"{type(error).__name__}: {error}"[:300]
                break
        raise SourceUnavailableError(what, reason, REMEDY)

    def _once(self, method: str, sent: dict) -> str:
        """Return the text of one attempt; redirects repeat the method, where requests would turn POST into GET."""
        limits, url = self.limits, self.url
        until = time.monotonic() + limits.total
        for _ in range(REDIRECTS + 1):
            with self._session.request(
                method,
                url,
                **sent,
                stream=True,
                allow_redirects=False,
                timeout=(limits.connect, min(limits.idle, limits.total)),
            ) as response:
                if not response.is_redirect:
                    return self._text(response, until)
                former, url = url, urljoin(url, response.headers["Location"])
                if not _same_house(former, url):
                    raise BadAnswerError(f"it sends us to {_address(url)}, another house", passing=False)
                # The target of a GET repeats its query string already.
                sent = {} if method == "GET" else sent
        raise BadAnswerError(f"more than {REDIRECTS} redirects", passing=False)

    def _text(self, response: requests.Response, until: float) -> str:
        if response.status_code != 200:
            raise BadAnswerError(f"status {response.status_code}", passing=response.status_code in BUSY)
        # read1 returns what is there, so that a server which drips bytes meets the deadline too.
        read = getattr(response.raw, "read1", response.raw.read)
        body = bytearray()
        while chunk := read(CHUNK, decode_content=True):
            body += chunk
            if len(body) > self.limits.max_bytes:
                raise BadAnswerError(f"an answer of more than {self.limits.max_bytes} bytes", passing=False)
            if time.monotonic() > until:
                raise BadAnswerError(f"an answer of more than {self.limits.total:g} s", passing=True)
        try:
            return body.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise BadAnswerError(f"bytes that are not UTF-8 at {error.start}", passing=False) from error


def _same_house(former: str, target: str) -> bool:
    """Tell whether a redirect stays with its makers: same host or same domain, and never from https to http."""
    a, b = urlsplit(former), urlsplit(target)
    if b.scheme not in ("http", "https") or (a.scheme == "https" and b.scheme == "http"):
        return False
    here, there = a.hostname or "", b.hostname or ""
    if here == there:
        return True
    try:
        ipaddress.ip_address(here)
    except ValueError:
        return here.split(".")[-2:] == there.split(".")[-2:] and "." in here
    return False


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}"
