"""A failed call of a tool: the error that the model reads, and the traceback that is recorded."""

import traceback as tracebacks
from dataclasses import dataclass
from types import FrameType, TracebackType

from tokentape.generation.errors import ToolError
from tokentape.recorder.tracebacks import limited, shorten_paths, traceback_text

_OWN = "tokentape.generation.tools."
"""Frames of modules with this prefix are left out at the beginning of a traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFailure:
    """The end of a call that gave no result."""

    error: BaseException
    text: str
    """The error as the model reads it."""
    traceback: str
    """As `ToolResult.traceback`."""

    @classmethod
    def by_exception(cls, error: BaseException) -> "ToolFailure":
        """Return the failure of a tool that raised an exception, or was called wrongly."""
        if isinstance(error, ToolError):
            return cls(error=error, text=_encodable(str(error)), traceback="")
        text = traceback_text(error, _within_tool(error.__traceback__))
        return cls(error=error, text=_text_of(error), traceback=text)

    @classmethod
    def by_result(cls, error: BaseException) -> "ToolFailure":
        """Return the failure of a tool whose result cannot be written as JSON."""
        text = _text_of(error)
        note = "the tool returned a value that cannot be written as JSON"
        error.add_note(note)
        return cls(error=error, text=text, traceback=f"{text}\n{note}\n")

    @classmethod
    def by_timeout(cls, seconds: float, frame: FrameType | None) -> "ToolFailure":
        """Return the failure of a tool that runs on; `frame` is where it is now."""
        text = f"no answer within {seconds:g} s"
        trace = limited(f"{_stack_text(frame)}TimeoutError: {text}\n")
        error = TimeoutError(text)
        error.add_note(trace)
        return cls(error=error, text=text, traceback=trace)


def _within_tool(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the tool; the whole one if no frame is its."""
    inner = trace
    while inner is not None and _is_own(inner.tb_frame):
        inner = inner.tb_next
    return inner or trace


def _stack_text(frame: FrameType | None) -> str:
    """Return the frames of a running tool as a traceback prints them."""
    frames = []
    while frame is not None and not _is_own(frame):
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    stack = tracebacks.StackSummary.extract(reversed(frames))
    shorten_paths(stack)
    return "".join(["Traceback (most recent call last):\n", *stack.format()])


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_OWN)


def _text_of(error: BaseException) -> str:
    """Return an exception as text that can be encoded in UTF-8, also if its repr fails."""
    try:
        text = repr(error)
    except BaseException:  # the repr of an exception is user code, too
        text = type(error).__name__
    return _encodable(text)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
