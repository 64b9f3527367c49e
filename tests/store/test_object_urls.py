"""Which names are URLs of an object store, and reading an object in ranges."""

import io
import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tokentape.store.location import parse_location
from tokentape.store.objects import range_file
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.range_file import RangeFile
from tokentape.store.objects.urls import ObjectUrl, file_location


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket/runs", "gs://bucket/x.tape", "az://box/runs", "abfs://box/runs"),
        *("memory://runs", "S3://bucket/runs", "https://example.org/x.tape", "hf://datasets/a/b"),
        "simplecache::s3://bucket/x.tape",
    ],
)
def test_urls_of_object_stores(text: str) -> None:
    assert parse_location(text) == ObjectUrl(text)
    assert file_location(text) == ObjectUrl(text)


@pytest.mark.parametrize(
    "text",
    [
        *("C:\\runs\\x.tape", "C:/runs/x.tape", "C://runs", "c:x", "a:b", "s3:x", "s3:bucket/x"),
        *("runs/s3://x", "./s3://x", "12:30 run.tape", "s3"),
    ],
)
def test_paths_with_colons_are_paths(text: str) -> None:
    assert parse_location(text) == Path(text)
    assert file_location(text) == Path(text)


def test_a_url_that_was_made_a_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("s3://bucket/runs")
    for resolve in (parse_location, file_location, tt.open_store):
        with pytest.raises(tt.StoreError, match="write s3://… as text"):
            resolve(path)
    if os.name != "nt":
        path.mkdir(parents=True)
        assert file_location(path) == path


@pytest.mark.parametrize("text", ["sqlite:///x.db", "postgresql://me@host/x", "none://bucket/x"])
def test_a_copy_is_not_written_to_another_url(text: str) -> None:
    with pytest.raises(tt.StoreError, match="is not the URL of a file or folder"):
        file_location(text)


def test_a_password_is_not_shown() -> None:
    assert str(ObjectUrl("ftp://me:secret@host/runs")) == "ftp://host/runs"
    assert str(ObjectUrl("s3://bucket/a@b")) == "s3://bucket/a@b"


READS = st.lists(
    st.tuples(st.integers(-50, 5000), st.sampled_from([0, 1, 2]), st.integers(-1, 3000)),
    max_size=12,
)


@given(size=st.integers(0, 4000), whole=st.sampled_from([0, 100, 10_000]), reads=READS)
def test_a_range_file_reads_as_the_object_does(
    size: int, whole: int, reads: list[tuple[int, int, int]]
) -> None:
    content = os.urandom(size)
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/ranges/x", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_file, "WHOLE_BYTES", whole)
        patch.setattr(range_file, "_BLOCK_BYTES", 64)
        patch.setattr(range_file, "_BLOCKS_MAX", 5)
        file = RangeFile(ObjectPath(filesystem, "/ranges/x", "memory://ranges/x"))
        expected = io.BytesIO(content)
        for offset, whence, count in reads:
            if whence == 0:
                offset = max(0, offset)
            place = file.seek(offset, whence)
            expected.seek(place)
            assert file.read(count) == expected.read(count)
            assert file.tell() == expected.tell()
        assert len(file._blocks) <= 5
        file.close()
