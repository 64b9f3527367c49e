"""The messages that a recorded round answers, and their comparison with those of a request."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from tokentape.generation.tools.descriptions import describe_tool
from tokentape.recorder.chat_messages import ASSISTANT, SYSTEM, TOOL, USER, ChatMessage
from tokentape.recorder.events import MessageAdded, StopReason, SystemPromptCached
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.short_forms import quoted
from tokentape.replay.playback.differences import PlaybackDifference
from tokentape.replay.playback.recorded_turns import (
    RecordedCall,
    RecordedRound,
    RecordedRun,
    RecordedTurn,
)
from tokentape.replay.playback.token_places import TokenPlace, place_in_message
from tokentape.replay.run_diff.diff_types import TextDifference
from tokentape.replay.run_diff.turn_diff import compare_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMessage:
    """A message of a conversation, and the round whose prompt it was added to."""

    role: str
    content: str
    calls: tuple[RecordedCall, ...] = ()
    """The calls in a reply."""
    added: MessageAdded | SystemPromptCached | None = None
    """None for a reply."""
    round_: RecordedRound
    """The round of a reply, else the first one whose prompt has the message."""


def transcript(run: RecordedRun, target: RecordedRound) -> list[RecordedMessage]:
    """Return the messages that a round answers, the system prompt first."""
    found: list[RecordedMessage] = []
    system: SystemPromptCached | None = None
    for turn, each in run.rounds():
        begins = each.number == 1 and each.is_own_prompt
        if not found or each.system is not system or begins:
            system, found = each.system, _system_of(each)
        found += _added_by(each)
        if each is target:
            break
        found.append(reply_of(turn, each))
    return found


def reply_of(turn: RecordedTurn, round_: RecordedRound) -> RecordedMessage:
    """Return the reply of a round: its text without the calls, and the calls."""
    return RecordedMessage(
        role=ASSISTANT, content=said_by(round_), calls=round_.calls, round_=round_
    )


def said_by(round_: RecordedRound) -> str:
    """Return the text of a reply as a client gets it: without tool calls and stop string."""
    text = round_.text
    for call in round_.calls:
        text = text.replace(call.called.text, "", 1) if call.called.text else text
    finished = round_.turn.finished
    if finished is not None and finished.stop_reason == StopReason.STOP_STRING:
        stops = round_.turn.started.sampling.get("stop_strings") or ()
        given = [stops] if isinstance(stops, str) else list(stops)
        ends = [at for at in (text.find(each) for each in given) if at >= 0]
        text = text[: min(ends, default=len(text))]
    return text.rstrip() if round_.calls else text


def _system_of(round_: RecordedRound) -> list[RecordedMessage]:
    system = round_.system
    if system is None or not system.content:
        return []
    return [RecordedMessage(role=SYSTEM, content=system.content, added=system, round_=round_)]


def _added_by(round_: RecordedRound) -> Iterator[RecordedMessage]:
    for each in round_.turn.messages:
        role = TOOL if each.tool_call_id is not None else each.role
        yield RecordedMessage(role=role, content=each.content, added=each, round_=round_)


def compare_messages(
    run: RecordedRun,
    turn: RecordedTurn,
    target: RecordedRound,
    given: Sequence[ChatMessage],
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[int, PlaybackDifference | None]:
    """Return how many messages of a request agree with those of a round, and the first other.

    `tools` are the schemas of the request's tools, which a system prompt may describe.
    """
    recorded = transcript(run, target)
    given = _with_one_system_prompt(given, recorded, tools)
    for index, (old, new) in enumerate(zip_longest(recorded, given)):
        found = _compare(old, new)
        if found is None:
            continue
        where = PlaybackDifference(
            turn=turn.number, round=target.number, what=f"messages[{index}], {found.what}"
        )
        if not isinstance(found.text, TextDifference) or old is None:
            return index, replace(where, recorded=found.recorded, now=found.now)
        place = _place(run, target, old, found.text)
        return index, replace(where, text=found.text, place=place)
    return len(given), None


def _with_one_system_prompt(
    given: Sequence[ChatMessage],
    recorded: Sequence[RecordedMessage],
    tools: Sequence[Mapping[str, Any]],
) -> list[ChatMessage]:
    """Return messages with their system prompt as a run records it: in one, with the tools.

    A run whose template does not describe tools describes them in its system prompt.
    """
    first = next((i for i, each in enumerate(given) if each.role != SYSTEM), len(given))
    text = "\n\n".join(each.content for each in given[:first])
    if tools and recorded and recorded[0].role == SYSTEM and _DESCRIBED in recorded[0].content:
        described = "\n\n".join(map(describe_tool, tools))
        text = f"{text}\n\n{_DESCRIBED}{described}".lstrip("\n")
        if recorded[0].content.startswith(f"{text}\n\n"):
            # How the model writes its calls follows from its tokenizer.
            text = recorded[0].content
    system = [ChatMessage(role=SYSTEM, content=text)] if text else []
    return [*system, *given[first:]]


_DESCRIBED = "You can call these tools:\n\n"
"""As in `tokentape.generation.completions.client_run`, which imports torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unequal:
    what: str
    text: TextDifference | None = None
    recorded: str = ""
    now: str = ""


def _compare(old: RecordedMessage | None, new: ChatMessage | None) -> _Unequal | None:
    """Return the first difference of two messages; None is a side that has no such message."""
    if old is None or new is None:
        role = (old or new).role  # type: ignore[union-attr]
        sides = [quoted(each.content) if each is not None else "" for each in (old, new)]
        return _Unequal(what=f"role {role}", recorded=sides[0], now=sides[1])
    if old.role != new.role:
        return _Unequal(what="its role", recorded=old.role, now=new.role)
    texts = [old.content]
    if old.role == ASSISTANT:
        # An application may keep the calls in the text, or the blanks around it.
        texts += [old.content.strip(), old.round_.text, old.round_.text.strip()]
    if new.content not in texts and not _spells_calls(old, new):
        return _Unequal(what=_NAMES[old.role], text=compare_texts(old.content, new.content))
    return _compare_calls(old, new)


_NAMES = {
    SYSTEM: "the system prompt",
    USER: "the user's message",
    ASSISTANT: "the model's reply",
    TOOL: "the tool's result",
}


def _spells_calls(old: RecordedMessage, new: ChatMessage) -> bool:
    """Return whether a client's own reply was recorded with its calls as the model writes them.

    That spelling needs the tokenizer: of the calls only their names are compared.
    """
    if old.role != ASSISTANT or old.added is None or not new.tool_calls:
        return False
    rest = old.content.removeprefix(new.content)
    return old.content.startswith(new.content) and all(c.name in rest for c in new.tool_calls)


def _compare_calls(old: RecordedMessage, new: ChatMessage) -> _Unequal | None:
    if _spells_calls(old, new):
        return None
    recorded = [_shown(each.called.name, each.called.arguments) for each in old.calls]
    now = [_shown(each.name, each.arguments) for each in new.tool_calls]
    if recorded != now and not (new.content == old.round_.text and not now):
        return _Unequal(what="its tool calls", recorded=", ".join(recorded), now=", ".join(now))
    recorded_id = old.added.tool_call_id if isinstance(old.added, MessageAdded) else None
    if old.role == TOOL and recorded_id != new.tool_call_id:
        return _Unequal(
            what="its tool_call_id", recorded=repr(recorded_id), now=repr(new.tool_call_id)
        )
    return None


def _shown(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name} {json.dumps(plain_value(dict(arguments)), sort_keys=True, default=repr)}"


def _place(
    run: RecordedRun, target: RecordedRound, old: RecordedMessage, text: TextDifference
) -> TokenPlace | None:
    """Return the token in the prompt of the target, if the message is there at the same index."""
    if old.added is None:
        return None
    found = place_in_message(old.round_, old.added, text.index, run.texts)
    if found is None:
        return None
    end = found.last + 1
    same = old.round_.turn.prompt_ids[:end] == target.turn.prompt_ids[:end]
    return found if same else None
