"""The environments of `make matrix` are the two ends of the ranges that pyproject.toml promises."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RANGED = [
    Requirement(each)
    for each in [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["postgres"],
        *PROJECT["optional-dependencies"]["plots"],
    ]
]
# These promise nothing across a major release. The others are admitted in every later release.
BOUNDED = {"transformers", "sqlalchemy", "alembic", "pandas", "psycopg"}


def pins(environment: str) -> dict[str, Requirement]:
    lines = (ROOT / "tests/matrix" / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {each.name: each for each in pinned}


def bounds(requirement: Requirement, operator: str) -> set[Version]:
    return {Version(each.version) for each in requirement.specifier if each.operator == operator}


def test_the_oldest_environment_has_the_lowest_version_of_every_dependency():
    oldest = pins("oldest")
    for each in RANGED:
        assert bounds(each, ">=") == bounds(oldest[each.name], "=="), each.name


def test_a_dependency_has_an_upper_bound_only_at_a_major_release_that_may_break_it():
    assert {each.name for each in RANGED if bounds(each, "<")} == BOUNDED
    assert all(not each.micro and not each.minor for r in RANGED for each in bounds(r, "<"))


def test_the_newest_environment_bounds_nothing_from_above():
    assert not [each for each in pins("newest").values() if not bounds(each, ">=")]
