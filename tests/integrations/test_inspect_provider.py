"""Evaluations of the real Inspect AI on tokentape, with a tiny random model."""

import gc
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.event import ModelEvent
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import includes, model_graded_qa
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import Tool, tool

import tokentape as tt
from tokentape.inspect_provider.open_models import OPEN_MODELS
from tokentape.store import DatabaseStore

pytestmark = [
    # Inspect calls tenacity so, and leaves a stream of each sample open.
    pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": 2}}\n</tool_call>'
MALFORMED = '<tool_call>\n{"name": "ad", "arguments": {}}\n</tool_call>'
END = "<|im_end|>"
ASKED = f"?{END}\n<|im_start|>assistant\n"
"""The end of a prompt whose last message is a question, and not the result of a tool."""


@tool
def add() -> Tool:
    async def execute(x: int, y: int) -> str:
        """Add two numbers.

        Args:
            x: The first number.
            y: The second number.
        """
        return str(x + y)

    return execute


@pytest.fixture(scope="module", autouse=True)
def _streams_of_inspect_end_here() -> Iterator[None]:
    yield
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


@pytest.fixture(autouse=True)
def _models_are_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    for each in list(OPEN_MODELS):
        each.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def run_task(tiny_folder: Path, url: str, tmp_path: Path) -> Callable[..., EvalLog]:
    """Return a function that evaluates a task on the tiny model and returns its log."""

    def run(task: Task, **more: Any) -> EvalLog:
        arguments = {"store": url, **more.pop("model_args", {})}
        settings = {"max_tokens": 12, "temperature": 0.9, **more}
        (log,) = evaluate(
            task,
            model=f"tokentape/{tiny_folder}",
            model_args=arguments,
            display="none",
            log_dir=str(tmp_path / "logs"),
            **settings,
        )
        return log

    return run


def questions(count: int, *solvers: Solver, **more: Any) -> Task:
    dataset = [
        Sample(
            id=f"s{index}",
            input=[
                ChatMessageSystem(content="Be kind."),
                ChatMessageUser(content=f"What is {index}?"),
            ],
            target="never",
        )
        for index in range(count)
    ]
    return Task(dataset=dataset, solver=list(solvers or (generate(),)), name="sums", **more)


def forcing(tokenizer: Any, text: str, *, after: str = ASKED) -> dict[str, Any]:
    """Return settings that make any model reply with a text to each prompt that ends so.

    They are biases, which a recording has: replays draw the same tokens.
    """
    before = tokenizer.encode(after, add_special_tokens=False)
    reply = tokenizer.encode(text + END, add_special_tokens=False)
    whole = before + reply
    ends = range(len(before) + 1, len(whole) + 1)
    biases = [[whole[max(0, end - len(before) - 1) : end], 1000.0] for end in ends]
    return {"extra_body": {"sequence_bias": biases}, "max_tokens": len(reply) + 5}


def samples_of(log: EvalLog) -> list[EvalSample]:
    assert log.status == "success", log.error
    assert log.samples is not None
    for each in log.samples:
        assert each.error is None, each.error.message
    return log.samples


def run_ids(sample: EvalSample) -> list[str]:
    return list(sample.store.get("tokentape_runs", []))


def recordings(store: DatabaseStore, log: EvalLog) -> list[tt.Recording]:
    return [store.recording(each) for sample in samples_of(log) for each in run_ids(sample)]


def replies(store: DatabaseStore, log: EvalLog) -> dict[str, list[tuple[int, ...]]]:
    """Return the ids of the replies of each sample and epoch."""
    return {
        f"{sample.id}/{sample.epoch}": [
            turn.reply_ids for run_id in run_ids(sample) for turn in store.recording(run_id).turns()
        ]
        for sample in samples_of(log)
    }


def test_an_evaluation_with_tools_gives_one_run_a_sample_that_verifies(
    run_task: Callable[..., EvalLog], url: str, tiny_folder: Path
) -> None:
    lm = tt.load_model(tiny_folder)
    log = run_task(
        questions(2, use_tools(add()), generate(), scorer=includes()),
        logprobs=True,
        top_logprobs=2,
        **forcing(lm.tokenizer, CALL),
    )

    with tt.open_store(url) as store:
        found = recordings(store, log)
        assert len({each.run_id for each in found}) == len(store.summaries()) == 2
        assert {each.status for each in store.summaries()} == {"finished"}
        assert {str(tt.verify(each, lm).verdict) for each in found} == {"verified"}
        tools = tt.tools_df(store)
        assert list(tools["call"]) == ["add(x=1, y=2)"] * 2
        assert tools["error"].isna().all()
    for sample, recording in zip(samples_of(log), found, strict=True):
        first, second = recording.turns()
        assert first.reply_text == CALL
        (called,) = [each for each in sample.messages if getattr(each, "tool_calls", None)]
        (call,) = called.tool_calls
        assert (call.function, call.arguments) == ("add", {"x": 1, "y": 2})
        # The next prompt has the exact tokens of the first turn, and they were cached.
        stream = (*first.prompt_ids, *first.reply_ids)
        assert second.prompt_ids[: len(stream)] == stream
        assert second.cache.reused_tokens >= len(stream) - 1


def test_the_log_has_the_log_probabilities_of_the_sampled_tokens(
    run_task: Callable[..., EvalLog], url: str
) -> None:
    log = run_task(questions(2), logprobs=True, top_logprobs=7, top_p=0.8)

    with tt.open_store(url) as store:
        tokens = tt.tokens_df(store)
        for sample in samples_of(log):
            logged = sample.output.choices[0].logprobs
            assert logged is not None
            (run_id,) = run_ids(sample)
            recorded = tokens[tokens["run_id"] == run_id]
            assert [each.logprob for each in logged.content] == list(recorded["logprob"])
            text = sample.output.completion.encode()
            assert bytes(byte for each in logged.content for byte in each.bytes or ()) in (
                text,
                text + END.encode(),
            )
            likeliest = [each.top_logprobs or [] for each in logged.content]
            assert {len(each) for each in likeliest} == {7}
            assert all(each[0].logprob >= each[-1].logprob for each in likeliest)


def test_log_and_run_refer_to_each_other(run_task: Callable[..., EvalLog], tmp_path: Path) -> None:
    log = run_task(questions(1), model_args={"store": "runs.db"})

    (sample,) = samples_of(log)
    assert sample.output.metadata is not None
    link = sample.output.metadata["tokentape"]
    assert [link["run_id"]] == run_ids(sample)
    assert (link["turn"], link["store"]) == (1, f"sqlite:///{tmp_path}/runs.db")
    with tt.open_store(link["store"]) as store:
        recording = store.recording(link["run_id"])
        of_run = recording.started().settings["metadata"]["inspect"]
        (name, note) = tt.runs_df(store)[["name", "note"]].iloc[0]
    assert Path(of_run["log"]).samefile(log.location)
    assert (of_run["task"], of_run["sample_id"], of_run["epoch"]) == ("sums", "s0", 1)
    assert (of_run["sample_uuid"], of_run["eval_id"]) == (sample.uuid, log.eval.eval_id)
    assert name == "sums: sample s0, epoch 1"
    assert note == f"Inspect log: {of_run['log']}"


def test_an_evaluation_is_repeatable_and_its_samples_and_epochs_differ(
    run_task: Callable[..., EvalLog], url: str
) -> None:
    task = questions(2, epochs=2)
    task.dataset[1].input = task.dataset[0].input
    first, again = run_task(task), run_task(task, max_connections=1)
    other = run_task(task, seed=5)

    with tt.open_store(url) as store:
        found = replies(store, first)
        assert len({ids for each in found.values() for ids in each}) == 4
        assert replies(store, again) == found
        assert replies(store, other) != found


def test_without_sample_seeds_every_sample_has_the_seed_of_the_evaluation(
    run_task: Callable[..., EvalLog], url: str
) -> None:
    task = questions(1, epochs=2)
    log = run_task(task, seed=5, model_args={"sample_seeds": False})

    with tt.open_store(url) as store:
        assert {each.seed for each in store.summaries()} == {5}
        one, two = replies(store, log).values()
    assert one == two


@solver
def asking_again(times: int) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        for _ in range(times):
            state.output = await model.generate(state.messages)
        return state

    return solve


def test_an_equal_request_of_a_sample_gets_another_reply_the_same_in_every_evaluation(
    run_task: Callable[..., EvalLog], url: str
) -> None:
    task = questions(1, asking_again(3))
    first, again = run_task(task), run_task(task)

    with tt.open_store(url) as store:
        (found,) = replies(store, first).values()
        assert len(set(found)) == 3
        assert replies(store, again) == {"s0/1": found}


@solver
def three_turns() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for index in range(3):
            state.messages.append(ChatMessageUser(content=f"And {index}?"))
            state = await generate(state)
        return state

    return solve


def test_turns_of_a_conversation_continue_its_run(
    run_task: Callable[..., EvalLog], url: str
) -> None:
    log = run_task(questions(2, generate(), three_turns()))

    with tt.open_store(url) as store:
        assert [each.turns for each in store.summaries()] == [4, 4]
        cache = tt.cache_df(store)
    assert set(cache["decision"]) == {"hit"}
    for sample in samples_of(log):
        usage = sample.output.usage
        assert usage is not None
        assert usage.input_tokens_cache_read is not None
        assert usage.total_tokens == (
            usage.input_tokens + usage.input_tokens_cache_read + usage.output_tokens
        )


def test_a_malformed_call_is_answered_with_its_error_and_the_run_continues(
    run_task: Callable[..., EvalLog], url: str, tiny_folder: Path
) -> None:
    tokenizer = tt.load_model(tiny_folder).tokenizer
    task = questions(1, use_tools(add()), generate())
    log = run_task(task, **forcing(tokenizer, MALFORMED))

    (sample,) = samples_of(log)
    called = sample.messages[2].tool_calls
    assert called is not None
    assert called[0].parse_error
    answer = sample.messages[3]
    assert answer.role == "tool"
    assert answer.error is not None
    assert answer.error.type == "parsing"
    with tt.open_store(url) as store:
        (recording,) = recordings(store, log)
        first, second = recording.turns()
        assert first.reply_text == MALFORMED
        assert called[0].parse_error in second.prompt_text


def test_a_grader_that_is_the_same_model_is_loaded_once_and_records_runs_of_its_own(
    run_task: Callable[..., EvalLog], url: str, tiny_folder: Path
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
    run_task: Callable[..., EvalLog], tiny_folder: Path
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
    run_task: Callable[..., EvalLog], url: str, tiny_folder: Path
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


def test_each_attempt_at_a_sample_has_a_run_of_its_own(
    run_task: Callable[..., EvalLog], url: str
) -> None:
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
    run_task: Callable[..., EvalLog], url: str, tiny_folder: Path
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
