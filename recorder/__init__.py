"""What happened: events, the recorder that orders them, and what they add up to.

Pure Python: no torch, no SQL, nothing else of ours.
"""

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import NewerRecordingError, RecordingError, TokentapeError
from tokentape.recorder.record import Record
from tokentape.recorder.recorder import EventLog, Recorder
from tokentape.recorder.recording import Recording
from tokentape.recorder.redaction import Redactor

__all__ = (
    "Envelope",
    "EventLog",
    "NewerRecordingError",
    "Record",
    "Recorder",
    "Recording",
    "RecordingError",
    "Redactor",
    "TokentapeError",
)
