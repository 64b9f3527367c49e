"""Choose the call format of a chat template: one of those known, or one learned from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.tools.calls.learning import spellings
from tokentape.generation.tools.calls.notation import Notation
from tokentape.generation.tools.calls.self_check import MakeFormat, encloses_calls, reads_template
from tokentape.generation.tools.calls.spelled_format import SpelledFormat
from tokentape.generation.tools.calls.spelling import CallSpelling
from tokentape.generation.tools.calls.template_calls import (
    KEYS,
    NAMES,
    TEXTS,
    TemplateReplies,
    ways,
)

# A template that writes Python with mappings may write JSON with arguments as text.
_NOTATIONS = ((Notation.JSON, Notation.BARE), (Notation.PYTHON,))


@dataclass(frozen=True, slots=True)
class FoundFormat:
    """What reads a template's calls: a known format, a spelling, or neither, and why."""

    name: str = ""
    """A known format that reads them; empty if none does."""
    spelling: CallSpelling | None = None
    reason: str = ""
    """Why neither was found."""
    writes_calls: bool = True
    """Whether the template writes calls at all."""


def find_format(
    tokenizer: PreTrainedTokenizerBase,
    settings: Mapping[str, Any],
    known: Mapping[str, MakeFormat],
) -> FoundFormat:
    """Return what reads the calls that the tokenizer's chat template writes.

    `settings` are the template's variables, `known` the formats to try first, in order.
    """
    if not tokenizer.chat_template:
        return FoundFormat(reason="the tokenizer has no chat template", writes_calls=False)
    given = [TemplateReplies(tokenizer, settings, way) for way in ways()]
    written = [replies for replies in given if _writes_calls(replies)]
    if not written:
        return FoundFormat(reason="the chat template writes no tool calls", writes_calls=False)
    for name, make_format in known.items():
        if any(
            encloses_calls(make_format, replies) and reads_template(make_format, replies)
            for replies in written
        ):
            return FoundFormat(name)
    for notations in _NOTATIONS:
        for replies in written:
            for spelling in spellings(replies, notations):
                if reads_template(partial(SpelledFormat, spelling=spelling), replies):
                    return FoundFormat(spelling=spelling)
    return FoundFormat(reason="the chat template writes tool calls in an unknown form")


def _writes_calls(replies: TemplateReplies) -> bool:
    written = replies.write([(NAMES[0], {KEYS[0]: TEXTS[0]})])
    return written is not None and NAMES[0] in written and TEXTS[0] in written
