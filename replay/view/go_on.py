"""Command lines that fork or replay a recording."""

from typing import Any

from tokentape.replay.recorded.loaded_run import LoadedRun


def go_on_values(run: LoadedRun) -> dict[str, Any]:
    """Return command lines as lists of arguments; the page adds a turn and a token to `fork`.

    A list is empty where there is no command, and `note` says why, or what to do first.
    """
    where = run.recording.where
    commands = {name: ["tokentape", name, run.run_id] for name in ("fork", "retrace", "verify")}
    commands["import"] = []
    if run.started.redacted:
        note = "The run was redacted: its token ids are not recorded, and a fork needs them."
        return {**{name: [] for name in commands}, "note": note}
    notes: list[str] = []
    for name in ("retrace", "verify"):
        commands[name] += ["--store", where] if where else []
    if "://" in where:
        commands["fork"] += ["--store", where]
        if where == "sqlite://":
            notes.append("The run is in the memory of a process: pack it into a file first.")
    elif where:
        commands["import"] = ["tokentape", "import", where]
        notes.append("The recording is a sealed file: import it into a database before you fork.")
    if not run.started.model:
        for name in ("fork", "retrace", "verify"):
            commands[name] += ["--model", "MODEL"]
        notes.append("The run does not name its model: write it in place of MODEL.")
    return {**commands, "note": " ".join(notes)}
