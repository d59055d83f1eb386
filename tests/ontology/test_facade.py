"""The floor's facade: cheap to import, complete, and free of the heavy libraries until they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ontology
from ontology import errors


def test_import_is_cheap_and_lazy() -> None:
    code = (
        "import sys, time; start = time.process_time(); import ontology; took = time.process_time() - start; "
        "print(took); print(*sorted({'numpy', 'pandas', 'zstandard', 'cellxgene_ontology_guide'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, heavy = done.stdout.split("\n")[:2]
    assert heavy == ""
    assert float(took) < 0.2


def test_every_public_name_loads() -> None:
    assert [name for name in ontology.__all__ if getattr(ontology, name) is None] == []
    assert dir(ontology) == sorted(ontology.__all__)
    assert set(ontology.__all__) == {name for names in ontology._HOMES.values() for name in names}


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = ontology.nope


def test_importing_the_submodule_does_not_hide_the_function() -> None:
    # A module named like a facade function would replace it once imported.
    for home, names in ontology._HOMES.items():
        assert home not in names


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.OntologyInputError("label", "x", "y"), ValueError),
        (errors.UnknownOrganismError("x", ()), LookupError),
        (errors.UnknownTermError("x", "CL"), KeyError),
        (errors.ReferenceMissingError("gene table", "sheep", "z"), LookupError),
        (errors.ReferenceMismatchError("x", "a", "b"), ValueError),
        (errors.SourceUnavailableError("x", "a", "b"), OSError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_each_error_is_also_a_builtin(error: Exception, builtin: type[Exception]) -> None:
    assert isinstance(error, errors.OntologyError)
    assert isinstance(error, builtin)
    assert not str(error).startswith("'") or isinstance(error, KeyError)
