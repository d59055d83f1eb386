"""Exit codes: every error a floor raises on purpose has its documented code, everything else is a bug."""

from __future__ import annotations

import inspect

import pytest

import atlas.errors
import catalog.errors
import ontology.errors
from catalog.errors import exit_code

DOCUMENTED = {  # as in docs/cli.md
    "CatalogInputError": 2,
    "QueryError": 2,
    "ReleaseExistsError": 2,
    "InstallError": 2,
    "AtlasInputError": 2,
    "OntologyInputError": 2,
    "UnknownOrganismError": 2,
    "UnknownTermError": 2,
    "ReferenceMissingError": 2,
    "ContractError": 3,
    "StoreError": 4,
    "SourceError": 5,
    "ClusterError": 5,
    "SourceUnavailableError": 5,
    "ReferenceMismatchError": 5,
}
LEAVES = [
    kind
    for module in (ontology.errors, atlas.errors, catalog.errors)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == module.__name__ and len(kind.__bases__) > 1
]


@pytest.mark.parametrize("kind", LEAVES, ids=lambda k: k.__name__)
def test_every_leaf_has_its_code_and_a_builtin(kind):
    error = kind.__new__(kind)
    assert exit_code(error) == DOCUMENTED[kind.__name__]
    assert any(base.__module__ == "builtins" for base in kind.__bases__)


def test_every_documented_error_exists():
    assert {kind.__name__ for kind in LEAVES} == set(DOCUMENTED)


def test_what_the_system_and_the_store_raise_is_the_operators():
    import tiledbsoma

    assert exit_code(OSError(28, "No space left on device")) == 4
    assert exit_code(PermissionError(13, "Permission denied")) == 4
    assert exit_code(tiledbsoma.SOMAError("a fragment is damaged")) == 4


def test_anything_else_is_a_bug():
    class StoreError(Exception):
        """Somebody else's error of the same name."""

    for error in (ValueError("x"), KeyError("x"), AssertionError(), StoreError("x")):
        assert exit_code(error) == 1
    assert exit_code(KeyboardInterrupt()) == 130
