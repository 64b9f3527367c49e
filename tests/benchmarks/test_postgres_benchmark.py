"""The benchmark of PostgreSQL, and the figures of docs/scale.md that come from it."""

import json
from pathlib import Path

from typer.testing import CliRunner

import benchmarks.__main__ as commands

ROOT = Path(__file__).parents[2]


def test_writers_are_measured(tmp_path: Path, postgres_url: str) -> None:
    arguments = ["postgres", "--url", postgres_url, "--seconds", "0.1", "--writers", "1"]
    found = CliRunner().invoke(commands.app, [*arguments, "--json", str(tmp_path / "found.json")])

    assert found.exit_code == 0, found.output
    rates = json.loads((tmp_path / "found.json").read_text())["rates"]
    assert [(each["writers"], each["durable"]) for each in rates] == [(1, False), (1, True)]
    for each in rates:
        assert each["tokens"] > 0
        assert each["wal_bytes"] > 50


def test_the_page_has_the_measured_figures() -> None:
    rates = json.loads((ROOT / "benchmarks" / "postgres.json").read_text())["rates"]
    page = (ROOT / "docs" / "scale.md").read_text()

    for each in rates:
        waits = "yes" if each["durable"] else "no"
        assert (
            f"| {each['writers']} | {waits} | {each['tokens_per_second']:,.0f} "
            f"| {each['token_ms']:.2f} | {each['table_bytes']:.0f} | {each['wal_bytes']:.0f} |"
        ) in page
    used = next(each for each in rates if each["writers"] == 16 and not each["durable"])
    assert f'"PostgreSQL, tokens a second": {used["tokens_per_second"]:.0f},' in page
    assert f'"PostgreSQL, bytes of a token": {used["table_bytes"]:.0f},' in page
    assert f'"PostgreSQL, bytes of its log": {used["wal_bytes"]:.0f},' in page
