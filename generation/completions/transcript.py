"""What a client has seen of a run, and how a request of it compares."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokentape.recorder.chat_messages import ASSISTANT, TOOL, ChatMessage, ChatToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTurn:
    """A turn that a client has seen."""

    number: int
    """The turn before which a fork shares the turns before this one."""
    first_message: int
    """Index of the first message that its request added."""
    reply: ChatMessage
    all_calls: tuple[ChatToolCall, ...]
    """The calls of the reply, the malformed ones included, which a client may leave out."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The messages of a run as its client sends them again, after those of the system."""

    messages: tuple[ChatMessage, ...] = ()
    turns: tuple[SeenTurn, ...] = ()

    def with_turn(
        self,
        number: int,
        new: Sequence[ChatMessage],
        reply: ChatMessage,
        all_calls: Sequence[ChatToolCall],
    ) -> "Transcript":
        """Return a copy with the messages of another turn and the reply to them."""
        turn = SeenTurn(
            number=number,
            first_message=len(self.messages),
            reply=reply,
            all_calls=tuple(all_calls),
        )
        return Transcript((*self.messages, *new, reply), (*self.turns, turn))

    def before(self, turns: int) -> "Transcript":
        """Return a copy with the first `turns` turns only."""
        if turns == len(self.turns):
            return self
        return Transcript(self.messages[: self.turns[turns].first_message], self.turns[:turns])

    def shared_turns(self, given: Sequence[ChatMessage]) -> int:
        """Return the number of turns with which the given messages begin, before some new ones."""
        shared = 0
        for turn, end in zip(self.turns, self._ends(), strict=True):
            # The last message is never the reply: something follows it.
            same = len(given) > end and all(
                _is_same(*pair)
                for pair in zip(
                    self.messages[turn.first_message : end - 1],
                    given[turn.first_message : end - 1],
                    strict=True,
                )
            )
            if not same or not _is_reply(turn, given[end - 1]):
                break
            shared += 1
        return shared

    def _ends(self) -> list[int]:
        return [*(turn.first_message for turn in self.turns[1:]), len(self.messages)]


def renamed_results(
    transcript: Transcript, given: Sequence[ChatMessage], new: Sequence[ChatMessage]
) -> list[ChatMessage]:
    """Return the new messages with the recorded ids of calls in place of the client's own.

    `given` are the messages before them, which end with the client's copy of the last reply.
    """
    if not transcript.turns or not given:
        return list(new)
    last, sent = transcript.turns[-1], given[-1].tool_calls
    recorded = last.all_calls if len(sent) == len(last.all_calls) else last.reply.tool_calls
    ids = {mine.call_id: own.call_id for mine, own in zip(sent, recorded, strict=False)}
    renamed = []
    for message in new:
        if message.role == ASSISTANT:
            ids = {}
        if message.role == TOOL and message.tool_call_id in ids:
            message = replace(message, tool_call_id=ids[message.tool_call_id])
        renamed.append(message)
    return renamed


def _is_same(recorded: ChatMessage, given: ChatMessage) -> bool:
    """Return whether two messages are the same; clients may give calls other ids."""
    if (recorded.role, recorded.content) != (given.role, given.content):
        return False
    return _is_same_calls(recorded.tool_calls, given.tool_calls)


def _is_reply(turn: SeenTurn, given: ChatMessage) -> bool:
    """Return whether a message is the reply of a turn.

    Clients strip spaces from its ends, and some leave malformed calls out, or write them otherwise.
    """
    reply = turn.reply
    if given.role != ASSISTANT or given.content.strip() != reply.content.strip():
        return False
    if _is_same_calls(reply.tool_calls, given.tool_calls):
        return True
    well_formed = {each.call_id: each for each in reply.tool_calls}
    return len(given.tool_calls) == len(turn.all_calls) and all(
        sent.call_id == own.call_id and _is_same_calls([well_formed.get(own.call_id, sent)], [sent])
        for sent, own in zip(given.tool_calls, turn.all_calls, strict=True)
    )


def _is_same_calls(recorded: Sequence[ChatToolCall], given: Sequence[ChatToolCall]) -> bool:
    return [_call_key(each) for each in recorded] == [_call_key(each) for each in given]


def _call_key(call: ChatToolCall) -> tuple[str, str]:
    return call.name, json.dumps(dict(call.arguments), sort_keys=True)
