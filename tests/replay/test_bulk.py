"""Many runs are verified by several processes: a process that dies costs only what it died of."""

import itertools
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import tokentape as tt
from tests.replay import deadly_worker
from tokentape.replay.bulk import pool
from tokentape.replay.bulk.pool import batches, verify_in_processes
from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource
from tokentape.replay.bulk.verifier import BulkVerifier
from tokentape.store import DatabaseStore


@pytest.fixture
def _without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "serve", deadly_worker.serve)


def in_processes(names: list[str], jobs: int = 2) -> dict[str, BulkOutcome]:
    sources = [RunSource(store=name) for name in names]
    found = verify_in_processes(sources, BulkSettings(), jobs)
    return {sources[index].store: outcome for index, (outcome,) in found}


@pytest.mark.usefixtures("_without_models")
def test_a_process_that_dies_costs_only_the_run_it_died_of() -> None:
    names = [*(f"{number}.tape" for number in range(20)), "deadly.tape"]

    found = in_processes(names)

    assert sorted(found) == sorted(names)
    dead = found.pop("deadly.tape")
    assert dead.error == "the process that verified it was killed by SIGKILL (out of memory?)"
    assert dead.error_exit_code == 2
    assert {each.name for each in found.values()} == {"verified"}


@pytest.mark.usefixtures("_without_models")
def test_processes_that_keep_dying_are_given_up() -> None:
    names = [f"deadly-{number}.tape" for number in range(20)]

    found = in_processes(names)

    assert len(found) == len(names)
    assert all("killed by SIGKILL" in each.error for each in found.values())
    assert sum("as 7 others did before" in each.error for each in found.values()) > 8


@pytest.mark.usefixtures("_without_models")
def test_processes_end_where_the_iteration_is_left_early() -> None:
    sources = [RunSource(store=f"{number}.tape") for number in range(20)]
    found = verify_in_processes(sources, BulkSettings(), 2)
    next(found)
    children = [
        each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())
    ]
    found.close()

    assert children
    assert not any(each.is_running() for each in children)


@pytest.mark.parametrize(("count", "jobs"), list(itertools.product((0, 1, 7, 1000), (1, 2, 16))))
def test_batches_hold_every_source_once_and_leave_work_for_all(count: int, jobs: int) -> None:
    found = list(batches(count, jobs))

    assert [index for batch in found for index in batch] == list(range(count))
    assert all(len(batch) <= 64 for batch in found)
    assert len(found) >= min(count, jobs)


@pytest.fixture
def tapes(
    tmp_path: Path, tiny_folder: Path, record: Callable[..., tt.Recording]
) -> tuple[Path, tt.LoadedModel]:
    """Return a folder with two tapes of a run each."""
    lm = tt.load_model(tiny_folder)
    with tt.open_store("sqlite://") as store:
        for name in ("a", "b"):
            tt.pack([record(lm, store, tokens=4)], store, tmp_path / f"{name}.tape")
    return tmp_path, lm


def test_runs_of_several_models_and_stores_are_verified_each_with_its_own(
    tapes: tuple[Path, tt.LoadedModel], tmp_path: Path
) -> None:
    folder, lm = tapes
    changed = tmp_path / "changed"
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        lm.model.model.layers[0].mlp.up_proj.weight.data.mul_(1.1)
        lm.model.save_pretrained(changed)
        lm.tokenizer.save_pretrained(changed)
        other = tt.load_model(changed)
        with tt.Investigation(other, store=store, name="other", system_prompt="Hi.") as run:
            run.chat("And?", max_new_tokens=4)
        tt.pack([store.recording(run.run_id)], store, folder / "c.tape")

    sources = [RunSource(store=str(folder / f"{name}.tape")) for name in "acb"]
    found = BulkVerifier(BulkSettings()).verify(sources)

    assert [[each.report.verdict for each in group if each.report] for group in found] == [
        ["verified"]
    ] * 3
    assert [[each.name for each in group] for group in found] == [["test"], ["other"], ["test"]]


def test_a_run_whose_model_is_missing_and_a_store_without_runs_are_named(
    tapes: tuple[Path, tt.LoadedModel], tmp_path: Path
) -> None:
    folder, lm = tapes
    named = tt.LoadedModel(lm.model, lm.tokenizer, "models/gone")
    with (
        tt.open_store(tmp_path / "runs.db") as store,
        tt.Investigation(named, store=store, name="gone", system_prompt="Hi.") as run,
    ):
        run.chat("And?", max_new_tokens=4)
    with tt.open_store(tmp_path / "empty.db"):
        pass
    names = ("a.tape", "runs.db", "empty.db", "none.tape")

    found = BulkVerifier(BulkSettings()).verify(
        [RunSource(store=str(folder / name)) for name in names]
    )
    (fine,), (gone,), (empty,), (none,) = found

    assert fine.report is not None
    assert "gone" in gone.error
    assert "name it with --model" in gone.error
    assert gone.run_id == run.run_id
    assert (gone.error_exit_code, empty.error_exit_code, none.error_exit_code) == (2, 5, 2)
    assert "holds no run" in empty.error
    assert "none.tape" in none.error


def test_an_unexpected_error_of_a_run_is_its_outcome(
    tapes: tuple[Path, tt.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = tapes
    monkeypatch.setattr("tokentape.replay.bulk.verifier.choose_turns", lambda *_: 1 / 0)

    ((found,),) = BulkVerifier(BulkSettings()).verify([RunSource(store=str(folder / "a.tape"))])

    assert found.error == "unexpected ZeroDivisionError: division by zero"
    assert found.error_exit_code == 2
