"""How a batch ends: results, errors, interrupts, and runs that can be resumed."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.generation.batch.talks import talk
from tokentape.recorder.errors import Terminated
from tokentape.store import DatabaseStore

Replies = Callable[[str], list[tuple[int, ...]]]


def fail() -> None:
    raise LookupError("of its own")


def test_the_error_of_a_function_is_raised_and_the_others_finish(
    lm: tt.LoadedModel, store: DatabaseStore, replies: Replies
) -> None:
    with pytest.raises(LookupError, match="of its own"), tt.Batch(lm) as batch:
        batch.start(fail)
        job = batch.start(talk, lm, store, 1)
    assert len(replies(job.result())) == 3


def test_errors_of_several_functions_are_raised_together(lm: tt.LoadedModel) -> None:
    match = "2 of 2 functions of the batch raised"
    with pytest.raises(ExceptionGroup, match=match), tt.Batch(lm) as batch:
        batch.start(fail)
        batch.start(fail)


def test_an_error_that_was_asked_for_is_not_raised_again(lm: tt.LoadedModel) -> None:
    with tt.Batch(lm) as batch:
        job = batch.start(fail)
        with pytest.raises(LookupError):
            job.result()
    assert isinstance(job.error, LookupError)


def test_an_error_in_a_callback_ends_only_its_run(
    lm: tt.LoadedModel, store: DatabaseStore, replies: Replies
) -> None:
    def raises() -> None:
        with tt.Investigation(lm, store=store, name="raises", system_prompt="") as run:
            run.chat("Hi", max_new_tokens=5, callback=lambda token_id, logits: fail())

    alone = replies(talk(lm, store, 1))
    with tt.Batch(lm) as batch:
        failing, job = batch.start(raises), batch.start(talk, lm, store, 1)
        with pytest.raises(LookupError):
            failing.result()
    assert replies(job.result()) == alone


def test_an_error_of_a_forward_reaches_all_runs_in_it(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Their caches are half filled: none may go on."""
    layer = lm.model.model.layers[1].mlp
    own = layer.forward

    def forward(states: torch.Tensor) -> Any:
        if states.shape[0] > 1:
            raise RuntimeError("out of memory")
        return own(states)

    with tt.Batch(lm) as batch:
        layer.forward = forward
        jobs = [batch.start(talk, lm, store, number) for number in (1, 2)]
        for job in jobs:
            with pytest.raises(RuntimeError, match="out of memory"):
                job.result()
    assert [each.status for each in store.summaries()] == ["failed", "failed"]


class _Talks:
    """Long conversations of a batch, which call `on_token` after so many tokens of them all."""

    def __init__(self, lm: tt.LoadedModel, store: DatabaseStore) -> None:
        self.lm, self.store = lm, store
        self.after, self.on_token = 30, threading.Event()
        self.tokens = 0
        self.run_ids: dict[int, str] = {}

    def run(self, number: int) -> None:
        with tt.Investigation(
            self.lm, store=self.store, name=f"run {number}", system_prompt="Hi", seed=number
        ) as run:
            self.run_ids[number] = run.run_id
            for turn in range(3):
                run.chat(f"Go on {turn}", max_new_tokens=40, min_new_tokens=40, callback=self.count)

    def count(self, token_id: int, logits: torch.Tensor) -> None:
        self.tokens += 1
        if self.tokens == self.after:
            self.on_token.set()

    def finish_later(self, number: int) -> str:
        """Resume a run and finish it."""
        run = tt.Investigation.resume(self.store, self.run_ids[number], self.lm)
        with run:
            for turn in range(run.generator.turn, 3):
                run.chat(f"Go on {turn}", max_new_tokens=40, min_new_tokens=40)
        return run.run_id


@pytest.fixture
def talks(lm: tt.LoadedModel, store: DatabaseStore) -> _Talks:
    return _Talks(lm, store)


def check_all_resume_to_the_same_tokens(talks: _Talks, replies: Replies) -> None:
    assert len(talks.run_ids) == 3
    interrupted = dict(talks.run_ids)
    with tt.Batch(talks.lm) as batch:
        jobs = {number: batch.start(talks.finish_later, number) for number in interrupted}
    resumed = {number: replies(job.result()) for number, job in jobs.items()}
    for number in interrupted:
        talks.run(number)
        assert resumed[number] == replies(talks.run_ids[number])


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_ends_every_run_after_a_token_and_all_can_be_resumed(
    number: int, error: type[BaseException], talks: _Talks, replies: Replies
) -> None:
    def send() -> None:
        assert talks.on_token.wait(60)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(error), tt.Batch(talks.lm) as batch:
        for each in range(3):
            batch.start(talks.run, each)

    statuses = {each.status for each in talks.store.summaries()}
    assert statuses == {"interrupted"}
    check_all_resume_to_the_same_tokens(talks, replies)


def test_an_error_in_the_block_ends_every_run_and_all_can_be_resumed(
    talks: _Talks, replies: Replies
) -> None:
    with pytest.raises(LookupError), tt.Batch(talks.lm, size=3) as batch:
        jobs = [batch.start(talks.run, each) for each in range(3)]
        waiting = batch.start(talk, talks.lm, talks.store, 9)
        assert talks.on_token.wait(60)
        fail()

    assert all("resume it" in str(each.error) for each in (*jobs, waiting))
    assert {each.name for each in talks.store.summaries()} == {f"run {n}" for n in range(3)}
    check_all_resume_to_the_same_tokens(talks, replies)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_without_room_is_refused(lm: tt.LoadedModel, size: int) -> None:
    with pytest.raises(tt.TokentapeError, match="at least one run"):
        tt.Batch(lm, size=size)


def test_functions_are_refused_outside_of_the_block(lm: tt.LoadedModel) -> None:
    batch = tt.Batch(lm)
    with pytest.raises(tt.TokentapeError, match="only within its `with` block"):
        batch.start(fail)
    with batch:
        pass
    with pytest.raises(tt.TokentapeError, match="only within its `with` block"):
        batch.start(fail)


def test_other_threads_than_those_of_the_batch_are_refused(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Batch(lm) as batch:
        job = batch.start(talk, lm, store, 1, threads=torch.get_num_threads() + 1)
        with pytest.raises(tt.ModelError, match=r"call torch\.set_num_threads"):
            job.result()


def test_a_generator_without_an_investigation_ends_with_its_batch(lm: tt.LoadedModel) -> None:
    begun, sampled = threading.Event(), list[int]()

    def count(token_id: int, logits: torch.Tensor) -> None:
        sampled.append(token_id)
        begun.set()

    def generate() -> None:
        tt.ManualGenerator(lm.model, lm.tokenizer).generate(
            "Hello", max_new_tokens=1500, min_new_tokens=1500, callback=count
        )

    with pytest.raises(LookupError), tt.Batch(lm) as batch:
        job = batch.start(generate)
        assert begun.wait(60)
        fail()

    assert "resume it" in str(job.error)
    assert len(sampled) < 1500


def test_a_function_that_is_started_while_the_batch_ends_does_not_run(lm: tt.LoadedModel) -> None:
    """A server may start one then, and nothing would ever begin it."""
    ran, late = [], []

    def starts_another() -> None:
        leaving.wait(10)
        while not batch._stop.errors:
            time.sleep(0.001)
        late.append(batch.start(ran.append, 1))

    leaving = threading.Event()
    with pytest.raises(LookupError), tt.Batch(lm) as batch:
        batch.start(starts_another)
        leaving.set()
        raise LookupError
    with pytest.raises(tt.TokentapeError, match="resume it"):
        late[0].result()

    assert ran == []


def test_a_batch_waits_for_functions_that_functions_start_and_keeps_none_that_returned(
    lm: tt.LoadedModel,
) -> None:
    ran: list[int] = []

    def nested(depth: int) -> None:
        ran.append(depth)
        if depth:
            batch.start(nested, depth - 1)

    with tt.Batch(lm) as batch:
        for _ in range(100):
            batch.start(int)
        for _ in range(3):
            with pytest.raises(LookupError):
                batch.start(fail).result()
        batch.start(nested, 5)
    assert sorted(ran) == [0, 1, 2, 3, 4, 5]
    assert len(batch._jobs) <= 1
