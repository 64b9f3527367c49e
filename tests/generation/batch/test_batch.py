"""Runs of a batch: each gets what it gets alone."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokentape as tt
from benchmarks.tiny_models import FAMILIES
from tests.generation.batch.talks import Waits, talk
from tokentape.generation import fingerprints
from tokentape.recorder.events import ActivationObserved, ForwardsShared
from tokentape.recorder.recording import Recording
from tokentape.replay.retracing.repeated_forwards import RepeatedForwards
from tokentape.store import DatabaseStore

Replies = Callable[[str], list[tuple[int, ...]]]


def shared(recording: Recording) -> list[ForwardsShared]:
    return [e.event for e in recording.events() if isinstance(e.event, ForwardsShared)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_run_gets_the_tokens_that_it_gets_alone(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, replies: Replies
) -> None:
    lm = make_lm(family)
    kinds: list[dict[str, Any]] = [{"greedy": True}, {}, {"steered": True}, {}, {"greedy": True}]
    runs = [(lm, store, number, kind) for number, kind in enumerate(kinds)]

    def two_turns(lm: tt.LoadedModel, store: DatabaseStore, number: int, kind: Any) -> str:
        return talk(lm, store, number, turns=2, **kind)

    alone = [two_turns(*each) for each in runs]
    with tt.Batch(lm, size=4) as batch:
        jobs = [batch.start(two_turns, *each) for each in runs]
    together = [job.result() for job in jobs]

    assert [replies(each) for each in together] == [replies(each) for each in alone]
    obstacles = {each.obstacle for run in together for each in shared(store.recording(run))}
    recurrent = family in ("mamba", "qwen3-next")
    assert all(obstacles) if recurrent else obstacles == {""}
    assert all(tt.check(store, each).ok for each in together)
    verdicts = {tt.regenerate(store.recording(each), lm).verdict.value for each in together}
    assert verdicts == {"exact"}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_of_a_batch_is_retraced_bit_for_bit_from_itself(
    family: str, dtype: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm(family)
    lm.model.to(getattr(torch, dtype))
    with tt.Batch(lm, size=3) as batch:
        jobs = [batch.start(talk, lm, store, n, steered=n == 2, turns=2) for n in range(4)]

    for job in jobs:
        recording = store.recording(job.result())
        assert shared(recording)
        assert tt.retrace(recording, lm).verdict.value == "exact"
        assert tt.rebuild(recording).turns


def test_a_retrace_without_the_recorded_rows_is_off_by_rounding(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm("llama")
    with tt.Batch(lm, size=4) as batch:
        jobs = [batch.start(talk, lm, store, n, turns=1) for n in range(4)]
    recording = store.recording(jobs[3].result())
    assert shared(recording)
    monkeypatch.setattr(
        RepeatedForwards, "forward", lambda self, decoder, ids, shared: decoder.forward(ids)
    )
    found = tt.retrace(recording, lm)
    assert found.verdict.value != "exact"
    assert sum(turn.differing_rows for turn in found.turns) > 0


def test_a_batch_fingerprints_the_tokenizer_once_and_the_weights_for_each_run(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Any] = []
    tokenizer_sha256 = fingerprints.tokenizer_sha256
    monkeypatch.setattr(
        fingerprints, "tokenizer_sha256", lambda each: hashed.append(each) or tokenizer_sha256(each)
    )
    with tt.Batch(lm, size=1) as batch:
        first = batch.start(talk, lm, store, 1, turns=1).result()
        with torch.no_grad():
            lm.model.lm_head.weight.mul_(1.5)
        second = batch.start(talk, lm, store, 2, turns=1).result()
    within = len(hashed)
    talk(lm, store, 3, turns=1)

    assert (within, len(hashed)) == (1, 2)
    before, after = (store.recording(each).started() for each in (first, second))
    assert before.tokenizer_sha256 == after.tokenizer_sha256
    assert before.weights_sha256 != after.weights_sha256


def test_observations_of_a_run_are_those_of_its_own_row(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def numbers(statistics: Mapping[str, Any]) -> dict[str, float]:
        return {name: each for name, each in statistics.items() if isinstance(each, int | float)}

    def observed(run_id: str) -> list[Any]:
        events = (each.event for each in store.recording(run_id).events())
        return [
            (e.turn, e.start, e.end, layer, numbers(statistics))
            for e in events
            if isinstance(e, ActivationObserved)
            for layer, statistics in e.statistics.items()
        ]

    alone = [talk(lm, store, number, steered=True) for number in (1, 2)]
    with tt.Batch(lm) as batch:
        jobs = [batch.start(talk, lm, store, number, steered=True) for number in (1, 2)]
    for one, job in zip(alone, jobs, strict=True):
        expected = [
            (*where, pytest.approx(each, rel=1e-4, abs=1e-3)) for *where, each in observed(one)
        ]
        assert observed(job.result()) == expected
        assert len(expected) > 20


def test_others_go_on_while_one_waits_for_a_tool(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    tool = Waits()

    def wait() -> str:
        with tt.Investigation(
            lm, store=store, name="waits", system_prompt="", tools=tool.tools()
        ) as run:
            call = tt.ToolCall(name="wait", arguments={})
            return run.chat("Wait.", tool_calls=[call], max_new_tokens=4).text

    with tt.Batch(lm) as batch:
        waiting = batch.start(wait)
        assert tool.was_called.wait(60)
        other = batch.start(talk, lm, store, 1)
        assert other.result()
        assert not waiting.is_done
        tool.may_return.set()
    assert isinstance(waiting.result(), str)


def test_a_long_prompt_does_not_stop_the_others(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    """Tokens of one run are sampled between the chunks of another one's prompt."""
    order: list[str] = []
    begun = threading.Event()

    def short() -> None:
        def sampled(token_id: int, logits: torch.Tensor) -> None:
            order.append("token")
            begun.set()

        with tt.Investigation(lm, store=store, name="short", system_prompt="") as run:
            run.chat("Hi", max_new_tokens=40, min_new_tokens=40, callback=sampled)

    def long() -> None:
        assert begun.wait(60)
        with tt.Investigation(
            lm, store=store, name="long", system_prompt="", prefill_chunk_tokens=50
        ) as run:
            order.append("prompt")
            run.chat("Hello " * 100, max_new_tokens=1)
            order.append("reply")

    with tt.Batch(lm) as batch:
        batch.start(short)
        batch.start(long)
    within = order[order.index("prompt") : order.index("reply")]
    assert within.count("token") >= 10


def test_more_functions_than_there_is_room_for_wait(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def one(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        talk(lm, store, number, turns=1)
        with lock:
            running -= 1
        return number

    with tt.Batch(lm, size=2) as batch:
        jobs = [batch.start(one, number) for number in range(5)]
    assert [job.result() for job in jobs] == [0, 1, 2, 3, 4]
    assert most == 2


def test_two_models_in_one_batch_do_not_mix(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, replies: Replies
) -> None:
    ours, other = make_lm("llama"), make_lm("qwen3")
    alone = talk(ours, store, 1), talk(other, store, 2)
    with tt.Batch(ours) as batch:
        jobs = batch.start(talk, ours, store, 1), batch.start(talk, other, store, 2)
    assert [replies(job.result()) for job in jobs] == [replies(each) for each in alone]
    assert not shared(store.recording(jobs[1].result()))


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_in_any_order_of_joining_and_leaving_tokens_are_those_alone(
    data: st.DataObject, tmp_path: Path, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    lm = LM.setdefault("gemma3", make_lm("gemma3"))
    scripts = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "turns": st.integers(1, 3),
                    "greedy": st.booleans(),
                    "steered": st.booleans(),
                    "prefill_chunk_tokens": st.sampled_from([7, None]),
                }
            ),
            min_size=2,
            max_size=5,
        )
    )
    size = data.draw(st.integers(1, 5))
    with tt.open_store(f"sqlite:///{tmp_path}/any.db") as store:
        with tt.Batch(lm, size=size) as batch:
            jobs = [batch.start(talk, lm, store, n, **each) for n, each in enumerate(scripts)]
        for number, (job, script) in enumerate(zip(jobs, scripts, strict=True)):
            key = (number, *script.values())
            if key not in ALONE:
                ALONE[key] = _replies(store, talk(lm, store, number, **script))
            assert _replies(store, job.result()) == ALONE[key]


LM: dict[str, tt.LoadedModel] = {}
ALONE: dict[tuple[Any, ...], list[tuple[int, ...]]] = {}


def _replies(store: DatabaseStore, run_id: str) -> list[tuple[int, ...]]:
    return [turn.reply_ids for turn in store.recording(run_id).turns()]
