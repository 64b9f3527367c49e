"""The benchmark of a run's page: what it prints, and what it does without a browser."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as main
import tokentape as tt
from benchmarks.chromium import VARIABLE, NoBrowserError, open_chromium
from benchmarks.view import commands


def test_without_a_browser_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/no/such/chromium")
    shown = CliRunner().invoke(main.app, ["view"])

    assert shown.exit_code == 2
    assert "TOKENTAPE_BROWSER names no program" in shown.stderr


def test_a_page_is_made_opened_and_scrolled_to_its_end(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try:
        with open_chromium():
            pass
    except NoBrowserError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(commands, "demo_model", lambda device: lm)
    monkeypatch.setattr(commands, "RUNS", ((2, 30),))
    monkeypatch.setattr(commands, "SCROLL_FRAMES", (8,))
    found = tmp_path / "view.json"
    shown = CliRunner().invoke(main.app, ["view", "--rounds", "1", "--json", str(found)])

    assert shown.exit_code == 0, shown.output
    figures = json.loads(found.read_text(encoding="utf-8"))["2 turns of 30"]
    assert figures["tokens"] == 60
    assert 0 < figures["document_bytes"] < figures["page_bytes"]
    assert figures["tokens_ms"] > 0
    (scroll,) = figures["scrolls"]
    assert scroll["frames"] == 8
    assert scroll["height_px"] > 900
    assert "2 turns of 30" in shown.output
