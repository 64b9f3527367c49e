"""Command lines that fork or replay a recording."""

from typing import Any

from tokentape.replay.recorded.loaded_run import LoadedRun


def replay_command(run: LoadedRun, name: str) -> list[str]:
    """Return the command line that replays all turns of a recording; empty if it is redacted.

    It ends with `--model MODEL` where the run does not name its model.
    """
    if run.started.redacted:
        return []
    command = ["tokentape", name, run.run_id]
    if run.recording.where:
        command += ["--store", run.recording.where]
    return command if run.started.model else [*command, "--model", "MODEL"]


def go_on_values(run: LoadedRun) -> dict[str, Any]:
    """Return command lines as lists of arguments; the page adds a turn and a token to `fork`.

    A list is empty where there is no command, and `note` says why, or what to do first.
    """
    where = run.recording.where
    commands = {name: replay_command(run, name) for name in ("retrace", "verify")}
    commands |= {"fork": [], "import": []}
    if run.started.redacted:
        note = "The run was redacted: its token ids are not recorded, and a fork needs them."
        return {**commands, "note": note}
    notes: list[str] = []
    commands["fork"] = ["tokentape", "fork", run.run_id]
    if "://" in where:
        commands["fork"] += ["--store", where]
        if where == "sqlite://":
            notes.append("The run is in the memory of a process: pack it into a file first.")
    elif where:
        commands["import"] = ["tokentape", "import", where]
        notes.append("The recording is a sealed file: import it into a database before you fork.")
    if not run.started.model:
        commands["fork"] += ["--model", "MODEL"]
        notes.append("The run does not name its model: write it in place of MODEL.")
    return {**commands, "note": " ".join(notes)}
