"""A history of which the ids are the truth and the text is a projection.

A chat template knows only texts. What it writes for new messages is encoded and put behind the ids
that the model has really seen: a reply is never decoded and encoded again. Where the template
leaves no such text, the whole prompt is encoded anew and the prompt says why.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import encode, escape_control_tokens, unescape
from tokentape.generation.history.chat_template import ChatTemplate
from tokentape.generation.history.continuation import EncodedContinuation, Part, encode_continuation
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.pruning import Pruning, without
from tokentape.generation.history.segments import Segment, Span, continued, ids_of, spans_of
from tokentape.recorder.events import HistoryPruned, MessageAdded

HISTORIES = ("exact", "template")
OWN_PROMPT = "own_prompt"

ReadReply = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Everything that a turn reads, as a pointer into what was there; see `TurnStarted`.

    `segments` are the conversation with this prompt at its end; none where it is no part of one.
    `pruning` is what is taken out of the stream first.
    """

    ids: tuple[int, ...]
    text: str
    messages: tuple[MessageAdded, ...]
    kept_tokens: int
    kept_chars: int
    added_ids: tuple[int, ...]
    added_text: str
    history_reason: str
    segments: tuple[Segment, ...] = field(default=(), repr=False)
    pruning: Pruning | None = None
    stream_tokens: int = 0

    def events(self, turn: int) -> tuple[HistoryPruned | MessageAdded, ...]:
        """What is recorded of the prompt before its turn starts."""
        if self.pruning is None:
            return self.messages
        return (self.pruning.pruned_event(turn, self.stream_tokens), *self.messages)


class Conversation:
    """What the model has before it: `ids` and `text` of the stream, and the messages in it.

    With the `exact` history the ids that are there are only ever extended, or the prompt says why
    not. With `template` each prompt is what `apply_chat_template` gives for the messages as they
    read then: its ids may differ from those that were sampled, and thinking may be stripped.

    `read_reply` turns the text of a reply into the message that the template is given for it
    later, for instance with `tool_calls`. `tools` are JSON schemas and `template_settings` are
    variables of the template; both are given to it at every render. Raises PromptError for another
    history, or settings that are not the template's.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        history: str = "exact",
        read_reply: ReadReply | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        template_settings: Mapping[str, Any] | None = None,
    ) -> None:
        if history not in HISTORIES:
            raise PromptError(f"a history is 'exact' or 'template', not {history!r}")
        self.tokenizer = tokenizer
        self.history = history
        self.ids: tuple[int, ...] = ()
        self.text = ""
        self._template = ChatTemplate(tokenizer, tuple(tools), dict(template_settings or {}))
        self._read_reply = read_reply
        self._system: tuple[Segment, ...] = ()
        self._segments: tuple[Segment, ...] = ()
        self._under_way: Prompt | None = None
        self._elsewhere = ""

    @property
    def system_prompt(self) -> str | None:
        """What the conversation began with, if it began with one."""
        return self._system[0].messages[0]["content"] if self._system else None

    @property
    def system_ids(self) -> tuple[int, ...]:
        return ids_of(self._system)

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """What the template is given: those of turns that finished, as they read for it."""
        return [message for segment in self._segments for message in segment.messages]

    def restart(self, system_prompt: str) -> None:
        """Begin anew with a system prompt, as the template writes it; without one, as it is.

        A template may have no text for it until there is a user's message: then there are no ids
        yet.
        """
        message = {"role": "system", "content": system_prompt}
        if self.tokenizer.chat_template is None:
            escaped = escape_control_tokens(self.tokenizer, system_prompt)
            ids = encode(self.tokenizer, escaped, add_special_tokens=True)
            text = self._spell(ids)
        else:
            escaped = self._template.render_system_prompt(message)
            ids, text = encode(self.tokenizer, escaped), unescape(escaped)
        self._system = (
            Segment(
                role="system", turn=0, messages=(message,), ids=ids, escaped=escaped, text=text
            ),
        )
        self._segments = self._system
        self.ids, self.text = ids, text
        self._elsewhere = ""

    def fresh(self) -> "Conversation":
        """An empty conversation of the same kind."""
        begun = copy.copy(self)
        begun._system, begun._segments = (), ()
        begun.ids, begun.text = (), ""
        begun._under_way, begun._elsewhere = None, ""
        return begun

    def fork(self) -> "Conversation":
        """A conversation that goes on from here on its own."""
        return copy.copy(self)

    def follow(self, other: "Conversation") -> None:
        """Point into the stream that another conversation left: a recording has only one."""
        if other is not self:
            self.ids, self.text = other.ids, other.text
            self._elsewhere = "switched_branch"

    def extend(self, new: Sequence[NewMessage]) -> Prompt:
        """The prompt of the next turn: all that was, the new messages, and the turn's opening.

        Raises PromptError where the template refuses the messages, and for text that cannot be
        encoded.
        """
        if self.history == "template":
            return self._render_whole(new, reason="template")
        written = "".join(segment.escaped for segment in self._segments)
        continuation = self._template.continuation(
            self.messages,
            [message.templated() for message in new],
            written=written,
            stop_text=self._segments[-1].stop_text if self._segments else "",
        )
        if continuation is None:
            return self._render_whole(new, reason="template_rewrote_history")
        encoded = encode_continuation(self.tokenizer, written, continuation)
        if encoded is None:
            return self._render_whole(new, reason="tokens_join_across_messages")
        return self._extended(new, encoded)

    def spans(self) -> tuple[Span, ...]:
        """Where the parts of the conversation lie.

        With the `template` history, which has no such parts, it is what they take up about.
        """
        if self.history == "exact":
            tokens = accumulate(len(segment.ids) for segment in self._segments)
            chars = accumulate(len(segment.text) for segment in self._segments)
            return spans_of(self._segments, zip(tokens, chars, strict=True))
        ends = [(0, 0)]
        messages: list[Mapping[str, Any]] = []
        for segment in self._segments:
            messages += segment.messages
            whole = self._template.try_render(messages)
            tokens_end = 0 if whole is None else len(encode(self.tokenizer, whole))
            chars_end = 0 if whole is None else len(unescape(whole))
            ends.append((max(ends[-1][0], tokens_end), max(ends[-1][1], chars_end)))
        return spans_of(self._segments, ends[1:])

    def prune(self, pruning: Pruning) -> None:
        """Take parts out of the conversation, and their ranges out of the stream."""
        self._segments = tuple(
            segment for place, segment in enumerate(self._segments) if place not in pruning.segments
        )
        self.ids = without(self.ids, pruning.removed_tokens)
        self.text = "".join(without(self.text, pruning.removed_chars))

    def extend_pruned(self, new: Sequence[NewMessage], pruning: Pruning) -> Prompt:
        """The prompt of the next turn behind what a pruning of the `spans` leaves.

        Nothing changes before the turn begins. Raises as `extend` does.
        """
        pruned = copy.copy(self)
        if self.history == "template" or self._elsewhere:
            # The spans are not those of the stream: what the prompt does not begin with goes.
            kept = replace(pruning, removed_tokens=(), removed_chars=())
            pruned.prune(kept)
            prompt = pruned.extend(new)
            pruning = replace(
                pruning,
                removed_tokens=_rest(prompt.kept_tokens, self.ids),
                removed_chars=_rest(prompt.kept_chars, self.text),
            )
        else:
            pruned.prune(pruning)
            prompt = pruned.extend(new)
        return replace(prompt, pruning=pruning, stream_tokens=len(self.ids))

    def own_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        """A prompt that stands alone behind the system prompt: a user's message, or plain ids.

        It is no part of the conversation that `extend` goes on with. Raises PromptError for an
        empty one, for text that cannot be encoded, and for what is neither a string nor a sequence
        of token ids.
        """
        if not isinstance(prompt, str):
            ids = _token_ids(prompt)
            return self._point_to(ids, self._spell(ids), reason=OWN_PROMPT)
        if not prompt.strip():
            raise PromptError("the prompt is empty: there is nothing to continue")
        message = NewMessage(role="user", content=prompt)
        if self.tokenizer.chat_template is None:
            escaped = escape_control_tokens(self.tokenizer, prompt)
            # A beginning-of-sequence token belongs before whatever comes first.
            rest = encode(self.tokenizer, escaped, add_special_tokens=not self.system_ids)
            ids = (*self.system_ids, *rest)
            return self._point_to(ids, self._spell(ids), [message], reason=OWN_PROMPT)
        alone = copy.copy(self)
        alone._segments = self._system
        own = alone.extend([message])
        return self._point_to(own.ids, own.text, [message], reason=OWN_PROMPT)

    def begin_turn(self, prompt: Prompt) -> None:
        """The prompt was given to the model."""
        if prompt.pruning is not None:
            self.prune(prompt.pruning)
        self.ids, self.text = prompt.ids, prompt.text
        self._under_way = prompt
        self._elsewhere = "after_unfinished_turn" if prompt.segments else "after_own_prompt"

    def finish_turn(self, reply_ids: Sequence[int], text: str, stop_text: str) -> None:
        """The model replied. Messages join the conversation only now: a turn may break off."""
        self.ids = (*self.ids, *reply_ids)
        self.text += text + stop_text
        if self._under_way is None or not self._under_way.segments:
            return
        *before, opened = self._under_way.segments
        self._under_way, self._elsewhere = None, ""
        message: Mapping[str, Any] = {"role": "assistant", "content": text}
        self._segments = (*before, opened.answered(reply_ids, text, stop_text, message))
        if self._read_reply is not None:
            # What it raises finds the turn finished, as it is in the recording.
            message = {**message, **self._read_reply(text), "role": "assistant"}
            self._segments = (*before, opened.answered(reply_ids, text, stop_text, message))

    def _extended(self, new: Sequence[NewMessage], following: EncodedContinuation) -> Prompt:
        """A prompt of which every id of the conversation is kept."""
        added, opening = following.added, following.turn_opening
        behind = sum((*added, opening), Part())
        ids = (*ids_of(self._segments), *behind.ids)
        text = "".join(segment.text for segment in self._segments) + behind.text
        segments = continued(self._segments, new, following)
        if self._elsewhere:
            return self._point_to(ids, text, new, reason=self._elsewhere, segments=segments)
        return Prompt(
            ids=ids,
            text=text,
            messages=tuple(
                message.added(part.text, part.ids)
                for message, part in zip(new, added or [Part()] * len(new), strict=True)
            ),
            kept_tokens=len(ids) - len(opening.ids),
            kept_chars=len(text) - len(opening.text),
            added_ids=opening.ids,
            added_text=opening.text,
            history_reason="",
            segments=segments,
        )

    def _render_whole(self, new: Sequence[NewMessage], *, reason: str) -> Prompt:
        """A prompt that is what the template writes now for all the messages."""
        templated = [message.templated() for message in new]
        whole = self._template.render([*self.messages, *templated], open_turn=True)
        ids, text = encode(self.tokenizer, whole), unescape(whole)
        if self.history == "template":
            extends = ids[: len(self.ids)] == self.ids and text.startswith(self.text)
            parts = [Part()] * len(new)
            following = EncodedContinuation(closing=Part(), messages=tuple(parts), opening=Part())
            segments = continued(self._segments, new, following)
            return self._point_to(
                ids, text, new, reason="" if extends else reason, segments=segments
            )
        messages = (*self.messages, *templated)
        everything = Segment.of("history", 0, Part(whole, ids), *messages)
        return self._point_to(ids, text, new, reason=reason, segments=(everything,))

    def _point_to(
        self,
        ids: tuple[int, ...],
        text: str,
        new: Sequence[NewMessage] = (),
        *,
        reason: str,
        segments: tuple[Segment, ...] = (),
    ) -> Prompt:
        """A prompt of its own, of which as much as is equal points into the stream."""
        kept_tokens = common_prefix_length(self.ids, ids)
        kept_chars = common_prefix_length(self.text, text)
        return Prompt(
            ids=ids,
            text=text,
            messages=tuple(message.added() for message in new),
            kept_tokens=kept_tokens,
            kept_chars=kept_chars,
            added_ids=ids[kept_tokens:],
            added_text=text[kept_chars:],
            history_reason=reason,
            segments=segments,
        )

    def _spell(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def _rest(kept: int, stream: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    return ((kept, len(stream)),) if kept < len(stream) else ()


def decode_after(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]
) -> str:
    """What the ids spell in their place: some tokenizers drop a space at the very beginning.

    A character that begins in `before` and ends in `ids` is given to the ids.
    """
    lead = list(before[-4:])
    led = str(tokenizer.decode(lead, skip_special_tokens=False))
    both = str(tokenizer.decode([*lead, *ids], skip_special_tokens=False))
    return both[common_prefix_length(led, both) :]


def _token_ids(prompt: object) -> tuple[int, ...]:
    """Ids from a sequence or a tensor of one row. Raises PromptError for anything else."""
    plain = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if isinstance(plain, Sequence) and len(plain) == 1 and isinstance(plain[0], list):
        plain = plain[0]
    if not isinstance(plain, Sequence) or isinstance(plain, bytes):
        raise PromptError(f"a prompt is a string or token ids, not a {type(prompt).__name__}")
    for each in plain:
        if isinstance(each, bool) or not isinstance(each, int) or each < 0:
            raise PromptError(f"a prompt holds token ids, and this is none: {each!r}")
    return tuple(plain)
