"""The child process that replays tapes, so that torch is not loaded into the tested project.

Requests and answers are JSON, a line each, on its standard input and output. One child serves a
session and keeps its model loaded; if it dies, the next request starts another.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

COMMAND = ("-P", "-m", "tokentape", "serve-replays")
_STDERR_SHOWN_BYTES = 4000
_GOODBYE_S = 5.0


class RequestError(Exception):
    """An error that the child answered: the tape cannot be replayed, and why."""


class ChildDiedError(Exception):
    """The child ended during a request; the message has the end of its standard error."""


class ReplayChild:
    """A child process, started by the first request. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Paths in requests are relative to `folder`."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._requests = 0

    def request(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer. Raise RequestError and ChildDiedError."""
        process = self._running()
        self._requests += 1
        line = json.dumps({"id": self._requests, **request}).encode() + b"\n"
        try:
            answer = self._exchange(process, line)
        except BaseException:
            # After Ctrl-C, say, a late answer would be read as the answer to the next request.
            self._end(at_once=True)
            raise
        if answer is None:
            raise ChildDiedError(self._describe_death(process))
        if "error" in answer:
            raise RequestError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the child, if it is running; a later request starts another."""
        self._end(at_once=False)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end(at_once=True)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child runs
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=self._folder,
            env=child_environment(dict(os.environ)),
        )
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any] | None:
        """Return the answer, or None if the child has ended. Skip lines that are not answers."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            return None
        for printed in process.stdout:
            try:
                answer = json.loads(printed)
            except ValueError:
                continue
            if isinstance(answer, dict) and answer.get("id") == self._requests:
                return answer
        return None

    def _describe_death(self, process: subprocess.Popen[bytes]) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GOODBYE_S)
        code, printed = process.poll(), self._stderr_end()
        self._end(at_once=True)
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was killed by {_signal_name(-code)}"
            how += " (out of memory?)" if -code == signal.SIGKILL else ""
        else:
            how = f"ended with exit code {code}"
        return f"the process that replays {how}" + (f"; it printed:\n{printed}" if printed else "")

    def _stderr_end(self) -> str:
        if self._stderr is None:
            return ""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - _STDERR_SHOWN_BYTES))
        return self._stderr.read().decode(errors="replace").strip()

    def _end(self, *, at_once: bool) -> None:
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        if process is not None:
            # It ends by itself at the end of its input.
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(0 if at_once else _GOODBYE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        if stderr is not None:
            stderr.close()


def child_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of the child, with its share of the cores.

    Two workers of xdist that each compute with all cores take longer than with half of them.
    """
    workers = int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // workers)))
    return environment


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
