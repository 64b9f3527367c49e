"""A recorded conversation that a person types, with each reply shown while it is generated."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tokentape.generation.errors import ModelError, ToolError
from tokentape.generation.history.text_stream import TextStream
from tokentape.generation.interrupts import interrupts_call
from tokentape.generation.investigation.investigation import Investigation
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder import Envelope, EventLog, Record
from tokentape.recorder.escapes import VisibleLines, visible
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
  TEXT                       send TEXT to the model
  /tool NAME {JSON} [TEXT]   run a tool, and send TEXT with its result
  /tools                     list the tools
  /help                      show this help
  /quit                      end the conversation, as the end of the input and Ctrl-C do
Ctrl-C during a reply stops it; the model will not remember that exchange.
A line that begins with // is sent with one / less.
Replies are coloured by surprise where the terminal has colours; NO_COLOR=1 turns that off.
"""


class ChatTerminal(Protocol):
    """Where a chat reads its lines and shows its texts."""

    def lines(self) -> Iterator[str]:
        """Yield the typed lines until the input ends."""

    def show(self, text: str) -> None:
        """Show a piece of a reply."""

    def note(self, text: str) -> None:
        """Show a message that is not part of a reply."""


class EventTap:
    """An event log that stores each event in another log, then passes it on to the listeners.

    An exception of a listener is kept as `fault`: the event is stored, and the run continues.
    """

    def __init__(self, log: EventLog, *listeners: Callable[[Event], None]) -> None:
        self._log = log
        self.listeners = [*listeners]
        self.fault: Exception | None = None

    def append(
        self,
        envelope: Envelope,
        record: Record,
        *,
        durable: bool,
        summary: RunSummary | None,
    ) -> None:
        """Store an event; see `recorder.EventLog`."""
        self._log.append(envelope, record, durable=durable, summary=summary)
        try:
            for listener in self.listeners:
                listener(envelope.event)
        except Exception as error:
            self.fault = error

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._log.put_blob(sha256, payload)


class ChatSession:
    """A loop that sends each typed line to the model and shows its reply.

    `tap` is the log that `run` is recorded into, `settings` are those of `Investigation.chat`.
    A terminal that fails ends neither a turn nor the run: the reply is generated to its end, then
    the conversation ends.
    """

    def __init__(
        self,
        run: Investigation,
        tools: ToolInterface,
        tap: EventTap,
        terminal: ChatTerminal,
        settings: dict[str, Any],
    ) -> None:
        self._run = run
        self._tools = tools
        self._tap = tap
        self._terminal = terminal
        self._settings = settings
        self._ends: tuple[int, ...] | None = None
        self._stream: TextStream | None = None
        self._visible = VisibleLines()
        self._stopped = False
        self._fault: Exception | None = None
        tap.listeners.append(self._on_event)

    @property
    def fault(self) -> Exception | None:
        """The first exception of the terminal; None if everything was shown."""
        return self._fault or self._tap.fault

    def run(self) -> None:
        """Read lines until `/quit`, the end of the input, Ctrl-C, or a fault of the terminal."""
        try:
            for line in self._terminal.lines():
                if not self._handle(line.strip()) or self.fault is not None:
                    return
        except KeyboardInterrupt:
            self._note("\n")

    def _show(self, text: str) -> None:
        self._display(self._terminal.show, text)

    def _note(self, text: str) -> None:
        self._display(self._terminal.note, text)

    def _display(self, display: Callable[[str], None], text: str) -> None:
        if self._fault is None:
            try:
                display(text)
            except Exception as error:
                self._fault = error

    def _handle(self, line: str) -> bool:
        """Return False if the line ends the conversation."""
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/help":
            self._note(HELP)
        elif command == "/tools":
            self._note(self._tools.documentation() + "\n")
        elif command == "/tool":
            self._run_tool(rest.strip())
        elif line.startswith("//"):
            self._send(line[1:])
        elif line.startswith("/"):
            self._note(f"there is no command {visible(command)}: /help lists them\n")
        elif line:
            self._send(line)
        return True

    def _run_tool(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        known = [schema["name"] for schema in self._tools.get_available_tools()]
        if name not in known:
            tools = visible(", ".join(known))
            self._note(f"there is no tool '{visible(name)}'; there are {tools}\n")
            return
        try:
            arguments, end = json.JSONDecoder().raw_decode(rest.strip() or "{}")
        except (ValueError, RecursionError) as error:
            self._note(f"the arguments of {visible(name)} are not JSON: {error}\n")
            return
        if not isinstance(arguments, dict):
            self._note(f'the arguments of {name} are an object: {{"name": value}}\n')
            return
        message = rest.strip()[end:].strip() or f"This is the result of {name}."
        self._send(message, ToolCall(name=name, arguments=arguments))

    def _send(self, message: str, *calls: ToolCall) -> None:
        self._stopped = False
        try:
            with interrupts_call(self._stop):
                self._run.chat(message, tool_calls=calls, callback=self._on_token, **self._settings)
        except _ReplyStoppedError:
            self._show("\n")
            self._note("[stopped: this exchange is recorded, and the model will not remember it]\n")
        except (ModelError, ToolError) as error:
            self._note(f"tokentape: {visible(str(error))}\n")

    def _stop(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt
        self._stopped = True

    def _on_event(self, event: Event) -> None:
        if isinstance(event, TurnStarted):
            ends = event.sampling.get("eos_token_id")
            one = () if ends is None else (ends,)
            self._ends = tuple(ends) if isinstance(ends, list | tuple) else one
            self._stream, self._visible = None, VisibleLines()
        elif isinstance(event, TurnFinished) and self._ends is not None:
            rest = event.text if self._stream is None else self._stream.finish(event.text)
            self._show(self._visible.add(rest) + "\n")
        elif isinstance(event, ToolCalled | ToolReturned | HistoryPruned):
            self._note(f"{event.describe()}\n")

    def _on_token(self, token_id: int, logits: Any) -> None:
        if self._stopped:
            raise _ReplyStoppedError
        if self.fault is not None:
            return
        if self._stream is None:
            generator = self._run.generator
            # With its first token: only now the conversation ends with the prompt.
            prompt = generator.conversation.ids
            self._stream = TextStream(generator.tokenizer, prompt, ends=self._ends or ())
        self._show(self._visible.add(self._stream.add(token_id)))


class _ReplyStoppedError(Exception):
    """The user stopped the reply with Ctrl-C."""
