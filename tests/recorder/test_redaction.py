"""A redacted recording has no secret, and its events still agree with each other."""

import dataclasses
import hashlib
from typing import Any

import pytest

from tests.recorder.test_seals import STARTED
from tokentape.recorder import Envelope, Record, Recorder, Recording
from tokentape.recorder.events import (
    CacheCleared,
    HistoryPruned,
    MessageAdded,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)
from tokentape.recorder.seals import check_seals

SECRET = "rosebud"


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.blobs: dict[str, bytes] = {}

    def append(self, envelope: Envelope, record: Record, **more: Any) -> None:
        self.records.append(record)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self.blobs[sha256] = payload

    @property
    def recording(self) -> Recording:
        return Recording("run", lambda: iter(self.records))


def redact(text: str) -> str:
    return text.replace(SECRET, "█")


def system(text: str) -> SystemPromptCached:
    ids = tuple(ord(each) for each in text)
    return SystemPromptCached(
        content=text,
        text=text,
        ids=ids,
        sha256=ids_sha256(ids),
        chunks=(len(ids),),
        duration_us=1_000,
        kv_bytes=1,
    )


def message(text: str) -> MessageAdded:
    return MessageAdded(role="user", content=text, text=text, ids=tuple(map(ord, text)))


def turn(number: int, before: int, added: str) -> list[Any]:
    """Return the events of a turn that replies with the secret, with one token per character.

    `before` is the length of the stream.
    """
    position = before + len(added)
    return [
        TurnStarted(
            turn=number,
            prompt_tokens=position,
            kept_tokens=before,
            kept_chars=before,
            added_ids=tuple(map(ord, added)),
            added_text=added,
            history_reason="",
            seed=1,
            sampling={},
        ),
        *(
            TokenSampled(
                turn=number,
                step=step,
                position=position + step,
                token_id=ord(each),
                logprob=-1.0,
                logprob_processed=-1.0,
                entropy=1.0,
                top_gap=1.0,
                duration_us=1_000,
                top_ids=(ord(each),),
                top_logprobs=(-1.0,),
            )
            for step, each in enumerate(SECRET)
        ),
        TurnFinished(
            turn=number,
            stop_reason="eos",
            generated_tokens=len(SECRET),
            text=SECRET,
            stop_text="",
            generator_sha256="",
            duration_us=1_000,
        ),
    ]


def record(*events: Any, blobs: tuple[bytes, ...] = ()) -> Kept:
    kept = Kept()
    with Recorder(kept, run_id="run", redactor=redact) as recorder:
        recorder.record(STARTED)
        for blob in blobs:
            recorder.put_blob(hashlib.sha256(blob).hexdigest(), blob)
        for event in events:
            recorder.record(event)
    return kept


def test_neither_the_text_nor_its_ids_are_recorded() -> None:
    prompt = f"Say {SECRET}."
    kept = record(system("Be kind."), message(prompt), *turn(1, 8 + len(prompt), ">"))
    written = repr(kept.records)
    (rebuilt,) = kept.recording.turns()

    assert SECRET not in written
    assert set(rebuilt.prompt_ids) == set(rebuilt.reply_ids) == {0}
    assert rebuilt.prompt_text == "Be kind.Say █.>"
    assert rebuilt.reply_text == "█"
    assert rebuilt.tokens[0].logprob == -1.0
    assert rebuilt.tokens[0].top_ids == ()
    assert rebuilt.started.unreplayable == ("redacted",)
    assert kept.recording.started().redacted is True
    assert check_seals("run", kept.records).ok


def test_a_secret_that_spans_two_messages_is_redacted() -> None:
    first, second = f"Say {SECRET[:3]}", f"{SECRET[3:]}."
    kept = record(message(first), message(second), *turn(1, len(first) + len(second), ">"))
    (rebuilt,) = kept.recording.turns()

    assert rebuilt.prompt_text == "Say █.>"


def test_later_turns_refer_to_the_redacted_text() -> None:
    first, second = f"Say {SECRET}.", f"Again: {SECRET}!"
    before = len(first) + 1 + len(SECRET) + len(second)
    kept = record(message(first), *turn(1, len(first), ">"), message(second), *turn(2, before, ">"))
    turns = kept.recording.turns()

    assert turns[1].prompt_text == "Say █.>█Again: █!>"
    assert turns[1].started.kept_chars > len("Say █.>")


def test_a_pruned_history_is_pruned_in_the_redacted_text() -> None:
    first = f"Say {SECRET}."
    pruned = HistoryPruned(
        turn=2,
        policy="turns",
        reason="",
        removed_tokens=((0, len(first)),),
        removed_chars=((0, len(first)),),
        removed_messages=(1,),
        tokens_before=len(first) + 1 + len(SECRET),
        tokens_after=1 + len(SECRET),
    )
    kept = record(message(first), *turn(1, len(first), ">"), pruned, *turn(2, 1 + len(SECRET), "?"))

    assert kept.recording.turns()[1].prompt_text == ">█?"


def test_tool_calls_and_results_are_redacted_and_name_the_redacted_payload() -> None:
    payload, binary = f"it is {SECRET}".encode(), b"\xff\xfe" + SECRET.encode()
    results = [
        ToolReturned(
            call_id=str(number),
            name="look",
            content=f"see {SECRET}",
            content_tokens=3,
            payload_sha256=hashlib.sha256(blob).hexdigest(),
            payload_bytes=len(blob),
            payload_tokens=3,
            tensors=(),
            error=f"no {SECRET}",
            duration_us=1_000,
        )
        for number, blob in enumerate((payload, binary))
    ]
    call = ToolCalled(call_id="0", name="look", arguments={"at": [SECRET, {SECRET: 1}]})
    kept = record(call, *results, blobs=(payload, binary))
    returned = [each.event for each in kept.recording.events()][2:4]

    assert SECRET not in repr(kept.records)
    assert SECRET.encode() not in b"".join(kept.blobs.values())
    assert [kept.blobs[each.payload_sha256] for each in returned] == ["it is █".encode(), b""]
    assert [each.payload_bytes for each in returned] == [9, 0]


def test_an_exception_is_recorded_without_the_secret() -> None:
    kept = Kept()
    try:
        with Recorder(kept, run_id="run", redactor=redact) as recorder:
            recorder.record(STARTED)
            raise KeyError(SECRET)
    except KeyError:
        pass

    assert "RunFailed" in repr(kept.records)
    assert SECRET not in repr(kept.records)


def test_reasons_and_call_ids_are_redacted() -> None:
    call = ToolCalled(call_id=SECRET, name="look", arguments={})
    kept = record(call, CacheCleared(reason=f"said {SECRET}", freed_bytes=0))

    assert SECRET not in repr(kept.records)


def test_the_sum_of_the_weights_stays_and_their_manifest_is_not_stored() -> None:
    kept, sha256 = Kept(), hashlib.sha256(b"list").hexdigest()
    with Recorder(kept, run_id="run", redactor=lambda text: "█") as recorder:
        recorder.put_weights_manifest(sha256, b"list")
        recorder.record(dataclasses.replace(STARTED, weights_sha256=sha256, weights_listed=True))
    started = kept.recording.started()

    assert (started.weights_sha256, started.weights_listed) == (sha256, True)
    assert kept.blobs == {}
    assert started.redacted is True


def test_numbers_in_settings_stay_numbers() -> None:
    kept = Kept()
    with Recorder(kept, run_id="run", redactor=lambda text: text.replace("7", "#")) as recorder:
        recorder.record(dataclasses.replace(STARTED, generation_config={"temperature": 0.7}))
        recorder.record(ToolCalled(call_id="1", name="look", arguments={"at": 7}))
    started, called, _ = (each.event for each in kept.recording.events())

    assert started.generation_config == {"temperature": 0.7}
    assert called.arguments == {"at": "#"}


def test_a_redactor_that_returns_no_string_is_refused_and_nothing_is_recorded() -> None:
    kept = Kept()
    recorder = Recorder(kept, run_id="run", redactor=lambda text: None)
    with pytest.raises(TypeError, match="a redactor returns a string, not NoneType"):
        recorder.record(STARTED)

    assert kept.records == []
