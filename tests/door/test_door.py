"""The door opens on our own packages only, and its handles stay where they are."""

import subprocess
import sys
from pathlib import Path

import pytest

import tokentape as tt

PUBLIC = {
    "CachePolicy",
    "CachedPrefix",
    "Cause",
    "Diff",
    "Divergence",
    "Envelope",
    "Erasure",
    "EventLog",
    "Floor",
    "GenerationResult",
    "GenerationState",
    "Imported",
    "Integrity",
    "Intervention",
    "Investigation",
    "LoadedModel",
    "ManualGenerator",
    "ModelError",
    "ModelManager",
    "NewerRecordingError",
    "NoSuchRunError",
    "NothingToReplayError",
    "OlderStoreError",
    "PromptError",
    "Rebuilt",
    "Recorder",
    "Recording",
    "RecordingError",
    "Redactor",
    "ReplayError",
    "Reply",
    "Report",
    "SealingLog",
    "StoreError",
    "TokentapeError",
    "ToolCall",
    "ToolError",
    "ToolInterface",
    "ToolView",
    "TurnVerdict",
    "Verdict",
    "__version__",
    "cache_df",
    "cache_policy",
    "calibrate",
    "candidates_df",
    "capture",
    "check",
    "contrast",
    "decode",
    "default_tools",
    "diff",
    "events_df",
    "export_csv",
    "export_jsonl",
    "export_parquet",
    "import_runs",
    "load_model",
    "mean_activation",
    "open_store",
    "pack",
    "read_floor",
    "rebuild",
    "regenerate",
    "runs_df",
    "tokens_df",
    "tool",
    "tools_df",
    "turns_df",
    "verdicts_df",
    "verify",
    "write_floor",
}


def test_the_public_names_are_these() -> None:
    assert set(tt.__all__) == PUBLIC
    assert all(hasattr(tt, name) for name in tt.__all__)


def test_every_error_has_one_base() -> None:
    errors = [getattr(tt, name) for name in tt.__all__ if name.endswith("Error")]

    assert all(issubclass(error, tt.TokentapeError) for error in errors)


@pytest.mark.parametrize("form", ["module", "package", "folder"])
def test_a_stranger_with_one_of_our_names_is_refused_by_name(tmp_path: Path, form: str) -> None:
    if form == "module":
        stranger = tmp_path / "store.py"
    else:
        (tmp_path / "store").mkdir()
        stranger = tmp_path / "store" / "__init__.py"
    stranger.write_text("raise SystemExit('the stranger ran')")
    if form == "folder":
        stranger.unlink()
        stranger = stranger.parent
    command = [sys.executable, "-m", "tokentape", "list", "--store", "none.db"]
    shadowed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    command.insert(1, "-P")
    safe = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert "there is no store" in safe.stderr
    assert safe.returncode == 2
    hidden = "hides tokentape's own package 'store'" in shadowed.stderr and (
        f"{stranger} hides" in shadowed.stderr
    )
    # A folder without __init__.py comes behind an installed package, but before an editable one.
    assert hidden or (form == "folder" and "there is no store" in shadowed.stderr)
    assert "the stranger ran" not in shadowed.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("tokentape") == tt.__version__
