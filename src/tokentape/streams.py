"""Standard streams that bear every text and terminal, a reader that leaves, and a full disk."""

import errno
import io
import os
import re
import select
import sys
from contextlib import suppress
from typing import ClassVar, TextIO

import tokentape as tt
from tokentape.recorder.escapes import VisibleLines

# The modules that draw the progress bars of libraries, and how they move the cursor.
_BARS = ("tqdm.std", "tqdm.utils")
_MOVES = re.compile(r"(?:\r|\n|\x1b\[A)*")


class OutputError(tt.TokentapeError):
    """Standard output cannot be written to, as on a full disk."""


class ReaderLeftError(OutputError):
    """The program that read standard output has ended, as `head` does after its last line."""

    exit_code: ClassVar[int] = 141
    """As of a program that SIGPIPE ended (128 + 13)."""


def guard_streams() -> None:
    """Replace the standard streams of this process by ones that no character fails or commands.

    Characters that cannot be seen, such as those that control a terminal, are escaped, also in the
    output of libraries, warnings and tracebacks. So is a character that the encoding lacks, as
    `\\u6f22`. A stream that was closed when the process started reads and writes nothing. Standard
    output raises OutputError or ReaderLeftError where writing fails; standard error then drops its
    text, because no progress or message is worth the end of a run. Streams that are not the
    process's own, as in tests, stay.
    """
    _open_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.__stdout__ in (sys.stdout, None):
        sys.stdout = _rewrapped(sys.stdout, _Output)
    if sys.__stderr__ in (sys.stderr, None):
        sys.stderr = _rewrapped(sys.stderr, _Messages)


def owns_streams() -> bool:
    """Return whether standard output is that of the process, and not one that a test captures."""
    return isinstance(sys.stdout, _Output)


def forget_failure() -> None:
    """Let standard output drop all later text, once its failure is reported."""
    if isinstance(sys.stdout, _Output):
        sys.stdout.failure = None


def is_unicode(stream: TextIO) -> bool:
    """Return whether every character can be written to a stream as it is."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def check_reader() -> None:
    """Raise ReaderLeftError if standard output is a pipe whose reader has ended.

    A program that waits for news would otherwise learn it only when it writes the next.
    """
    if not isinstance(sys.stdout, _Output) or not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(found & select.POLLERR for _, found in poll.poll(0)):
        raise sys.stdout.fail(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))


class EscapingStream(io.TextIOWrapper):
    """A standard stream that escapes the characters that cannot be seen."""

    _visible: VisibleLines | None = None

    def write(self, text: str, /) -> int:
        """Write a text, escaped."""
        if self._visible is None:
            self._visible = VisibleLines()
        self.write_escaped(self._visible.add(text))
        return len(text)

    def write_escaped(self, text: str, /) -> None:
        """Write a text in which everything but our own styles is escaped already."""
        super().write(text)


class _Output(EscapingStream):
    """Standard output: raises OutputError where it cannot be written to, and each time after."""

    # Libraries that try a stream with an empty text ignore what that raises.
    failure: OutputError | None = None

    def write_escaped(self, text: str, /) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            super().write_escaped(text)
        except OSError as error:
            raise self.fail(error) from None

    def flush(self) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            super().flush()
        except OSError as error:
            raise self.fail(error) from None

    def fail(self, error: OSError) -> OutputError:
        """Return the error as one of ours; from now on nothing is written."""
        # The buffered text would fail again when the process ends.
        _discard(self.fileno())
        reason = error.strerror or str(error)
        self.failure = OutputError(f"cannot write to standard output: {reason}")
        if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
            self.failure = ReaderLeftError("the reader of standard output has ended")
        return self.failure


class _Messages(EscapingStream):
    """Standard error: drops what cannot be written."""

    def write(self, text: str, /) -> int:
        """Write a text, escaped; a progress bar of tqdm may move the cursor."""
        if sys._getframe(1).f_globals.get("__name__") in _BARS:
            moves = _MOVES.match(text)
            assert moves is not None
            self.write_escaped(moves.group())
            super().write(text[moves.end() :])
            return len(text)
        return super().write(text)

    def write_escaped(self, text: str, /) -> None:
        with suppress(OSError, ValueError):
            super().write_escaped(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _discard(self.fileno())
        except ValueError:
            pass


def _rewrapped(stream: TextIO, cls: type[EscapingStream]) -> TextIO:
    """Return the stream as one of the class, with escapes for characters that it lacks."""
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, cls):
        return stream
    unbuffered = stream.write_through
    return cls(
        open(stream.fileno(), "wb", buffering=0 if unbuffered else -1, closefd=False),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=unbuffered,
    )


def _open_closed_descriptors() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise the next file, which may be a database, would get the number of standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _discard(descriptor: int) -> None:
    """Point a descriptor to the null device."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
