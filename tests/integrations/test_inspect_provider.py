"""Evaluations of the real Inspect AI on tokentape, with a tiny random model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai.model import ChatMessageUser, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools

import tokentape as tt
from tests.integrations.inspect_tasks import (
    END,
    IGNORED_WARNINGS,
    Evaluate,
    add,
    evaluations,
    forcing,
    questions,
    recordings,
    replies,
    run_ids,
    samples_of,
    store_url,
)

pytestmark = IGNORED_WARNINGS

CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": 2}}\n</tool_call>'
MALFORMED = '<tool_call>\n{"name": "ad", "arguments": {}}\n</tool_call>'


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


def test_an_evaluation_with_tools_gives_one_run_a_sample_that_verifies(
    run_task: Evaluate, url: str, tiny_folder: Path
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
    run_task: Evaluate, url: str
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


def test_log_and_run_refer_to_each_other(run_task: Evaluate, tmp_path: Path) -> None:
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
    run_task: Evaluate, url: str
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
    run_task: Evaluate, url: str
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
    run_task: Evaluate, url: str
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


def test_turns_of_a_conversation_continue_its_run(run_task: Evaluate, url: str) -> None:
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
    run_task: Evaluate, url: str, tiny_folder: Path
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
