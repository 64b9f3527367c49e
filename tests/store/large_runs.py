"""Long runs made without a model: a conversation that grows, or one that is pruned."""

from collections.abc import Iterator
from typing import Any

import tokentape as tt
from tests.made_events import run_started
from tests.store.made_runs import TICKS_US
from tokentape.recorder import Envelope, Record
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    HistoryPruned,
    MessageAdded,
    PrefillCompleted,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)

_SYSTEM = tuple(range(1, 41))
_QUESTION = (7, 8, 9)
_OPENING = (5, 6)
_VOCABULARY = 499


def conversation(
    turns: int, tokens: int, *, keep_turns: int | None = None, salt: int = 0
) -> Iterator[Event]:
    """Yield the events of a run after its start: a tool call in each third turn.

    Each turn has `tokens` tokens. With `keep_turns`, older turns are pruned from the history.
    `salt` changes the log-probabilities of the last turn.
    """
    yield SystemPromptCached(
        content="s", text="system ", ids=_SYSTEM, sha256=ids_sha256(_SYSTEM), chunks=(40,),
        duration_us=1, kv_bytes=1,
    )  # fmt: skip
    length, chars, sizes = len(_SYSTEM), len("system "), list[tuple[int, int]]()
    for turn in range(1, turns + 1):
        if turn % 3 == 0:
            yield from _tool_call(turn)
        added = len(_QUESTION) + len(_OPENING) + tokens, len("ask: ") + len(f"reply {turn} ")
        if keep_turns is not None and len(sizes) >= keep_turns:
            old_ids, old_chars = sizes.pop(0)
            yield HistoryPruned(
                turn=turn, policy="turns", reason="context",  # type: ignore[arg-type]
                removed_tokens=((40, 40 + old_ids),), removed_chars=((7, 7 + old_chars),),
                removed_messages=(1,), tokens_before=length, tokens_after=length - old_ids,
            )  # fmt: skip
            length, chars = length - old_ids, chars - old_chars
        sizes.append(added)
        yield MessageAdded(role="user", content=f"{turn}?", text="ask: ", ids=_QUESTION)
        yield from _reply(turn, tokens, length + 3, chars + 5, salt if turn == turns else 0)
        length, chars = length + added[0], chars + added[1]


def _reply(turn: int, tokens: int, kept: int, chars: int, salt: int) -> Iterator[Event]:
    prompt = kept + len(_OPENING)
    yield TurnStarted(
        turn=turn, prompt_tokens=prompt, kept_tokens=kept, kept_chars=chars, added_ids=_OPENING,
        added_text="", history_reason="", seed=turn, sampling={"do_sample": True},
    )  # fmt: skip
    yield CacheDecided(
        turn=turn, decision="hit", reason="extends", prompt_tokens=prompt,  # type: ignore[arg-type]
        reused_tokens=prompt - 5, computed_tokens=5, cached_tokens=prompt - 5, cropped_tokens=0,
    )  # fmt: skip
    yield PrefillCompleted(turn=turn, chunks=(5,), duration_us=9, kv_bytes=1, peak_bytes=1)
    for step in range(tokens):
        yield TokenSampled(
            turn=turn, step=step, position=prompt + step, token_id=(31 * turn + step) % _VOCABULARY,
            logprob=-0.5 - salt, logprob_processed=-0.25, entropy=1.5, top_gap=2.5,
            duration_us=900 + step, top_ids=(1, 2, 3, 4, 5), top_logprobs=(-1.0,) * 5,
        )  # fmt: skip
    yield TurnFinished(
        turn=turn, stop_reason="eos", generated_tokens=tokens, text=f"reply {turn} ",
        stop_text="", generator_sha256="", duration_us=2_500,
    )  # fmt: skip


def _tool_call(turn: int) -> Iterator[Event]:
    call: dict[str, Any] = {"call_id": f"c{turn}", "name": "look"}
    yield ToolCalled(arguments={"at": turn}, **call)
    yield ToolReturned(
        content="seen", content_tokens=1, payload_sha256="", payload_bytes=4, payload_tokens=1,
        tensors=(), error=None, duration_us=1_250, **call,
    )  # fmt: skip


class Records:
    """A log that holds the records of one run in memory; a store can import them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, envelope: Envelope, record: Record, **others: object) -> None:
        """Hold the record; see `EventLog`."""
        self.records.append(record)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Drop the payload."""


def import_conversation(store: Any, turns: int, tokens: int, **shape: Any) -> str:
    """Store a whole conversation in one transaction and return the id of its run."""
    log = Records()
    with tt.Recorder(log, clock_us=TICKS_US.__next__) as recorder:
        recorder.record(run_started(name="large"))
        for event in conversation(turns, tokens, **shape):
            recorder.record(event)
    run_id = recorder.run_id
    store.import_run(tt.Recording(run_id, lambda: iter(log.records)), store)
    return run_id
