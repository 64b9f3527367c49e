"""The public names, and the modules that importing them loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import tokentape as tt

PUBLIC = {
    "Envelope",
    "EventLog",
    "GenerationState",
    "Intervention",
    "Investigation",
    "LoadedModel",
    "ManualGenerator",
    "ModelError",
    "ModelManager",
    "NewerRecordingError",
    "NoSuchRunError",
    "NothingToReplayError",
    "PromptError",
    "Recorder",
    "Recording",
    "RecordingError",
    "Redactor",
    "ReplayError",
    "Reply",
    "Report",
    "SealingLog",
    "SignatureError",
    "StoreError",
    "TokentapeError",
    "ToolCall",
    "ToolError",
    "ToolInterface",
    "ToolView",
    "Verdict",
    "activations_df",
    "cache_df",
    "cache_policy",
    "calibrate",
    "top_logprobs_df",
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
    "interventions_df",
    "load_model",
    "load_tools",
    "messages_df",
    "mean_activation",
    "plan_memory",
    "open_store",
    "pack",
    "read_floor",
    "rebuild",
    "regenerate",
    "retrace",
    "runs_df",
    "sign",
    "text_to_sign",
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
def test_foreign_packages_named_like_our_rooms_are_never_imported(
    tmp_path: Path, form: str
) -> None:
    for name in ("recorder", "generation", "store", "migrations", "replay"):
        foreign = tmp_path / f"{name}.py"
        if form != "module":
            (tmp_path / name).mkdir()
            foreign = tmp_path / name / "__init__.py"
        foreign.write_text("raise SystemExit('the foreign package ran')")
        if form == "folder":
            foreign.unlink()
    command = [sys.executable, "-m", "tokentape", "list", "--store", "none.db"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert "there is no store" in done.stderr
    assert done.returncode == 2


def test_importing_the_door_imports_no_room_and_no_heavy_library() -> None:
    program = (
        "import sys, tokentape\n"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'pyarrow', 'pandas', 'typer'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "assert [name for name in sys.modules if name.startswith('tokentape')] == ['tokentape']\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("tokentape") == tt.__version__
