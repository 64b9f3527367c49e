"""A history of which the ids are the truth and the text is a projection.

A chat template knows only texts. What it writes for new messages is cut out of what it writes for
the whole conversation, encoded, and put behind the ids that the model has really seen: a reply is
never decoded and encoded again. Where the template does not leave the past as it was, the whole
prompt is encoded anew and the prompt says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from generation.cache import common_prefix_length
from generation.errors import PromptError
from recorder.events import MessageAdded

# Enough text before a new part for its first token to come out as it would in its place.
_ANCHOR_CHARS = 80

OWN_PROMPT = "own_prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that is to be put before the model."""

    role: str
    content: str
    tool_call_id: str | None = None

    def added(self, text: str = "", ids: tuple[int, ...] = ()) -> MessageAdded:
        return MessageAdded(
            role=self.role,
            content=self.content,
            text=text,
            ids=ids,
            tool_call_id=self.tool_call_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Everything that a turn reads, as a pointer into what was there; see `TurnStarted`."""

    ids: tuple[int, ...]
    text: str
    messages: tuple[MessageAdded, ...]
    kept_tokens: int
    kept_chars: int
    added_ids: tuple[int, ...]
    added_text: str
    history_reason: str


@dataclass(slots=True)
class Conversation:
    """What the model has before it: `ids` and `text` of the stream, and the messages in it.

    `system_prompt` and `system_ids` are what it began with, if it began with one.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None = None
    system_ids: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    text: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    _unanswered: tuple[MessageAdded, ...] | None = None

    def restart(self, system_prompt: str) -> None:
        """Begin anew with a system prompt, as the template writes it; without one, as it is.

        A template may write nothing until there is a user's message: then there are no ids yet.
        """
        self.messages = [{"role": "system", "content": system_prompt}]
        if self.tokenizer.chat_template is None:
            self.ids = tuple(self.tokenizer.encode(system_prompt))
            self.text = self._spell(self.ids)
        else:
            self.text = self._render(self.messages)
            self.ids = encode(self.tokenizer, self.text)
        self.system_prompt, self.system_ids = system_prompt, self.ids

    def extend(self, new: Sequence[NewMessage]) -> Prompt:
        """The prompt of the next turn: all that was, the new messages, and the turn's opening.

        Raises PromptError where the template refuses the messages.
        """
        messages = [*self.messages, *({"role": m.role, "content": m.content} for m in new)]
        whole = self._render(messages, open_turn=True)
        if not whole.startswith(self.text):
            ids = encode(self.tokenizer, whole)
            return self.replace(ids, whole, new, reason="template_rewrote_history")
        parts = self._parts(messages, whole, len(new))
        encoded = self._encode_parts(parts)
        if encoded is None:
            # The messages cannot be told apart, but what is new can.
            parts = [whole[len(self.text) :]]
            encoded = self._encode_parts(parts)
        if encoded is None:
            ids = encode(self.tokenizer, whole)
            return self.replace(ids, whole, new, reason="tokens_join_across_messages")
        return self._extended(new, whole, parts, encoded)

    def _extended(
        self,
        new: Sequence[NewMessage],
        whole: str,
        parts: Sequence[str],
        encoded: Sequence[tuple[int, ...]],
    ) -> Prompt:
        """A prompt of which every id that was there is kept; the last part opens the turn."""
        split = len(parts) > 1
        messages = tuple(
            message.added(parts[index], encoded[index]) if split else message.added()
            for index, message in enumerate(new)
        )
        message_ids = sum((message.ids for message in messages), ())
        message_text = "".join(message.text for message in messages)
        return Prompt(
            ids=(*self.ids, *message_ids, *encoded[-1]),
            text=whole,
            messages=messages,
            kept_tokens=len(self.ids) + len(message_ids),
            kept_chars=len(self.text) + len(message_text),
            added_ids=encoded[-1],
            added_text=parts[-1],
            history_reason="",
        )

    def replace(
        self, ids: tuple[int, ...], text: str, new: Sequence[NewMessage], *, reason: str
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
        )

    def own_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        """A prompt that stands alone behind the system prompt: a user's message, or plain ids.

        It is no part of the conversation that `extend` goes on with. Raises PromptError for an
        empty one, and for what is neither a string nor a sequence of token ids.
        """
        if not isinstance(prompt, str):
            ids = _token_ids(prompt)
            return self.replace(ids, self._spell(ids), (), reason=OWN_PROMPT)
        if not prompt.strip():
            raise PromptError("the prompt is empty: there is nothing to continue")
        message = NewMessage(role="user", content=prompt)
        if self.tokenizer.chat_template is None:
            # A beginning-of-sequence token belongs before whatever comes first.
            rest = self.tokenizer.encode(prompt, add_special_tokens=not self.system_ids)
            ids = (*self.system_ids, *rest)
            return self.replace(ids, self._spell(ids), (message,), reason=OWN_PROMPT)
        alone = Conversation(self.tokenizer)
        if self.system_prompt is not None:
            alone.restart(self.system_prompt)
        own = alone.extend([message])
        return self.replace(own.ids, own.text, (message,), reason=OWN_PROMPT)

    def begin_turn(self, prompt: Prompt) -> None:
        """The prompt was given to the model."""
        self.ids, self.text = prompt.ids, prompt.text
        self._unanswered = prompt.messages if prompt.history_reason != OWN_PROMPT else None

    def finish_turn(self, reply_ids: Sequence[int], text: str, stop_text: str) -> None:
        """The model replied. Messages join the conversation only now: a turn may break off."""
        self.ids = (*self.ids, *reply_ids)
        self.text += text + stop_text
        if self._unanswered is not None:
            self.messages += [{"role": m.role, "content": m.content} for m in self._unanswered]
            self.messages.append({"role": "assistant", "content": text})

    def _parts(self, messages: Sequence[dict[str, str]], whole: str, count: int) -> list[str]:
        """The text that each new message adds, then that which opens the turn.

        One part with everything where the template does not write message behind message.
        """
        parts, before = [], self.text
        for end in range(len(messages) - count + 1, len(messages) + 1):
            after = self._render(messages[:end])
            if not (after.startswith(before) and whole.startswith(after)):
                return [whole[len(self.text) :]]
            parts.append(after[len(before) :])
            before = after
        return [*parts, whole[len(before) :]]

    def _encode_parts(self, parts: Sequence[str]) -> list[tuple[int, ...]] | None:
        """The ids of each part in its place; None where a token reaches across two of them."""
        text = self.text[-_ANCHOR_CHARS:]
        whole = encode(self.tokenizer, text + "".join(parts))
        ends = []
        for part in ("", *parts):
            text += part
            ids = encode(self.tokenizer, text)
            if ids != whole[: len(ids)]:
                return None
            ends.append(len(ids))
        return [whole[start:end] for start, end in pairwise(ends)]

    def _spell(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _render(self, messages: Sequence[dict[str, str]], *, open_turn: bool = False) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=open_turn
            )
        except Exception as error:  # jinja raises what the template's author chose
            raise PromptError(f"the chat template refuses this conversation: {error}") from None
        return str(rendered)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Ids of a text in which the template has written its special tokens already."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


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
