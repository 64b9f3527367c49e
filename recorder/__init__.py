"""Events, the recorder that writes them, and projections of recorded events.

Pure Python: no torch, no SQL, and no other package of tokentape.
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
