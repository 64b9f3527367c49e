"""Conversations that were imported without tokens, in commands that are about tokens."""

import tokentape as tt
from tokentape.recorder.transcript import TranscriptWriter
from tokentape.screen import out


def check_has_tokens(recording: tt.Recording) -> None:
    """Raise RecordingError for a conversation without tokens, before a model is loaded."""
    imported = recording.imported()
    if imported is not None:
        raise tt.RecordingError(f"run {recording.run_id} {imported.without_tokens}")


def print_imported(recording: tt.Recording) -> None:
    """Print the messages of an imported conversation."""
    transcript = TranscriptWriter(out.text, imported=True)
    for envelope in recording.events():
        if envelope.turn is not None:
            transcript.event(envelope)
    transcript.close()
