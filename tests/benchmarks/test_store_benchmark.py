"""The workload of the store benchmark, its writers and its figures; no rival is installed."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as commands
import tokentape as tt
from benchmarks.rivals import environment
from benchmarks.rivals.environment import Rival, RivalMissingError, python_of, run_rival
from benchmarks.rivals.task import RivalTask
from benchmarks.store import commands as store_commands
from benchmarks.store import frames, measure, writers
from benchmarks.store.long_run import LongRun
from benchmarks.store.openai_logprobs import rival_task
from benchmarks.store.synthetic_tokens import SyntheticTokens
from benchmarks.store.tables import ratios_to_bare
from benchmarks.store.workload import Workload, make_workload
from benchmarks.store.writers import BARE, WriteResult, write_bare, write_live, write_sealed
from tokentape.recorder.events import TokenSampled, TurnStarted
from tokentape.store import DatabaseStore

RIVAL = Rival(name="a rival", module="no_such_module", needs="inspect.txt")


@pytest.fixture(scope="module")
def workload(make_lm: Callable[..., tt.LoadedModel]) -> Workload:
    return make_workload(make_lm("llama"), turns=3, turn_tokens=7, question_words=4)


def tokens_of(recording: tt.Recording) -> list[TokenSampled]:
    return [each.event for each in recording.events() if isinstance(each.event, TokenSampled)]


def said(workload: Workload) -> list[TokenSampled]:
    return [token for exchange in workload.exchanges for token in exchange.tokens]


def fits(value: float, code: str) -> bool:
    return struct.unpack(code, struct.pack(code, value))[0] == value


class TestTokenDraws:
    def test_numbers_have_the_precision_that_is_recorded(self, lm: tt.LoadedModel) -> None:
        drawn = SyntheticTokens(lm.tokenizer).reply(turn=1, prompt_tokens=9, count=300)

        for token in drawn:
            assert fits(token.logprob, "f")
            assert fits(token.logprob_processed, "f")
            halves = (token.entropy, token.top_gap, *token.top_logprobs)
            assert all(fits(each, "e") for each in halves)
            assert isinstance(token.duration_us, int)

    def test_top_ids_differ_and_come_best_first(self, lm: tt.LoadedModel) -> None:
        drawn = SyntheticTokens(lm.tokenizer).reply(turn=1, prompt_tokens=9, count=300)

        for token in drawn:
            assert len(set(token.top_ids)) == 5
            assert list(token.top_logprobs) == sorted(token.top_logprobs, reverse=True)
        among = sum(each.token_id in each.top_ids for each in drawn)
        assert 0.9 < among / 300 < 1

    def test_the_same_seed_draws_the_same(self, lm: tt.LoadedModel) -> None:
        first, again, other = (
            SyntheticTokens(lm.tokenizer, seed=seed).reply(turn=1, prompt_tokens=9, count=20)
            for seed in (1, 1, 2)
        )

        assert first == again != other


class TestWorkload:
    def test_a_recording_of_it_is_rebuilt_exactly(
        self, workload: Workload, store: DatabaseStore
    ) -> None:
        run_id, *_ = writers.record(workload, store)
        rebuilt = tt.rebuild(store.recording(run_id))

        assert [turn.reply_text for turn in rebuilt.turns] == [e.reply for e in workload.exchanges]
        assert [turn.tokens for turn in rebuilt.turns] == [e.tokens for e in workload.exchanges]

    def test_a_turn_is_what_the_engine_records_of_one(
        self, workload: Workload, lm: tt.LoadedModel, store: DatabaseStore
    ) -> None:
        with tt.Investigation(lm, store=store, name="real", system_prompt="Be kind.") as run:
            run.chat("Well?", max_new_tokens=2, min_new_tokens=2)
        real = [type(each.event) for each in store.recording(run.run_id).events()]
        made = [type(event) for _, event in workload.events]

        assert made[: made.index(TokenSampled)] == real[: real.index(TokenSampled)]
        assert workload.tokens == 21
        started = [event for _, event in workload.events if isinstance(event, TurnStarted)]
        assert all(len(each.sampling) > 10 for each in started)

    def test_times_ascend_in_whole_microseconds(self, workload: Workload) -> None:
        times = [at_us for at_us, _ in workload.events]

        assert all(before < after for before, after in pairwise(times))
        assert all(isinstance(at_us, int) for at_us in times)

    def test_without_top_logprobs_nothing_else_is_missing(self, workload: Workload) -> None:
        bare = workload.without_top_logprobs()

        assert len(bare.events) == len(workload.events)
        assert not any(event.top_ids for _, event in bare.events if isinstance(event, TokenSampled))
        assert len(workload.without_tokens().events) == len(workload.events) - 21


class TestWriters:
    def test_the_live_store_holds_all_that_was_said(
        self, workload: Workload, tmp_path: Path
    ) -> None:
        (result,) = write_live(workload, tmp_path)

        with tt.open_store(tmp_path / "live.db") as opened:
            (run,) = opened.summaries()
            assert tokens_of(opened.recording(run.run_id)) == said(workload)
        assert result.token_bytes
        assert result.all_bytes > 0
        assert 0 < (result.token_seconds or 0) < result.seconds

    def test_without_dbstat_tokens_are_what_they_make_the_file_grow_by(
        self, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writers, "_table_bytes", lambda path, table: None)
        (result,) = write_live(workload, tmp_path)

        assert result.token_bytes is not None
        assert result.counted == "growth of the file; growth by the tokens"

    def test_sealed_runs_are_sealed_with_top_logprobs_and_without(
        self, workload: Workload, tmp_path: Path
    ) -> None:
        full, bare = write_sealed(workload, tmp_path)

        with tt.open_store(tmp_path / "sealed-0" / "sealed") as opened:
            (run,) = opened.summaries()
            assert tokens_of(opened.recording(run.run_id)) == said(workload)
        for each in (full, bare):
            assert 0 < (each.token_bytes or 0) < each.all_bytes
        assert (bare.token_bytes or 0) < (full.token_bytes or 0)

    def test_the_bare_loop_keeps_a_row_a_token(self, workload: Workload, tmp_path: Path) -> None:
        (result,) = write_bare(workload, tmp_path)

        assert result.name == BARE
        packed = [writers._packed(token) for token in said(workload)]
        assert [tuple(map(len, each)) for each in packed] == [(24, 40)] * 21
        query = "SELECT ids, floats FROM tokens ORDER BY seq"
        with writers.contextlib.closing(writers.sqlite3.connect(tmp_path / "bare.db")) as file:
            assert file.execute(query).fetchall() == packed


def result_of(name: str, seconds: float = 1.0) -> WriteResult:
    return WriteResult(name=name, seconds=seconds, when="now", all_bytes=10, counted="bytes")


class TestRounds:
    def test_another_one_begins_each_round_and_the_first_round_does_not_count(
        self, tmp_path: Path
    ) -> None:
        order: list[str] = []

        def keeper(name: str) -> measure.Write:
            def keep(folder: Path) -> list[WriteResult]:
                assert folder.is_dir()
                order.append(name)
                return [result_of(name)]

            return keep

        names = ("a", "b", "c")
        figures = measure.measure_store(
            {name: keeper(name) for name in names}, tmp_path, tokens=5, rounds=2
        )

        assert "".join(order) == "abcbcacab"
        assert {name: len(each.results) for name, each in figures.writers.items()} == dict.fromkeys(
            names, 2
        )
        assert list(tmp_path.iterdir()) == []

    def test_who_fails_is_said_and_not_asked_again(self, tmp_path: Path) -> None:
        asked = []

        def fail(folder: Path) -> list[WriteResult]:
            asked.append(folder)
            raise RivalMissingError("no network")

        figures = measure.measure_store(
            {"rival": fail, BARE: lambda folder: [result_of(BARE)]}, tmp_path, tokens=5, rounds=3
        )

        assert figures.missing == {"rival": "no network"}
        assert list(figures.writers) == [BARE]
        assert len(asked) == 1

    def test_ratios_compare_what_was_kept_in_the_same_round(self) -> None:
        by_name = {
            BARE: measure.RoundResults([result_of(BARE, 1.0), result_of(BARE, 4.0)]),
            "ours": measure.RoundResults([result_of("ours", 3.0), result_of("ours", 8.0)]),
        }
        figures = measure.StoreFigures(tokens=1000, writers=by_name, missing={})

        assert ratios_to_bare(by_name["ours"], figures) == [3.0, 2.0]
        assert by_name["ours"].ms_per_token(1000) == [3.0, 8.0]


class TestRivals:
    def test_a_task_has_every_token_and_its_candidates(
        self, workload: Workload, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        task = rival_task(workload, lm.tokenizer)
        task.write(tmp_path / "task.json")

        assert RivalTask.read(tmp_path / "task.json") == task
        assert task.replies == [each.reply for each in workload.exchanges]
        token, entry = said(workload)[0], task.logprobs[0][0]
        assert entry["logprob"] == token.logprob
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert [each["logprob"] for each in entry["top_logprobs"]] == list(token.top_logprobs)
        precise = [each["logprob"] for each in task.float32_logprobs[0][0]["top_logprobs"]]
        assert precise == pytest.approx(token.top_logprobs, rel=2**-11)
        assert all(fits(each, "f") for each in precise)
        assert not any(fits(each, "e") for each in precise)

    def test_the_rivals_part_needs_nothing_of_ours(self, tmp_path: Path) -> None:
        code = "import benchmarks.rivals.task, sys; print('tokentape' in sys.modules)"
        shown = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )

        assert shown.stdout == "False\n"

    def test_an_environment_is_made_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[list[str]] = []

        def call(command: list[str]) -> None:
            calls.append(command)
            (Path(command[-1]) if "venv" in command else tmp_path).mkdir(
                parents=True, exist_ok=True
            )

        notices: list[str] = []
        monkeypatch.setattr(environment, "_call", call)
        pythons = {python_of(RIVAL, tmp_path, notices.append) for _ in range(2)}

        assert len(pythons) == 1
        assert [("venv" in each, "pip" in each) for each in calls] == [(True, False), (False, True)]
        assert calls[1][-1].endswith("inspect.txt")
        assert len(notices) == 1
        assert str(tmp_path) in notices[0]

    def test_one_that_cannot_be_installed_is_missing_and_the_others_are_not(
        self,
        workload: Workload,
        lm: tt.LoadedModel,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def call(command: list[str]) -> None:
            raise RivalMissingError("ERROR: no network")

        monkeypatch.setattr(environment, "_call", call)
        found, missing = measure.rival_writers(
            workload, lm.tokenizer, tmp_path, environments=tmp_path, notify=lambda line: None
        )

        assert found == {}
        assert missing == {"Inspect AI": "ERROR: no network", "MLflow": "ERROR: no network"}

    def test_one_that_cannot_be_run_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(RivalMissingError, match="no_such_module"):
            run_rival(RIVAL, Path(sys.executable), tmp_path / "task.json", tmp_path)


class TestFrames:
    def test_a_long_run_goes_on_behind_itself(
        self, workload: Workload, lm: tt.LoadedModel, store: DatabaseStore
    ) -> None:
        with tt.Recorder(store) as recorder:
            for event in LongRun(workload, SyntheticTokens(lm.tokenizer)).events(45, turn_tokens=7):
                recorder.record(event)
        turns = tt.rebuild(store.recording(recorder.run_id)).turns

        assert [turn.number for turn in turns] == list(range(1, 8))
        assert [len(turn.tokens) for turn in turns] == [7] * 6 + [3]
        for turn in turns:
            assert len(turn.prompt_ids) == turn.tokens[0].position
        # The fourth turn repeats the first one, after the third.
        prefix = (*turns[2].prompt_ids, *turns[2].reply_ids)
        assert turns[3].prompt_ids[: len(prefix)] == prefix
        assert turns[3].messages == turns[0].messages

    def test_both_stores_give_the_same_rows(
        self, workload: Workload, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        live, sealed = tmp_path / "rows.db", tmp_path / "rows"
        frames.write_rows(workload, lm.tokenizer, live, sealed, rows=30, run_rows=20)
        figures, same = frames.measure_frames(live, sealed, rounds=1)

        assert same
        assert [each.rows for each in figures] == [30] * 3
        assert len(list(sealed.glob("tokens/**/*.parquet"))) == 2

    def test_the_bare_read_leaves_out_the_top_logprobs(
        self, workload: Workload, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        live, sealed = tmp_path / "rows.db", tmp_path / "rows"
        frames.write_rows(workload, lm.tokenizer, live, sealed, rows=7, run_rows=7)
        columns = pq.read_schema(next(sealed.glob("tokens/**/*.parquet"))).names

        bare = frames._read_bare(sealed / "tokens")
        assert set(columns) - set(bare) == {"top_ids", "top_logprobs"}


class TestCommand:
    @pytest.fixture
    def shown(
        self,
        workload: Workload,
        lm: tt.LoadedModel,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[..., Any]:
        monkeypatch.setattr(store_commands, "demo_model", lambda device: lm)
        monkeypatch.setattr(store_commands, "make_workload", lambda lm: workload)
        return lambda *arguments: CliRunner().invoke(commands.app, ["store", *arguments])

    def test_everybody_has_a_row_and_the_figures_are_written(
        self, shown: Callable[..., Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "store.json"
        done = shown("--no-rivals", "--rounds", "1", "--rows", "20", "--json", str(path))

        assert done.exit_code == 0, done.output
        for name in ("tokentape, live", "tokentape, sealed, top-5", BARE, "tokens_df, SQLite"):
            assert name in done.output
        assert "same frame from both: True" in done.output
        figures = json.loads(path.read_text())
        assert [len(each) for each in figures["store"]["rounds"].values()] == [1] * 4

    def test_a_rival_that_is_missing_has_a_row_that_says_so(
        self, shown: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            measure, "rival_writers", lambda *a, **k: ({}, {"MLflow": "no network"})
        )
        done = shown("--rounds", "1", "--rows", "0")

        assert done.exit_code == 0, done.output
        assert "not measured: no network" in done.output

    def test_other_rows_from_parquet_than_from_sqlite_exit_with_1(
        self, shown: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        figures = [frames.FrameFigures(source="a source", rows=3, seconds=(1.0,))]
        monkeypatch.setattr(frames, "measure_frames", lambda *a: (figures, False))
        done = shown("--no-rivals", "--rounds", "1", "--rows", "20")

        assert done.exit_code == 1
        assert "same frame from both: False" in done.output
