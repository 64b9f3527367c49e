"""What a chat template writes, and what of it is new behind a history.

A template knows only texts, and many write the past anew: they strip thinking and trim replies,
write today's date, spell tool calls their own way. What comes behind the last reply is the same for
every reply, so it is read off a render in which each reply is a dummy.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import escape_control_tokens
from tokentape.generation.history.continuation import Continuation

Message = Mapping[str, Any]

_OWN_ARGUMENTS = frozenset(
    ("conversation", "tools", "add_generation_prompt", "continue_final_message", "tokenize")
)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's template, with the tools and the settings that it is given at every render.

    Raises PromptError for settings that are not the template's.
    """

    tokenizer: PreTrainedTokenizerBase
    tools: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = sorted(_OWN_ARGUMENTS & set(self.settings))
        if taken:
            raise PromptError(f"template_settings cannot hold {taken[0]!r}: it is decided here")

    def render(self, messages: Sequence[Message], *, open_turn: bool = False) -> str:
        """The marked text of a conversation. Raises PromptError where the template refuses it.

        Replies are not marked: a control token in them was sampled as one.
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
        except Exception as error:  # jinja raises what the template's author chose
            raise PromptError(f"the chat template refuses this conversation: {error}") from None
        return str(rendered)

    def continuation(
        self,
        history: Sequence[Message],
        new: Sequence[Message],
        *,
        written: str,
        stop_text: str | None,
    ) -> Continuation | None:
        """What follows the `written` text of the history; None where the template moves the past.

        `stop_text` is how the last reply ended itself, None where it is closed already. What the
        template writes to close a reply is not written again where the reply did so, and follows
        where it ended otherwise.
        Raises PromptError where the template refuses the conversation.
        """
        whole = self.render([*history, *new], open_turn=True)
        if whole.startswith(written):
            return self._cut(history, new, _Boundary(before=written))
        if not (history and _is_reply(history[-1])):
            before = self.render(history) if history else ""
            return self._cut(history, new, _Boundary(before=before))
        unique = next(n for n in itertools.count() if f"reply{n}" not in whole)
        dummy, past = f"reply{unique}.", f"reply{unique}-"
        for likeness in _with_dummies(history, dummy, past):
            try:
                *asked, reply = likeness
                boundary = _Boundary(
                    before=self.render(asked) if asked else "",
                    past_dummy=past,
                    dummy=dummy,
                    stop_text=stop_text,
                    ends_by_stop_text="tool_calls" in reply,
                )
                found = self._cut(likeness, new, boundary)
            except PromptError:
                continue
            if found is not None:
                return found
        return None

    def _cut(
        self, history: Sequence[Message], new: Sequence[Message], boundary: "_Boundary"
    ) -> Continuation | None:
        """The parts of what is behind the boundary, as far as they can be told apart."""
        everything = boundary.behind(self.render([*history, *new], open_turn=True))
        if everything is None:
            return None
        closing = boundary.behind(self.try_render(history))
        if closing is not None and not everything.startswith(closing):
            closing = None
        spelled = boundary.spelled(closing, everything)
        if boundary.ends_by_stop_text and not spelled:
            return None
        if closing is not None and len(spelled) > len(closing):
            # Some replies end with the token that opens the next message.
            closing = None
        ends = [len(spelled if closing is None else closing)]
        for count in range(1, len(new) + 1):
            text = boundary.behind(self.try_render([*history, *new[:count]]))
            if text is None or len(text) < ends[-1] or not everything.startswith(text):
                ends = ends[:1]
                break
            ends.append(len(text))
        return Continuation(
            closing=None if closing is None else closing[len(spelled) :],
            messages=tuple(everything[start:end] for start, end in itertools.pairwise(ends)),
            opening=everything[ends[-1] :],
        )

    def render_system_prompt(self, message: Message) -> str:
        """The marked text that every conversation with the system prompt begins with.

        It is empty where the template wants a user's message to write it, or writes it in another
        way before one. Raises PromptError where the template has no place for a system prompt.
        """
        alone = self.try_render([message])
        asked = self.try_render([message, {"role": "user", "content": "?"}])
        if alone is None and asked is None:
            return self.render([message])
        if alone is None or (asked is not None and not asked.startswith(alone)):
            return ""
        return alone

    def try_render(self, messages: Sequence[Message]) -> str | None:
        """The marked text where only a hint is needed: None where the template refuses it."""
        try:
            return self.render(messages) if messages else ""
        except PromptError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boundary:
    """Where a history ends in a render: behind the text before, or behind a dummy after it.

    `ends_by_stop_text` where more of the reply follows the dummy, up to the stop text.
    """

    before: str
    past_dummy: str = ""
    dummy: str = ""
    stop_text: str | None = ""
    ends_by_stop_text: bool = False

    def behind(self, rendered: str | None) -> str | None:
        rest = None if rendered is None else self._behind_past(rendered)
        if rest is None or not self.dummy:
            return rest
        return rest.partition(self.dummy)[2] if rest.count(self.dummy) == 1 else None

    def _behind_past(self, rendered: str) -> str | None:
        """What follows the text before; how replies in it open may have changed since.

        An empty thought may stand before a reply until the next question, and not after it.
        """
        if rendered.startswith(self.before):
            return rendered[len(self.before) :]
        if not self.past_dummy:
            return None
        *before, last_before = self.before.split(self.past_dummy)
        *now, last_now = rendered.split(self.past_dummy, len(before))
        alike = len(before) == len(now) and all(
            old.startswith(new) or new.startswith(old) for old, new in zip(before, now, strict=True)
        )
        return last_now[len(last_before) :] if alike and last_now.startswith(last_before) else None

    def spelled(self, closing: str | None, everything: str) -> str:
        """As much of what closes a reply as has been spelled already, mostly by its own token."""
        if not self.stop_text:
            return (closing or "") if self.stop_text is None else ""
        if closing is not None and self.stop_text in closing:
            before, stop, _ = closing.rpartition(self.stop_text)
            return before + stop
        before, stop, _ = everything.partition(self.stop_text)
        calls_may_precede = self.ends_by_stop_text and closing is None
        return before + stop if calls_may_precede or not before.strip() else ""


def _with_dummies(
    history: Sequence[Message], dummy: str, past_dummy: str
) -> Iterator[list[Message]]:
    """The history with one dummy in place of the last reply, and another in place of the others.

    A template may write calls in place of the content, or look for the call that a tool's message
    answers: the last reply's calls are left out at first, and left in where that fails.
    """
    *before, last = history
    asked = [_dummy_of(m, past_dummy) if _is_reply(m) else m for m in before]
    yield [*asked, {"role": "assistant", "content": dummy}]
    if "tool_calls" in last:
        yield [*asked, _dummy_of(last, dummy)]


def _dummy_of(reply: Message, content: str) -> dict[str, Any]:
    return {k: v for k, v in reply.items() if k in ("role", "tool_calls")} | {"content": content}


def _is_reply(message: Message) -> bool:
    return bool(message["role"] == "assistant")
