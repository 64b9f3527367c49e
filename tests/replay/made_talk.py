"""Short conversations made by hand, without a model: each character is a token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tokentape as tt
from tests.made_events import run_started
from tokentape.recorder import Envelope, Record
from tokentape.recorder.codec import encode
from tokentape.recorder.events import (
    CacheDecided,
    CacheEvicted,
    Event,
    MessageAdded,
    PrefillCompleted,
    RunFailed,
    RunFinished,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


@dataclass(frozen=True, kw_only=True)
class Said:
    """A turn: a message, perhaps a tool result, and the reply; `cut` if it was cut off."""

    asked: str = "why? "
    reply: str = "so."
    tool: str | None = None
    logprobs: tuple[float, ...] = ()
    temperature: float = 0.5
    seed: int | None = 3
    stop_reason: str = "eos"
    duration_us: int = 1_000
    cut: bool = False


def talk_events(
    turns: Sequence[Said], *, system: str = "Be kind. ", ended: bool = True, **began: Any
) -> list[Event]:
    """Return the events of a run with these turns."""
    events: list[Event] = [run_started(**began)]
    events.append(
        SystemPromptCached(
            content=system.strip(),
            text=system,
            ids=ids_of(system),
            sha256=ids_sha256(ids_of(system)),
            chunks=(len(system),),
            duration_us=turns[0].duration_us if turns else 1_000,
            kv_bytes=8,
        )
    )
    stream = system
    for number, said in enumerate(turns, start=1):
        events += turn_events(number, said, stream)
        stream += said.asked + (said.tool or "") + ":" + said.reply
    if ended and not (turns and turns[-1].cut):
        events.append(
            RunFinished(
                turns=len(turns),
                prompt_tokens=0,
                reused_tokens=0,
                computed_tokens=0,
                generated_tokens=0,
            )
        )
    elif ended:
        events.append(RunFailed(error="KeyboardInterrupt", message="", traceback=""))
    return events


def turn_events(number: int, said: Said, stream: str) -> Iterable[Event]:
    """Yield the events of a turn after the conversation `stream`."""
    yield MessageAdded(
        role="user", content=said.asked.strip(), text=said.asked, ids=ids_of(said.asked)
    )
    stream += said.asked
    yield from _tool_call(number, said)
    stream += said.tool or ""
    yield TurnStarted(
        turn=number,
        prompt_tokens=len(stream) + 1,
        kept_tokens=len(stream),
        kept_chars=len(stream),
        added_ids=ids_of(":"),
        added_text=":",
        history_reason="",
        seed=said.seed,
        sampling={"do_sample": said.seed is not None, "temperature": said.temperature},
    )
    yield CacheDecided(
        turn=number,
        decision="hit",
        reason="extends",
        prompt_tokens=len(stream) + 1,
        reused_tokens=len(stream),
        computed_tokens=1,
        cached_tokens=len(stream),
        cropped_tokens=0,
        source="memory",
    )
    yield PrefillCompleted(
        turn=number,
        chunks=(1,),
        duration_us=said.duration_us,
        kv_bytes=8,
        peak_bytes=said.duration_us,
    )
    yield from _reply(number, said, len(stream) + 1)
    yield CacheEvicted(reason="budget", tokens=2, freed_bytes=8, kept_bytes=8)
    if not said.cut:
        yield TurnFinished(
            turn=number,
            stop_reason=said.stop_reason,
            generated_tokens=len(said.reply),
            text=said.reply,
            stop_text="",
            generator_sha256="" if said.seed is None else f"after {said.reply}",
            duration_us=said.duration_us,
        )


def _tool_call(number: int, said: Said) -> Iterable[Event]:
    """Yield the events of the tool call before a turn, if it has one."""
    if said.tool is None:
        return
    call_id = f"call_{number}"
    yield ToolCalled(call_id=call_id, name="look", arguments={"at": [number, {"x": 1}]})
    yield ToolReturned(
        call_id=call_id,
        name="look",
        content=said.tool,
        content_tokens=len(said.tool),
        payload_sha256="5" * 64,
        payload_bytes=9,
        payload_tokens=9,
        tensors=({"name": "w", "shape": [2], "sha256": "6"},),
        error=None,
        duration_us=said.duration_us,
    )
    yield MessageAdded(
        role="tool",
        content=said.tool,
        text=said.tool,
        ids=ids_of(said.tool),
        tool_call_id=call_id,
    )


def _reply(number: int, said: Said, prompt_tokens: int) -> Iterable[Event]:
    """Yield a `TokenSampled` for each character of the reply."""
    for step, token_id in enumerate(ids_of(said.reply)):
        logprob = said.logprobs[step] if step < len(said.logprobs) else -0.5
        yield TokenSampled(
            turn=number,
            step=step,
            position=prompt_tokens + step,
            token_id=token_id,
            logprob=logprob,
            logprob_processed=logprob,
            entropy=0.25,
            top_gap=0.5,
            duration_us=said.duration_us,
            top_ids=(token_id, 7),
            top_logprobs=(-0.5, -2.0),
        )


class _Log:
    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    def append(self, envelope: Envelope, record: Record, **more: Any) -> None:
        self.envelopes.append(envelope)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Ignore payloads."""


def recorded(events: Iterable[Event], *, redactor: tt.Redactor | None = None) -> tt.Recording:
    """Return a recording of the events."""
    log = _Log()
    recorder = tt.Recorder(log, redactor=redactor)
    for event in events:
        recorder.record(event)
    records = [encode(each) for each in log.envelopes]
    return tt.Recording(recorder.run_id, lambda: iter(records))


def talk(*turns: Said, **given: Any) -> tt.Recording:
    return recorded(talk_events(turns, **given))
