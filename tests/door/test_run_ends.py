"""A run that failed, was interrupted or was closed says so wherever it is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.made_events import run_started
from tests.replay.made_reports import report
from tests.replay.made_talk import Said, talk_events
from tokentape.recorder.events import RunFailed, RunFinished
from tokentape.recorder.events.run import CLOSED
from tokentape.recorder.process import this_process
from tokentape.replay.reports.html import html_report
from tokentape.replay.reports.junit import junit_xml
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore, close_run, errors_of, status_texts

Cli = Callable[..., tuple[int, str, str]]

TOTALS: dict[str, Any] = dict.fromkeys(
    (*("turns", "prompt_tokens", "reused_tokens"), *("computed_tokens", "generated_tokens")), 0
)
ENDS = {
    "aa": RunFailed(error="ValueError", message="no\nlayer 99", traceback="Traceback: here"),
    "bb": RunFailed(error=CLOSED, message="closed: process 12 is gone", traceback=""),
    "cc": RunFailed(error="KeyError", message="", traceback=""),
    "dd": RunFinished(**TOTALS, reason="interrupted", signal="SIGTERM"),
    "ee": RunFinished(**TOTALS, reason="interrupted"),
    "ff": RunFinished(**TOTALS),
}
TEXTS = {
    "aa": "failed: ValueError: no\nlayer 99",
    "bb": "failed: closed: process 12 is gone",
    "cc": "failed: KeyError",
    "dd": "interrupted by SIGTERM",
    "ee": "interrupted",
    "ff": "finished",
}
SHOWN = {run_id: text.replace("\n", "\\n") for run_id, text in TEXTS.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run for each end, a sealed copy of it and a tape."""
    path = tmp_path_factory.mktemp("ends")
    with tt.open_store(path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        for run_id, ended in ENDS.items():
            recorder = tt.Recorder(store, run_id=run_id)
            for event in (*talk_events([Said(), Said()], ended=False), ended):
                recorder.record(event)
            tt.export_parquet(store.recording(run_id), store, path / "sealed")
        tt.pack([store.recording(run_id) for run_id in ENDS], store, path / "all.tape")
    return path


@pytest.mark.parametrize("where", ["runs.db", "sealed", "all.tape"])
def test_the_status_of_every_run_is_read_from_any_store(folder: Path, where: str) -> None:
    with tt.open_store(folder / where) as store:
        summaries = store.summaries()

        assert status_texts(store, summaries) == TEXTS
        assert errors_of(store, summaries) == {
            run_id: TEXTS[run_id].removeprefix("failed: ") for run_id in ("aa", "bb", "cc")
        }
        assert {run_id: store.recording(run_id).ended() for run_id in ENDS} == ENDS


def test_commands_say_how_a_run_ended(folder: Path, cli: Cli) -> None:
    store = ("--store", str(folder / "runs.db"))
    listed = cli("list", *store)[1]
    for run_id, text in SHOWN.items():
        status = f"{'status':<17}{text}\n"
        rebuilt = cli("rebuild", run_id, *store)[1]
        followed = cli("tail", run_id, *store)[1]

        assert text[:27] in listed
        assert status in cli("show", run_id, *store)[1]
        assert status in cli("show", run_id, "--turn", "2", *store)[1]
        assert f"own, {text} *\n" in cli("show", run_id, "--tree", *store)[1]
        assert text.partition(" by ")[0] in followed.splitlines()[-1]
        assert rebuilt.endswith(f"status of the run: {text}\n") is (text != "finished")


def test_json_has_the_status_and_the_error(folder: Path, cli: Cli) -> None:
    store = ("--store", str(folder / "all.tape"), "--json")
    shown = json.loads(cli("show", "aa", *store)[1])
    rebuilt = json.loads(cli("rebuild", "aa", *store)[1])
    tree = json.loads(cli("show", "aa", "--tree", *store)[1])

    assert (shown["status"], shown["ended"]["kind"]) == ("failed", "RunFailed")
    assert shown["ended"]["traceback"] == "Traceback: here"
    assert (rebuilt["status"], rebuilt["status_text"]) == ("failed", TEXTS["aa"])
    assert (tree["status"], tree["error"]) == ("failed", "ValueError: no\nlayer 99")
    assert json.loads(cli("show", "ff", "--tree", *store)[1])["error"] is None


def test_a_comparison_shows_the_status_of_both_runs_and_counts_another_end(
    folder: Path, cli: Cli
) -> None:
    store = ("--store", str(folder / "runs.db"))
    code, out, _ = cli("diff", "dd", "aa", *store)

    assert code == 1
    assert [line.strip() for line in out.splitlines()[2:5:2]] == [SHOWN["dd"], SHOWN["aa"]]
    assert 'status: "interrupted" / "failed"' in out
    assert cli("diff", "ee", "ff", *store)[0] == 1
    code, out, _ = cli("diff", "aa", "aa", *store)
    assert (code, out.count(SHOWN["aa"])) == (0, 2)
    assert json.loads(cli("diff", "aa", "ff", *store, "--json")[1])["a"]["status"] == TEXTS["aa"]


def test_a_failed_run_that_cannot_be_replayed_says_its_error(
    tmp_path: Path, cli: Cli, lm: tt.LoadedModel
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        recorder = tt.Recorder(store, run_id="aa")
        for event in (talk_events([])[0], ENDS["aa"]):
            recorder.record(event)
        said = f"(status: {SHOWN['aa']})"
        with pytest.raises(tt.NothingToReplayError, match="no token to replay") as raised:
            tt.verify(store.recording("aa"), lm)
        assert str(raised.value).endswith(said)
        with pytest.raises(tt.StoreError, match="run aa has ended: failed: ValueError"):
            close_run(store, store.recording("aa"))
    where = ("--store", str(tmp_path / "runs.db"))

    assert cli("rebuild", "aa", "--turn", "1", *where)[2].strip().endswith(said)
    assert f"neither run aa ({SHOWN['aa']}) nor" in cli("diff", "aa", "aa", *where)[2]


def test_a_run_whose_process_is_gone_is_rebuilt_with_that_status(tmp_path: Path, cli: Cli) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        recorder = tt.Recorder(store, run_id="aa")
        gone = this_process() | {"started": -1}
        for event in (run_started(process=gone), *talk_events([Said()], ended=False)[1:]):
            recorder.record(event)

    shown = cli("rebuild", "aa", "--store", str(tmp_path / "runs.db"))[1]
    assert shown.endswith("status of the run: running (process gone)\n")


def test_headers_of_reports_say_that_the_recorded_run_failed() -> None:
    failed = report(run_status=TEXTS["aa"])
    finished = report(run_status="finished")

    assert f"the recorded run: {SHOWN['aa']}" in render(failed)
    assert f"recorded run {SHOWN['aa']}" in html_report([failed])
    assert f'name="run_status" value="{SHOWN["aa"]}"' in junit_xml([failed])
    assert "recorded run" not in render(finished) + html_report([finished])
