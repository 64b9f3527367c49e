"""What happened: events, the recorder that orders them, and what they add up to.

Pure Python: no torch, no SQL, nothing else of ours.
"""

from recorder.envelope import Envelope
from recorder.errors import NewerRecordingError, RecordingError, TokentapeError
from recorder.record import Record
from recorder.recorder import EventLog, Recorder
from recorder.recording import Recording
from recorder.redaction import Redactor

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
