"""The command `export` in the formats of other programs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def at(runs_db: Path) -> tuple[str, str]:
    return ("--store", str(runs_db))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("eval", "x.eval"),
        ("scout", "folder"),
        ("otlp", "x.jsonl"),
        ("datasette", "x.json"),
        ("jsonl", "x.jsonl"),
    ],
)
def test_it_prints_the_files_that_it_writes(
    form: str, name: str, at: tuple[str, str], tmp_path: Path, cli: Cli
) -> None:
    if form == "eval":
        pytest.importorskip("inspect_ai.log", reason="the extra `inspect` is not installed")
    if form == "scout":
        pytest.importorskip("inspect_scout", reason="the extra `scout` is not installed")
    if form == "otlp":
        pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `otel` is not installed")
    every = () if form == "datasette" else ("--all",)
    code, printed, message = cli(
        "export", "--to", form, "-o", str(tmp_path / name), *every, *at, "--json"
    )

    assert code == 0, message
    files = [Path(each) for each in json.loads(printed)]
    assert files
    assert all(each.is_file() for each in files)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--to", "eval"), "name the file or folder to write with --output"),
        (("--to", "otlp"), "or a collector with --endpoint"),
        (("--to", "otlp", "--endpoint", "http://x", "-o", "y"), "leave out --output"),
        (("--to", "jsonl", "--content", "-o", "y"), "--content needs --to otlp"),
        (("--to", "eval", "--endpoint", "http://x"), "--endpoint needs --to otlp"),
        (("--to", "datasette", "--all", "-o", "y.json"), "name no run"),
        (("calls", "--all", "-o", "y"), "--all takes every run"),
        (("--all", "--to", "csv", "-o", "y"), "the tables of one run, not of 3"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: tuple[str, ...],
    fault: str,
    at: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, message = cli("export", *options, *at)

    assert (code, printed) == (2, "")
    assert fault in " ".join(message.split())
    assert [*tmp_path.iterdir()] == []


def test_several_runs_of_one_store_are_exported_together(
    at: tuple[str, str], tmp_path: Path, cli: Cli
) -> None:
    ids = [each["run_id"] for each in json.loads(cli("list", "--json", *at)[1])]
    code, _, message = cli("export", *ids[:2], "--to", "jsonl", "-o", str(tmp_path / "x"), *at)

    assert code == 0, message
    lines = (tmp_path / "x").read_text(encoding="utf-8").splitlines()
    assert {json.loads(each)["run_id"] for each in lines} == set(ids[:2])
