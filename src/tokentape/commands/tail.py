"""The command `tail`: follow a run while it is being recorded."""

import time
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer

from tokentape.commands.options import (
    RunArgument,
    Store,
    StoreOption,
    find_recording,
    locate_run,
    open_stored,
    tokenizer_as_recorded,
)
from tokentape.recorder import Envelope, Recording
from tokentape.recorder.events import MessageAdded, RunStarted, TurnStarted
from tokentape.recorder.process import ProcessState
from tokentape.recorder.transcript import TranscriptWriter
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL
from tokentape.streams import check_reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokentape.generation.history.text_stream import TextStream
    from tokentape.store.run_follower import NewToken

_POLL_S = 0.2
_SILENCE_S = 60.0
_LOOK_S = 2.0
"""Seconds from one look for the process of a silent run to the next."""
# More than the text of a reply depends on.
_PROMPT_END_TOKENS = 16


def tail(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for new events until the run ends.")
    ] = True,
    last: Annotated[
        int,
        typer.Option("--last", "-n", min=0, help="Start this many turns back; 0 for all."),
    ] = 0,
) -> None:
    """Follow a run from another terminal: messages, replies, tool calls and cache decisions."""
    run, store = locate_run(run, store)
    opened = open_stored(store)
    recording = find_recording(opened, run)
    from tokentape.store.run_follower import RunFollower

    follower = RunFollower(opened, recording, last_turns=last)
    printer = _Printer(recording)
    last_event_at = looked_at = time.monotonic()
    try:
        printer.print(follower.poll())
        while follow and not follower.ended:
            began = time.monotonic()
            news = follower.poll()
            printer.print(news)
            took = time.monotonic() - began
            last_event_at = began if news else last_event_at
            if not news and began - looked_at > _LOOK_S:
                looked_at = began
                if _is_gone(opened, recording):
                    break
            if began - last_event_at > _SILENCE_S:
                last_event_at = began
                err.line(_silence(recording.run_id))
            # Reading a long run takes longer: spend at most a fifth of the time on it.
            time.sleep(max(_POLL_S, 4 * took))
            check_reader()
    except KeyboardInterrupt:
        pass
    printer.close()
    if not follower.ended:
        err.line(f"tokentape: run {recording.run_id} has not ended")


class _Printer:
    """Prints events and tokens; loads the tokenizer when the first token arrives."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._transcript = TranscriptWriter(_write)
        self._started: TurnStarted | None = None
        self._prompt_end: list[int] = []
        self._stream: TextStream | None = None

    @cached_property
    def _run(self) -> RunStarted:
        return self._recording.started()

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase | None":
        return tokenizer_as_recorded(self._run)

    def close(self) -> None:
        self._transcript.close()

    def print(self, news: "list[Envelope | NewToken]") -> None:
        for each in news:
            if not isinstance(each, Envelope):
                self._print_token(each)
                continue
            if isinstance(each.event, MessageAdded):
                self._prompt_end = [*self._prompt_end, *each.event.ids][-_PROMPT_END_TOKENS:]
            if isinstance(each.event, TurnStarted):
                self._started, self._stream = each.event, None
                self._prompt_end = [*self._prompt_end, *each.event.added_ids][-_PROMPT_END_TOKENS:]
            self._transcript.event(each)

    def _print_token(self, token: "NewToken") -> None:
        if self._started is None or self._started.turn != token.turn:
            return
        if self._run.redacted:
            return
        tokenizer = self._tokenizer
        if tokenizer is None:
            self._transcript.piece(f" {token.token_id}")
            return
        if self._stream is None:
            from tokentape.generation.history.text_stream import TextStream

            self._stream = TextStream(tokenizer, self._prompt_end, ends=_ends(self._started))
        self._transcript.piece(self._stream.add(token.token_id))


def _ends(started: TurnStarted) -> frozenset[int]:
    ends = started.sampling.get("eos_token_id")
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _silence(run_id: str) -> str:
    return (
        f"tokentape: nothing new for {_SILENCE_S:.0f} s; if its process has died, "
        f"resume it with `tokentape resume {run_id}`"
    )


def _is_gone(opened: Store, recording: Recording) -> bool:
    """Return whether the process of the run is gone; if so, say so on standard error."""
    from tokentape.store import process_of

    summary = opened.summary(recording.run_id)
    process = None if summary is None else process_of(opened, summary)
    if process is None or process.state is not ProcessState.GONE:
        return False
    err.line(
        f"tokentape: {process.describe()}: resume the run with `tokentape resume "
        f"{recording.run_id}`, or close it with `tokentape close {recording.run_id}`"
    )
    return True


def _write(text: str) -> None:
    out.text(text)
    out.flush()
