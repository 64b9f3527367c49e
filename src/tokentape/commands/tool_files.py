"""Files with tools that a command is given, and commands to type as the shell reads them."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.recorder.events import RunStarted
from tokentape.recorder.near_names import nearest
from tokentape.recorder.paths import expand_path
from tokentape.screen import err, stdout_on_stderr

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.tools.tools_file import ToolsFile

RECORDED = "recorded"
RERUN = "rerun"

ToolsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--tools",
        parser=expand_path,
        metavar="FILE",
        help="A Python file with tools of your own, in addition to the default tools.",
    ),
]
ToolsOption = Annotated[
    str,
    typer.Option(
        "--tools",
        metavar="recorded|rerun|FILE",
        help="Use the recorded results of tools; or run the default tools again and compare; or "
        "also run those of a Python file.",
    ),
]
_ALWAYS_NEEDED = ("offline", "deterministic", "trust_remote_code")
"""Options of loading that no recording gives to the next command."""


def read_tools_file(path: Path | None) -> "ToolsFile | None":
    """Read the file of `--tools`. Raise ToolsFileError before anything else is loaded."""
    if path is None:
        return None
    from tokentape.generation.tools.tools_file import ToolsFile

    return ToolsFile.read(path)


def read_rerun_tools(given: str) -> "ToolsFile | None":
    """Read the file that `--tools` of a replay names; None for `recorded` and `rerun`.

    Raise BadParameter for a word that is neither, and ToolsFileError as `read_tools_file` does.
    """
    if given in (RECORDED, RERUN):
        return None
    path = expand_path(given)
    if not path.exists() and not given.endswith(".py"):
        near = nearest(given, (RECORDED, RERUN))
        raise typer.BadParameter(f"--tools {given!r} is not recorded, rerun or a file{near}")
    return read_tools_file(path)


def run_tools_file(file: "ToolsFile | None") -> None:
    """Run a file with tools, before a model is loaded; its prints go to standard error."""
    if file is not None:
        with output.working(f"running {file.path}"), stdout_on_stderr():
            file.run()


def available_tools(lm: "tt.LoadedModel", file: "ToolsFile | None") -> "tt.ToolInterface":
    """Return the default tools, and those of a file. Raise ToolsFileError for a name of both."""
    from tokentape.generation.errors import ToolsFileError

    tools: tt.ToolInterface = tt.default_tools(lm)
    if file is None:
        return tools
    with stdout_on_stderr():
        own = file.tools(lm)
    if clash := sorted(set(own.names) & set(tools.names)):
        raise ToolsFileError(f"{file.path}: {clash[0]} is the name of a default tool: rename it")
    return tools.including(own)


def recorded_tools(
    started: RunStarted, lm: "tt.LoadedModel", file: "ToolsFile | None"
) -> "tt.ToolInterface | None":
    """Return the tools that a run was started with, or None if it had none.

    Those that are not here are left out; a run that continues refuses that.
    """
    if not started.tools:
        return None
    available = available_tools(lm, file)
    return available.only(name for name in started.tools if name in available.names)


def check_has_tools(run_id: str, started: RunStarted, file: "ToolsFile | None") -> None:
    """Raise PromptError, before a model is loaded, if a run needs a file with tools."""
    if file is None and started.tool_sources:
        from tokentape.generation.tools.sources import missing_tools

        raise missing_tools(run_id, started.tool_sources, started.tool_sources)


def rerun_tools(
    given: str, file: "ToolsFile | None", started: RunStarted, lm: "tt.LoadedModel"
) -> "tt.ToolInterface | None":
    """Return the tools that a replay runs again; None if it uses the recorded results."""
    if given == RECORDED:
        return None
    tools = available_tools(lm, file)
    if missing := [name for name in started.tools if name not in tools.names]:
        from tokentape.generation.tools.sources import files_of

        files = files_of(started.tool_sources, missing)
        was = f"; the run had {' and '.join(files)}" if files else ""
        err.line(
            f"tokentape: missing here: the tools {', '.join(missing)}; name the file that has them "
            f"with --tools FILE{was}"
        )
    return tools


def resume_command(run_ids: Iterable[str], store: str, options: list[str]) -> str:
    """Return the command that resumes runs, quoted for the shell."""
    return shlex.join(["tokentape", "resume", *run_ids, "--store", store, *options])


def show_command(run_id: str, store: str, *options: str) -> str:
    """Return the command that shows a run, quoted for the shell."""
    return shlex.join(["tokentape", "show", run_id, *options, "--store", store])


def options_to_resume(
    loading: "LoadingKeywords", tools: "ToolsFile | Path | None", model: str | None = None
) -> list[str]:
    """Return the options that a resumed run needs again: what its recording does not say.

    `model` is one that was named in place of a recorded one; its options of loading are then
    needed, too.
    """
    words = [] if model is None else ["--model", model]
    for name, value in loading.items():
        # Code and data of the hub are never used because a recording names them.
        of_hub = (name == "attn_implementation" and "/" in str(value)) or (
            name == "quantization" and isinstance(value, Mapping)
        )
        if model is not None or name in _ALWAYS_NEEDED or of_hub:
            words += _option(name, value)
    if tools is not None:
        path = tools if isinstance(tools, Path) else tools.path
        words += ["--tools", _as_typed(path)]
    return words


def _option(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option] if value else []
    return [option, json.dumps(value) if isinstance(value, Mapping) else str(value)]


def _as_typed(path: Path) -> str:
    """Return a path that no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
