"""A file that cannot be what its name says is recognised by its first bytes."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from tokentape.recorder.foreign_files import foreign_file, known_file, pointer_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 20480\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (POINTER, "git lfs pull"),
        (b"\xef\xbb\xbf" + POINTER.replace(b"\n", b"\r\n"), "git lfs pull"),
        (b"/annex/objects/SHA256E-s20480--00.tape\n", "git annex get"),
        (b"", "is empty"),
        (bytes(4096), "zero bytes"),
        (b"\n<!DOCTYPE html>\n<html>", "web page"),
        (b"<html><body>Not found", "web page"),
        (gzip.compress(b"x", mtime=0), "gunzip"),
        (bz2.compress(b"x"), "bunzip2"),
        (lzma.compress(b"x"), "unxz"),
        (b"\x28\xb5\x2f\xfd...", "zstd -d"),
        ('{"run_id"'.encode("utf-16"), "UTF-16"),
        ('{"run_id"'.encode("utf-16-le"), "UTF-16"),
        ('{"run_id"'.encode("utf-16-be"), "UTF-16"),
    ],
)
def test_a_foreign_file_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "run.tape"
    path.write_bytes(content)

    assert what in foreign_file(path)
    assert known_file(path) == ""
    assert bool(pointer_file(path)) == ("git" in what)


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\x00", b"PK\x03\x04", b"PAR1", b"GGUF\x03", b'{"run_id":"a"}']
)
def test_a_file_of_the_project_is_not_foreign(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    assert foreign_file(path) == ""
    assert known_file(path) != ""


def test_what_cannot_be_read_is_not_judged_but_for_a_link_into_an_annex(tmp_path: Path) -> None:
    link = tmp_path / "run.tape"
    link.symlink_to(".git/annex/objects/xx/SHA256E-s1--00.tape")

    assert foreign_file(tmp_path / "missing") == foreign_file(tmp_path) == ""
    assert "git annex get" in foreign_file(link)
    assert "git annex get" in pointer_file(link)
