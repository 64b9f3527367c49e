"""What today's tokenizer and chat template make of what was recorded, where they are others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.conversation import decode_after
from tokentape.generation.run_settings import RunSettings
from tokentape.recorder import Recording
from tokentape.recorder.events import MessageAdded, SystemPromptCached

_CONTEXT_CHARS = 24


@dataclass(frozen=True, slots=True)
class _Spelled:
    """Ids of a prompt and what they spell."""

    what: str
    text: str
    ids: tuple[int, ...]


def encoded_otherwise(recording: Recording, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first text of a prompt that is encoded to other ids now; empty if there is none."""
    for each in _spelled(recording):
        ids = tuple(tokenizer.encode(each.text, add_special_tokens=False))
        if ids != each.ids:
            index = common_prefix_length(ids, each.ids)
            here = str(tokenizer.decode(list(each.ids[index : index + 1])))
            return f"{each.what} is encoded otherwise from its token {index} on, {here!r}"
    return ""


def spelled_otherwise(recording: Recording, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first text of a prompt that its ids do not spell; empty if there is none.

    Tokenizers that rewrite text as they read it do not spell it again: this is a hint, no proof.
    """
    before: tuple[int, ...] = ()
    for each in _spelled(recording):
        if decode_after(tokenizer, before, each.ids) != each.text:
            return f"the ids of {each.what} do not spell its text"
        before = each.ids
    return ""


def rendered_otherwise(recording: Recording, tokenizer: PreTrainedTokenizerBase) -> str:
    """Where the template of today leaves the recorded prompts; empty where it does not."""
    last = recording.turns()[-1]
    settings: Any = RunSettings.from_record(recording.started().settings).template_settings or {}
    messages = recording.conversation()
    if last.finished is not None and messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **settings
        )
    except (TemplateError, TypeError, ValueError) as error:
        return f"today's refuses the recorded messages: {error}"
    index = common_prefix_length(str(rendered), last.prompt_text)
    if index == len(last.prompt_text) == len(rendered):
        return ""
    start = max(0, index - _CONTEXT_CHARS)
    recorded = last.prompt_text[start : index + _CONTEXT_CHARS]
    replayed = str(rendered)[start : index + _CONTEXT_CHARS]
    return f"prompts part at character {index}: recorded {recorded!r}, rendered now {replayed!r}"


def _spelled(recording: Recording) -> Iterator[_Spelled]:
    count = 0
    for envelope in recording.events():
        event = envelope.event
        if isinstance(event, SystemPromptCached):
            yield _Spelled("the system prompt", event.text, event.ids)
        elif isinstance(event, MessageAdded):
            count += 1
            if event.ids:
                yield _Spelled(f"message {count}, of the {event.role},", event.text, event.ids)
