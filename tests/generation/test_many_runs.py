"""Several plans and seeds run one by one or in a batch, each recorded as a run of its own."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tokentape as tt
from tests.counted_batch import CountedBatch, counted_batch
from tests.made_plans import short_plan
from tokentape.generation.plans import (
    ExperimentPlan,
    PlannedRun,
    PlanResult,
    RunUpdate,
    fitting_batch,
)
from tokentape.store import DatabaseStore

SAMPLED = {"do_sample": True, "temperature": 0.9, "min_new_tokens": 4}
PLAN = short_plan(limits={"max_new_tokens": 4}, sampling=SAMPLED)


def short(name: str = "short", **fields: Any) -> ExperimentPlan:
    return ExperimentPlan.read({**PLAN, "name": name, **fields}, "short.yaml")


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> type[CountedBatch]:
    return counted_batch(monkeypatch)


def brief(name: str = "brief", **fields: Any) -> ExperimentPlan:
    """Return a plan of two turns without tools."""
    return short(name, tools=[], tasks=[{"title": "Talk", "turns": ["So?", "And?"]}], **fields)


def replies_of(results: list[PlanResult]) -> list[list[tuple[int, ...]]]:
    return [[reply.token_ids for reply in each.replies] for each in results]


def test_each_plan_runs_with_each_seed_and_is_named_after_both(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    plans = [brief("one"), brief("two")]
    results = tt.run_many(plans, lm, store, seeds=range(1, 3))
    started = [store.recording(each.run_id).started() for each in results]

    assert [each.name for each in results] == [
        "one-seed1",
        "one-seed2",
        "two-seed1",
        "two-seed2",
    ]
    assert [(each.name, each.seed) for each in started] == [
        (each.name, each.seed) for each in results
    ]
    assert [each.settings["plan"]["name"] for each in started] == ["one", "one", "two", "two"]
    assert [each.status for each in store.summaries()] == ["finished"] * 4
    assert [(each.status, each.generated_tokens) for each in results] == [("finished", 8)] * 4


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_batch_gives_the_tokens_that_each_run_has_alone(
    lm: tt.LoadedModel, tmp_path: Path, batch: type[CountedBatch], where: str
) -> None:
    with tt.open_store("sqlite://" if where == "memory" else tmp_path / "runs.db") as store:
        alone = tt.run_many(brief(), lm, store, seeds=range(16))
        together = tt.run_many(brief(), lm, store, seeds=range(16), batch=16)

        assert batch.sizes == (16,)
        assert replies_of(together) == replies_of(alone)
        assert len({str(each) for each in replies_of(alone)}) == 16
        assert all(tt.check(store, each.run_id).ok for each in together)


def test_no_more_runs_are_active_than_the_batch_has_places(
    lm: tt.LoadedModel, store: DatabaseStore, batch: type[CountedBatch]
) -> None:
    active, most, lock = 0, 0, threading.Lock()

    def count(update: RunUpdate) -> None:
        nonlocal active, most
        with lock:
            active += {"began": 1, "turn": 0, "ended": -1}[update.stage]
            most = max(most, active)

    results = tt.run_many(brief(), lm, store, seeds=range(7), batch=3, progress=count)

    assert (batch.sizes, most, active) == ((3,), 3, 0)
    assert [each.seed for each in results] == list(range(7))


@pytest.mark.parametrize("places", [1, 3])
def test_a_run_that_fails_does_not_end_the_others(
    lm: tt.LoadedModel, store: DatabaseStore, batch: type[CountedBatch], places: int
) -> None:
    def fail(run: PlannedRun, token_id: int, logits: Any) -> None:
        if run.seed == 2:
            raise RuntimeError("a fault of the caller")

    results = tt.run_many(brief(), lm, store, seeds=[1, 2, 3], batch=places, callback=fail)
    by_id = {each.run_id: each.status for each in store.summaries()}

    assert [each.status for each in results] == ["finished", "failed", "finished"]
    assert str(results[1].error) == "a fault of the caller"
    assert [by_id[each.run_id] for each in results] == ["finished", "failed", "finished"]


def test_progress_tells_of_each_run_from_its_beginning_to_its_end(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    told: list[RunUpdate] = []
    heard: list[tuple[str, int]] = []
    (result,) = tt.run_many(
        brief(),
        lm,
        store,
        progress=told.append,
        callback=lambda run, token_id, logits: heard.append((run.name, token_id)),
    )

    assert [each.stage for each in told] == ["began", "turn", "turn", "ended"]
    assert {each.run_id for each in told} == {result.run_id}
    assert told[-1].result is result
    assert [each.reply for each in told[1:3]] == list(result.replies)
    assert heard == [("brief", token) for reply in result.replies for token in reply.token_ids]


@pytest.mark.parametrize("places", [1, 2])
def test_ctrl_c_ends_the_runs_that_began_and_begins_no_other(
    lm: tt.LoadedModel, store: DatabaseStore, batch: type[CountedBatch], places: int
) -> None:
    whole = tt.run_many(brief(), lm, store, seeds=range(places))
    begun = threading.Barrier(places)

    def interrupt(run: PlannedRun, token_id: int, logits: Any) -> None:
        if run.seed == 0:
            raise KeyboardInterrupt

    def meet(update: RunUpdate) -> None:
        if update.stage == "began":
            begun.wait(20)

    with pytest.raises(KeyboardInterrupt):
        tt.run_many(
            brief(), lm, store, seeds=range(6), batch=places, progress=meet, callback=interrupt
        )
    new = store.summaries()[places:]
    resumed = tt.resume_many([each.run_id for each in new if each.status != "finished"], lm, store)

    assert len(new) == places
    assert [each.status for each in store.summaries()] == ["finished"] * 2 * places
    (first,) = [each.run_id for each in resumed if each.seed == 0]
    recorded = [turn.reply_ids for turn in store.recording(first).turns()]
    assert recorded == replies_of(whole)[0]


def test_several_runs_are_resumed_in_a_batch(
    lm: tt.LoadedModel, store: DatabaseStore, batch: type[CountedBatch]
) -> None:
    whole = tt.run_many(brief(), lm, store, seeds=[1, 2])
    cut = []
    for seed in (1, 2):

        def stop(run: PlannedRun, token_id: int, logits: Any, seed: int = seed) -> None:
            cut.append(token_id)
            if len(cut) % (4 + seed) == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tt.run_many(brief(), lm, store, seeds=[seed], callback=stop)
        cut.clear()
    ids = [each.run_id for each in store.summaries()[2:]]
    results = tt.resume_many(ids, lm, store, batch=2)
    turns = [[turn.reply_ids for turn in store.recording(each).turns()] for each in ids]

    assert [each.name for each in results] == ["brief-seed1", "brief-seed2"]
    assert [each.run_id for each in results] == ids
    assert turns == replies_of(whole)
    assert batch.sizes == (2,)


def test_what_cannot_be_resumed_is_the_error_of_its_run(
    lm: tt.LoadedModel, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    (mine,) = tt.run_many(brief(), lm, store)
    (other,) = tt.run_many(brief(), make_lm("gpt2"), store)
    results = tt.resume_many([other.run_id, mine.run_id], lm, store)

    assert [each.status for each in results] == ["failed", "finished"]
    assert isinstance(results[0].error, tt.ModelError)
    assert results[0].run_id == other.run_id
    with pytest.raises(tt.PromptError, match="named twice"):
        tt.resume_many([mine.run_id, mine.run_id[:-1]], lm, store)
    with pytest.raises(tt.PromptError, match="no run to resume"):
        tt.resume_many([], lm, store)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plans": []}, "there is no plan to run"),
        ({"plans": ["nope"]}, "'nope' is neither a shipped plan"),
        ({"plans": [short(), short()]}, "2 plans are called 'short'"),
        ({"seeds": []}, "give at least one seed"),
        ({"seeds": [None]}, "no None among them"),
        ({"seeds": [3, 4, 3]}, "seed 3 is given 2 times"),
        ({"seeds": "1-8"}, "seeds are whole numbers"),
        ({"seeds": 8}, "seeds are whole numbers"),
        ({"seeds": [1.5]}, "a seed must be a whole number of 64 bits: 1.5"),
        ({"seeds": [2**63]}, "a seed must be a whole number of 64 bits"),
        ({"batch": 0}, "batch must be a whole number of at least one: 0"),
        ({"batch": "all"}, "batch must be a number of runs or 'auto', not 'all'"),
        ({"batch": True}, "batch must be a whole number of at least one: True"),
        ({"tools": tt.ToolInterface([])}, "tools are made for each run"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_recorded(
    lm: tt.LoadedModel, store: DatabaseStore, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(tt.TokentapeError, match=said):
        tt.run_many(**{"plans": [short()], "lm": lm, "store": store, **given})
    assert store.summaries() == []


def test_a_plan_that_does_not_fit_the_model_lets_no_run_begin(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Path
) -> None:
    far = tmp_path / "far.yaml"
    far.write_text(yaml.safe_dump(PLAN | {"name": "far"}).replace("{layer:1}", "{layer:30}"))
    with pytest.raises(tt.PromptError, match=r"far, turn 1: \{layer:30\}"):
        tt.run_many([short(), far], lm, store, seeds=[1, 2])

    assert store.summaries() == []


def test_each_run_has_tools_of_its_own(
    lm: tt.LoadedModel, store: DatabaseStore, batch: type[CountedBatch]
) -> None:
    made: list[str] = []

    def tools(plan: ExperimentPlan) -> tt.ToolInterface:
        made.append(plan.name)
        return tt.default_tools(lm)

    tt.run_many([brief("a"), brief("b")], lm, store, seeds=[1, 2], tools=tools)

    # Once for the check of each plan.
    assert made == ["a", "b", "a", "a", "b", "b"]


def test_an_automatic_batch_is_as_large_as_memory_allows(lm: tt.LoadedModel) -> None:
    one = fitting_batch([short()], lm, runs=64, free_bytes=2**40)
    need = one.run_bytes
    four = int((one.shared_bytes + 4.5 * need) * 1.1)

    assert (one.runs, one.reason) == (32, "limit")
    assert need > 0
    by_memory = fitting_batch([short()], lm, runs=64, free_bytes=four)
    assert (by_memory.runs, by_memory.reason) == (4, "memory")
    assert "4 at a time fit into memory: each needs up to " in by_memory.describe()
    assert fitting_batch([short()], lm, runs=3, free_bytes=four).reason == "all runs"
    assert fitting_batch([short()], lm, runs=3, free_bytes=0).runs == 1
    longer = short(limits={"max_new_tokens": 400})
    assert fitting_batch([longer], lm, runs=64, free_bytes=2**40).run_bytes > need


def test_an_automatic_batch_is_used(
    lm: tt.LoadedModel, store: DatabaseStore, batch: type[CountedBatch]
) -> None:
    results = tt.run_many(brief(), lm, store, seeds=[1, 2, 3], batch="auto")

    assert batch.sizes == (3,)
    assert len(results) == 3
