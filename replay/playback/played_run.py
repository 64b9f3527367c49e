"""A recorded run with the face of an `Investigation`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder import TokentapeError
from tokentape.recorder.derived_seeds import turn_seed
from tokentape.recorder.events import MessageAdded, SystemPromptCached
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.short_forms import counted, quoted, short_repr
from tokentape.replay.playback.differences import PlaybackDifference
from tokentape.replay.playback.errors import PlaybackMismatchError
from tokentape.replay.playback.played_reply import PlayedReply
from tokentape.replay.playback.player import Player
from tokentape.replay.playback.recorded_turns import (
    RecordedCall,
    RecordedRound,
    RecordedRun,
    RecordedTurn,
)
from tokentape.replay.playback.request_settings import check_playable, compare_settings
from tokentape.replay.playback.run_request import RunRequest, compare_run_settings
from tokentape.replay.playback.system_prompt import SystemPromptFiller
from tokentape.replay.playback.token_places import place_in_message
from tokentape.replay.run_diff.turn_diff import compare_texts

if TYPE_CHECKING:
    from tokentape.replay.playback.live_runs import LiveConversation

GoLive = Callable[[RecordedRun | None, int, RunRequest], "LiveConversation"]
"""Begins a conversation with the model that shares the turns of a run before this one."""


class PlayedRun:
    """A recorded run that answers like the `Investigation` that it was; `Playback` makes it.

    The application's system prompt is compared when the run begins, its messages, tool calls and
    settings turn by turn. The tools are not run: their results are on the tape, unless
    `rerun_tools` compares them with those of today. A `callback` gets each token id, and None for
    the logits, which no tape has.
    """

    def __init__(
        self,
        player: Player,
        request: RunRequest,
        *,
        rerun_tools: bool,
        go_live: GoLive,
    ) -> None:
        self._player = player
        self._request = request
        self._recorded = player.take_run(request.name)
        self._rerun_tools = rerun_tools
        self._go_live = go_live
        self._position = 0
        self._state = "not started"
        self._live: LiveConversation | None = None

    @property
    def _run(self) -> RecordedRun:
        assert self._recorded is not None
        return self._recorded

    def __repr__(self) -> str:
        if self._recorded is None:
            return short_repr(self, f"{quoted(self._request.name)}: a new run")
        turns = f"{self._position} of {counted(len(self._run.turns), 'turn')} played,"
        return short_repr(self, f"{quoted(self._run.started.name)}:", turns, self.run_id)

    @property
    def run_id(self) -> str:
        """The id of the recorded run; of the new one once the model is asked."""
        if self._live is None and self._recorded is None:
            self.start()
        return self._run.run_id if self._live is None else self._live.run_id

    @property
    def is_active(self) -> bool:
        """Whether the run has begun and has not ended."""
        return self._state == "active"

    def start(self) -> Self:
        """Begin the run, and return it; `chat` and `with` do so, too."""
        __tracebackhide__ = True
        if self._state == "ended":
            raise TokentapeError(f"run {self.run_id} has ended")
        if self._state == "not started":
            self._state = "active"
            self._begin()
        return self

    def finish(self) -> None:
        """End the run."""
        if self._state == "active":
            self._state = "ended"
            if self._live is not None:
                self._live.finish()

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()

    def chat(
        self,
        user_message: str,
        *,
        tool_calls: Sequence[ToolCall] = (),
        reply_prefix: str = "",
        **settings: Any,
    ) -> PlayedReply:
        """Return the recorded reply to a message; see `Investigation.chat`.

        Raise PlaybackMismatchError if message, calls or settings are not the recorded ones.
        """
        __tracebackhide__ = True
        check_playable(settings)
        self.start()
        if self._live is None:
            self._check_turn(user_message, tool_calls, reply_prefix, settings)
        if self._live is not None:
            return self._live.chat(
                user_message, tool_calls=tool_calls, reply_prefix=reply_prefix, **settings
            )
        turn = self._run.turns[self._position]
        self._position += 1
        self._player.mark(self._run, turn)
        reply = PlayedReply.of(turn, self._run.recording.read_blob)
        if callback := settings.get("callback"):
            for token_id in reply.token_ids:
                callback(token_id, None)
        return reply

    @property
    def _texts_are_withheld(self) -> bool:
        return self._run.started.redacted and self._request.redactor is None

    def _begin(self) -> None:
        __tracebackhide__ = True
        if self._recorded is None:
            self._live = self._go_live(None, 1, self._request)
            return
        if self._texts_are_withheld:
            self._player.report_withheld(self._run)
        self._handle(list(self._differences_of_beginning()), turn=1)

    def _check_turn(
        self,
        message: str,
        calls: Sequence[ToolCall],
        reply_prefix: str,
        settings: Mapping[str, Any],
    ) -> None:
        """Compare a turn with the next one of the tape; go live, warn or raise if it differs."""
        __tracebackhide__ = True
        if self._position == len(self._run.turns):
            extra = self._one_turn_more(message)
            if not self._player.asks_model:
                raise PlaybackMismatchError(extra.describe(self._run.described), extra)
            self._ask_model(self._next_turn)
            return
        turn = self._run.turns[self._position]
        found = list(self._differences(turn, message, calls, reply_prefix, settings))
        self._handle(found, turn=turn.number)

    @property
    def _next_turn(self) -> int:
        return self._run.turns[-1].number + 1 if self._run.turns else 1

    def _handle(self, found: Sequence[PlaybackDifference], *, turn: int) -> None:
        __tracebackhide__ = True
        if found and self._player.asks_model:
            self._ask_model(turn)
            return
        for each in found:
            self._player.report(each, self._run.described)

    def _ask_model(self, turn: int) -> None:
        self._player.give_up(self._run)
        self._live = self._go_live(self._run, turn, self._request)

    def _one_turn_more(self, message: str) -> PlaybackDifference:
        turns = counted(len(self._run.turns), "turn")
        return PlaybackDifference(
            turn=self._next_turn,
            round=1,
            what="the number of turns",
            recorded=turns,
            now=f"one more: {quoted(message)}",
        )

    def _differences_of_beginning(self) -> Iterator[PlaybackDifference]:
        started, request = self._run.started, self._request
        for what, recorded, now in compare_run_settings(started, request):
            yield PlaybackDifference(turn=1, round=1, what=what, recorded=recorded, now=now)
        if not self._run.systems or self._texts_are_withheld:
            return
        system = self._run.systems[0]
        filler = SystemPromptFiller(started, request.tools)
        given = request.redacted(filler.fill(request.system_prompt, system.content))
        first = self._run.turns[0].rounds[0] if self._run.turns else None
        yield from self._text_difference(first, system, "the system prompt", given)

    def _differences(
        self,
        turn: RecordedTurn,
        message: str,
        calls: Sequence[ToolCall],
        reply_prefix: str,
        settings: Mapping[str, Any],
    ) -> Iterator[PlaybackDifference]:
        first, started = turn.rounds[0], self._run.started
        if turn.message is not None and not self._texts_are_withheld:
            given = self._request.redacted(message)
            yield from self._text_difference(first, turn.message, "the user's message", given)
        yield from _compare_calls(turn, calls)
        yield from _compare_prefix(first, reply_prefix)
        seed = settings.get("seed")
        if seed is None:
            seed = turn_seed(self._request.seed, turn.number)
        config = started.generation_config
        for each in compare_settings(first.turn, settings, model_config=config, seed=seed):
            yield PlaybackDifference(
                turn=turn.number,
                round=1,
                what=f"the setting {each.name}",
                recorded="" if each.recorded is None else repr(each.recorded),
                now="" if each.now is None else repr(each.now),
            )
        if self._rerun_tools:
            yield from self._rerun(turn)

    def _text_difference(
        self,
        round_: RecordedRound | None,
        added: MessageAdded | SystemPromptCached,
        what: str,
        now: str,
    ) -> Iterator[PlaybackDifference]:
        found = compare_texts(added.content, now)
        if found is None:
            return
        place = None
        if round_ is not None:
            place = place_in_message(round_, added, found.index, self._run.texts)
        number = 1 if round_ is None else round_.turn.number
        yield PlaybackDifference(
            turn=number,
            round=1 if round_ is None else round_.number,
            what=what,
            text=found,
            place=place,
        )

    def _rerun(self, turn: RecordedTurn) -> Iterator[PlaybackDifference]:
        """Run the tools of a turn again, and compare their results with what the model read."""
        tools = self._request.tools
        shown = {
            message.tool_call_id: (each, message)
            for each in turn.rounds
            for message in each.turn.messages
        }
        calls = [*turn.user_calls, *(call for each in turn.rounds for call in each.calls)]
        for call in calls:
            if call.returned is None or not call.was_run or call.called.call_id not in shown:
                continue
            result = tools.interface.call(call.called.name, call.called.arguments)
            round_, message = shown[call.called.call_id]
            what = f"the result of {call.called.name} ({call.called.call_id})"
            now = self._request.redacted(result.content)
            yield from self._text_difference(round_, message, what, now)


def _compare_calls(turn: RecordedTurn, calls: Sequence[ToolCall]) -> Iterator[PlaybackDifference]:
    recorded = [_described(each) for each in turn.user_calls]
    now = [f"{each.name} {_json(each.arguments)}" for each in calls]
    if recorded != now:
        yield PlaybackDifference(
            turn=turn.number,
            round=1,
            what="the user's tool calls",
            recorded=", ".join(recorded),
            now=", ".join(now),
        )


def _described(call: RecordedCall) -> str:
    return f"{call.called.name} {_json(call.called.arguments)}"


def _json(arguments: Mapping[str, Any]) -> str:
    return json.dumps(plain_value(dict(arguments)), sort_keys=True, default=repr)


def _compare_prefix(round_: RecordedRound, prefix: str) -> Iterator[PlaybackDifference]:
    forced = round_.turn.started.forced_ids
    if bool(forced) == bool(prefix) and round_.text.startswith(prefix):
        return
    yield PlaybackDifference(
        turn=round_.turn.number,
        round=round_.number,
        what="the beginning of the reply that the experimenter chose",
        recorded=quoted(round_.text[: max(len(prefix), 16)]) if forced else "",
        now=quoted(prefix) if prefix else "",
    )
