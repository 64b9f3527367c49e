"""The public names, and the modules that importing them loads."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Unpack, get_args, get_origin

import pytest

import tokentape as tt

PUBLIC = {
    "Batch",
    "Envelope",
    "EventLog",
    "GenerationState",
    "Intervention",
    "Investigation",
    "LoadedModel",
    "ManualGenerator",
    "MissingLibraryError",
    "ModelError",
    "ModelManager",
    "NewerRecordingError",
    "NoSuchRunError",
    "NothingToReplayError",
    "Playback",
    "PlaybackMismatchError",
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
    "export_datasette",
    "export_eval",
    "export_jsonl",
    "export_otlp",
    "export_parquet",
    "export_scout",
    "import_runs",
    "interventions_df",
    "load_model",
    "load_tools",
    "messages_df",
    "mean_activation",
    "plan_memory",
    "open_store",
    "pack",
    "playback",
    "plots",
    "read_floor",
    "rebuild",
    "regenerate",
    "resume_many",
    "retrace",
    "run_many",
    "runs_df",
    "seeds_df",
    "sign",
    "text_to_sign",
    "tokens_df",
    "tool",
    "tools_df",
    "turns_df",
    "verdicts_df",
    "verify",
    "verify_many",
    "view",
    "write_floor",
}


def test_the_public_names_are_these() -> None:
    assert set(tt.__all__) == PUBLIC
    assert all(hasattr(tt, name) for name in tt.__all__)


def test_every_error_has_one_base() -> None:
    errors = [getattr(tt, name) for name in tt.__all__ if name.endswith("Error")]

    assert all(issubclass(error, tt.TokentapeError) for error in errors)


CHECKED = sorted(name for name in dir(tt) if hasattr(getattr(tt, name), "__wrapped__"))
"""The public functions whose keywords are checked before they are called."""


@pytest.mark.parametrize("name", CHECKED)
def test_a_function_takes_every_keyword_that_it_lists(name: str) -> None:
    function = getattr(tt, name)
    listed = inspect.signature(function).parameters.values()
    keywords = {each.name: None for each in listed if each.kind is not each.POSITIONAL_ONLY}
    real = inspect.signature(function.__wrapped__).parameters.values()
    hidden = [each.annotation for each in real if get_origin(each.annotation) is Unpack]

    assert not [each for each in listed if each.kind is each.VAR_KEYWORD]
    assert keywords.keys() >= {key for each in hidden for key in get_args(each)[0].__annotations__}
    # The keywords are checked in order, so that only the last one is refused.
    with pytest.raises(TypeError, match="has no keyword 'no_such_keyword'"):
        function(**keywords, no_such_keyword=None)


def test_conditions_on_runs_are_among_the_checked_keywords() -> None:
    assert {"runs_df", "open_store", "load_model", "plan_memory"} <= set(CHECKED)
    assert {"said", "since", "tag", "status"} <= inspect.signature(tt.runs_df).parameters.keys()
    with pytest.raises(TypeError, match="did you mean 'status'"):
        tt.runs_df(tt.open_store("sqlite://"), statsu="failed")  # type: ignore[call-arg]


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
