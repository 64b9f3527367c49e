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
from tokentape.recorder import Envelope, Recording, TokentapeError
from tokentape.recorder.events import MessageAdded, RunStarted, TurnStarted
from tokentape.recorder.process import ProcessState
from tokentape.recorder.transcript import TranscriptWriter
from tokentape.recorder.turn_progress import TurnProgress
from tokentape.screen import err
from tokentape.store.default_store import DEFAULT_URL
from tokentape.streaming_text import StreamingText
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
                if (gone := _gone(opened, recording)) is not None:
                    printer.clear_status()
                    err.line(gone)
                    break
            if began - last_event_at > _SILENCE_S:
                last_event_at = began
                printer.clear_status()
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
        self._text = StreamingText()
        self._transcript = TranscriptWriter(self._text.add, self._text.add)
        self._started: TurnStarted | None = None
        self._prompt_end: list[int] = []
        self._stream: TextStream | None = None

    @cached_property
    def _run(self) -> RunStarted:
        return self._recording.started()

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase | None":
        return tokenizer_as_recorded(self._run)

    @cached_property
    def _progress(self) -> TurnProgress:
        return TurnProgress(_turns_planned(self._run))

    def close(self) -> None:
        self._text.clear()
        self._transcript.close()

    def clear_status(self) -> None:
        """Remove the progress line, before another message."""
        self._text.clear()

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
            self._progress.event(each.event)
            self._transcript.event(each)
        if news and self._progress.turn is not None:
            self._text.status(f"{self._progress.place}: {self._progress.tokens}")

    def _print_token(self, token: "NewToken") -> None:
        if self._started is None or self._started.turn != token.turn:
            return
        self._progress.token(token.duration_us)
        if self._run.redacted:
            return
        surprise = None if token.logprob is None else -token.logprob
        self._text.show_legend()
        tokenizer = self._tokenizer
        if tokenizer is None:
            self._transcript.piece(f" {token.token_id}", surprise)
            return
        if self._stream is None:
            from tokentape.generation.history.text_stream import TextStream

            self._stream = TextStream(tokenizer, self._prompt_end, ends=_ends(self._started))
        self._transcript.piece(self._stream.add(token.token_id), surprise)


def _ends(started: TurnStarted) -> frozenset[int]:
    ends = started.sampling.get("eos_token_id")
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _turns_planned(started: RunStarted) -> int | None:
    """Return the number of turns of the run's plan; None if no plan says that."""
    described = started.settings.get("plan")
    if not isinstance(described, dict):
        return None
    from tokentape.generation.plans import ExperimentPlan

    try:
        return len(ExperimentPlan.from_described(described).turns())
    except TokentapeError:
        return None


def _silence(run_id: str) -> str:
    return (
        f"tokentape: nothing new for {_SILENCE_S:.0f} s; if its process has died, "
        f"resume it with `tokentape resume {run_id}`"
    )


def _gone(opened: Store, recording: Recording) -> str | None:
    """Return a line that says that the process of the run is gone; None if it may not be."""
    from tokentape.store import process_of

    summary = opened.summary(recording.run_id)
    process = None if summary is None else process_of(opened, summary)
    if process is None or process.state is not ProcessState.GONE:
        return None
    return (
        f"tokentape: {process.describe()}: resume the run with `tokentape resume "
        f"{recording.run_id}`, or close it with `tokentape close {recording.run_id}`"
    )
