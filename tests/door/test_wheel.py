"""The wheel adds one name to an environment, even if other packages are named like our rooms."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])('dist')"
CONSUMERS_PACKAGES = ("recorder", "generation", "store", "migrations", "replay")

CONSUMERS_TESTS = """
import {packages}
import tokentape as tt


def test_own_packages_and_those_of_tokentape_are_both_imported():
    from tokentape import recorder as ours

    assert all(each.OWNER == "consumer" for each in ({packages}))
    assert ours.Recorder is tt.Recorder is not recorder


def test_the_installed_wheel_reads_the_tape():
    assert {site_packages!r} in tt.__file__
    with tt.open_store("recordings/probe.tape") as store:
        assert list(tt.runs_df(store)["turns"]) == [2]
"""


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "CI", "PYTHON"))
    }
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=inherited | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def must_run(command: Sequence[str | Path], folder: Path) -> None:
    done = run(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def source_files() -> set[str]:
    """Return every file of the packages, by the path that it has once installed."""
    found = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                installed = Path(*package.split(".")) / path.relative_to(ROOT / folder)
                found.add(installed.as_posix())
    return found


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, built from a copy of the files that are no output of a build."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for folder in FOLDERS.values():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = copy / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    must_run([sys.executable, "-c", BUILD, "build_sdist"], copy)
    (archive,) = (copy / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the sdist as `pip install` of an sdist does."""
    unpacked = tmp_path_factory.mktemp("sdist")
    with tarfile.open(source_archive) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    must_run([sys.executable, "-c", BUILD, "build_wheel"], folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which borrows all other packages from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    must_run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"),
            *("install", "--quiet", "--no-deps", "--no-index", wheel),
        ],
        folder,
    )
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A path that a .pth file adds is not searched for .pth files: the editable install is not seen.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed))
    return folder


@pytest.fixture
def consumer(environment: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    """A project whose own packages are named like our rooms, with a tape of two turns."""
    project = tmp_path / "project"
    for name in CONSUMERS_PACKAGES:
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text('OWNER = "consumer"\n')
    (project / "tests").mkdir()
    (project / "tests" / "test_own.py").write_text(
        CONSUMERS_TESTS.format(
            packages=", ".join(CONSUMERS_PACKAGES), site_packages=str(environment)
        )
    )
    lm = tt.load_model(tiny_folder)
    (project / "recordings").mkdir()
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        with tt.Investigation(lm, store=store, name="probe", system_prompt="Be kind.") as probe:
            probe.chat("Hello", max_new_tokens=4)
            probe.chat("And?", max_new_tokens=4, do_sample=True)
        tape = project / "recordings" / "probe.tape"
        tt.pack([store.recording(probe.run_id)], store, tape)
    return project


def test_the_wheel_adds_one_package_with_every_file_of_the_rooms(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    added = {name.partition("/")[0] for name in names}

    assert added == {"tokentape", f"tokentape-{tt.__version__}.dist-info"}
    assert {name for name in names if name.startswith("tokentape/")} == source_files()
    assert {"tokentape/py.typed", "tokentape/__init__.pyi"} <= names


def test_the_sdist_holds_the_sources_and_what_describes_them(source_archive: Path) -> None:
    with tarfile.open(source_archive) as archive:
        names = {each.name for each in archive if each.isfile()}
    top = f"tokentape-{tt.__version__}"
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS.values()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {name.partition("/")[0] for name in names} == {top}
    described = {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}
    assert {f"{top}/{name}" for name in sources | described} <= names


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["plain", "two workers"])
def test_a_project_with_packages_of_the_same_names_replays_its_tapes_with_the_wheel(
    environment: Path, consumer: Path, tiny_folder: Path, workers: tuple[str, ...]
) -> None:
    pytest_ = [environment / "bin" / "python", "-m", "pytest", "-p", "no:hypothesispytest"]
    done = run([*pytest_, *workers, "--tapes", "recordings", "--tape-model", tiny_folder], consumer)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_installed_command_lists_the_runs_of_a_tape(environment: Path, consumer: Path) -> None:
    command = environment / "bin" / "tokentape"
    done = run([command, "list", "--store", "recordings/probe.tape"], consumer)

    assert done.returncode == 0, done.stderr
    assert "probe" in done.stdout
