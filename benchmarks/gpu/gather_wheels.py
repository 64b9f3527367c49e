"""The command that gathers the wheels which a machine without a network lacks."""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import Parser
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

_ROOT = Path(__file__).resolve().parents[2]
OFTEN_MISSING = ("sqlalchemy", "alembic", "mako", "gguf", "lazy-loader")
"""What images for PyTorch often lack of the requirements of this project, and of theirs."""
_BUILD = "from setuptools import build_meta; build_meta.build_wheel({folder!r})"


def gpu_wheels_command(
    folder: Annotated[Path, typer.Option("--to", help="The folder for the wheels.")],
    python: Annotated[str, typer.Option(help="The Python of the other machine.")] = "3.12",
    have: Annotated[
        Path | None,
        typer.Option(help="What is installed there: the output of `pip list --format=freeze`."),
    ] = None,
) -> None:
    """Gather the wheels that a GPU machine without a network lacks, and that of this checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if have is None:
            for name in OFTEN_MISSING:
                _download(_requirement(name), python, folder)
        else:
            gather(project_requirements(), installed(have.read_text("utf-8")), python, folder)
        build_wheel(folder)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        sys.stderr.write(f"benchmarks: {said[-1] if said else error}\n")
        raise typer.Exit(2) from None
    for each in sorted(folder.glob("*.whl")):
        sys.stdout.write(f"{each.name}\n")


def project_requirements() -> list[Requirement]:
    """Return the requirements of this project."""
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return [Requirement(each) for each in tomllib.loads(text)["project"]["dependencies"]]


def installed(freeze: str) -> dict[str, Version]:
    """Return the versions by name that the lines of `pip list --format=freeze` say."""
    found = re.findall(r"^([\w.-]+)==(\S+)", freeze, flags=re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


def gather(
    requirements: Iterable[Requirement], have: Mapping[str, Version], python: str, folder: Path
) -> None:
    """Download each requirement that is missing or another version, and what these require."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    waiting, known = list(requirements), dict(have)
    while waiting:
        each = waiting.pop(0)
        name = canonicalize_name(each.name)
        if each.marker is not None and not each.marker.evaluate(environment):
            continue
        if name in known and each.specifier.contains(known[name], prereleases=True):
            continue
        wheel = _download(each, python, folder)
        known[name] = Version(wheel.name.split("-")[1])
        waiting += required_by(wheel)


def required_by(wheel: Path) -> list[Requirement]:
    """Return the requirements that the metadata of a wheel names."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        message = Parser().parsestr(archive.read(metadata).decode("utf-8"))
    return [Requirement(each) for each in message.get_all("Requires-Dist") or ()]


def build_wheel(folder: Path) -> None:
    """Build the wheel of this checkout, from a copy that holds its sources only."""
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    folders = tomllib.loads(text)["tool"]["setuptools"]["package-dir"].values()
    with tempfile.TemporaryDirectory() as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(_ROOT / name, copy)
        for name in folders:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(_ROOT / name, Path(copy) / name, ignore=ignored)
        program = _BUILD.format(folder=str(folder.resolve()))
        subprocess.run(
            [sys.executable, "-c", program], cwd=copy, check=True, capture_output=True, text=True
        )


def _requirement(name: str) -> Requirement:
    """Return the requirement of this project with a name; if it has none, any version will do."""
    known = {canonicalize_name(each.name): each for each in project_requirements()}
    return known.get(canonicalize_name(name), Requirement(name))


def _download(requirement: Requirement, python: str, folder: Path) -> Path:
    """Download the newest wheel of a requirement for a Python on Linux; return its path."""
    with tempfile.TemporaryDirectory() as fresh:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", python]
        command += ["--dest", fresh, f"{requirement.name}{requirement.specifier}"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (wheel,) = Path(fresh).glob("*.whl")
        return Path(shutil.move(wheel, folder / wheel.name))
