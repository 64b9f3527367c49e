"""Each class of events declares how it is treated, and nothing can be forgotten."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest

import tokentape as tt
from tokentape.recorder.codec import decode_body, encode_body, kind_of
from tokentape.recorder.events import (
    EVENT_CLASSES,
    REDACTION_RULES,
    BelongsTo,
    CacheDecision,
    CacheMode,
    Event,
    EventTraits,
    InterventionKind,
    Redact,
    RunStarted,
)
from tokentape.recorder.events.fields import Label, Text, TokenIds, redaction_rules
from tokentape.recorder.redaction import Redaction

ROOT = Path(__file__).parents[2]
TAPES = sorted((ROOT / "tests" / "recordings").glob("*.tape"))
SECRET, SECRET_ID = "rosebud", 70_001

ENDS = {"RunFinished", "RunFailed"}
DECLARED: list[tuple[Callable[[EventTraits], bool], set[str]]] = [
    (
        lambda traits: traits.durable,
        ENDS
        | {"RunStarted", "RunForked", "RunResumed", "TurnStarted", "TurnFinished", "ToolReturned"},
    ),
    (lambda traits: traits.sealed, ENDS | {"TurnFinished"}),
    (lambda traits: traits.ends_run, ENDS),
    (
        lambda traits: traits.belongs_to is BelongsTo.RUN,
        ENDS | {"RunStarted", "RunForked", "ConversationImported"},
    ),
    (
        lambda traits: traits.belongs_to is BelongsTo.NEXT_TURN,
        {
            *("SystemPromptCached", "MessageAdded", "MessageDetailsImported"),
            *("ToolCalled", "ToolReturned"),
        },
    ),
    (
        lambda traits: traits.changes_summary,
        ENDS | {"RunStarted", "RunForked", "RunResumed", "CacheDecided", "TurnFinished"},
    ),
    (
        lambda traits: bool(traits.payload),
        {"RunStarted", "ToolReturned", "InterventionRequested", "InterventionApplied"},
    ),
]
NOT_REDACTED = {
    "ActivationObserved.statistics",
    "ConversationImported.content_sha256",
    "ConversationImported.format",
    "ForwardsShared.obstacle",
    "HistoryPruned.removed_messages",
    "HistoryPruned.removed_tokens",
    "InterventionApplied.dimensions",
    "InterventionApplied.positions",
    "InterventionRequested.dimensions",
    "InterventionRequested.positions",
    "MessageAdded.role",
    "PrefillCompleted.chunks",
    "RunFailed.error",
    "RunFinished.signal",
    "RunForked.parent_hash",
    "RunForked.parent_run_id",
    "RunResumed.device",
    "RunResumed.sampler_sha256",
    "RunResumed.weights_sha256",
    "RunStarted.attention_kernel",
    "RunStarted.device",
    "RunStarted.dtype",
    "RunStarted.sampler_sha256",
    "RunStarted.template_sha256",
    "RunStarted.tokenizer_sha256",
    "RunStarted.tokentape_version",
    "RunStarted.weights_sha256",
    "SystemPromptCached.chunks",
    "TurnFinished.generator_sha256",
    "TurnFinished.stop_reason",
    "TurnFinished.stop_text",
    "TurnStarted.unreplayable",
}
"""Fields that may hold text, ids or several numbers and are recorded as they are."""
RULED = [(cls, name) for cls, rules in REDACTION_RULES.items() for name in rules]


@pytest.fixture(scope="module")
def examples() -> dict[str, Event]:
    """One recorded event of each kind, from the tapes of all released versions."""
    found: dict[str, Event] = {}
    for tape in TAPES:
        with tt.open_store(tape) as store:
            for summary in store.summaries():
                events = store.recording(summary.run_id).events()
                found |= {kind_of(each.event): each.event for each in events}
    return found


@pytest.mark.parametrize(("has", "kinds"), DECLARED)
def test_a_trait_is_declared_by_the_kinds_that_need_it(
    has: Callable[[EventTraits], bool], kinds: set[str]
) -> None:
    assert {kind for kind, cls in EVENT_CLASSES.items() if has(cls.traits)} == kinds


def test_a_payload_is_named_by_a_field_that_is_redacted_with_it() -> None:
    for cls in EVENT_CLASSES.values():
        rules = REDACTION_RULES[cls]
        named = [name for name, rule in rules.items() if rule is Redact.PAYLOAD]

        # The sum of the weights stays; their manifest is not stored.
        declared = "" if cls is RunStarted else cls.traits.payload
        assert named == [each for each in [declared] if each]


def test_only_the_fields_on_the_list_are_recorded_as_they_are() -> None:
    plain = (int, float, bool, type(None))
    found = set()
    for kind, cls in EVENT_CLASSES.items():
        for field in dataclasses.fields(cls):
            hint = typing.get_type_hints(cls)[field.name]
            parts = typing.get_args(hint) or (hint,)
            may_leak = typing.get_origin(hint) is tuple or not all(
                each in plain or (isinstance(each, type) and hasattr(each, "__members__"))
                for each in parts
            )
            if may_leak and field.name not in REDACTION_RULES[cls]:
                found.add(f"{kind}.{field.name}")

    assert found == NOT_REDACTED


def secret_for(rule: Redact, value: Any) -> Any:
    """A value of the field's type that has the secret in it."""
    if rule is Redact.TOKEN_IDS:
        return (SECRET_ID,) * (len(value) or 1) if isinstance(value, tuple) else SECRET_ID
    if isinstance(value, tuple):
        several = value or ("",)
        return tuple(
            {SECRET: [SECRET]} if isinstance(each, Mapping) else SECRET for each in several
        )
    return {SECRET: [SECRET]} if isinstance(value, Mapping) else f"no {SECRET}"


@pytest.mark.parametrize(("cls", "name"), RULED, ids=[f"{c.__name__}.{n}" for c, n in RULED])
def test_no_secret_of_any_field_is_recorded(
    examples: dict[str, Event], cls: type[Event], name: str
) -> None:
    event = examples[cls.__name__]
    value, rule = getattr(event, name), REDACTION_RULES[cls][name]
    derived = (Redact.TOP_TOKENS, Redact.PAYLOAD, Redact.PAYLOAD_BYTES)
    if rule in derived or name in ("removed_chars", "sha256"):
        secret = event
    else:
        secret = dataclasses.replace(event, **{name: secret_for(rule, value)})
        assert SECRET in encode_body(secret) or str(SECRET_ID) in encode_body(secret)
    redacted = Redaction(lambda text: text.replace(SECRET, "X")).redact(secret)

    assert SECRET not in encode_body(redacted)
    assert str(SECRET_ID) not in encode_body(redacted)
    assert rule not in derived or not getattr(redacted, name)
    assert name not in ("removed_chars",) or redacted.removed_chars == ()  # type: ignore[union-attr]
    assert decode_body(cls.__name__, cls.version, encode_body(redacted)) == redacted


@pytest.mark.parametrize(
    "kind", [str, str | None, tuple[int, ...], Mapping[str, Any], tuple[str, ...], Any]
)
def test_a_field_that_declares_no_redaction_is_refused(kind: Any) -> None:
    fields = [("number", int), ("said", kind, None)]
    cls = dataclasses.make_dataclass("Said", fields)

    with pytest.raises(TypeError, match=r"Said\.said declares no redaction"):
        redaction_rules(cls)


@pytest.mark.parametrize("name", ["token_id", "top_ids", "divergence_cached_token_id", "ids"])
def test_a_number_that_is_called_an_id_is_refused_too(name: str) -> None:
    with pytest.raises(TypeError, match="declares no redaction"):
        redaction_rules(dataclasses.make_dataclass("Said", [(name, int | None)]))


def test_two_redactions_of_one_field_are_refused() -> None:
    @dataclass
    class Said:
        said: Annotated[Text, Redact.NOTHING]

    with pytest.raises(TypeError, match="several redactions"):
        redaction_rules(Said)


def test_declared_fields_are_found_with_their_rules() -> None:
    @dataclass
    class Said:
        said: Text | None
        by: Label
        ids: TokenIds
        count: int

    assert redaction_rules(Said) == {"said": Redact.TEXT, "ids": Redact.TOKEN_IDS}


DOCUMENTED = [(CacheDecision, "caches"), (CacheMode, "caches"), (InterventionKind, "interventions")]


@pytest.mark.parametrize(("choice", "page"), DOCUMENTED)
def test_the_page_has_every_choice_in_its_table(choice: type[StrEnum], page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]

    assert [each for each in choice if not any(f"`{each}`" in row for row in rows)] == []


def test_every_event_that_is_recorded_is_described_in_printable_lines(
    examples: dict[str, Event],
) -> None:
    silent = {"TurnStarted", "TurnFinished", "TokenSampled", "PrefillCompleted"}
    silent |= {"ActivationObserved", "ForwardsShared", "MemorySampled", "TokensSpelled"}
    for kind, event in examples.items():
        line = event.describe()

        assert (line is None) == (kind in silent) or kind == "MessageAdded", kind
        assert line is None or line.replace("\n", "").replace("\t", "").isprintable()
