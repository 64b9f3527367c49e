"""`verify --engine ray`, on a real cluster of this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tokentape as tt
from tests.replay.deadly_worker import DeadlyVerifier
from tokentape.replay.bulk import ray_pool
from tokentape.replay.bulk.ray_pool import verify_on_ray
from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource

ray = pytest.importorskip("ray", reason="Ray is not installed")

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a cluster of two CPUs once: it takes seconds."""
    with ray_pool._cluster(None, 2):
        yield


@pytest.fixture(scope="module")
def packed(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    record: Callable[..., tt.Recording],
) -> Path:
    """Return a folder with a store of six runs, a folder of tapes of them, and a broken tape."""
    folder = tmp_path_factory.mktemp("ray")
    lm = tt.load_model(tiny_folder)
    (folder / "tapes").mkdir()
    with tt.open_store(folder / "runs.db") as store:
        for number in range(6):
            tt.pack([record(lm, store, tokens=3)], store, folder / "tapes" / f"{number}.tape")
    content = (folder / "tapes" / "0.tape").read_bytes()
    (folder / "tapes" / "broken.tape").write_bytes(content[:2000])
    return folder


def on_ray(names: list[str], folder: Path, **options: Any) -> dict[str, BulkOutcome]:
    sources = [RunSource(store=name) for name in names]
    settings = BulkSettings(model=str(folder))
    found = verify_on_ray(sources, settings, jobs=2, make_verifier=DeadlyVerifier, **options)
    return {sources[index].store: outcome for index, (outcome,) in found}


def verdicts(printed: str) -> list[tuple[Any, ...]]:
    """Return what a report says whatever the numbers of threads and the time were."""
    return [
        (each["store"], each["run_id"], each["verdict"], each["error"], len(each.get("turns", ())))
        for each in json.loads(printed)
    ]


@pytest.mark.usefixtures("cluster")
def test_actors_print_what_one_process_prints(
    packed: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed)
    one = cli("verify", "tapes", "runs.db", "--json")
    two = cli("verify", "tapes", "runs.db", "--json", "--engine", "ray", "--jobs", "2")

    assert one[0] == two[0] == 2
    assert verdicts(two[1]) == verdicts(one[1])
    assert len(verdicts(two[1])) == 13
    assert two[2] == one[2]
    with tt.open_store("runs.db") as store:
        # Both commands keep their verdicts; the report of each tells the threads.
        assert all(store.verdicts(each.run_id) for each in store.summaries())


@pytest.mark.usefixtures("cluster")
def test_the_content_of_tapes_is_sent_to_another_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.tape").write_bytes(b"12345")
    Path("runs.db").write_bytes(b"123")
    names = ["a.tape", "runs.db", "none.tape", "sqlite:///runs.db", "postgresql://a:b@c/d"]
    monkeypatch.setattr(ray_pool, "_check_reachable", lambda address: None)
    found = on_ray(names, tmp_path, address="here:1")

    assert [found[each].error for each in names] == [
        "a.tape: 5 bytes",
        "runs.db: 3 bytes",
        "none.tape: None bytes",
        "sqlite:///runs.db: None bytes",
        "postgresql://a:b@c/d: None bytes",
    ]
    assert [found[each].store for each in names] == names


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_tapes_are_sent_to_another_cluster_and_keep_their_names(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed)
    sources = [RunSource(store=f"tapes/{name}.tape") for name in ("0", "broken", "none")]
    sources.append(RunSource(store="runs.db"))
    found = dict(verify_on_ray(sources, BulkSettings(), jobs=1, address="auto"))

    assert [len(found[index]) for index in range(4)] == [1, 1, 1, 6]
    assert [each.store for index in range(4) for each in found[index]] == [
        *(each.store for each in sources[:3]),
        *["runs.db"] * 6,
    ]
    assert found[0][0].report is not None
    assert found[0][0].report.verdict is tt.Verdict.VERIFIED
    assert not found[0][0].is_live
    assert found[3][0].is_live
    assert "tapes/broken.tape" in found[1][0].error
    assert "/tmp" not in found[1][0].error
    assert "none.tape" in found[2][0].error


@pytest.mark.usefixtures("cluster")
def test_the_runs_of_a_lost_worker_are_verified_by_others(tmp_path: Path) -> None:
    names = [*(f"{number}.tape" for number in range(12)), "once.tape", "once-more.tape"]
    found = on_ray(names, tmp_path)

    assert sorted(found) == sorted(names)
    assert all(each.name for each in found.values())
    assert (tmp_path / "once.tape").exists()
    assert (tmp_path / "once-more.tape").exists()


@pytest.mark.usefixtures("cluster")
def test_a_run_that_kills_each_worker_is_an_error_of_its_own(tmp_path: Path) -> None:
    names = [*(f"{number}.tape" for number in range(9)), "deadly.tape", "broken.tape"]
    found = on_ray(names, tmp_path)

    dead, broken = found.pop("deadly.tape"), found.pop("broken.tape")
    assert dead.error.startswith("the worker that verified it died, or its node was lost")
    assert broken.error == "the worker that verified it failed: ValueError: a fault of ours"
    assert dead.error_exit_code == broken.error_exit_code == 2
    assert len(found) == 9
    assert all(each.name for each in found.values())


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_only_die_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_DEATHS_MIN", 3)
    monkeypatch.setattr(ray_pool, "_DEATHS_EACH", 1)
    found = on_ray([f"deadly-{number}.tape" for number in range(20)], tmp_path)

    assert len(found) == 20
    assert sum("as 2 others did before" in each.error for each in found.values()) > 10
    assert all("died, or its node was lost" in each.error for each in found.values())


@pytest.mark.usefixtures("cluster")
def test_actors_end_where_the_iteration_is_left_early(tmp_path: Path) -> None:
    sources = [RunSource(store=f"{number}.tape") for number in range(20)]
    settings = BulkSettings(model=str(tmp_path))
    found = verify_on_ray(sources, settings, jobs=2, make_verifier=DeadlyVerifier)
    _, (first,) = next(found)
    process = psutil.Process(int(first.name))
    found.close()

    process.wait(30)


def test_a_cluster_that_cannot_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(tt.ReplayError, match=r"Ray cluster at 127\.0\.0\.1:1 cannot be used"):
        on_ray(["a.tape"], tmp_path, address="127.0.0.1:1")


def test_without_ray_one_line_names_the_extra(
    packed: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = cli("verify", str(packed / "tapes"), "--engine", "ray")

    assert code == 2
    assert err == (
        "tokentape: the engine ray needs ray, which is not installed: "
        'pip install "tokentape[ray]"\n'
    )


def test_an_address_without_the_engine_is_refused(cli: Cli) -> None:
    code, _, err = cli("verify", "a.tape", "--ray-address", "auto")

    assert code == 2
    assert "--ray-address needs --engine ray" in err


def ray_processes_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_an_interrupt_ends_the_command_and_every_process_of_its_cluster(
    packed: Path, number: signal.Signals
) -> None:
    arguments = ["verify", "runs.db", "tapes", "--engine", "ray", "--jobs", "2"]
    command = subprocess.Popen(
        [sys.executable, "-c", "from tokentape.cli import main; main()", *arguments],
        cwd=packed,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 90
    while not any("_Actor" in " ".join(each.cmdline()) for each in ray_processes_of(command.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    started = ray_processes_of(command.pid)
    os.kill(command.pid, number)
    command.communicate(timeout=60)

    assert command.returncode != 0
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
