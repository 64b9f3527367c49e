"""A conversation typed by hand, recorded, each reply shown as it grows."""

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import tokentape as tt
from tokentape.generation.history.text_stream import TextStream
from tokentape.recorder import Record
from tokentape.recorder.escapes import visible_lines
from tokentape.recorder.events import (
    Event,
    HistoryPruned,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import RunSummary

HELP = """\
  TEXT                       say TEXT to the model
  /tool NAME {JSON} [TEXT]   run a tool for the model, and say TEXT with its result
  /tools                     which tools there are
  /help                      this
  /quit                      end the conversation, as the end of input and Ctrl-C do
Ctrl-C while the model speaks stops the reply; the model will not remember that exchange.
A line that begins with // is said with one / less.
"""


class EventTap:
    """Hands events to a store, and tells of each that is kept."""

    def __init__(self, log: tt.EventLog) -> None:
        self._log = log
        self.tell: Callable[[Event], None] = lambda event: None
        self.fault: Exception | None = None

    def append(
        self,
        envelope: tt.Envelope,
        record: Record,
        *,
        durable: bool,
        summary: RunSummary | None,
    ) -> None:
        """See `recorder.EventLog`."""
        self._log.append(envelope, record, durable=durable, summary=summary)
        try:
            self.tell(envelope.event)
        except Exception as error:  # the event is kept: whoever speaks next hears of the screen
            self.fault = error

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._log.put_blob(sha256, payload)


class ChatSession:
    """Reads lines until there are no more, and lets the model reply to each."""

    def __init__(
        self,
        lm: "tt.LoadedModel",
        run: "tt.Investigation",
        tools: "tt.ToolInterface",
        witness: EventTap,
        settings: dict[str, Any],
    ) -> None:
        self._lm = lm
        self._run = run
        self._tools = tools
        self._witness = witness
        self._settings = settings
        self._stream: TextStream | None = None
        self._stopped = False
        witness.tell = self._hear

    def go(self) -> None:
        """Raises OSError where what is said can be shown no more."""
        try:
            for line in _lines():
                if not self._handle(line.strip()):
                    return
        except KeyboardInterrupt:
            _aside("\n")

    def _handle(self, line: str) -> bool:
        """False where that ends the conversation."""
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/help":
            _aside(HELP)
        elif command == "/tools":
            _aside(self._tools.documentation() + "\n")
        elif command == "/tool":
            self._use_tool(rest.strip())
        elif line.startswith("//"):
            self._say(line[1:])
        elif line.startswith("/"):
            _aside(f"there is no command {visible_lines(command)}: /help lists them\n")
        elif line:
            self._say(line)
        return True

    def _use_tool(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        known = [schema["name"] for schema in self._tools.get_available_tools()]
        if name not in known:
            _aside(f"there is no tool {visible_lines(name)!r}; there are {', '.join(known)}\n")
            return
        try:
            arguments, end = json.JSONDecoder().raw_decode(rest.strip() or "{}")
        except (ValueError, RecursionError) as error:
            _aside(f"the arguments of {name} are not JSON: {error}\n")
            return
        if not isinstance(arguments, dict):
            _aside(f'the arguments of {name} are an object: {{"name": value}}\n')
            return
        said = rest.strip()[end:].strip() or f"This is the result of {name}."
        self._say(said, tt.ToolCall(name=name, arguments=arguments))

    def _say(self, message: str, *calls: "tt.ToolCall") -> None:
        self._stopped = False
        try:
            with self._interrupts_stop_the_reply():
                self._run.chat(message, tool_calls=calls, callback=self._speak, **self._settings)
        except _ReplyStoppedError:
            sys.stdout.write("\n")
            _aside("[stopped: this exchange is recorded, and the model will not remember it]\n")
        except (tt.ModelError, tt.ToolError) as error:
            _aside(f"tokentape: {error}\n")
        sys.stdout.flush()

    def _hear(self, event: Event) -> None:
        if isinstance(event, TurnStarted):
            ends = event.sampling.get("eos_token_id")
            self._stream = TextStream(
                self._lm.tokenizer,
                event.added_ids,
                ends=ends if isinstance(ends, list | tuple) else () if ends is None else (ends,),
            )
        elif isinstance(event, TurnFinished) and self._stream is not None:
            _show(self._stream.finish(event.text) + "\n")
        elif isinstance(event, ToolCalled | ToolReturned | HistoryPruned):
            _aside(f"{event.describe()}\n")

    def _speak(self, token_id: int, logits: Any) -> None:
        if self._witness.fault is not None:
            raise self._witness.fault
        if self._stopped:
            raise _ReplyStoppedError
        if self._stream is not None:
            _show(self._stream.add(token_id))

    @contextmanager
    def _interrupts_stop_the_reply(self) -> Iterator[None]:
        """The first Ctrl-C stops the reply behind a token; a second one does not wait for that."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stopped:
                raise KeyboardInterrupt
            self._stopped = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _ReplyStoppedError(Exception):
    """Somebody does not want to hear more."""


def _lines() -> Iterator[str]:
    typed = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        # What is not text is shown as such, and is no reason to end.
        sys.stdin.reconfigure(errors="replace")
    while True:
        if typed:
            _aside("> ")
        line = sys.stdin.readline()
        if not line:
            if typed:
                _aside("\n")
            return
        yield line


def _aside(text: str) -> None:
    sys.stderr.write(text.encode(errors="backslashreplace").decode())
    sys.stderr.flush()


def _show(text: str) -> None:
    sys.stdout.write(visible_lines(text))
    sys.stdout.flush()
