"""Choice of the format in which a chat template is given the messages of a conversation.

Short conversations of the shapes that a run will have are rendered in one format after another. A
format is accepted if the template renders each shape with all of its texts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import unescape
from tokentape.generation.history.chat_template import ChatTemplate
from tokentape.generation.history.conversation_format import (
    CallArguments,
    CallIds,
    ContentKind,
    ConversationFormat,
    ResultStyle,
    SystemPlace,
)
from tokentape.generation.history.messages import AnsweredCall, Message
from tokentape.generation.history.written_texts import is_written

_STYLES = {
    "tool": (ResultStyle.TOOL, ResultStyle.TOOL_AFTER_CALL),
    "user": (ResultStyle.USER,),
    "auto": tuple(ResultStyle),
}
_SYSTEM: Message = {"role": "system", "content": "Text of the system."}
_QUESTION: Message = {"role": "user", "content": "Text of a question."}
_REPLY: Message = {"role": "assistant", "content": "Text of a reply."}
_FOLLOW_UP: Message = {"role": "user", "content": "Text of another question."}
_RESULTS = ("Text of a result.", "Text of another result.")
_NAME = "look_up"
_SYSTEM_LEFT_OUT = "'text of the system'"
_NEEDS_TOOLS = "without tools the template rejects or leaves out messages"
_DESCRIBES_TOOLS = "the template describes the tools to the model"


def choose_format(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template_settings: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    result_role: str = "auto",
    template_describes_tools: bool = False,
) -> ConversationFormat:
    """Return the format in which the tokenizer's chat template takes all messages of a run.

    `tools` are the JSON schemas of the run's tools. The template gets them if it rejects messages,
    or does not write results in the role `tool`, without them; with `template_describes_tools` also
    if it writes their names. `result_role` is `tool`, `user`, or `auto` for any. Raise PromptError
    if the template accepts no conversation, or no results in the role.
    """
    usual = ConversationFormat(call_ids=CallIds.RECORDED)
    if tokenizer.chat_template is None:
        return usual
    probe = _Probe(tokenizer, dict(template_settings or {}))
    if not tools:
        return probe.described(probe.choose_base(usual))
    functions = tuple({"type": "function", "function": dict(each)} for each in tools)
    candidates: tuple[tuple[dict[str, Any], ...], ...] = ((), functions)
    if template_describes_tools and probe.describes(functions):
        candidates = (functions, ())
        probe.faults["tools"] = _DESCRIBES_TOOLS
    chosen: _Choice | None = None
    first_error: PromptError | None = None
    for system, given in product(SystemPlace, candidates):
        each = replace(usual, tools=given, system=system)
        try:
            choice = probe.choose_results(probe.choose_base(each), result_role)
        except PromptError as error:
            first_error = first_error or error
            continue
        if chosen is None or choice.native_results > chosen.native_results:
            chosen = choice
        if chosen.is_native:
            break
    if chosen is None:
        raise first_error or PromptError("the chat template cannot write a conversation")
    if result_role == "tool" and not chosen.is_native:
        raise PromptError(
            "the chat template rejects or leaves out results of tools in the role 'tool': use "
            "tool_result_role='auto'"
        )
    return probe.described(chosen.format)


@dataclass(frozen=True, slots=True)
class _Choice:
    """A format, and how many of the two kinds of results it can give as a tool's."""

    format: ConversationFormat
    native_results: int

    @property
    def is_native(self) -> bool:
        return self.native_results == 2


@dataclass(frozen=True, slots=True)
class _Probe:
    """Renders short conversations in one format after another."""

    tokenizer: PreTrainedTokenizerBase
    settings: Mapping[str, Any]
    faults: dict[str, str] = field(default_factory=dict)
    """By field of the format: what the template did to its usual value."""

    def describes(self, functions: tuple[Mapping[str, Any], ...]) -> bool:
        """Return whether the template writes the name of each function that it is given."""
        given = ConversationFormat(tools=functions)
        for shape in ([_SYSTEM, _QUESTION], [_QUESTION]):
            rendered = self._template(given).try_render(shape, open_turn=True)
            if rendered is not None:
                return all(each["function"]["name"] in unescape(rendered) for each in functions)
        return False

    def choose_base(self, base: ConversationFormat) -> ConversationFormat:
        """Return the base with the first place of the system prompt, and kind of contents, that
        are accepted.

        Raise PromptError if none are. The place is tried again if it is the usual one only.
        """
        first = [_SYSTEM, _QUESTION]
        whole = [*first, _REPLY, _FOLLOW_UP]
        candidates = [
            replace(base, content=content, system=system)
            for system, content in product(SystemPlace, ContentKind)
            if base.system in (SystemPlace.ROLE, system)
        ]
        for shapes in ([first, whole], [first]):
            for each in candidates:
                fault = self._fault(each, shapes)
                if not fault:
                    joins = bool(self._fault(each, [[*first, _FOLLOW_UP]], texts=[]))
                    return replace(each, joins_messages=joins)
                name = "content" if each.system is SystemPlace.ROLE else "system"
                if each == candidates[0]:
                    self.faults["system"] = self.faults["content"] = fault
                self.faults.setdefault(name, fault)
        # Render once more for the template's own words.
        self._template(base).render(first, open_turn=True)
        raise PromptError(
            f"the chat template cannot write a conversation: it {self.faults['system']}; load the "
            "tokenizer with another chat_template"
        )

    def choose_results(self, base: ConversationFormat, role: str) -> _Choice:
        """Return the format with the styles of results."""
        best: _Choice | None = None
        for ids, arguments in product((CallIds.RECORDED, CallIds.NINE), CallArguments):
            each = replace(base, call_ids=ids, call_arguments=arguments)
            user = self._style(each, role, by_model=False)
            model = self._style(each, role, by_model=True)
            chosen = replace(each, user_results=user, model_results=model)
            native = sum(style is not ResultStyle.USER for style in (user, model))
            if best is None or native > best.native_results:
                best = _Choice(chosen, native)
            if native == 2:
                break
        assert best is not None
        return best

    def described(self, chosen: ConversationFormat) -> ConversationFormat:
        """Return the format with a reason for each field that has not its usual value."""
        usual = ConversationFormat(call_ids=CallIds.RECORDED)
        fields = ("system", "content", "user_results", "model_results", "call_ids")
        reasons = {
            name: f"otherwise the template {self.faults[name]}"
            for name in fields
            if getattr(chosen, name) != getattr(usual, name) and name in self.faults
        }
        if chosen.joins_messages:
            reasons["joins_messages"] = "the template rejects two user's messages in a row"
        if chosen.tools:
            reasons["tools"] = self.faults.get("tools", _NEEDS_TOOLS)
        return replace(chosen, reasons=reasons)

    def _style(self, base: ConversationFormat, role: str, *, by_model: bool) -> ResultStyle:
        """Return the first style in which the template writes results, else `USER`."""
        accepted = []
        for style in _STYLES[role]:
            shapes, texts = _result_shapes(style, by_model=by_model)
            each = _with_style(base, style, by_model=by_model)
            fault = self._fault(each, shapes, texts)
            if not fault:
                accepted.append(style)
                continue
            name = "model_results" if by_model else "user_results"
            self.faults.setdefault(name, fault)
            if _SYSTEM_LEFT_OUT in fault:
                self.faults.setdefault("system", fault)
            if base.call_ids is CallIds.RECORDED:
                self.faults.setdefault("call_ids", fault)
        native = [style for style in accepted if style is not ResultStyle.USER]
        if len(native) == 2 and self._differ(base, native, by_model=by_model):
            return ResultStyle.TOOL_AFTER_CALL
        return accepted[0] if accepted else ResultStyle.USER

    def _differ(
        self, base: ConversationFormat, styles: Iterable[ResultStyle], *, by_model: bool
    ) -> bool:
        """Return whether a result is written differently in two styles."""
        texts = set()
        for style in styles:
            template = self._template(_with_style(base, style, by_model=by_model))
            before = [_SYSTEM, _QUESTION, *([_REPLY] if by_model else [])]
            one = [*before, _result(0, by_model=by_model)]
            two = [*one, _result(1, by_model=by_model)]
            rendered = template.try_render(two)
            _, found, after = (rendered or "").partition(_RESULTS[0])
            texts.add(after if found else None)
        return len(texts) > 1 and None not in texts

    def _fault(
        self,
        each: ConversationFormat,
        shapes: Iterable[Sequence[Message]],
        texts: Sequence[str] | None = None,
    ) -> str:
        """Return what the template does wrong with the first shape that it cannot write, or "".

        The newest message must be written, and the `texts`; all messages of the user and the
        system in the first shape.
        """
        template = self._template(each)
        # The system prompt must be in the first prompt of a run, whatever follows the question.
        for number, shape in enumerate(shapes):
            try:
                rendered = unescape(template.render(shape, open_turn=True))
            except PromptError as error:
                return str(error).removeprefix("the chat template ")
            if "'type': 'text'" in rendered or '"type": "text"' in rendered:
                return "writes contents as lists"
            wanted = list(texts or ())
            if texts is None:
                due = shape if number == 0 else shape[-1:]
                wanted = [str(message["content"]) for message in due]
            if texts is not None and _REPLY not in shape:
                wanted.append(str(_SYSTEM["content"]))
            for text in wanted:
                if text in _texts_of(shape) and not is_written(text, rendered):
                    return f"leaves out {text.removesuffix('.').lower()!r}"
        return ""

    def _template(self, each: ConversationFormat) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, each.tools, self.settings, each)


def _with_style(
    base: ConversationFormat, style: ResultStyle, *, by_model: bool
) -> ConversationFormat:
    if by_model:
        return replace(base, model_results=style)
    return replace(base, user_results=style)


def _result_shapes(style: ResultStyle, *, by_model: bool) -> tuple[list[list[Message]], list[str]]:
    """Return conversations with results, and the texts that must be written of them."""
    role = "user" if style is ResultStyle.USER else "tool"
    before = [_SYSTEM, _QUESTION, *([_REPLY] if by_model else [])]
    results = [{**_result(number, by_model=by_model), "role": role} for number in range(2)]
    shapes = [
        [*before, *results],
        [*before, results[0]],
        [*before, results[0], _REPLY, _FOLLOW_UP],
        [*before, *results, _REPLY, _FOLLOW_UP],
    ]
    texts = [*_RESULTS, str(_FOLLOW_UP["content"])]
    if style is ResultStyle.TOOL_AFTER_CALL and not by_model:
        texts.append(_NAME)
    return shapes, texts


def _result(number: int, *, by_model: bool) -> dict[str, Any]:
    call = AnsweredCall(
        call_id=f"call_{number + 1}",
        name=_NAME,
        arguments={"name": f"thing {number + 1}"},
        by_model=by_model,
    )
    return {"role": "tool", "content": _RESULTS[number], "call": call}


def _texts_of(shape: Sequence[Message]) -> set[str]:
    return {_NAME, *(str(message["content"]) for message in shape)}
