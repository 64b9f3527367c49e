"""Rewrite texts before they are recorded.

Token ids spell the text, so a redacted run has none: each is recorded as zero, and the likeliest
tokens of a step are left out. Counts, positions, log-probabilities, entropies, cache decisions and
times stay. The run says that it is redacted in `RunStarted.redacted` and in every
`TurnStarted.unreplayable`: its texts can be read, but it cannot be replayed. The sum of its weights
still names the model; the weights manifest is not stored.

The type of each field says how it is redacted; see `recorder.events.fields`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from tokentape.recorder.events import (
    REDACTION_RULES,
    Event,
    HistoryPruned,
    MessageAdded,
    Redact,
    RunStarted,
    SystemPromptCached,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)
from tokentape.recorder.events.turn import REDACTED

Redactor = Callable[[str], str]

_ID_SETTINGS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "force_words_ids",
    "sequence_bias",
    "suppress_tokens",
)
"""Settings of `generate` that hold token ids."""


class Redaction:
    """Redacts the events of one run, in order.

    A text to be hidden may span two messages, so a prompt is redacted as a whole. `TurnStarted`
    then refers to the redacted stream as far as that is unchanged.
    """

    def __init__(self, redactor: Redactor) -> None:
        def redact(text: str) -> str:
            written = redactor(text)
            if not isinstance(written, str):
                raise TypeError(f"a redactor returns a string, not {type(written).__name__}")
            return written

        self._redactor = redact
        self._text = ""
        self._redacted_text = ""
        self._blobs: dict[str, tuple[str, int]] = {}

    def redact(self, event: Event) -> Event:
        """Return the event in the form that may be recorded."""
        rules = REDACTION_RULES[type(event)]
        changes = {
            name: self._redacted(event, name, rule)
            for name, rule in rules.items()
            if rule is not Redact.PROMPT
        }
        if isinstance(event, RunStarted):
            changes["redacted"] = True
        if Redact.PROMPT in rules.values():
            changes |= self._of_prompt(event)
        return replace(event, **changes)

    def redact_blob(self, sha256: str, payload: bytes) -> tuple[str, bytes]:
        """Return the redacted payload and its sha256; one that is not UTF-8 text becomes empty."""
        try:
            redacted = self._redactor(payload.decode()).encode()
        except UnicodeDecodeError:
            redacted = b""
        redacted_sha256 = hashlib.sha256(redacted).hexdigest()
        self._blobs[sha256] = (redacted_sha256, len(redacted))
        return redacted_sha256, redacted

    def _redacted(self, event: Event, name: str, rule: Redact) -> Any:
        value = getattr(event, name)
        if rule is Redact.TOP_TOKENS:
            return {} if isinstance(value, Mapping) else ()
        if rule is Redact.TOKEN_IDS:
            return _withheld(value)
        if rule is Redact.SETTINGS:
            return _redact_settings(value, self._redactor)
        if rule in (Redact.PAYLOAD, Redact.PAYLOAD_BYTES):
            sha256, size = self._blobs.get(getattr(event, event.traits.payload), ("", 0))
            return sha256 if rule is Redact.PAYLOAD else size
        redacted = _redact_values(value, self._redactor, numbers=rule is Redact.VALUES)
        return tuple(redacted) if isinstance(value, tuple) else redacted

    def _of_prompt(self, event: Event) -> dict[str, Any]:
        """Return the fields of an event that depend on the redacted stream."""
        if isinstance(event, SystemPromptCached):
            self._text, self._redacted_text = event.text, self._redactor(event.text)
            return {"text": self._redacted_text, "sha256": ids_sha256(_withheld(event.ids))}
        if isinstance(event, MessageAdded):
            return {"text": self._extend(event.text)}
        if isinstance(event, TurnFinished):
            return {"text": self._extend(event.text, event.stop_text)}
        if isinstance(event, TurnStarted):
            return self._start_turn(event)
        if isinstance(event, HistoryPruned):
            for start, end in reversed(event.removed_chars):
                self._text = self._text[:start] + self._text[end:]
            # The ranges are of the unredacted text. `TurnStarted` has all that changes.
            return {"removed_chars": ()}
        raise TypeError(f"{type(event).__name__} has a part of the prompt that is not redacted")

    def _extend(self, text: str, plain: str = "") -> str:
        """Extend the stream by a text, and by one that is recorded as it is."""
        redacted = self._redactor(text)
        self._text += text + plain
        self._redacted_text += redacted + plain
        return redacted

    def _start_turn(self, event: TurnStarted) -> dict[str, Any]:
        self._text = self._text[: event.kept_chars] + event.added_text
        prompt = self._redactor(self._text)
        kept_chars = _common_length(self._redacted_text, prompt)
        self._redacted_text = prompt
        return {
            "kept_chars": kept_chars,
            "added_text": prompt[kept_chars:],
            "unreplayable": (*event.unreplayable, REDACTED),
        }


def _common_length(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _withheld(ids: Any) -> Any:
    """Return zeros in place of token ids; None stays None."""
    if isinstance(ids, tuple):
        return (0,) * len(ids)
    return None if ids is None else 0


def _redact_settings(settings: Mapping[str, Any], redact: Redactor) -> dict[str, Any]:
    redacted: dict[str, Any] = _redact_values(settings, redact, numbers=False)
    return redacted | {name: REDACTED for name in _ID_SETTINGS if settings.get(name)}


def _redact_values(value: Any, redact: Redactor, *, numbers: bool = True) -> Any:
    """Return a JSON value with every string redacted and, with `numbers`, every number that the
    redactor changes as text."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact(name): _redact_values(each, redact, numbers=numbers)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact_values(each, redact, numbers=numbers) for each in value]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        written = str(value)
        redacted = redact(written)
        return value if redacted == written else redacted
    return value
