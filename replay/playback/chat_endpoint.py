"""Requests of chat completions, each answered by the recorded round that it asks for."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokentape.recorder.chat_messages import ASSISTANT, ChatMessage, read_chat_messages
from tokentape.recorder.derived_seeds import turn_seed
from tokentape.recorder.escapes import visible
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.short_forms import counted
from tokentape.replay.playback.completions import completion, generate_settings, tools_of
from tokentape.replay.playback.differences import PlaybackDifference
from tokentape.replay.playback.errors import PlaybackMismatchError
from tokentape.replay.playback.player import Place, Player
from tokentape.replay.playback.request_settings import compare_named
from tokentape.replay.playback.transcripts import compare_messages
from tokentape.replay.run_diff.turn_diff import compare_texts

AskModel = Callable[[Sequence[ChatMessage], Mapping[str, Any]], dict[str, Any]]
"""Answers a request with the model, where the playback does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackRequest:
    """A request of a chat completion."""

    messages: tuple[ChatMessage, ...]
    tools: Sequence[Mapping[str, Any]]
    """The schemas of the tools."""
    settings: Mapping[str, Any]
    """The settings of `generate` that it names, and `seed`."""
    given: Mapping[str, Any]
    """Its parameters as they were given."""

    @classmethod
    def read(
        cls,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        given: Mapping[str, Any],
    ) -> "PlaybackRequest":
        """Return a request. Raise TokentapeError for one that no model of text can answer."""
        return cls(
            messages=read_chat_messages(messages),
            tools=tools_of(tools),
            settings=generate_settings(given),
            given=given,
        )


def answer(player: Player, request: PlaybackRequest, ask_model: AskModel) -> dict[str, Any]:
    """Return the recorded answer to a request.

    It is that of the first round not yet played whose messages, tools and settings are those of the
    request. If there is none, the report is about the round that agrees longest.
    """
    __tracebackhide__ = True
    nearest: list[tuple[Place, PlaybackDifference]] = []

    def find(left: Sequence[Place]) -> int | None:
        best = -1
        for index, place in enumerate(left):
            agreeing, difference = _compare(place, request)
            if difference is None:
                nearest.clear()
                return index
            if agreeing > best:
                best, nearest[:] = agreeing, [(place, difference)]
        if nearest and player.mode == "warn":
            return next(i for i, each in enumerate(left) if each is nearest[0][0])
        return None

    claimed = player.claim(find)
    if claimed is None and player.asks_model:
        return ask_model(request.messages, request.settings)
    for (run, *_), difference in nearest:
        player.report(difference, run.described)
    if claimed is None:
        raise PlaybackMismatchError(
            f"the application makes one request more than {visible(player.where)} has: "
            f"{counted(len(player.runs), 'run')}, all of whose rounds were played"
        )
    return completion(*claimed, request.given)


def _compare(place: Place, request: PlaybackRequest) -> tuple[int, PlaybackDifference | None]:
    """Return how many messages agree, and the first difference."""
    run, turn, round_ = place
    agreeing, difference = compare_messages(run, turn, round_, request.messages, request.tools)
    if difference is not None:
        return agreeing, difference
    others = (*_compare_tools(place, request.tools), *_compare_settings(place, request))
    return len(request.messages), next(iter(others), None)


def _compare_settings(place: Place, request: PlaybackRequest) -> Iterable[PlaybackDifference]:
    _, turn, round_ = place
    seed = request.settings.get("seed")
    replies = sum(each.role == ASSISTANT for each in request.messages)
    # An endpoint gives each turn of a conversation a seed of its own.
    seeds = () if seed is None else (seed, turn_seed(seed, replies + 1))
    for each in compare_named(round_.turn, request.settings, seeds=seeds):
        yield PlaybackDifference(
            turn=turn.number,
            round=round_.number,
            what=f"the setting {each.name}",
            recorded="" if each.recorded is None else repr(each.recorded),
            now=repr(each.now),
        )


def _compare_tools(
    place: Place, tools: Sequence[Mapping[str, Any]]
) -> Iterable[PlaybackDifference]:
    """Compare the schemas where the template was given them, else names where both have any."""
    run, turn, round_ = place
    given_to_template = tools_of(run.started.conversation_format.get("tools"))
    recorded, now = sorted(run.started.tools), sorted(str(each.get("name")) for each in tools)
    difference = PlaybackDifference(
        turn=turn.number,
        round=round_.number,
        what="the tools",
        recorded=", ".join(recorded),
        now=", ".join(now),
    )
    if given_to_template:
        schemas = compare_texts(*map(_json, (given_to_template, tools)))
        if schemas is not None:
            yield replace(difference, text=schemas, recorded="", now="")
    elif recorded and now and recorded != now:
        yield difference


def _json(schemas: Sequence[Mapping[str, Any]]) -> str:
    plain = [plain_value(dict(each)) for each in schemas]
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, default=dict)
