"""How runs end with the samples of Inspect AI, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai.event import ModelEvent
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import model_graded_qa
from inspect_ai.solver import Generate, Solver, TaskState, solver

import tokentape as tt
from tests.integrations.inspect_tasks import (
    IGNORED_WARNINGS,
    Evaluate,
    evaluations,
    questions,
    samples_of,
    store_url,
)
from tokentape.inspect_provider.open_models import OPEN_MODELS

pytestmark = IGNORED_WARNINGS


@pytest.fixture
def url(tmp_path: Path) -> str:
    return store_url(tmp_path)


@pytest.fixture
def run_task(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Evaluate]:
    monkeypatch.chdir(tmp_path)
    with evaluations(tiny_folder, tmp_path) as run:
        yield run


def test_a_grader_that_is_the_same_model_is_loaded_once_and_records_runs_of_its_own(
    run_task: Evaluate, url: str, tiny_folder: Path
) -> None:
    brief = GenerateConfig(temperature=0, max_tokens=8)
    grader = get_model(f"tokentape/{tiny_folder}", config=brief, store=url)
    log = run_task(questions(1, scorer=model_graded_qa(model=grader)))

    assert len({id(each.model) for each in OPEN_MODELS}) == 1
    (sample,) = samples_of(log)
    logged = [each.output.metadata for each in sample.events if isinstance(each, ModelEvent)]
    linked = [each["tokentape"]["run_id"] for each in logged if each is not None]
    with tt.open_store(url) as store:
        assert [each.run_id for each in store.summaries()] == linked
        assert [(each.turns, each.status) for each in store.summaries()] == [(1, "finished")] * 2


def test_a_reply_ends_with_model_length_where_the_context_ends(
    run_task: Evaluate, tiny_folder: Path
) -> None:
    end = tt.load_model(tiny_folder).tokenizer.eos_token_id
    task, endless = questions(1), {"logit_bias": {end: -100}}
    whole = samples_of(run_task(task, **endless))[0].output
    assert whole.usage is not None
    prompt_tokens = whole.usage.total_tokens - whole.usage.output_tokens

    for room, generated in ((5, 5), (0, 0)):
        arguments = {"context_tokens": prompt_tokens + room}
        output = samples_of(run_task(task, **endless, model_args=arguments))[0].output
        assert output.stop_reason == "model_length"
        assert (output.usage.output_tokens if output.usage else 0) == generated
        assert ("do not fit" in str(output.error)) is (room == 0)


@solver
def cancelled_after(tokens: int, url: str) -> Solver:
    """Return a solver that cancels its request once the store has some tokens of it."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        with tt.open_store(url) as store:
            async with anyio.create_task_group() as group:
                group.start_soon(generate, state)
                while len(tt.tokens_df(store)) < tokens:
                    await anyio.sleep(0.02)
                group.cancel_scope.cancel()
        return state

    return solve


def test_a_cancelled_request_ends_after_its_next_token_and_its_run_is_interrupted(
    run_task: Evaluate, url: str, tiny_folder: Path
) -> None:
    lm = tt.load_model(tiny_folder)
    with tt.open_store(url):
        pass
    task = questions(1, cancelled_after(3, url))
    log = run_task(task, max_tokens=400, logit_bias={lm.tokenizer.eos_token_id: -100})

    samples_of(log)
    with tt.open_store(url) as store:
        (summary,) = store.summaries()
        assert summary.status == "interrupted"
        assert 3 <= len(tt.tokens_df(store)) < 400
        with tt.Investigation.resume(store, summary.run_id, lm) as run:
            assert run.resumed_reply is not None
            assert len(run.resumed_reply.token_ids) == 400


@solver
def failing_once() -> Solver:
    failed: list[bool] = []

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state = await generate(state)
        if not failed:
            failed.append(True)
            raise RuntimeError("the sandbox is gone")
        return state

    return solve


def test_each_attempt_at_a_sample_has_a_run_of_its_own(run_task: Evaluate, url: str) -> None:
    run_task(questions(1, failing_once()), retry_on_error=1)

    with tt.open_store(url) as store:
        names = [each.name for each in store.summaries()]
        assert {each.status for each in store.summaries()} == {"finished"}
    assert names == ["sums: sample s0, epoch 1", "sums: sample s0, epoch 1, attempt 2"]


def test_a_mistake_in_the_arguments_is_one_line(tiny_folder: Path, url: str) -> None:
    from inspect_ai._util.error import PrerequisiteError

    for name, arguments, message in (
        (str(tiny_folder), {"dtyp": "float32"}, "did you mean 'dtype'"),
        ("no/such/model/here", {"offline": True}, "no/such/model/here"),
        (str(tiny_folder), {"store": str(tiny_folder)}, "tiny"),
    ):
        with pytest.raises(PrerequisiteError) as refused:
            get_model(f"tokentape/{name}", **{"store": url, **arguments})
        assert message in str(refused.value.message)
        assert "\n" not in str(refused.value.message)
    assert not OPEN_MODELS


def test_a_model_is_usable_outside_of_evaluations_and_again_after_them(
    run_task: Evaluate, url: str, tiny_folder: Path
) -> None:
    async def ask() -> str:
        async with get_model(f"tokentape/{tiny_folder}", store=url, memoize=False) as model:
            output = await model.generate("One?", config=GenerateConfig(max_tokens=3))
            assert await model.count_tokens("One?") == 4
            return str(json.loads(output.model_dump_json())["metadata"]["tokentape"]["run_id"])

    before = anyio.run(ask)
    run_task(questions(1))
    after = anyio.run(ask)

    with tt.open_store(url) as store:
        assert [each.status for each in store.summaries()] == ["finished"] * 3
        assert store.summary(before) is not None
        assert store.summary(after) is not None
