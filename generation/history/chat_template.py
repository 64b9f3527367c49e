"""Rendering of chat templates, and the suffix that a template appends to a history.

Many templates change earlier messages when they render a conversation again: they strip thinking,
trim replies, write the current date, or reformat tool calls. The text after the last reply does not
depend on the reply. It is therefore taken from a rendering in which placeholders replace replies.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import escape_control_tokens
from tokentape.generation.history.suffix import Suffix

Message = Mapping[str, Any]

_RESERVED_ARGUMENTS = frozenset(
    ("conversation", "tools", "add_generation_prompt", "continue_final_message", "tokenize")
)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template with the tools and variables of every rendering.

    Raise PromptError if `settings` contains an argument of `apply_chat_template` that is set here.
    """

    tokenizer: PreTrainedTokenizerBase
    tools: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reserved = sorted(_RESERVED_ARGUMENTS & set(self.settings))
        if reserved:
            raise PromptError(f"template_settings cannot contain {reserved[0]!r}: it is reserved")

    def render(self, messages: Sequence[Message], *, open_turn: bool = False) -> str:
        """Return the text of a conversation, with the users' control tokens escaped.

        Control tokens in replies are not escaped, because they were sampled as such. `open_turn`
        appends the text that begins a reply. Raise PromptError if the template rejects the
        messages.
        """
        escaped = iter(
            escape_control_tokens(self.tokenizer, [dict(m) for m in messages if not _is_reply(m)])
        )
        tools: list[Any] = escape_control_tokens(
            self.tokenizer, [dict(tool) for tool in self.tools]
        )
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(m) if _is_reply(m) else next(escaped) for m in messages],
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=open_turn,
                **self.settings,
            )
        except Exception as error:  # a template can raise any error
            raise PromptError(f"the chat template rejects this conversation: {error}") from None
        return str(rendered)

    def suffix(
        self,
        history: Sequence[Message],
        new: Sequence[Message],
        *,
        history_text: str,
        stop_text: str | None,
    ) -> Suffix | None:
        """Return the text that the template appends to the history for the new messages.

        `history_text` is the escaped text of the history so far. `stop_text` is the token with
        which the last reply ended, or None if the template's closing was already appended. The
        suffix contains the closing of the last reply, except what the reply itself wrote.
        Return None if the template changes the history so that the suffix cannot be found. Raise
        PromptError if the template rejects the conversation.
        """
        rendered = self.render([*history, *new], open_turn=True)
        if rendered.startswith(history_text):
            return self._split(history, new, _Boundary(before=history_text))
        if not (history and _is_reply(history[-1])):
            before = self.render(history) if history else ""
            return self._split(history, new, _Boundary(before=before))
        unique = next(n for n in itertools.count() if f"reply{n}" not in rendered)
        last, earlier = f"reply{unique}.", f"reply{unique}-"
        for replaced in _with_placeholders(history, last, earlier):
            try:
                *before_reply, reply = replaced
                boundary = _Boundary(
                    before=self.render(before_reply) if before_reply else "",
                    earlier_placeholder=earlier,
                    placeholder=last,
                    stop_text=stop_text,
                    ends_by_stop_text="tool_calls" in reply,
                )
                found = self._split(replaced, new, boundary)
            except PromptError:
                continue
            if found is not None:
                return found
        return None

    def _split(
        self, history: Sequence[Message], new: Sequence[Message], boundary: "_Boundary"
    ) -> Suffix | None:
        """Return the text after the boundary, split into messages as far as possible."""
        complete = boundary.text_after(self.render([*history, *new], open_turn=True))
        if complete is None:
            return None
        closing = boundary.text_after(self.try_render(history))
        if closing is not None and not complete.startswith(closing):
            closing = None
        written = boundary.already_written(closing, complete)
        if boundary.ends_by_stop_text and not written:
            return None
        if closing is not None and len(written) > len(closing):
            # Some replies end with the token that opens the next message.
            closing = None
        ends = [len(written if closing is None else closing)]
        for count in range(1, len(new) + 1):
            text = boundary.text_after(self.try_render([*history, *new[:count]]))
            if text is None or len(text) < ends[-1] or not complete.startswith(text):
                ends = ends[:1]
                break
            ends.append(len(text))
        return Suffix(
            closing=None if closing is None else closing[len(written) :],
            messages=tuple(complete[start:end] for start, end in itertools.pairwise(ends)),
            opening=complete[ends[-1] :],
        )

    def render_system_prompt(self, message: Message) -> str:
        """Return the escaped text with which every conversation with this system prompt begins.

        It is empty if the template renders the system prompt only together with a user's message,
        or differently before one. Raise PromptError if the template rejects system prompts.
        """
        alone = self.try_render([message])
        with_user = self.try_render([message, {"role": "user", "content": "?"}])
        if alone is None and with_user is None:
            return self.render([message])
        if alone is None or (with_user is not None and not with_user.startswith(alone)):
            return ""
        return alone

    def try_render(self, messages: Sequence[Message]) -> str | None:
        """Return the text of a conversation, or None if the template rejects it."""
        try:
            return self.render(messages) if messages else ""
        except PromptError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boundary:
    """The end of the history in a rendered text."""

    before: str
    """Text of the messages before the last reply, or of the complete history."""
    earlier_placeholder: str = ""
    """Placeholder of all replies but the last; empty without placeholders."""
    placeholder: str = ""
    """Placeholder of the last reply; empty without placeholders."""
    stop_text: str | None = ""
    """Text of the token that ended the last reply; None if the reply is closed."""
    ends_by_stop_text: bool = False
    """Whether the rest of the reply, up to the stop text, follows the placeholder."""

    def text_after(self, rendered: str | None) -> str | None:
        """Return the text after the boundary, or None if the boundary is not found."""
        rest = None if rendered is None else self._text_after_before(rendered)
        if rest is None or not self.placeholder:
            return rest
        return rest.partition(self.placeholder)[2] if rest.count(self.placeholder) == 1 else None

    def _text_after_before(self, rendered: str) -> str | None:
        """Return the text after `before`, in which the openings of replies may have changed.

        Some templates put an empty thought before the last reply only.
        """
        if rendered.startswith(self.before):
            return rendered[len(self.before) :]
        if not self.earlier_placeholder:
            return None
        *before, last_before = self.before.split(self.earlier_placeholder)
        *now, last_now = rendered.split(self.earlier_placeholder, len(before))
        alike = len(before) == len(now) and all(
            old.startswith(new) or new.startswith(old) for old, new in zip(before, now, strict=True)
        )
        return last_now[len(last_before) :] if alike and last_now.startswith(last_before) else None

    def already_written(self, closing: str | None, complete: str) -> str:
        """Return the part of the closing that the reply itself wrote, e.g. its stop token."""
        if not self.stop_text:
            return (closing or "") if self.stop_text is None else ""
        if closing is not None and self.stop_text in closing:
            before, stop, _ = closing.rpartition(self.stop_text)
            return before + stop
        before, stop, _ = complete.partition(self.stop_text)
        calls_may_precede = self.ends_by_stop_text and closing is None
        return before + stop if calls_may_precede or not before.strip() else ""


def _with_placeholders(
    history: Sequence[Message], last_placeholder: str, earlier_placeholder: str
) -> Iterator[list[Message]]:
    """Yield copies of the history with placeholders for replies.

    Some templates write tool calls instead of the content, others look up the call of a tool's
    message. The first copy therefore omits the calls of the last reply, and the second has them.
    """
    *before, last = history
    replaced = [_replaced(m, earlier_placeholder) if _is_reply(m) else m for m in before]
    yield [*replaced, {"role": "assistant", "content": last_placeholder}]
    if "tool_calls" in last:
        yield [*replaced, _replaced(last, last_placeholder)]


def _replaced(reply: Message, content: str) -> dict[str, Any]:
    return {k: v for k, v in reply.items() if k in ("role", "tool_calls")} | {"content": content}


def _is_reply(message: Message) -> bool:
    return bool(message["role"] == "assistant")
