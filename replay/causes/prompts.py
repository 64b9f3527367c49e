"""Comparison of recorded prompts with today's tokenizer and chat template."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import unescape
from tokentape.generation.history.chat_template import ChatTemplate
from tokentape.generation.history.decoding import decode_after
from tokentape.generation.history.restored_conversation import answered_calls
from tokentape.generation.history.spelling import spell_token
from tokentape.generation.investigation.resume_point import recorded_format
from tokentape.generation.run_settings import RunSettings
from tokentape.recorder.events import MessageAdded, SystemPromptCached, TurnStarted
from tokentape.recorder.projections import Turn
from tokentape.replay.recorded.loaded_run import LoadedRun

_CONTEXT_CHARS = 24


@dataclass(frozen=True, slots=True)
class _PromptPart:
    """A system prompt or message: its text and ids."""

    name: str
    text: str
    ids: tuple[int, ...]


def other_encoding(run: LoadedRun, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a sentence about the first text that is encoded to other ids now; empty if none is."""
    context = ""
    for each in _prompt_parts(run):
        ids, others = _encodings(tokenizer, context, each.text)
        context = each.text
        if each.ids not in (ids, others):
            index = common_prefix_length(ids, each.ids)
            token = spell_token(tokenizer, each.ids[index]) if index < len(each.ids) else ""
            return f"{each.name} is encoded to other ids from its token {index} on, {token!r}"
    return ""


def _encodings(
    tokenizer: PreTrainedTokenizerBase, context: str, text: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of a text alone, and after another text: some tokenizers prepend a space."""
    alone, before, both = (
        tuple(tokenizer.encode(each, add_special_tokens=False))
        for each in (text, context, context + text)
    )
    return alone, both[len(before) :]


def contradicted_ids(run: LoadedRun, turn: Turn, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a sentence about the first ids up to a turn that are not those of their text.

    Such ids neither decode to their text, as those of a tokenizer that normalises may not, nor are
    they what the text is encoded to. Empty if there are none.
    """
    before: tuple[int, ...] = ()
    context = ""
    for each in _prompt_parts(run, up_to=turn.number):
        decodes = decode_after(tokenizer, before, each.ids) == each.text
        if not decodes and each.ids not in _encodings(tokenizer, context, each.text):
            return f"the ids of {each.name} do not decode to its text"
        before, context = each.ids, each.text
    return ""


def other_rendering(run: LoadedRun, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return where today's template renders another prompt than recorded; empty if it does not."""
    last = run.turns[-1]
    given = recorded_format(run.started)
    settings = RunSettings.from_record(run.started.settings).template_settings
    calls = answered_calls(each.event for each in run.envelopes)
    messages: list[dict[str, Any]] = []
    for each in run.messages():
        call = calls.get(each.tool_call_id or "")
        message = {"role": each.role, "content": each.content}
        messages.append(message if call is None else {**message, "call": call})
    if last.finished is not None and messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    template = ChatTemplate(tokenizer, given.tools, dict(settings or {}), given)
    try:
        rendered = unescape(template.render(messages, open_turn=True))
    except PromptError as error:
        return f"today's template rejects the recorded messages: {error}"
    index = common_prefix_length(rendered, last.prompt_text)
    if index == len(last.prompt_text) == len(rendered):
        return ""
    start = max(0, index - _CONTEXT_CHARS)
    recorded = last.prompt_text[start : index + _CONTEXT_CHARS]
    replayed = rendered[start : index + _CONTEXT_CHARS]
    return f"prompts differ from character {index} on: recorded {recorded!r}, now {replayed!r}"


def _prompt_parts(run: LoadedRun, *, up_to: int | None = None) -> Iterator[_PromptPart]:
    """Yield the system prompts and messages in order, those of the turn `up_to` as the last."""
    count = 0
    for envelope in run.envelopes:
        event = envelope.event
        if isinstance(event, TurnStarted) and up_to is not None and event.turn > up_to:
            return
        if isinstance(event, SystemPromptCached):
            yield _PromptPart("the system prompt", event.text, event.ids)
        elif isinstance(event, MessageAdded):
            count += 1
            if event.ids:
                yield _PromptPart(f"message {count}, of the {event.role},", event.text, event.ids)
