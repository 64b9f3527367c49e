"""Runs as a log of Inspect, read by Inspect."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.integrations.conftest import VERDICT_US
from tokentape.recorder.events import TokenSampled, TurnStarted
from tokentape.store import DatabaseStore

inspect_log = pytest.importorskip("inspect_ai.log", reason="the extra `inspect` is not installed")


@pytest.fixture(scope="module")
def log(runs_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The runs of `runs_db`, exported and read again."""
    path = tmp_path_factory.mktemp("eval") / "all of them, 100%.eval"
    with tt.open_store(runs_db) as store:
        recordings = [store.recording(each.run_id) for each in store.summaries()]
        tt.export_eval(recordings, store, path)
    found = inspect_log.read_eval_log(str(path))
    # In the order of the runs, whose ids sort by time.
    found.samples.sort(key=lambda each: each.uuid)
    return found


def model_events(sample: Any) -> list[Any]:
    return [each for each in sample.events if each.event == "model"]


def test_each_run_is_a_sample_with_its_own_id_in_the_data_set(
    log: Any, recordings: list[tt.Recording]
) -> None:
    run_ids = [each.run_id for each in recordings]

    assert log.status == "success"
    assert [each.uuid for each in log.samples] == run_ids
    # A fork repeats the sample of its parent, and a run without such an id has its own.
    assert [(each.id, each.epoch) for each in log.samples] == [
        ("s-1", 2),
        ("s-1", 3),
        (run_ids[2], 1),
    ]
    assert [each.metadata["tokentape"]["run_id"] for each in log.samples] == run_ids
    assert log.samples[0].metadata["depth"] == 3


def test_the_link_back_finds_the_run(log: Any) -> None:
    where, _, run_id = log.samples[1].metadata["tokentape"]["run"].rpartition("#")

    with tt.open_store(where) as store:
        assert store.recording(run_id).forked() is not None


def test_the_messages_have_the_calls_and_their_results(log: Any) -> None:
    messages = log.samples[0].messages

    said = [(each.role, each.text) for each in messages]
    assert [role for role, _ in said] == [
        *("system", "user", "tool", "assistant"),
        *("user", "assistant", "tool", "assistant"),
    ]
    assert said[1][1] == "Hello? naïve 🦜"
    (called,) = messages[5].tool_calls
    assert (called.function, called.arguments) == ("look_up", {"name": "a"})
    assert (messages[6].tool_call_id, messages[6].function) == (called.id, "look_up")


def test_a_round_has_the_log_probability_of_every_sampled_token(
    log: Any, recordings: list[tt.Recording]
) -> None:
    recorded = [
        each.event for each in recordings[0].events() if isinstance(each.event, TokenSampled)
    ]
    rounds = model_events(log.samples[0])
    content = [each for e in rounds for each in e.output.choices[0].logprobs.content]

    assert [each.logprob for each in content] == [each.logprob for each in recorded]
    assert [[top.logprob for top in each.top_logprobs] for each in content] == [
        list(each.top_logprobs) for each in recorded
    ]


def test_the_bytes_of_the_tokens_are_the_reply(log: Any) -> None:
    first = model_events(log.samples[0])[0]
    raw = bytes(byte for each in first.output.choices[0].logprobs.content for byte in each.bytes)

    assert raw.decode(errors="replace") == first.output.completion


def test_a_round_has_its_prompt_usage_settings_and_cache_decision(
    log: Any, recordings: list[tt.Recording]
) -> None:
    starts = [each.event for each in recordings[0].events() if isinstance(each.event, TurnStarted)]
    rounds = model_events(log.samples[0])

    assert [len(each.input) for each in rounds] == [3, 5, 7]
    for event, started in zip(rounds, starts, strict=True):
        usage = event.output.usage
        assert usage.input_tokens + usage.input_tokens_cache_read == started.prompt_tokens
        cache = event.metadata["tokentape"]["cache"]
        assert cache["reused_tokens"] == usage.input_tokens_cache_read
    assert (rounds[0].config.seed, rounds[0].config.temperature) == (3, 0.8)
    # The second turn is greedy.
    assert rounds[1].config.temperature == 0.0
    assert [each.output.choices[0].stop_reason for each in rounds] == [
        *("max_tokens", "tool_calls", "stop")
    ]


def test_times_are_those_of_the_recording(log: Any, recordings: list[tt.Recording]) -> None:
    (started, *_) = [e for e in recordings[0].events() if isinstance(e.event, TurnStarted)]
    event = model_events(log.samples[0])[0]

    assert round(event.timestamp.timestamp() * 1e6) == started.at_us
    assert event.completed > event.timestamp
    assert event.output.time == pytest.approx(event.working_time)


def test_verdicts_are_scores(log: Any) -> None:
    with_score = log.samples[1]
    (scored,) = [each for each in with_score.events if each.event == "score"]

    assert log.samples[0].scores is None
    assert with_score.scores["verify"].value == "verified"
    assert round(scored.timestamp.timestamp() * 1e6) == VERDICT_US
    (result,) = log.results.scores
    assert (result.name, result.metrics["verified"].value) == ("verify", 1)


def test_a_run_that_failed_has_its_error_and_the_round_in_which_it_failed(log: Any) -> None:
    failed = log.samples[2]
    (event,) = model_events(failed)

    assert failed.error.message == "RuntimeError: enough"
    assert "was cut off" in event.error
    assert len(event.output.choices[0].logprobs.content) == 1


def test_the_viewer_lists_the_samples(log: Any) -> None:
    summaries = inspect_log.read_eval_log_sample_summaries(log.location)

    assert {each.uuid for each in summaries} == {each.uuid for each in log.samples}


def test_an_export_repeats_to_the_same_log(
    runs: DatabaseStore, recordings: list[tt.Recording], tmp_path: Path
) -> None:
    logs = []
    for name in ("a.json", "b.json"):
        path = tt.export_eval(recordings[:1], runs, tmp_path / name)
        tt.export_eval(recordings[:1], runs, path)
        logs.append(json.loads(path.read_text(encoding="utf-8")))

    assert logs[0] == logs[1]


def test_numbers_are_finite(log: Any) -> None:
    content = [
        each
        for sample in log.samples
        for event in model_events(sample)
        for each in event.output.choices[0].logprobs.content
    ]

    assert content
    assert all(math.isfinite(each.logprob) for each in content)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("x.txt", None, "ends with .eval or .json"),
        ("x.eval", "something else", "is not an export of runs"),
        ("x.json", "{}", "is not an export of runs"),
        ("x.eval", "", "is not an export of runs"),
    ],
)
def test_another_file_is_not_replaced(
    name: str,
    content: str | None,
    fault: str,
    runs: DatabaseStore,
    recordings: list[tt.Recording],
    tmp_path: Path,
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")

    with pytest.raises(tt.StoreError, match=fault):
        tt.export_eval(recordings, runs, path)

    assert (path.read_text(encoding="utf-8") if path.exists() else None) == content


def test_a_redacted_run_shows_no_token(lm: tt.LoadedModel, tmp_path: Path) -> None:
    with tt.open_store("sqlite://") as store:
        with tt.Investigation(
            lm,
            store=store,
            name="redacted",
            system_prompt="Be kind.",
            redactor=lambda text: text.replace("Ada", "[name]"),
        ) as run:
            run.chat("Who is Ada?", max_new_tokens=2)
        path = tt.export_eval([store.recording(run.run_id)], store, tmp_path / "x.eval")
        (sample,) = inspect_log.read_eval_log(str(path)).samples

    assert "Who is [name]?" in [each.text for each in sample.messages]
    content = model_events(sample)[0].output.choices[0].logprobs.content
    assert {each.token for each in content} == {"<token 0>"}
    assert all(each.bytes is None and not each.top_logprobs for each in content)
