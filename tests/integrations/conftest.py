"""Recorded runs for the tests against other programs."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tokentape as tt
from tests.generation.calling_models import TOOLS, begun, call, says
from tokentape.store import DatabaseStore, StoredVerdict

VERDICT_US = 1_790_000_000_000_000


@pytest.fixture(scope="session")
def runs_db(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A database with a run in which the user and the model call a tool, a fork, and a failed run.

    The fork has a verdict.
    """
    path = tmp_path_factory.mktemp("integrations") / "runs.db"
    lm = make_lm("llama", max_position_embeddings=1024)
    with warnings.catch_warnings(), tt.open_store(path) as store:
        warnings.simplefilter("ignore")
        assert isinstance(store, DatabaseStore)
        asked = tt.ToolCall(name="look_up", arguments={"name": "é"})
        metadata = {"sample_id": "s-1", "epoch": 2, "messages": "taken", "depth": 3}
        with begun(lm, store, tool_result_role="tool", metadata=metadata) as run:
            run.chat(
                "Hello? naïve 🦜",
                tool_calls=[asked],
                max_new_tokens=4,
                temperature=0.8,
                do_sample=True,
                seed=3,
            )
            forced = says(lm, "", call("hermes", name="a"), "So.")
            run.chat("Look.", max_new_tokens=200, logits_processor=forced)
        with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=TOOLS) as fork:
            fork.chat("And now?", max_new_tokens=3)
        report = tt.verify(store.recording(fork.run_id), lm, turns=[2])
        store.add_verdict(
            StoredVerdict(
                run_id=fork.run_id,
                at_us=VERDICT_US,
                replay="verify",
                verdict=report.verdict,
                report=report.to_dict(),
            )
        )
        _fail(lm, store)
    return path


def _fail(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    def stop(token_id: int, logits: object) -> None:
        raise RuntimeError("enough")

    with (
        pytest.raises(RuntimeError, match="enough"),
        tt.Investigation(lm, store=store, name="failed", system_prompt="Be kind.") as run,
    ):
        run.chat("Hello?", max_new_tokens=4, callback=stop)


@pytest.fixture
def runs(runs_db: Path) -> Iterator[DatabaseStore]:
    """The store of `runs_db`."""
    with tt.open_store(runs_db) as store:
        assert isinstance(store, DatabaseStore)
        yield store


@pytest.fixture
def recordings(runs: DatabaseStore) -> list[tt.Recording]:
    """Its runs: the first, its fork, and the one that failed."""
    return [runs.recording(each.run_id) for each in runs.summaries()]
