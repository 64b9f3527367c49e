"""Text rewritten before it is written, for what must not be kept.

Token ids spell the text, so a redacted run has none: each is recorded as zero, and candidates are
left out. Everything else stays: counts, positions, log-probabilities, entropies, cache decisions,
times. Such a run says so in `RunStarted.redacted` and, turn by turn, in
`TurnStarted.unreplayable`: its texts can be read, and nothing of it can be replayed. The sum of its
weights still names the model; the list that it is the sum of is not kept.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from itertools import takewhile
from typing import Any

from tokentape.recorder.events import (
    CacheDecided,
    Event,
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    MessageAdded,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)

Redactor = Callable[[str], str]
REDACTED = "redacted"
_LOOSE_TEXTS = frozenset(
    {"reason", "disk_reason", "history_reason", "key_field", "call_id", "tool_call_id"}
)
"""Fields of many events in which somebody's words, or a path, may stand."""
_ID_SETTINGS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "force_words_ids",
    "sequence_bias",
    "suppress_tokens",
)
"""Settings of `generate` that hold token ids, which spell what somebody wanted or did not."""


class Redaction:
    """Redacts the events of one run, in order.

    What is to be hidden may stand across two messages, so a prompt is redacted as a whole. The
    turn then points into the redacted text as far as that is unchanged.
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
        self._sums: dict[str, tuple[str, int]] = {}

    def redacted(self, event: Event) -> Event:
        """The event as it may be written."""
        redacted = self._without_ids(event)
        loose: dict[str, Any] = {
            field.name: self._redactor(getattr(redacted, field.name))
            for field in fields(redacted)
            if field.name in _LOOSE_TEXTS and isinstance(getattr(redacted, field.name), str)
        }
        return replace(redacted, **loose)

    def _without_ids(self, event: Event) -> Event:
        if isinstance(event, SystemPromptCached):
            return self._system_prompt(event)
        if isinstance(event, MessageAdded):
            return self._message(event)
        if isinstance(event, HistoryPruned):
            return self._pruned(event)
        if isinstance(event, TurnStarted):
            return self._turn(event)
        if isinstance(event, TurnFinished):
            return self._reply(event)
        if isinstance(event, ToolReturned):
            return self._tool_result(event)
        return self._without_text(event)

    def redacted_blob(self, sha256: str, payload: bytes) -> tuple[str, bytes]:
        """A payload as it may be kept; one that is not UTF-8 text is emptied."""
        try:
            kept = self._redactor(payload.decode()).encode()
        except UnicodeDecodeError:
            kept = b""
        kept_sha256 = hashlib.sha256(kept).hexdigest()
        self._sums[sha256] = (kept_sha256, len(kept))
        return kept_sha256, kept

    def _without_text(self, event: Event) -> Event:
        redact = self._redactor
        if isinstance(event, RunStarted):
            return replace(
                event,
                name=redact(event.name),
                model=redact(event.model),
                generation_config=_redact_settings(event.generation_config, redact),
                environment=_redact_values(event.environment, redact, numbers=False),
                settings=_redact_values(event.settings, redact, numbers=False),
                tools=tuple(map(redact, event.tools)),
                redacted=True,
            )
        if isinstance(event, RunFailed):
            return replace(event, message=redact(event.message), traceback=redact(event.traceback))
        if isinstance(event, TokenSampled):
            return replace(event, token_id=0, top_ids=(), top_logprobs=())
        if isinstance(event, CacheDecided) and event.divergence_index is not None:
            return replace(event, divergence_cached_id=0, divergence_prompt_id=0)
        if isinstance(event, ToolCalled):
            return replace(
                event,
                name=redact(event.name),
                arguments=_redact_values(event.arguments, redact),
                text=redact(event.text),
            )
        return self._without_names(event)

    def _without_names(self, event: Event) -> Event:
        redact = self._redactor
        if isinstance(event, RunResumed):
            environment = _redact_values(event.environment, redact, numbers=False)
            return replace(event, environment=environment)
        if isinstance(event, RunForked):
            return replace(event, changes=_redact_values(event.changes, redact))
        if isinstance(event, InterventionRequested | InterventionApplied):
            source = _redact_values(event.source, redact)
            sha256, _ = self._sums.get(event.tensor_sha256, ("", 0))
            return replace(event, name=redact(event.name), source=source, tensor_sha256=sha256)
        if isinstance(event, InterventionWithdrawn | InterventionRemoved):
            return replace(event, name=redact(event.name))
        return event

    def _system_prompt(self, event: SystemPromptCached) -> Event:
        self._text, self._redacted_text = event.text, self._redactor(event.text)
        ids = _withheld(event.ids)
        return replace(
            event,
            content=self._redactor(event.content),
            text=self._redacted_text,
            ids=ids,
            sha256=ids_sha256(ids),
        )

    def _message(self, event: MessageAdded) -> Event:
        text = self._redactor(event.text)
        self._text += event.text
        self._redacted_text += text
        return replace(
            event, content=self._redactor(event.content), text=text, ids=_withheld(event.ids)
        )

    def _pruned(self, event: HistoryPruned) -> Event:
        for start, end in reversed(event.removed_chars):
            self._text = self._text[:start] + self._text[end:]
        # Places in the text are those of the text that was not redacted: the turn says anew.
        return replace(event, removed_chars=())

    def _turn(self, event: TurnStarted) -> Event:
        self._text = self._text[: event.kept_chars] + event.added_text
        prompt = self._redactor(self._text)
        kept_chars = _common_length(self._redacted_text, prompt)
        self._redacted_text = prompt
        return replace(
            event,
            kept_chars=kept_chars,
            added_text=prompt[kept_chars:],
            added_ids=_withheld(event.added_ids),
            sampling=_redact_settings(event.sampling, self._redactor),
            unreplayable=(*event.unreplayable, REDACTED),
        )

    def _reply(self, event: TurnFinished) -> Event:
        text = self._redactor(event.text)
        self._text += event.text + event.stop_text
        self._redacted_text += text + event.stop_text
        return replace(event, text=text)

    def _tool_result(self, event: ToolReturned) -> Event:
        sha256, size = self._sums.get(event.payload_sha256, ("", 0))
        return replace(
            event,
            name=self._redactor(event.name),
            content=self._redactor(event.content),
            tensors=tuple(_redact_values(each, self._redactor) for each in event.tensors),
            payload_sha256=sha256,
            payload_bytes=size,
            error=None if event.error is None else self._redactor(event.error),
        )


def _common_length(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _withheld(ids: tuple[int, ...]) -> tuple[int, ...]:
    return (0,) * len(ids)


def _redact_settings(settings: Mapping[str, Any], redact: Redactor) -> dict[str, Any]:
    kept: dict[str, Any] = _redact_values(settings, redact, numbers=False)
    return kept | {name: REDACTED for name in _ID_SETTINGS if settings.get(name)}


def _redact_values(value: Any, redact: Redactor, *, numbers: bool = True) -> Any:
    """Every string in it, and, where `numbers` says so, every number that is hidden as text."""
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
