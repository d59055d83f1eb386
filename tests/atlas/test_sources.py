"""Sources: the URI grammar, manifests whose every wrong key is an error, and the starter manifests."""

from __future__ import annotations

import contextlib
import string
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import AtlasInputError
from atlas.sources import DATA, SOURCE_FIELDS, Source, load_manifest, parse_uri, source_from_uri, starter_sources
from ontology import OntologyError, load_ontology

PIN = "a" * 64

GRAMMAR = [
    ("data/cells.h5ad", ("file", "data/cells.h5ad", "", ())),
    ("/data/with space#and?marks.h5ad", ("file", "/data/with space#and?marks.h5ad", "", ())),
    ("file:///data/a.h5ad", ("file", "/data/a.h5ad", "", ())),
    ("file://localhost/data/a.h5ad", ("file", "/data/a.h5ad", "", ())),
    ("https://example.org/a.h5ad?x=1", ("https", "https://example.org/a.h5ad?x=1", "", ())),
    ("http://127.0.0.1:8000/a", ("http", "http://127.0.0.1:8000/a", "", ())),
    ("http://localhost/a", ("http", "http://localhost/a", "", ())),
    ("http://[::1]:80/a", ("http", "http://[::1]:80/a", "", ())),
    ("s3://bucket/key/a.h5ad", ("s3", "bucket/key/a.h5ad", "", ())),
    ("s3://bucket/k?region=eu-west-1", ("s3", "bucket/k", "", (("region", "eu-west-1"),))),
    ("pypi:came==0.1.13#a/b.zip/c.h5ad", ("pypi", "came==0.1.13", "a/b.zip/c.h5ad", ())),
    ("census:human", ("census", "human", "", ())),
    ("census:mouse?filter=a+%3D%3D+'b'", ("census", "mouse", "", (("filter", "a == 'b'"),))),
    ("synthetic:sheep?cells=24&seed=3", ("synthetic", "sheep", "", (("cells", "24"), ("seed", "3")))),
]  # fmt: skip


@pytest.mark.parametrize(("uri", "expected"), GRAMMAR, ids=[uri for uri, _ in GRAMMAR])
def test_grammar(uri, expected):
    found = parse_uri(uri)
    assert (found.scheme, found.target, found.member, found.options) == expected


REFUSED = {
    "empty": ("", "a path"),
    "nul": ("a\0b", "a path"),
    "unknown scheme": ("ftp://example.org/a", "a path"),
    "plain http": ("http://example.org/a", "this machine only"),
    "http to a host named like this machine": ("http://localhost.example.org/a", "this machine only"),
    "broken brackets": ("https://[::1/a", "well-formed"),
    "broken port": ("https://example.org:x/a", "well-formed"),
    "broken options": ("census:human?max_cells", "name=value"),
    "no host": ("https:///a", "https"),
    "relative file": ("file://data/a", "file:///absolute/path"),
    "password": ("https://me:secret@example.org/a", "without credentials"),
    "s3 secret": ("s3://b/k?secret_key=x", "one of region"),
    "wheel without a member": ("pypi:came==0.1.13", "pypi:NAME==VERSION"),
    "wheel without a version": ("pypi:came#a", "pypi:NAME==VERSION"),
    "census option": ("census:human?maxcells=10", "did you mean max_cells"),
    "census cells": ("census:human?max_cells=-1", "a positive integer"),
    "census no cells": ("census:human?max_cells=0", "a positive integer"),
    "synthetic cells": ("synthetic:sheep?cells=100001", "from 1 to 100000"),
    "synthetic seed": ("synthetic:sheep?seed=-1", "from 0 to"),
    "synthetic option": ("synthetic:sheep?cell=1", "did you mean cells"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_uris(name):
    uri, words = REFUSED[name]
    with pytest.raises(AtlasInputError, match=words) as caught:
        parse_uri(uri)
    assert "secret@" not in str(caught.value)


def test_census_of_an_unknown_organism():
    with pytest.raises(OntologyError, match="unicorn"):
        parse_uri("census:unicorn")


@given(st.text(string.printable + "ü\0\u202e", max_size=60))
def test_any_text_is_a_location_or_a_clear_error(text):
    with contextlib.suppress(AtlasInputError, OntologyError):
        assert parse_uri(text).scheme in ("file", "https", "http", "s3", "pypi", "census", "synthetic")


def test_source_from_uri_declares_nothing():
    source = source_from_uri("a.h5ad", "Homo sapiens")
    assert (source.organism, source.id, source.format, source.columns, source.constants) == (
        "human",
        None,
        "auto",
        {},
        {},
    )


WRONG = {
    "id": ({"id": "../x"}, "letters, digits"),
    "long id": ({"id": "x" * 129}, "letters, digits"),
    "format": ({"format": "loom"}, "one of h5ad"),
    "sha256": ({"sha256": "abc"}, "64 lower-case"),
    "field": ({"columns": {"celltype": "x"}}, "did you mean cell_type"),
    "constant": ({"constants": {"tisue": "x"}}, "did you mean tissue"),
    "empty value": ({"constants": {"tissue": ""}}, "not empty"),
    "both": ({"columns": {"tissue": "organ"}, "constants": {"tissue": "lung"}}, "not in columns too"),
    "unpinned wheel": ({"uri": "pypi:a==1#b"}, "always pinned"),
    "pinned census": ({"uri": "census:human", "sha256": PIN}, "version option"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sources_are_refused_at_once(name):
    fields, words = WRONG[name]
    with pytest.raises(AtlasInputError, match=words):
        Source(**{"organism": "human", "uri": "a.h5ad", **fields})


def manifest(folder, text):
    path = folder / "sources.toml"
    path.write_text(textwrap.dedent(text))
    return path


def test_manifest(tmp_path):
    path = manifest(
        tmp_path,
        """
        [[source]]
        id = "a"
        organism = "NCBITaxon:9606"
        uri = "cells/a.h5ad"
        columns = { cell_type = "louvain", donor_id = "patient" }
        [[source]]
        organism = "mouse"
        uri = "/abs/b.h5ad"
        constants = { tissue = "UBERON:0002048" }
        [[source]]
        organism = "mouse"
        uri = "s3://bucket/c.h5ad"
        """,
    )
    first, second, third = load_manifest(path)
    assert (first.id, first.organism, first.uri) == ("a", "human", str(tmp_path / "cells/a.h5ad"))
    assert first.columns == {"cell_type": "louvain", "donor_id": "patient"}
    assert (second.uri, second.constants) == ("/abs/b.h5ad", {"tissue": "UBERON:0002048"})
    assert third.uri == "s3://bucket/c.h5ad"


BROKEN = {
    "no toml": ("[[source", "a readable TOML file"),
    "no sources": ("", "at least one"),
    "unknown top key": ("sources = []", "did you mean source"),
    "unknown key": ('[[source]]\norganism="human"\nurl="a"', "did you mean uri"),
    "no uri": ('[[source]]\norganism="human"', "every source has"),
    "no organism": ('[[source]]\nuri="a"', "every source has"),
    "number": ('[[source]]\norganism=9606\nuri="a"', "text"),
    "number in a table": ('[[source]]\norganism="human"\nuri="a"\nconstants={tissue=3}', "text values"),
    "text for a table": ('[[source]]\norganism="human"\nuri="a"\ncolumns="x"', "a table of text"),
    "twice": ('[[source]]\nid="x"\norganism="human"\nuri="a"\n' * 2, "one source of that name"),
    "source is no list": ('[source]\nuri="a"', "at least one"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_manifests(name, tmp_path):
    text, words = BROKEN[name]
    with pytest.raises(AtlasInputError, match=words):
        load_manifest(manifest(tmp_path, text))


def test_manifest_errors_name_the_source(tmp_path):
    path = manifest(tmp_path, '[[source]]\norganism="human"\nuri="a"\n[[source]]\norganism="unicorn"\nuri="b"')
    with pytest.raises(OntologyError) as caught:
        load_manifest(path)
    assert any("number 2" in note for note in caught.value.__notes__)


def test_manifest_that_is_not_there(tmp_path):
    with pytest.raises(AtlasInputError, match="a readable TOML file"):
        load_manifest(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.toml")), ids=lambda p: p.stem)
def test_starter_sources_are_pinned_licensed_and_of_their_organism(path):
    sources = starter_sources(path.stem)
    assert sources == load_manifest(path)
    for source in sources:
        assert source.organism == path.stem
        assert source.uri.startswith("pypi:")
        assert all((source.id, source.sha256, source.title, source.citation, source.doi, source.licence))


def test_starter_constants_are_terms_of_the_ontologies():
    for organism in ("human", "mouse"):
        for source in starter_sources(organism):
            for field, value in source.constants.items():
                assert field in SOURCE_FIELDS
                if ":" in value:
                    assert not load_ontology(value.partition(":")[0])[value].obsolete


def test_organism_without_starter():
    with pytest.raises(AtlasInputError, match=r"human, mouse.*--source"):
        starter_sources("zebrafish")
