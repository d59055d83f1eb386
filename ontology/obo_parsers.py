"""What obonet and pronto make of an ontology: records of parents, obsoletion and replacement by id.

obo.py hands them repaired OBO text, ontology_files.py OWL and obograph JSON. No import is followed, whatever the file
says. Their exceptions are of many kinds; `PARSER_FAULTS` lists them for the callers, who say which file it was.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAME_RELATION = {"BFO:0000050": "part_of"}
"""Relations that some files call by their id."""
PARSER_FAULTS = (SyntaxError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError, OSError)
"""What the parsers raise on files they do not like, besides their own subclasses of these."""

Record = dict[str, Any]


def records_by_obonet(text: str, relations: tuple[str, ...]) -> dict[str, Record]:
    """Return records of structure, without names, as obonet reads them."""
    import obonet  # noqa: PLC0415 - networkx takes 0.2 s

    graph = obonet.read_obo(io.StringIO(text), ignore_obsolete=False)
    records = {}
    for term_id, node in graph.nodes(data=True):
        pairs = [clause.split(" ", 1) for clause in node.get("relationship", ())]
        parents = [*node.get("is_a", ()), *(above for relation, above in pairs if relation in relations)]
        records[term_id] = _record(
            parents, node.get("is_obsolete") == "true", node.get("replaced_by", ()), node.get("consider", ())
        )
        records[term_id]["alternatives"] = tuple(node.get("alt_id", ()))
    return records


def records_by_pronto(text: str, relations: tuple[str, ...]) -> dict[str, Record]:
    """Return records of structure, without names, as pronto reads them; undefined ids get stubs, which it demands."""
    defined = set(re.findall(r"^id: (\S+)$", text, re.MULTILINE))
    used = dict.fromkeys(re.findall(r"^(?:is_a|replaced_by|consider|relationship: \S+):? (\S+)$", text, re.MULTILINE))
    stubs = "".join(f"\n[Term]\nid: {term_id}\n" for term_id in used if term_id not in defined)
    found = {t.id: _pronto_record(t, relations) for t in pronto_terms((text + stubs).encode())}
    return {term_id: record for term_id, record in found.items() if term_id in defined}


def pronto_terms(data: bytes) -> Iterator[Any]:
    """Yield the terms pronto finds in the bytes of any format it knows; no import is followed."""
    import pronto  # noqa: PLC0415 - 0.3 s

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every clause it has no class for
        yield from pronto.Ontology(io.BytesIO(data), import_depth=0).terms()


def _pronto_record(term: Any, relations: tuple[str, ...]) -> Record:
    parents = [t.id for t in term.superclasses(distance=1, with_self=False)] if "is_a" in relations else []
    for relation, others in term.relationships.items():
        if SAME_RELATION.get(relation.id, relation.id) in relations or relation.name in relations:
            parents += [other.id for other in others]
    record = _record(
        sorted(dict.fromkeys(parents)), bool(term.obsolete), sorted(term.replaced_by.ids), sorted(term.consider.ids)
    )
    record["alternatives"] = tuple(sorted(term.alternate_ids))
    return record


def named_by_pronto(data: bytes, relations: tuple[str, ...], scopes: tuple[str, ...]) -> dict[str, Record]:
    """Return whole records, names included, of a file that only pronto reads: OWL or obograph JSON."""
    records = {}
    for term in pronto_terms(data):
        record = records[term.id] = _pronto_record(term, relations)
        record["label"] = term.name or ""
        record["synonyms"] = tuple(
            sorted({s.description for s in term.synonyms if s.scope in scopes and s.description})
        )
    return with_alternatives(records)


def _record(parents: Iterable[str], obsolete: bool, replaced: Iterable[str], consider: Iterable[str]) -> Record:
    instead = tuple(replaced)
    return {
        "parents": tuple(dict.fromkeys(parents)),
        "deprecated": obsolete,
        # Two replacements are a choice, which is a person's.
        "replaced_by": instead[0] if len(instead) == 1 else None,
        "consider": (*(instead if len(instead) > 1 else ()), *consider),
    }


def with_alternatives(records: dict[str, Record]) -> dict[str, Record]:
    """Return records with the alternative ids as obsolete terms, replaced by the one that names them."""
    for term_id, record in list(records.items()):
        for other in record.pop("alternatives", ()):
            records.setdefault(other, {"label": "", **_record((), True, (term_id,), ())})
    return records
