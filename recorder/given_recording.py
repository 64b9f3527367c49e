"""The check that a function was given a recording: ids of runs are at hand where one is needed."""

from tokentape.recorder.recording import Recording


def check_recording(given: object) -> None:
    """Raise TypeError unless a value is a recording."""
    if isinstance(given, Recording):
        return
    if isinstance(given, str):
        raise TypeError(f"give a recording, store.recording({given!r}), not the id of a run")
    raise TypeError(f"give a recording, store.recording(run_id), not a {type(given).__name__}")
