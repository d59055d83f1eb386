"""Which ids a label may carry for an organism, and where its text is looked up.

The rules are data (organisms.toml: labels and forbidden); here they are applied to one id or one text.
"""

from __future__ import annotations

import re

from .errors import UnknownTermError
from .organisms import Organism, forbidden_terms
from .references import ontology_pins
from .terms import Ontology, load_ontology

# Tissue may be a cell line or a cultured cell type, but only by id: author texts such as "BM" or "T47D liver" would
# otherwise meet one of 167,000 cell lines by chance.
ID_ONLY = {"tissue": ("CL", "CVCL")}


def as_term_id(text: str) -> str | None:
    """Return the CURIE a text spells with colon or underscore, or None where it has no such form."""
    found = re.fullmatch(r"([A-Za-z]+)[:_](\w{1,32})", text, re.ASCII)
    if not found:
        return None
    prefix, rest = found.groups()
    return f"CVCL_{rest}" if prefix == "CVCL" else f"{prefix}:{rest}"


def ontology_of(term_id: str) -> Ontology | None:
    """Return the pinned ontology that an id's prefix names, or None."""
    prefix = re.split("[:_]", term_id, maxsplit=1)[0]
    return load_ontology(prefix) if prefix in ontology_pins() else None


def refusal(label: str, term_id: str, organism: Organism) -> str:
    """Return why an id must not stand under a label for an organism, or an empty string where it may."""
    rules = organism.labels.get(label, {})
    prefix = re.split("[:_]", term_id, maxsplit=1)[0]
    if prefix not in rules:
        return f"{prefix} ids are not used for {label} in {organism.name}; allowed: {', '.join(rules) or 'none'}"
    ontology = ontology_of(term_id)
    if ontology is None:
        return f"{prefix} is not pinned yet, so {term_id} cannot be checked"
    try:
        line = ontology.ancestors(term_id, with_self=True)
    except UnknownTermError as error:
        return str(error)
    if term_id in forbidden_terms(label):
        return f"{term_id} is too general or out of scope for {label}"
    if rules[prefix] and not any(root in line for root in rules[prefix]):
        return f"{term_id} is not under {' or '.join(rules[prefix])}, as {label} of {organism.name} must be"
    return ""


def text_ontologies(label: str, organism: Organism) -> tuple[Ontology, ...]:
    """Return the ontologies in which text of a label is looked up, the preferred first."""
    prefixes = [p for p in organism.labels.get(label, {}) if p not in ID_ONLY.get(label, ()) and p in ontology_pins()]
    return tuple({ontology_pins()[prefix].name: load_ontology(prefix) for prefix in prefixes}.values())
