"""Ontologies from files: `read_ontology("my.obo")`, and snapshots of those that no package carries (Plant Ontology).

OBO goes through the repair of obo.py and then obonet or pronto; OWL (RDF/XML) and obograph JSON go through pronto; gzip
or not. Files are untrusted: sizes are bounded, XML entities that grow are refused, nothing in a file is ever fetched.
`fetch_ontology` alone reaches the network. terms.py reads the snapshots through its cache.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import OntologyInputError, ReferenceMismatchError, SourceUnavailableError
from .obo import read_obo
from .obo_parsers import PARSER_FAULTS, named_by_pronto
from .references import OntologyFilePin, ontology_file_pins, ontology_pins
from .snapshots import save_bytes
from .term_table import make_table
from .terms import RELATIONS, Ontology
from .text_files import open_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .snapshots import Snapshot

log = logging.getLogger(__name__)

SIZE_LIMIT = 256 << 20
"""Bytes of a file, unpacked: 15 times the largest of 34 real OBO files, twice a current UBERON in OWL."""
ENTITY_LIMIT = 64 << 20
"""Characters that the entities of an OWL file may expand to, all together."""
FETCH_TIMEOUT = 60
"""Seconds without an answer, or without a further byte, before a fetch gives up."""
FETCH_DEADLINE = 900
"""Seconds a fetch may take in all: a server that drips bytes must end too."""
FETCH_LIMIT = 64 << 20
"""Bytes a fetched file may have; the Plant Ontology has 1.3 million."""
_ENTITY = re.compile(rb"<!ENTITY\s+(%\s*)?([\w.:-]+)\s+(?:\"([^\"]*)\"|'([^']*)'|(\w+))")
_USE = re.compile(rb"&([\w.:-]+);")


def read_ontology(
    path: str | Path,
    name: str | None = None,
    version: str | None = None,
    relations: tuple[str, ...] = RELATIONS,
    scopes: tuple[str, ...] = ("EXACT",),
) -> Ontology:
    r"""Read an ontology from an OBO, OWL (RDF/XML) or obograph JSON file, plain or gzip; the content says which.

    What could be mended was, and is counted in `Ontology.faults`. Alternative ids are obsolete terms that are replaced
    by their term; ids that are used and never defined are terms without a label.

    Parameters
    ----------
    path
        The file, at most 256 MiB unpacked.
    name
        What to call it; by default the prefix most of its ids have.
    version
        Its release; by default what the file says.
    relations
        Whose other end counts as above a term: `("is_a",)`, or with `part_of` as by default.
    scopes
        Which synonyms to keep: `EXACT`, `BROAD`, `NARROW`, `RELATED`.

    Raises
    ------
    OntologyInputError
        When it is not such a file, is too large, or cannot be read; the message says where and what to do.

    Examples
    --------
    >>> from pathlib import Path
    >>> text = "[Term]\nid: X:1\nname: top\n\n[Term]\nid: X:2\nname: low\nis_a: X:1\n"
    >>> _ = Path("x.obo").write_text(text)
    >>> read_ontology("x.obo").ancestors("X:2")
    {'X:1': 1}
    """
    return _read_bytes(_unpacked(Path(path)), str(path), (name, version), relations, scopes)


def import_ontology(path: str | Path, prefix: str, about: Mapping[str, str] | None = None) -> Snapshot:
    """Keep a file of the user's as the ontology of a prefix; `load_ontology(prefix)` reads it from then on.

    Parameters
    ----------
    path
        As in `read_ontology`; it is read whole before it is kept.
    prefix
        CURIE prefix of its terms, one that no pinned ontology serves.
    about
        `release` (by default the file's own), `licence` and `source`. Where the bytes are the pinned ones (`PO`), the
        pin's release and licence are taken.

    Raises
    ------
    OntologyInputError
        As `read_ontology`; when the prefix is pinned, is no prefix, or names no term of the file.
    """
    told = dict(about or {})
    data = _unpacked(Path(path))
    pin = ontology_file_pins().get(prefix)
    if pin is not None and hashlib.sha256(data).hexdigest() == pin.sha256:
        told |= {"release": pin.version, "licence": pin.licence}
    elif pin is not None:
        log.warning(
            "%s is not the pinned release %s of %s; it is kept as what it says it is", path, pin.version, prefix
        )
    return _keep(data, prefix, str(path), {"source": Path(path).name, **told})


def fetch_ontology(prefix: str) -> Snapshot:
    """Download the pinned file of an ontology that no package carries, prove it by digest, and keep it.

    Raises
    ------
    OntologyInputError
        When no file is pinned for the prefix.
    SourceUnavailableError
        When it cannot be downloaded: no connection, no such file, no answer in time, cut short, too large.
    ReferenceMismatchError
        When its bytes are not the pinned ones.
    """
    pin = ontology_file_pins().get(prefix)
    if pin is None:
        raise OntologyInputError("prefix", prefix, f"one of {', '.join(ontology_file_pins())}")
    data = _download(pin)
    digest = hashlib.sha256(data).hexdigest()
    if digest != pin.sha256:
        raise ReferenceMismatchError(pin.url, f"sha256 {pin.sha256}", f"sha256 {digest}")
    return _keep(data, prefix, pin.url, {"source": pin.url, "release": pin.version, "licence": pin.licence})


def _keep(data: bytes, prefix: str, where: str, about: Mapping[str, str]) -> Snapshot:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,31}", prefix, re.ASCII):
        raise OntologyInputError("prefix", prefix, "the letters (and digits) before the colon of its ids, such as PO")
    if prefix in ontology_pins() or prefix == "NCBITaxon":
        raise OntologyInputError("prefix", prefix, "one that is not pinned; read the file with read_ontology instead")
    stated = about.get("release", "")
    made = _read_bytes(data, where, (prefix, "" if stated == "unstated" else stated), RELATIONS, ("EXACT",))
    if not any(term_id.startswith((f"{prefix}:", f"{prefix}_")) for term_id in made):
        raise OntologyInputError("prefix", prefix, f"the prefix of the ids in {where}, such as {next(iter(made))}")
    return save_bytes("ontology", prefix, data, ".txt", {**about, "release": made.version, "rows": str(len(made))})


def _download(pin: OntologyFilePin) -> bytes:
    remedy = (
        f"check the connection, or download {pin.url} elsewhere "
        f"and run panatlas references import ontology {pin.name} FILE"
    )
    request = urllib.request.Request(pin.url, headers={"User-Agent": "panatlas"})  # noqa: S310 - a shipped pin
    data, end = bytearray(), time.monotonic() + FETCH_DEADLINE
    try:
        with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT) as answer:  # noqa: S310
            said = answer.headers.get("Content-Length", "")
            while len(data) <= FETCH_LIMIT and (chunk := answer.read1(1 << 16)):
                data += chunk
                if time.monotonic() > end:
                    raise TimeoutError(f"not done within {FETCH_DEADLINE} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise SourceUnavailableError(pin.name, f"the server answered {error.code} {error.reason}", remedy) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SourceUnavailableError(pin.name, str(error) or type(error).__name__, remedy) from error
    if len(data) > FETCH_LIMIT:
        raise SourceUnavailableError(pin.name, f"it has more than {FETCH_LIMIT} bytes", remedy)
    if said.isdigit() and len(data) < int(said):
        raise SourceUnavailableError(pin.name, f"it was cut short after {len(data)} of {said} bytes", remedy)
    return bytes(data)


def _unpacked(path: Path) -> bytes:
    """Return the bytes of a file, gunzipped where it is gzip, within the bound."""
    with open_bytes(path, SIZE_LIMIT) as stream:
        return stream.read()


def _read_bytes(
    data: bytes, where: str, called: tuple[str | None, str | None], relations: tuple[str, ...], scopes: tuple[str, ...]
) -> Ontology:
    faults, header = (), ""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"<", b"{"):
        check = check_xml if start == b"<" else check_json
        version = check(data, where)
        try:
            records = named_by_pronto(data, relations, scopes)
        except PARSER_FAULTS as error:
            why = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
            kind = "OWL in RDF/XML" if start == b"<" else "obograph JSON"
            raise OntologyInputError("path", where, f"{kind} that pronto reads ({why}); convert it to OBO") from error
    else:
        clean, records = read_obo(data, where, relations, scopes)
        version, faults, header = clean.version, clean.faults, clean.name
    if not records:
        raise OntologyInputError("path", where, "an ontology with at least one term")
    name, told = called
    return Ontology(
        name or _prefix(records, header), told or version or "unstated", make_table(records, faults), relations
    )


def _prefix(records: Mapping[str, object], header: str) -> str:
    """Return the prefix that the header names (`cl/subsets/...`), else the one that most ids have."""
    counts: dict[str, int] = {}
    for term_id in records:
        prefix = re.split("[:_]", term_id, maxsplit=1)[0]
        counts[prefix] = counts.get(prefix, 0) + 1
    said = header.split("/", maxsplit=1)[0].removesuffix(".owl").casefold()
    return max(counts, key=lambda prefix: (prefix.casefold() == said, counts[prefix], prefix))


def check_xml(data: bytes, where: str) -> str:
    """Refuse XML whose entities grow or reach outside, or that is not UTF-8; return the version it states."""
    if re.match(rb"\s*<(?:!doctype html|html)\b", data[:1024].removeprefix(b"\xef\xbb\xbf").lower()):
        raise OntologyInputError("path", where, "an ontology; this is a web page, sent in place of the file")
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OntologyInputError("path", where, "UTF-8; save it again as UTF-8") from error
    stated = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.-]+)", data.removeprefix(b"\xef\xbb\xbf"))
    if stated and stated[1].lower() not in (b"utf-8", b"us-ascii", b"ascii"):
        raise OntologyInputError("path", where, f"UTF-8; it says {stated[1].decode()}, save it again as UTF-8")
    found = list(_ENTITY.finditer(data))
    if len(found) != data.count(b"<!ENTITY"):
        raise OntologyInputError("path", where, 'plain XML entities, such as <!ENTITY owl "http://...">')
    # All uses are counted in one pass: a pass for each of 100,000 entities would take hours.
    used = Counter(each[1] for each in _USE.finditer(data)) if found else Counter[bytes]()
    grown = 0
    for entity in found:
        value = entity[3] if entity[3] is not None else entity[4]
        if entity[1] or value is None or b"&" in value or b"%" in value:
            named = entity[2].decode()
            raise OntologyInputError(
                "path", where, f"XML entities of plain text; {named} names other entities or files"
            )
        grown += used[entity[2]] * len(value)
    if grown > ENTITY_LIMIT:
        raise OntologyInputError("path", where, f"XML entities that expand to at most {ENTITY_LIMIT} bytes")
    version = re.search(rb"<owl:versionIRI[^>]*resource\s*=\s*\"([^\"]{1,300})\"", data[: 1 << 20])
    return version[1].decode() if version else ""


def check_json(data: bytes, where: str) -> str:
    """Refuse JSON that is no obograph; return the version it states."""
    try:
        graphs = json.load(io.BytesIO(data)).get("graphs")
        version = (graphs[0].get("meta") or {}).get("version") or ""
    except RecursionError as error:
        raise OntologyInputError("path", where, "obograph JSON; this one is nested too deeply") from error
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise OntologyInputError("path", where, f"obograph JSON with a list `graphs` ({error})"[:300]) from error
    return str(version)
