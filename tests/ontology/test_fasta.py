"""FASTA as the world writes it: well-formed files give back what was written, hostile ones are refused or counted."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import OntologyInputError
from ontology.fasta import read_fasta
from ontology.text_files import Tally

LETTERS = "ACDEFGHIKLMNPQRSTVWYXBZJUO"
NAMES = st.text("ABCxyz0123456789._|-", min_size=1, max_size=12)
RECORDS = st.lists(st.tuples(NAMES, st.text(LETTERS + "MKLV", min_size=1, max_size=90)), min_size=1, max_size=12)


def write(tmp_path, text, name="proteins.fa"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def pairs(path, tally=None):
    return [(record.name, record.sequence) for record in read_fasta(path, tally)]


@given(records=RECORDS, width=st.integers(1, 70), packed=st.booleans(), newline=st.sampled_from(["\n", "\r\n"]))
def test_what_was_written_is_read(tmp_path_factory, records, width, packed, newline):
    # A short tail of protein-only letters keeps every record from looking like nucleotides.
    records = [(name, sequence + "MKLVW") for name, sequence in records]
    lines = []
    for name, sequence in records:
        lines += [f">{name} pep something:else"]
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    data = newline.join(lines).encode()  # no newline at the end of the file
    path = tmp_path_factory.mktemp("fasta") / "x"
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    assert pairs(path) == records


@pytest.mark.parametrize(
    ("written", "read", "fault"),
    [
        ("MKV*", "MKV", None),
        ("MK*V", "MKXV", "sequence with a stop inside, read as X"),
        ("mkv", "MKV", None),
        ("M K\tV", "MKV", None),
        ("MK-V..", "MKV", "sequence with gaps, closed"),
        ("MKU", "MKU", "sequence with X, B, Z, J, U or O, kept"),
        ("MXBZJUO", "MXBZJUO", "sequence with X, B, Z, J, U or O, kept"),
        ("", None, "empty sequence, left out"),
        ("***", None, "empty sequence, left out"),
        ("MK1V", None, "sequence with letters that are no residues, left out"),
        ("MKÉV", None, "sequence with letters that are no residues, left out"),
        ("MK<script>", None, "sequence with letters that are no residues, left out"),
    ],
)
def test_letters(tmp_path, written, read, fault):
    tally = Tally()
    found = pairs(write(tmp_path, f">A\n{written}\n>B\nMKLV\n"), tally)
    assert found == ([("A", read)] if read else []) + [("B", "MKLV")]
    assert dict(tally.counts) == ({fault: 1} if fault else {})


def test_header_words(tmp_path):
    path = write(tmp_path, ">  A.1\tpep  gene:G description:x > y \nMKL\n>\nMKL\n")
    tally = Tally()
    [record] = read_fasta(path, tally)
    assert (record.name, record.header, record.sequence) == ("A.1", "pep  gene:G description:x > y", "MKL")
    assert dict(tally.counts) == {"record without a name, left out": 1}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"MKLV\n>A\nMKLV\n", "first line begins with '>'"),
        (b"gene,sequence\nA,MKLV\n", "first line begins with '>'"),
        (b">A\nMK\x00LV\n", "binary"),
        (b"\x7fELF\x02\x01\x01\x00", "binary"),
        (b"\x1f\x8b\x08\x00nonsense", "whole gzip"),
        (gzip.compress(b">A\n" + b"MKLVWQ" * 5000, mtime=0)[:-20], "whole gzip"),
        (gzip.compress(b">A\nMKLVWQ\n", mtime=0) + b"garbage", "whole gzip"),
        (b"".join(b">T%d\n%s\n" % (i, b"ATGGCCTTAGGCATCGATTACGGCATTAAG" * 3) for i in range(3)), "nucleotides"),
        (b"".join(b">T%d\n%s\n" % (i, b"ATGGCCTTAGGCATCGATTACGGCATTAAG" * 3) for i in range(99)), "nucleotides"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, data, says):
    with pytest.raises(OntologyInputError, match=says):
        list(read_fasta(write(tmp_path, data)))


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(OntologyInputError, match="exists"):
        list(read_fasta(tmp_path / "nowhere.fa"))


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ontology.fasta.UNPACKED", 1 << 20)
    path = write(tmp_path, gzip.compress(b">A\n" + b"MKLV" * (1 << 20), mtime=0))
    assert path.stat().st_size < 1 << 15
    with pytest.raises(OntologyInputError, match="unpacked"):
        list(read_fasta(path))


def test_endless_lines_cost_no_memory(tmp_path):
    """A header of 8 MB and a protein of 40 MB, each one line: the header is cut, the protein left out."""
    path = write(tmp_path, b">A " + b"h" * (8 << 20) + b"\nMKLV\n>B\n" + b"MKLV" * (10 << 20) + b"\n>C\nMKLVW\n")
    tally = Tally()
    tracemalloc.start()
    try:
        found = pairs(path, tally)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [("A", "MKLV"), ("C", "MKLVW")]
    assert dict(tally.counts) == {"sequence of more than 200,000 letters, left out": 1}
    assert peak < 8 << 20


def test_the_longest_protein_passes(tmp_path):
    titin = "MKLVWQERTY" * 3_600  # 36,000 residues, as long as human titin
    wrapped = "\n".join(titin[i : i + 60] for i in range(0, len(titin), 60))
    assert pairs(write(tmp_path, f">TTN\n{wrapped}\n")) == [("TTN", titin)]


@given(st.binary(max_size=400))
def test_no_bytes_break_it(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(data)
    try:
        for record in read_fasta(path):
            assert set(record.sequence) <= set(LETTERS)
            assert record.name
    except OntologyInputError:
        pass
