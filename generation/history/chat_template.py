"""Rendering of chat templates, and the suffix that a template appends to a history.

Many templates change earlier messages when they render a conversation again: they strip thinking,
trim replies, write the current date, or reformat tool calls. Some even reject a reply that the
model wrote. The text after the last reply does not depend on the reply. It is therefore taken from
a rendering in which placeholders replace replies.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.errors import PromptError, TemplateTooCostlyError
from tokentape.generation.hf.bounded_templates import TemplateLimitError, apply_chat_template
from tokentape.generation.hf.control_tokens import escape_control_tokens
from tokentape.generation.history.boundary import Boundary
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.messages import Message
from tokentape.generation.history.suffix import Suffix

_RESERVED_ARGUMENTS = frozenset(
    ("conversation", "tools", "add_generation_prompt", "continue_final_message", "tokenize")
)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template with the tools, variables and format of every rendering.

    Raise PromptError if `settings` contains an argument of `apply_chat_template` that is set here.
    """

    tokenizer: PreTrainedTokenizerBase
    tools: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: ConversationFormat = field(default_factory=ConversationFormat)

    def __post_init__(self) -> None:
        reserved = sorted(_RESERVED_ARGUMENTS & set(self.settings))
        if reserved:
            raise PromptError(f"template_settings cannot contain {reserved[0]!r}: it is reserved")

    def render(self, messages: Sequence[Message], *, open_turn: bool = False) -> str:
        """Return the text of a conversation, with the users' control tokens escaped.

        Control tokens in replies are not escaped, because they were sampled as such. `open_turn`
        appends the text that begins a reply. Raise PromptError if the template rejects the
        messages, or cannot be compiled.
        """
        given = self.format.apply(messages)
        try:
            rendered = apply_chat_template(
                self.tokenizer,
                self._escaped(given),
                tools=self._escaped_tools() or None,
                tokenize=False,
                add_generation_prompt=open_turn,
                **self.settings,
            )
        except PromptError:
            raise
        except TemplateLimitError as error:
            raise TemplateTooCostlyError(f"the chat template is refused: {error}") from None
        except TemplateSyntaxError as error:
            raise PromptError(
                f"the chat template cannot be compiled: line {error.lineno}: {error.message}; "
                "load the tokenizer with another chat_template"
            ) from None
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
        rendered = self.try_render([*history, *new], open_turn=True)
        if rendered is not None and rendered.startswith(history_text):
            return self._split(history, new, Boundary(before=history_text))
        if not (history and is_reply(history[-1])):
            before = self.beginning(history)
            if rendered is None or before is None:
                self.render([*history, *new], open_turn=True)
                return None
            return self._split(history, new, Boundary(before=before))
        texts = str([rendered, *history, *new])
        unique = next(n for n in itertools.count() if f"reply{n}" not in texts)
        last, earlier = f"reply{unique}.", f"reply{unique}-"
        calls = self.format.calls_before(new)
        for replaced in _with_placeholders(history, last, earlier):
            try:
                if calls:
                    written = str(history[-1]["content"])
                    found = self._suffix_after_calls(replaced, new, calls, written, stop_text)
                else:
                    found = self._suffix_after(replaced, new, last, earlier, stop_text)
            except PromptError:
                continue
            if found is not None:
                return found
        return None

    def _suffix_after(
        self,
        replaced: Sequence[Message],
        new: Sequence[Message],
        last_placeholder: str,
        earlier_placeholder: str,
        stop_text: str | None,
    ) -> Suffix | None:
        """Return the text after the last placeholder, or None if it cannot be found."""
        *before_reply, reply = replaced
        boundary = Boundary(
            before=self.render(before_reply) if before_reply else "",
            earlier_placeholder=earlier_placeholder,
            placeholder=last_placeholder,
            stop_text=stop_text,
            ends_by_stop_text="tool_calls" in reply,
        )
        if boundary.text_after(self.render([*replaced, *new], open_turn=True)) is not None:
            return self._split(replaced, new, boundary)
        boundary = replace(boundary, before=None)
        if boundary.ends_by_stop_text or self._moves_tools(replaced, new, boundary):
            return None
        if self._moves_system_prompt(replaced, new, boundary):
            # The system prompt stays where it was written first.
            replaced = replaced[1:]
        return self._split(replaced, new, boundary)

    def _suffix_after_calls(
        self,
        replaced: Sequence[Message],
        new: Sequence[Message],
        calls: Sequence[Mapping[str, Any]],
        written: str,
        stop_text: str | None,
    ) -> Suffix | None:
        """Return the text after the calls of the last reply, or None if it cannot be found.

        The calls end where the reply, `written` by the model, does, or else where the template
        closes a message. The content is left out: some templates write it after the results.
        """
        *before, reply = replaced
        called = [*before, {**reply, "content": "", "tool_calls": list(calls)}]
        closing = self.render(replaced).rpartition(str(reply["content"]))[2]
        rendered = self.render(called)
        end = _end_of_calls(rendered, written, [call["function"]["name"] for call in calls])
        if end is None and closing and rendered.endswith(closing):
            end = len(rendered) - len(closing)
        if end is None:
            return None
        return self._split(called, new, Boundary(before=rendered[:end], stop_text=stop_text))

    def _moves_tools(
        self, history: Sequence[Message], new: Sequence[Message], boundary: Boundary
    ) -> bool:
        """Return whether the template writes the tools after the boundary."""
        if not self.tools:
            return False
        without = replace(self, tools=())
        return boundary.text_after(
            without.try_render([*history, *new], open_turn=True)
        ) != boundary.text_after(self.try_render([*history, *new], open_turn=True))

    def _moves_system_prompt(
        self, history: Sequence[Message], new: Sequence[Message], boundary: Boundary
    ) -> bool:
        """Return whether the template writes the system prompt after the boundary."""
        if history[0]["role"] != "system":
            return False
        other = [{"role": "system", "content": "Another text."}, *history[1:], *new]
        return boundary.text_after(self.try_render(other, open_turn=True)) != boundary.text_after(
            self.try_render([*history, *new], open_turn=True)
        )

    def _split(
        self, history: Sequence[Message], new: Sequence[Message], boundary: Boundary
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

    def beginning(self, history: Sequence[Message]) -> str | None:
        """Return the text of messages with which every longer conversation begins, or None.

        A system prompt alone may be rendered differently, or not at all.
        """
        if [message["role"] for message in history] == ["system"]:
            return self.system_prefix(history[0])[0]
        return self.try_render(history)

    def system_prefix(self, message: Message) -> tuple[str, bool]:
        """Return the escaped text with which every conversation with this system prompt begins.

        The second value tells whether the text is a message of its own. Otherwise it is the common
        beginning of two conversations with different questions; empty if that does not contain the
        system prompt. Raise PromptError if the template rejects system prompts.
        """
        alone = self.try_render([message])
        first, second = (
            self.try_render([message, {"role": "user", "content": text}]) for text in QUESTIONS
        )
        if first is None or second is None:
            return self.render([message]), True
        if alone and first.startswith(alone) and self._depends_on(message, alone):
            return alone, True
        common = first[: common_prefix_length(first, second)].rstrip()
        return (common, False) if self._depends_on(message, common) else ("", False)

    def _depends_on(self, system: Message, text: str) -> bool:
        """Return whether conversations with another system prompt do not begin with the text."""
        other = [{**system, "content": "Another text."}, {"role": "user", "content": QUESTIONS[0]}]
        rendered = self.try_render(other)
        return bool(text) and (rendered is None or not rendered.startswith(text))

    def try_render(self, messages: Sequence[Message], *, open_turn: bool = False) -> str | None:
        """Return the text of a conversation, or None if the template rejects it."""
        try:
            return self.render(messages, open_turn=open_turn) if messages else ""
        except TemplateTooCostlyError:
            raise
        except PromptError:
            return None

    def _escaped(self, given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages with escaped control tokens, except in the contents of replies."""
        exposed = [
            {"tool_calls": each.get("tool_calls")} if is_reply(each) else dict(each)
            for each in given
        ]
        escaped = escape_control_tokens(self.tokenizer, exposed)
        return [
            {**each, **safe} if safe.get("tool_calls", True) is not None else dict(each)
            for each, safe in zip(given, escaped, strict=True)
        ]

    def _escaped_tools(self) -> list[Any]:
        return escape_control_tokens(self.tokenizer, [dict(tool) for tool in self.tools])


_CALL_END_CHARS, _CALL_END_CHARS_MIN = 200, 3
QUESTIONS = ("Why is that?", "Or how?")
"""Two users' messages that begin differently."""


def _with_placeholders(
    history: Sequence[Message], last_placeholder: str, earlier_placeholder: str
) -> Iterator[list[Message]]:
    """Yield copies of the history with placeholders for replies.

    Some templates write tool calls instead of the content, others look up the call of a tool's
    message. The first copy therefore omits the calls of the last reply, and the second has them.
    """
    *before, last = history
    replaced = [_replaced(m, earlier_placeholder) if is_reply(m) else m for m in before]
    yield [*replaced, {"role": "assistant", "content": last_placeholder}]
    if "tool_calls" in last:
        yield [*replaced, _replaced(last, last_placeholder)]


def _end_of_calls(rendered: str, written: str, names: Sequence[str]) -> int | None:
    """Return where the calls end that a template rendered and the model wrote, or None.

    The longest end of what the model wrote is found in what is rendered; no name of a tool follows.
    """
    for size in range(min(len(written), _CALL_END_CHARS), _CALL_END_CHARS_MIN - 1, -1):
        at = rendered.rfind(written[-size:])
        if at >= 0:
            end = at + size
            return None if any(name in rendered[end:] for name in names) else end
    return None


def _replaced(reply: Message, content: str) -> dict[str, Any]:
    return {k: v for k, v in reply.items() if k in ("role", "tool_calls")} | {"content": content}


def is_reply(message: Message) -> bool:
    """Return whether the message is the model's."""
    return bool(message["role"] == "assistant")
