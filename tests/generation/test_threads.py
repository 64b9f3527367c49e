"""One model used by several threads, and by code within a turn: each gets what it gets alone."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.generation.cold_runs import GREEDY
from tokentape.generation.hooks.model_use import between_forwards, exclusive_use, joined_use
from tokentape.store import DatabaseStore

# The tool of `converse` finds no activations where nothing is observed.
pytestmark = pytest.mark.filterwarnings("ignore::tokentape.generation.errors.ToolFailedWarning")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseStore]:
    url = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    with tt.open_store(url) as opened:
        yield opened


SAMPLED = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.9}
Act = Callable[[], Any]


def together(*acts: Act) -> list[Any]:
    """Run each in a thread of its own, all at once; return their results or errors."""
    results: list[Any] = [None] * len(acts)
    barrier = threading.Barrier(len(acts))

    def run(number: int, act: Act) -> None:
        try:
            barrier.wait(20)
            results[number] = act()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "the threads wait for each other"
    return results


def steer(number: int) -> tt.Intervention:
    return tt.Intervention.steer("calm", 1, torch.ones(64) * number, positions="all")


def converse(lm: tt.LoadedModel, number: int, *, turns: int = 3) -> list[tuple[int, ...]]:
    """Record turns, the odd ones steered and watched, with a tool that forwards; verify them."""
    look = tt.ToolCall(name="get_activation_statistics", arguments={"layer_name": "1"})
    with tt.open_store("sqlite://") as store:
        with tt.Investigation(
            lm,
            store=store,
            name=f"n{number}",
            system_prompt=f"You are number {number}.",
            tools=tt.default_tools(lm),
            seed=number,
        ) as run:
            if number % 2:
                run.intervene(steer(number))
                run.watch([0])
            for turn in range(turns):
                calls = [look] if turn == 1 else []
                run.chat(f"Question {turn}?", tool_calls=calls, **SAMPLED)
        recording = store.recording(run.run_id)
        assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
        return [turn.reply_ids for turn in recording.turns()]


def test_one_store_records_the_runs_of_several_threads(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def record(number: int) -> tuple[tuple[int, ...], ...]:
        with tt.Investigation(lm, store=store, name="n", system_prompt="Hi.", seed=number) as run:
            replies = tuple(run.chat("Hello", **SAMPLED).token_ids for _ in range(3))
        assert tt.check(store, run.run_id).ok
        return replies

    alone = [record(number) for number in range(4)]

    assert together(*(lambda n=n: record(n) for n in range(4))) == alone


def test_conversations_in_threads_are_those_of_each_alone(lm: tt.LoadedModel) -> None:
    alone = [converse(lm, number) for number in range(3)]

    assert together(*(lambda n=n: converse(lm, n) for n in range(3))) == alone


def test_hooks_of_a_turn_leave_other_forwards_alone(lm: tt.LoadedModel) -> None:
    """A thread that forwards the model without tokentape is not steered, and changes no turn."""
    ids = torch.tensor([random_ids(15, seed=2)])
    with torch.no_grad():
        plain = lm.model(ids).logits
    alone = converse(lm, 1)
    done = threading.Event()

    def forward() -> bool:
        equal = True
        with torch.no_grad():
            while not done.is_set():
                equal = equal and torch.equal(lm.model(ids).logits, plain)
        return equal

    def talk() -> list[tuple[int, ...]]:
        try:
            return converse(lm, 1)
        finally:
            done.set()

    assert together(talk, forward) == [alone, True]


def test_replays_and_calls_of_generate_run_beside_steered_turns(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    alone = converse(lm, 1)
    ids = torch.tensor([random_ids(9, seed=3)])
    with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.") as run:
        run.chat("Hello", **SAMPLED)
    recording = store.recording(run.run_id)

    def decode() -> list[int]:
        return lm.model.generate(ids, custom_generate=tt.decode, max_new_tokens=8, do_sample=False)[
            0
        ].tolist()

    expected = decode()
    found = together(
        lambda: converse(lm, 1),
        lambda: [tt.verify(recording, lm).verdict for _ in range(3)],
        lambda: [tt.regenerate(recording, lm).verdict for _ in range(3)],
        lambda: [decode() for _ in range(3)],
    )

    assert found[0] == alone
    assert found[1:] == [[tt.Verdict.VERIFIED] * 3, [tt.Verdict.EXACT] * 3, [expected] * 3]


@pytest.mark.parametrize("inner", ["generator", "forward", "verify", "capture"])
def test_a_callback_may_use_the_model_of_its_turn(
    inner: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    other = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(10, seed=4)
    with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.") as earlier:
        earlier.chat("Hello", **GREEDY)
    recording = store.recording(earlier.run_id)

    def use() -> Any:
        if inner == "generator":
            return other.generate(ids, use_cache=False, **GREEDY)["generated_tokens"]
        if inner == "verify":
            return tt.verify(recording, lm).verdict
        if inner == "capture":
            return tt.capture(lm.model, ids, 1).tolist()
        return lm.model(torch.tensor([ids])).logits.tolist()

    with torch.no_grad():
        expected = use()
    used: list[Any] = []

    def reply(callback: Callable[..., None] | None) -> tuple[int, ...]:
        with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.") as run:
            run.intervene(steer(1))
            run.watch([0])
            reply = run.chat("Hello", callback=callback, **SAMPLED)
        assert tt.verify(store.recording(run.run_id), lm).verdict is tt.Verdict.VERIFIED
        return reply.token_ids

    assert reply(lambda *_: used.append(use())) == reply(None)
    assert used
    assert all(each == expected for each in used)


def test_a_tool_may_talk_to_the_model_of_its_turn(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    def ask() -> list[int]:
        """Ask the same model."""
        with tt.Investigation(lm, store=store, name="inner", system_prompt="Be brief.") as inner:
            return list(inner.chat("Hello", **GREEDY).token_ids)

    expected = ask()
    tools = tt.ToolInterface([ask], seconds_max=30)
    with tt.Investigation(lm, store=store, name="n", system_prompt="Hi.", tools=tools) as run:
        run.intervene(steer(1))
        run.chat("Hello", **GREEDY)
        call = tt.ToolCall(name="ask", arguments={})
        (result,) = run.chat("Hello", tool_calls=[call], **GREEDY).tool_results

    assert result.error is None
    assert result.content == str(expected)
    assert tt.verify(store.recording(run.run_id), lm).verdict is tt.Verdict.VERIFIED


def test_one_investigation_is_refused_to_a_second_thread_and_to_its_callback(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    refused: list[tt.TokentapeError] = []

    with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.") as run:

        def use() -> None:
            with pytest.raises(tt.TokentapeError, match="a turn is running") as refusal:
                run.chat("And I?", **GREEDY)
            refused.append(refusal.value)

        def hold(*_: object) -> None:
            if not entered.is_set():
                use()
                entered.set()
                go_on.wait(20)

        thread = threading.Thread(target=lambda: run.chat("Hello", callback=hold, **GREEDY))
        thread.start()
        assert entered.wait(20)
        use()
        go_on.set()
        thread.join(20)
        run.chat("Go on.", **GREEDY)

    assert len(refused) == 2
    assert not any("\n" in str(each) for each in refused)
    assert tt.verify(store.recording(run.run_id), lm).verdict is tt.Verdict.VERIFIED


def test_waiting_threads_get_the_model_in_their_order(lm: tt.LoadedModel) -> None:
    order: list[int] = []
    threads: list[threading.Thread] = []

    def use(number: int) -> None:
        with exclusive_use(lm.model), joined_use(lm.model), between_forwards():
            order.append(number)

    with exclusive_use(lm.model):
        for number in range(4):
            threads.append(threading.Thread(target=use, args=(number,)))
            threads[-1].start()
            threads[-1].join(0.05)
        assert order == []
    for thread in threads:
        thread.join(20)

    assert order == [0, 1, 2, 3]


def test_the_model_is_free_after_an_error(lm: tt.LoadedModel) -> None:
    with pytest.raises(RuntimeError, match="stop"), exclusive_use(lm.model):
        raise RuntimeError("stop")

    def use() -> int:
        with exclusive_use(lm.model):
            return 1

    assert together(use) == [1]


def test_a_wrapped_model_shares_the_lock_of_its_base(lm: tt.LoadedModel) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = lm.model

        def get_base_model(self) -> torch.nn.Module:
            return self.inner

    wrapper = Wrapper()
    entered = threading.Event()

    def use() -> None:
        with exclusive_use(wrapper):
            entered.set()

    with exclusive_use(lm.model):
        thread = threading.Thread(target=use)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(20)
    assert entered.is_set()
