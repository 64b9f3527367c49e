"""`python -m tests.torture` counts what came of an attack and fails if anything was not held."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import tokentape as tt
from tests.torture import __main__ as torture
from tests.torture.tally import Row, Torture


def made_up(given: Torture) -> Iterator[Row]:
    """Hold once, refuse once; lose, be wrong and crash as often as the seed says."""
    row = Row("made up")
    with row.attempt("holds"):
        (given.folder / "file").touch()
    with row.attempt("refuses", may_refuse=True):
        raise tt.StoreError("no store")
    if given.seed > 0:
        with row.attempt("is wrong"):
            raise AssertionError("two are lost")
    if given.seed > 1:
        with row.attempt("crashes"):
            raise KeyError("body")
    if given.seed > 2:
        raise OSError("the disk is full")
    yield row


@pytest.fixture(autouse=True)
def _only_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "ATTACKS", ("made_up",))
    monkeypatch.setitem(sys.modules, "tests.torture.made_up", SimpleNamespace(made_up=made_up))
    monkeypatch.delenv("TORTURE_SIZE", raising=False)


@pytest.mark.parametrize(
    ("seed", "code", "counts"),
    [
        ("0", 0, "2 2 0 0"),
        ("1", 1, "3 2 1 0"),
        ("2", 1, "4 2 1 1"),
        ("3", 1, "1 0 0 1"),
    ],
)
def test_the_exit_code_says_whether_everything_was_held(
    seed: str,
    code: int,
    counts: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORTURE_SEED", seed)

    assert torture.main([]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"TORTURE_SIZE=1 TORTURE_SEED={seed}"
    assert lines[-1].split() == ["all", *counts.split()]
    assert ("silent: is wrong: two are lost" in "\n".join(lines)) == (seed in "12")


def test_the_size_scales_every_number(tmp_path: Path) -> None:
    given = Torture(tmp_path, size=1.0, seed=0)

    assert [given.count(each) for each in (500, 40, 3)] == [50, 4, 1]


def test_a_seed_is_printed_and_an_unknown_attack_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TORTURE_SEED", raising=False)
    torture.main(["made_up"])
    assert "TORTURE_SEED=" in capsys.readouterr().out
    assert torture.main(["none"]) == 2
    assert "no attack is named none: made_up" in capsys.readouterr().err
