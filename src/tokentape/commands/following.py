"""The command that follows a run while it goes on."""

import sys
import time
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer

from tokentape.commands.options import (
    RunArgument,
    StoreOption,
    find_recording,
    open_stored,
    tokenizer_as_recorded,
)
from tokentape.recorder import Envelope, Recording
from tokentape.recorder.events import RunStarted, TurnStarted
from tokentape.recorder.redaction import REDACTED
from tokentape.recorder.transcript import TranscriptWriter
from tokentape.store import DEFAULT_URL
from tokentape.store.run_follower import NewToken, RunFollower

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokentape.generation.history.text_stream import TextStream

_POLL_S = 0.2
_SILENCE_S = 60.0


def tail(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for more until the run ends.")
    ] = True,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="Begin so many turns back; 0 for all.")
    ] = 0,
) -> None:
    """Follow a run from another terminal: what is said, which tools run, what the cache spares."""
    opened = open_stored(store)
    recording = find_recording(opened, run)
    following, watch = RunFollower(opened, recording), _Watch(recording)
    heard = time.monotonic()
    try:
        watch.tell(_newest_turns(following.look(), last))
        while follow and not following.ended:
            began = time.monotonic()
            news = following.look()
            watch.tell(news)
            took = time.monotonic() - began
            heard = began if news else heard
            if began - heard > _SILENCE_S:
                heard = began
                sys.stderr.write(_silence(recording.run_id))
            # A long run takes longer to read: never more than a fifth of the time goes there.
            time.sleep(max(_POLL_S, 4 * took))
    except KeyboardInterrupt:
        pass
    watch.close()
    if not following.ended:
        sys.stderr.write(f"tokentape: run {recording.run_id} has not ended\n")


class _Watch:
    """Tells what was looked at; the tokenizer is loaded when the first token asks for it."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._narrator = TranscriptWriter(_write)
        self._started: TurnStarted | None = None
        self._stream: TextStream | None = None

    @cached_property
    def _run(self) -> RunStarted:
        return self._recording.started()

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase | None":
        return tokenizer_as_recorded(self._run)

    def close(self) -> None:
        self._narrator.close()

    def tell(self, news: list[Envelope | NewToken]) -> None:
        for each in news:
            if isinstance(each, NewToken):
                self._tell_token(each)
                continue
            if isinstance(each.event, TurnStarted):
                self._started, self._stream = each.event, None
            self._narrator.event(each)

    def _tell_token(self, token: NewToken) -> None:
        if self._started is None or self._started.turn != token.turn:
            return
        if self._run.behaviour.get(REDACTED):
            return
        tokenizer = self._tokenizer
        if tokenizer is None:
            self._narrator.piece(f" {token.token_id}")
            return
        if self._stream is None:
            from tokentape.generation.history.text_stream import TextStream

            self._stream = TextStream(tokenizer, self._started.added_ids, ends=_ends(self._started))
        self._narrator.piece(self._stream.add(token.token_id))


def _ends(started: TurnStarted) -> frozenset[int]:
    ends = started.sampling.get("eos_token_id")
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _newest_turns(found: list[Envelope | NewToken], last: int) -> list[Envelope | NewToken]:
    newest = max((each.turn or 0 for each in found), default=0)
    if not last:
        return found
    return [each for each in found if not each.turn or each.turn > newest - last]


def _silence(run_id: str) -> str:
    return (
        f"tokentape: nothing new for {_SILENCE_S:.0f} s; if its process has died, "
        f"`tokentape resume {run_id}` goes on\n"
    )


def _write(text: str) -> None:
    sys.stdout.write(text.encode(errors="backslashreplace").decode())
    sys.stdout.flush()
