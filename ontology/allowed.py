"""Which ids a label may carry for an organism, and where its text is looked up.

The rules are data (organisms.toml: labels and forbidden); here they are applied to one id or one text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import OntologyInputError, ReferenceMissingError, SourceUnavailableError, UnknownTermError
from .ontologies import load_ontology
from .organisms import Organism, forbidden_terms
from .references import ontology_pins

if TYPE_CHECKING:
    from .terms import Ontology

SEPARATOR = " || "
"""Between several terms of one cell, in ascending order, as CELLxGENE writes them."""
ADDRESSES = r"https?://(?:purl\.obolibrary\.org/obo|www\.ebi\.ac\.uk/efo)/"
"""What comes before an id where it is spelled as an address."""
MULTIPLE = ("disease", "self_reported_ethnicity")
"""Labels that may carry several terms per cell."""
# Tissue may be a cell line or a cultured cell type, but only by id: author texts such as "BM" or "T47D liver" would
# otherwise meet one of 167,000 cell lines by chance.
ID_ONLY = {"tissue": ("CL", "CVCL")}


def as_term_id(text: str) -> str | None:
    """Return the CURIE a text spells with colon or underscore, or as an address, or None where it has no such form.

    The prefix may be in another case before a colon; before an underscore it may not, or "cl_5", a cluster to most
    authors, would be a cell type.

    Examples
    --------
    >>> as_term_id("http://purl.obolibrary.org/obo/CL_0000084"), as_term_id("cl:0000084"), as_term_id("cl_5")
    ('CL:0000084', 'CL:0000084', 'cl:5')
    """
    found = re.fullmatch(rf"(?:{ADDRESSES})?([A-Za-z]+)([:_])(\w{{1,32}})", text, re.ASCII)
    if not found:
        return None
    prefix, sign, rest = found.groups()
    if sign == ":":
        prefix = {known.casefold(): known for known in ontology_pins()}.get(prefix.casefold(), prefix)
    return f"CVCL_{rest}" if prefix == "CVCL" else f"{prefix}:{rest}"


def ontology_of(term_id: str) -> Ontology | None:
    """Return the ontology at hand that an id's prefix names, or None."""
    return _at_hand(re.split("[:_]", term_id, maxsplit=1)[0])


def split_terms(term_id: str) -> tuple[str, ...]:
    """Return the ids of a value that may hold several."""
    return tuple(part.strip() for part in term_id.split(SEPARATOR.strip()))


def refusal(label: str, term_id: str, organism: Organism) -> str:
    """Return why an id must not stand under a label for an organism, or an empty string where it may."""
    rules = organism.labels.get(label, {})
    prefix = re.split("[:_]", term_id, maxsplit=1)[0]
    if prefix not in rules:
        return f"{prefix} ids are not used for {label} in {organism.name}; allowed: {', '.join(rules) or 'none'}"
    ontology = ontology_of(term_id)
    if ontology is None:
        return (
            f"{prefix} is not at hand, so {term_id} cannot be checked; run panatlas references fetch ontology {prefix}"
        )
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
    """Return the ontologies at hand in which text of a label is looked up, the preferred first."""
    prefixes = [p for p in organism.labels.get(label, {}) if p not in ID_ONLY.get(label, ())]
    found = [ontology for prefix in prefixes if (ontology := _at_hand(prefix)) is not None]
    return tuple({ontology.name: ontology for ontology in found}.values())


def _at_hand(prefix: str) -> Ontology | None:
    """Return the ontology that serves a prefix; None where it is neither pinned nor kept as a snapshot."""
    if prefix in ontology_pins():
        return load_ontology(prefix)  # a pinned one that cannot be read is an error, not an absence
    if prefix == "NCBITaxon":  # organisms are rows of data/organisms.toml; its lineages name no cell's label
        return None
    try:
        return load_ontology(prefix)
    except (OntologyInputError, ReferenceMissingError, SourceUnavailableError):
        return None
