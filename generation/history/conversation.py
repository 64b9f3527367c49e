"""A conversation as the token ids that the model has seen.

A chat template works on texts. The suffix that it writes for new messages is encoded and appended
to the ids, so that a sampled reply is never decoded and encoded again. If the template provides no
such suffix, the complete prompt is encoded again, and the prompt records the reason.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import encode, escape_control_tokens, unescape
from tokentape.generation.history.chat_template import ChatTemplate
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.messages import Message, NewMessage
from tokentape.generation.history.prompt import OWN_PROMPT, Prompt, prompt_over
from tokentape.generation.history.prompt_ids import prompt_token_ids
from tokentape.generation.history.pruning import Pruning, remove_ranges
from tokentape.generation.history.recorded_prompts import (
    prompt_as_recorded,
    recorded_system_prompt,
)
from tokentape.generation.history.segments import (
    Segment,
    SegmentRange,
    append_suffix,
    ids_of,
    ranges_of,
    with_messages_only,
)
from tokentape.generation.history.suffix import EncodedSuffix, EncodedText, encode_suffix
from tokentape.generation.history.system_prefix import encode_system_prefix
from tokentape.generation.history.written_texts import check_written
from tokentape.generation.run_settings import HISTORIES
from tokentape.recorder.events import SystemPromptCached
from tokentape.recorder.projections import Turn

ReadReply = Callable[[str], Mapping[str, Any]]


class Conversation:
    """The messages of a conversation, and the `ids` and `text` of the stream that contains them.

    With `history="exact"`, prompts extend the ids of the stream, or record why not. With
    `history="template"`, each prompt is the rendering of all messages by `apply_chat_template`: its
    ids may differ from the sampled ones, and thinking may be stripped.

    `read_reply` returns the message for a reply, e.g. with `tool_calls`, from its text. `tools` are
    JSON schemas and `template_settings` are variables; the template gets both in every rendering.
    `conversation_format` says how it gets the messages, and has the tools if `tools` is empty.
    Raise PromptError for another history and for reserved template settings.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        history: str = "exact",
        read_reply: ReadReply | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        template_settings: Mapping[str, Any] | None = None,
        conversation_format: ConversationFormat | None = None,
    ) -> None:
        if history not in HISTORIES:
            raise PromptError(f"history must be 'exact' or 'template', not {history!r}")
        self.tokenizer = tokenizer
        self.history = history
        self.ids: tuple[int, ...] = ()
        self.text = ""
        self.format = conversation_format or ConversationFormat()
        self._template = ChatTemplate(
            tokenizer, tuple(tools or self.format.tools), dict(template_settings or {}), self.format
        )
        self._read_reply = read_reply
        self._system: tuple[Segment, ...] = ()
        self._segments: tuple[Segment, ...] = ()
        self._current_prompt: Prompt | None = None
        # Why the stream does not end with this conversation; empty if it does.
        self._detached_reason = ""
        # The stream after the last finished turn of this conversation.
        self._finished: EncodedText | None = None

    @property
    def system_prompt(self) -> str | None:
        """The system prompt, or None without one."""
        return self._system[0].messages[0]["content"] if self._system else None

    @property
    def system_ids(self) -> tuple[int, ...]:
        """The ids of the system prompt; empty if the template writes it with the first message."""
        return ids_of(self._system)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of all finished turns, as the template gets them."""
        return self.format.apply(self._messages)

    @property
    def _messages(self) -> list[Message]:
        return [message for segment in self._segments for message in segment.messages]

    def restart(self, system_prompt: str) -> None:
        """Reset the conversation to a system prompt, rendered by the template if there is one.

        There are no ids yet if the template renders the system prompt only with a user's message.
        An empty system prompt leaves the conversation empty. Raise PromptError if the template
        rejects the system prompt or leaves it out.
        """
        message: Message = {"role": "system", "content": system_prompt}
        is_complete = True
        if not system_prompt:
            self._begin_with(())
            return
        if self.tokenizer.chat_template is None:
            escaped = escape_control_tokens(self.tokenizer, system_prompt)
            ids = encode(self.tokenizer, escaped, add_special_tokens=True)
            text = self._decode(ids)
        else:
            prefix, is_complete = encode_system_prefix(self._template, message)
            escaped, ids, text = prefix.escaped, prefix.ids, prefix.text
        segment = Segment(
            # A prefix that ends within the first message is removed by no pruning.
            role="system" if is_complete else "prefix",
            turn=0,
            messages=(message,),
            ids=ids,
            escaped=escaped,
            text=text,
        )
        self._begin_with((segment,))

    def restart_as_recorded(self, system: SystemPromptCached) -> None:
        """Reset the conversation to a recorded system prompt, which is not rendered again."""
        self._begin_with(recorded_system_prompt(self._template, system))

    def _begin_with(self, system: tuple[Segment, ...]) -> None:
        self._system = self._segments = system
        self._finished = None
        self.ids, self.text = ids_of(system), "".join(segment.text for segment in system)
        self._detached_reason = ""

    def fresh(self) -> "Conversation":
        """Return an empty conversation with the same settings."""
        empty = copy.copy(self)
        empty._system, empty._segments = (), ()
        empty.ids, empty.text = (), ""
        empty._current_prompt, empty._detached_reason, empty._finished = None, "", None
        return empty

    def fork(self) -> "Conversation":
        """Return an independent copy."""
        return copy.copy(self)

    def follow(self, other: "Conversation") -> None:
        """Use the stream of another conversation, because a recording has a single stream."""
        if other is not self:
            self.ids, self.text = other.ids, other.text
            self._detached_reason = "switched_branch"

    def extend(self, new: Sequence[NewMessage]) -> Prompt:
        """Return the prompt of the next turn: history, new messages and the reply's opening.

        Raise PromptError if the template rejects the messages or leaves out their texts, and for
        text that cannot be encoded.
        """
        if self.history == "template":
            prompt = self._rendered(new)
            written = prompt.text
        else:
            history_text = "".join(segment.escaped for segment in self._segments)
            found = self._suffix(new, history_text)
            if isinstance(found, str):
                prompt = self._render_all(new, reason=found)
                written = prompt.text
            else:
                prompt = self._extended(new, found)
                written = prompt.text[sum(len(segment.text) for segment in self._segments) :]
        check_written(((each.description, each.content) for each in new), written)
        if self._system and self._segments == self._system:
            check_written([("the system prompt", self.system_prompt or "")], prompt.text)
        return prompt

    def _suffix(self, new: Sequence[NewMessage], history_text: str) -> EncodedSuffix | str:
        """Return what the template appends to the history, or the reason why that is not known."""
        suffix = self._template.suffix(
            self._messages,
            [message.to_message() for message in new],
            history_text=history_text,
            stop_text=self._segments[-1].stop_text if self._segments else "",
        )
        if suffix is None:
            return "template_rewrote_history"
        encoded = encode_suffix(self.tokenizer, history_text, suffix)
        return "tokens_join_across_messages" if encoded is None else encoded

    def as_recorded(self, turn: Turn, new: Sequence[NewMessage]) -> Prompt:
        """Return the recorded prompt of the next turn, which is not rendered again.

        `new` are its messages.
        """
        return prompt_as_recorded(self.tokenizer, self._segments, turn, new, history=self.history)

    def segment_ranges(self) -> tuple[SegmentRange, ...]:
        """Return the position of each segment in the stream.

        With `history="template"`, whose segments have no ids, the positions are estimates.
        """
        if self.history == "exact":
            tokens = accumulate(len(segment.ids) for segment in self._segments)
            chars = accumulate(len(segment.text) for segment in self._segments)
            return ranges_of(self._segments, zip(tokens, chars, strict=True))
        ends = [(0, 0)]
        messages: list[Mapping[str, Any]] = []
        for segment in self._segments:
            messages += segment.messages
            rendered = self._template.try_render(messages)
            tokens_end = 0 if rendered is None else len(encode(self.tokenizer, rendered))
            chars_end = 0 if rendered is None else len(unescape(rendered))
            ends.append((max(ends[-1][0], tokens_end), max(ends[-1][1], chars_end)))
        return ranges_of(self._segments, ends[1:])

    def prune(self, pruning: Pruning) -> None:
        """Remove segments from the conversation, and their ranges from the stream."""
        self._segments = tuple(
            segment for index, segment in enumerate(self._segments) if index not in pruning.segments
        )
        self.ids = remove_ranges(self.ids, pruning.removed_tokens)
        self.text = "".join(remove_ranges(self.text, pruning.removed_chars))
        self._finished = None

    def extend_pruned(self, new: Sequence[NewMessage], pruning: Pruning) -> Prompt:
        """Return the prompt of the next turn after a pruning of the `segment_ranges`.

        The conversation is not modified before `begin_turn`. Raise PromptError as `extend` does.
        """
        pruned = copy.copy(self)
        if self.history == "template" or self._detached_reason:
            # The ranges are not those of the stream: all that the prompt does not share is removed.
            pruned.prune(replace(pruning, removed_tokens=(), removed_chars=()))
            prompt = pruned.extend(new)
            pruning = replace(
                pruning,
                removed_tokens=_tail(prompt.kept_tokens, self.ids),
                removed_chars=_tail(prompt.kept_chars, self.text),
            )
        else:
            pruned.prune(pruning)
            prompt = pruned.extend(new)
        return replace(prompt, pruning=pruning, stream_tokens=len(self.ids))

    def own_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        """Return a prompt outside of the conversation: the system prompt and a message, or ids.

        Raise PromptError if it is empty, cannot be encoded, or is neither a string nor a sequence
        of token ids.
        """
        if not isinstance(prompt, str):
            ids = prompt_token_ids(prompt)
            return self._point_to(ids, self._decode(ids), reason=OWN_PROMPT)
        if not prompt.strip():
            raise PromptError("the prompt is empty: there is nothing to continue")
        message = NewMessage(role="user", content=prompt)
        if self.tokenizer.chat_template is None:
            escaped = escape_control_tokens(self.tokenizer, prompt)
            # Only the first text of a sequence gets a beginning-of-sequence token.
            rest = encode(self.tokenizer, escaped, add_special_tokens=not self.system_ids)
            ids = (*self.system_ids, *rest)
            return self._point_to(ids, self._decode(ids), [message], reason=OWN_PROMPT)
        alone = copy.copy(self)
        alone._segments = self._system
        own = alone.extend([message])
        return self._point_to(own.ids, own.text, [message], reason=OWN_PROMPT)

    def begin_turn(self, prompt: Prompt) -> None:
        """Start the turn of a prompt: the stream now ends with the prompt."""
        if prompt.pruning is not None:
            self.prune(prompt.pruning)
        self.ids, self.text = prompt.ids, prompt.text
        self._current_prompt = prompt
        self._detached_reason = "after_unfinished_turn" if prompt.segments else "after_own_prompt"

    def finish_turn(self, reply_ids: Sequence[int], text: str, stop_text: str) -> None:
        """Append the reply to the stream, and the messages of the turn to the conversation.

        An unfinished turn therefore leaves the conversation unchanged.
        """
        self.ids = (*self.ids, *reply_ids)
        self.text += text + stop_text
        if self._current_prompt is None or not self._current_prompt.segments:
            return
        *before, opened = self._current_prompt.segments
        self._current_prompt, self._detached_reason = None, ""
        self._finished = EncodedText(self.text, self.ids)
        message: Mapping[str, Any] = {"role": "assistant", "content": text}
        self._segments = (*before, opened.with_reply(reply_ids, text, stop_text, message))
        if self._read_reply is not None:
            # If this raises, the turn is finished, as in the recording.
            message = {**message, **self._read_reply(text), "role": "assistant"}
            self._segments = (*before, opened.with_reply(reply_ids, text, stop_text, message))

    def _extended(self, new: Sequence[NewMessage], suffix: EncodedSuffix) -> Prompt:
        """Return a prompt of all ids of the conversation and a suffix."""
        added, opening = suffix.added, suffix.turn_opening
        appended = sum((*added, opening), EncodedText())
        ids = (*ids_of(self._segments), *appended.ids)
        text = "".join(segment.text for segment in self._segments) + appended.text
        segments = append_suffix(self._segments, new, suffix)
        if self._detached_reason:
            return self._point_to(ids, text, new, reason=self._detached_reason, segments=segments)
        return Prompt(
            ids=ids,
            text=text,
            messages=tuple(
                message.added(encoded.text, encoded.ids)
                for message, encoded in zip(new, added or [EncodedText()] * len(new), strict=True)
            ),
            kept_tokens=len(ids) - len(opening.ids),
            kept_chars=len(text) - len(opening.text),
            added_ids=opening.ids,
            added_text=opening.text,
            history_reason="",
            segments=segments,
        )

    def _rendered(self, new: Sequence[NewMessage]) -> Prompt:
        """Return the rendering of all messages, or an extension if that rejects an old reply."""
        try:
            return self._render_all(new, reason="template")
        except PromptError:
            found = None if self._finished is None else self._suffix(new, self._finished.escaped)
            if self._finished is None or not isinstance(found, EncodedSuffix):
                raise
        whole = sum((*found.added, found.turn_opening), self._finished)
        reason = self._detached_reason
        segments = with_messages_only(self._segments, new)
        return self._point_to(whole.ids, whole.text, new, reason=reason, segments=segments)

    def _render_all(self, new: Sequence[NewMessage], *, reason: str) -> Prompt:
        """Return a prompt that is the current rendering of all messages."""
        templated = [message.to_message() for message in new]
        rendered = self._template.render([*self._messages, *templated], open_turn=True)
        ids, text = encode(self.tokenizer, rendered), unescape(rendered)
        if self.history == "template":
            extends = ids[: len(self.ids)] == self.ids and text.startswith(self.text)
            segments = with_messages_only(self._segments, new)
            return self._point_to(
                ids, text, new, reason="" if extends else reason, segments=segments
            )
        messages = (*self._messages, *templated)
        everything = Segment.of("history", 0, EncodedText(rendered, ids), *messages)
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
        """Return a prompt with these ids that shares the common prefix with the stream."""
        stream = EncodedText(self.text, self.ids)
        return prompt_over(stream, ids, text, new, reason=reason, segments=segments)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def _tail(kept: int, stream: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    return ((kept, len(stream)),) if kept < len(stream) else ()
