"""A file is replaced whole or not at all, whatever interrupts the writer."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tokentape.recorder.atomic_write import TMP_PREFIX, AtomicFile, atomic_write

ROOT = Path(__file__).parents[2]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(f"{TMP_PREFIX}*"))


@pytest.mark.parametrize("durable", [False, True])
def test_the_content_is_replaced_when_the_block_ends(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path, durable=durable) as written:
        written.write_text("new")

        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert leftovers(tmp_path) == []


def test_an_error_in_the_block_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as written:
        written.write_text("half")
        raise KeyError

    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_file_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "file") as file:
        file.tmp_path.write_text("half")

    assert list(tmp_path.iterdir()) == []


def test_a_new_file_gets_the_mode_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "usual"), atomic_write(tmp_path / "private", mode=0o600):
            pass
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "usual").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_a_replaced_file_keeps_its_permissions_also_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_write(path) as written:
        assert stat.S_IMODE(written.stat().st_mode) == 0o600

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with atomic_write(link) as written:
        written.write_text("new")

    assert target.read_text() == "old"
    assert not link.is_symlink()
    assert link.read_text() == "new"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with atomic_write(path) as written:
        written.write_text("new")

    assert path.read_text() == "new"


def test_a_folder_in_place_of_the_file_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError), atomic_write(path):  # noqa: PT011 the kind differs by system
        pass

    assert path.is_dir()
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_pipe_and_a_link_to_one_are_refused_and_stay(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(OSError, match="pipe, not a file"), atomic_write(path):
            pass

    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert leftovers(tmp_path) == []


def test_a_missing_folder_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AtomicFile(tmp_path / "missing" / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_fails_before_anything_is_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        AtomicFile(tmp_path / "file")


def test_a_disk_that_fills_up_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"), atomic_write(path) as written:
            written.write_bytes(b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)

    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_commit_that_fails_leaves_the_old_content(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*given: object) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"), atomic_write(path, durable=True) as written:
        written.write_text("new")
        monkeypatch.setattr(os, failing, fail)
    monkeypatch.undo()

    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_durable_file_is_synced_before_its_name_is_given_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def noted_replace(old: Path, new: Path) -> None:
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with atomic_write(path):
        pass
    with atomic_write(path, durable=True):
        pass

    assert steps == ["rename", "file", "rename", "folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tokentape.recorder.atomic_write import AtomicFile

file = AtomicFile(Path(sys.argv[1]), durable=True)
file.tmp_path.write_text("n" * 100_000)
if sys.argv[2] == "synced":
    file.sync()
if sys.argv[2] == "committed":
    file.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("moment", "content"), [("written", "old"), ("synced", "old"), ("committed", "n" * 100_000)]
)
def test_a_killed_writer_leaves_the_old_content_or_the_new(
    tmp_path: Path, moment: str, content: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    child = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=ROOT, check=False)

    assert child.returncode == -signal.SIGKILL
    assert path.read_text() == content


def test_writers_at_once_each_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [letter * 50_000 for letter in "abcd"]
    path.write_text(contents[0])
    wrong: list[str] = []
    done = threading.Event()

    def write(content: str) -> None:
        for _ in range(50):
            with atomic_write(path) as written:
                written.write_text(content)

    def read() -> None:
        while not done.is_set():
            found = path.read_text()
            if found not in contents:
                wrong.append(found)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()

    assert wrong == []
    assert leftovers(tmp_path) == []
