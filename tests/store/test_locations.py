"""The file that a path or URL names is the file that is opened, whatever characters it has."""

import os
import re
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tokentape as tt
from tokentape.store import DatabaseStore, database_url
from tokentape.store.location import parse_location, shown, sqlite_url

NAMES = st.text(
    st.one_of(st.sampled_from("?%#&+:;=@~'\"\\ []*{}2F.é漢🙂-"), st.characters(codec="utf-8")),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..") and not set(name) & {"/", "\x00"})


def files_of(folder: Path) -> list[str]:
    return sorted(
        each.name for each in folder.iterdir() if not each.name.endswith(("-wal", "-shm"))
    )


@settings(max_examples=12)
@given(name=NAMES)
@example(name="what?.db")
@example(name="my%20runs.db")
@example(name="q?mode=ro&immutable=1.db")
@example(name="a#b?c%3F.db")
@example(name="~backup.db")
@example(name="file:x?mode=memory")
@example(name="[x]*.db")
def test_a_path_names_exactly_one_file_and_so_does_the_url_that_the_store_shows(name: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        path = Path(made, name)
        try:
            path.touch()
            path.unlink()
        except OSError:
            return
        for where in (str(path), path):
            with tt.open_store(where) as opened:
                shown_url = opened.where
            assert files_of(Path(made)) == [name]
            with tt.open_store(shown_url, must_exist=True) as again:
                assert again.where == shown_url
            assert files_of(Path(made)) == [name]
            path.unlink()


@given(name=NAMES)
def test_a_url_shows_its_file_so_that_it_is_read_back(name: str) -> None:
    url = sqlite_url(Path(name))

    assert parse_location(shown(url)) == url


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("sqlite:///runs.db", "runs.db"),
        ("sqlite:///my%20runs.db", "my runs.db"),
        ("sqlite:///what%3F.db", "what?.db"),
        ("sqlite:///100%.db", "100%.db"),
        ("sqlite:///a#b&c+d.db", "a#b&c+d.db"),
        ("sqlite:////tmp/a.db", "/tmp/a.db"),
        ("SQLite+pysqlite:///a.db?timeout=20", "a.db"),
        ("sqlite:///file:a%23b.db?uri=true", "a#b.db"),
        ("file:a%23b.db", "a#b.db"),
        ("file:a.db#fragment", "a.db"),
        ("file:///tmp/a%20b.db", "/tmp/a b.db"),
        ("file://localhost/tmp/a.db", "/tmp/a.db"),
        ("./file:a.db", "file:a.db"),
        (Path("file:a.db"), "file:a.db"),
        (Path("what?.db"), "what?.db"),
        ("a/b://c.db", "a/b:/c.db"),
        ("sqlite://", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
        ("file::memory:", ":memory:"),
        ("sqlite:///x.db?mode=memory", ":memory:"),
    ],
)
def test_a_location_is_taken_apart(where: str | Path, name: str) -> None:
    assert database_url(where).database == name


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("", "is empty"),
        ("~someone-unknown-here/a.db", "home folder"),
        ("a\x00b.db", "contains a NUL"),
        ("sqlite:///a%00b.db", "contains a NUL"),
        ("sqlite:///what?.db", "%3F"),
        ("sqlite:///what?", "%3F"),
        ("sqlite:///a.db?key=1", "%3F"),
        ("sqlite:///a.db?mode=rx", "mode must be"),
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("sqlite:runs.db", "sqlite:///FILE"),
        (Path("sqlite:///runs.db"), "not as a Path"),
        (Path("file:///runs.db"), "not as a Path"),
        ("sqlite+aiosqlite:///runs.db", "use sqlite:///FILE"),
        ("file://host/runs.db", "host host"),
        ("mysql://host/db", "mysql is not supported"),
        ("postgresql+psycopg2://host/db", "psycopg2 is not supported: use"),
    ],
)
def test_a_location_that_names_no_store_is_refused_with_a_remedy(
    where: str | Path, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tt.TokentapeError, match=re.escape(complaint)):
        tt.open_store(where)

    assert list(tmp_path.iterdir()) == []


def test_the_password_of_a_malformed_url_is_not_shown() -> None:
    with pytest.raises(tt.StoreError) as told:
        tt.open_store("postgresql://me:secret@host:port/db")

    assert "secret" not in str(told.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_name_of_postgresql_means_psycopg(scheme: str) -> None:
    assert database_url(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"


def test_an_escape_in_a_url_is_not_mistaken_for_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tt.open_store("my%20runs.db").close()
    with pytest.raises(tt.StoreError, match=r"write % as %25"):
        tt.open_store("sqlite:///my%20runs.db")

    assert files_of(tmp_path) == ["my%20runs.db"]


@pytest.mark.parametrize("where", ["~/runs.db", "sqlite:///~/runs.db", Path("~/runs.db")])
def test_a_tilde_is_the_home_folder(
    where: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    tt.open_store(where).close()
    tt.open_store(where, must_exist=True).close()

    assert files_of(tmp_path) == ["home"]
    assert files_of(tmp_path / "home") == ["runs.db"]


def test_a_store_stays_that_of_its_folder_when_the_process_changes_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with tt.open_store("runs.db") as opened:
        monkeypatch.chdir(tmp_path / "other")
        with tt.Recorder(opened):
            pass
        assert len(opened.summaries()) == 0

    assert files_of(tmp_path) == ["other", "runs.db"]
    assert files_of(tmp_path / "other") == []


def test_a_link_to_a_store_finds_the_log_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "data" / "runs.db")
    with tt.open_store(tmp_path / "data" / "runs.db") as opened:
        assert isinstance(opened, DatabaseStore)
        with tt.open_store(tmp_path / "link.db", must_exist=True) as linked:
            assert linked.summaries() == []
        (tmp_path / "data" / "runs.db-wal").write_bytes(b"damaged" * 10)
        with pytest.raises(tt.StoreError, match="damaged"):
            tt.open_store(tmp_path / "link.db")


def test_a_mode_of_a_url_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    for mode in ("ro", "rw"):
        with pytest.raises(tt.StoreError, match="there is no store"):
            tt.open_store(f"sqlite:///{path}?mode={mode}")
    assert list(tmp_path.iterdir()) == []

    tt.open_store(f"file:{path}?mode=rwc").close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    before = path.read_bytes()
    for url in (f"sqlite:///{path}?mode=ro", f"file:{path}?immutable=1"):
        with tt.open_store(url) as opened:
            assert opened.summaries() == []
            assert opened.where.startswith("sqlite:///")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["runs.db"]
