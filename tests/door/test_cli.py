"""Commands print data on one stream, progress and errors on the other, and exit with a code."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from sqlalchemy import create_engine, inspect

import tokentape as tt
from tests.made_events import run_started
from tests.replay.copies import altered_copy
from tests.tampering import without_triggers
from tokentape.generation.models.recorded_model import load_as_recorded

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def database(tmp_path: Path, tiny_folder: Path, record: Callable[..., tt.Recording]) -> Path:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        record(tt.load_model(tiny_folder), store)
    return path


def test_list_prints_a_row_a_run(database: Path, cli: Cli) -> None:
    code, out, err = cli("list", "--store", str(database))

    assert (code, err) == (0, "")
    assert "finished" in out
    (run,) = json.loads(cli("list", "--store", str(database), "--json")[1])
    with tt.open_store(database) as store:
        assert list(run) == list(tt.runs_df(store).columns)
        assert run["run_id"] == store.summaries()[0].run_id
    assert run["turns"] == 4


def test_the_environment_names_the_store(
    database: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENTAPE_DATABASE_URL", f"sqlite:///{database}")

    assert json.loads(cli("list", "--json")[1])[0]["name"] == "test"


def test_show_lists_the_turns_with_their_cache_decisions(database: Path, cli: Cli) -> None:
    code, out, _ = cli("show", "--store", str(database))
    whole = json.loads(cli("show", "--store", str(database), "--json")[1])

    assert code == 0
    assert "T=0.8 p=0.9" in out
    assert "extends" in out
    assert [turn["cache"]["decision"] for turn in whole["turns"]] == ["hit"] * 4
    one = cli("show", "--store", str(database), "--turn", "2")[1]
    assert "user: What of layer 1?" in one
    assert "What of layer 2?" not in one


def test_rebuild_prints_the_conversation(database: Path, cli: Cli) -> None:
    code, out, _ = cli("rebuild", "--store", str(database))
    whole = json.loads(cli("rebuild", "--store", str(database), "--json")[1])

    assert code == 0
    assert out.count("assistant: ") == 4
    model, system = out.split("\n")[:2]
    assert re.fullmatch(r"model \S+: weights \w{12}, tokenizer \w{12}, template \w{12}", model)
    assert system.startswith("  system: ")
    assert [turn["reply_text"] for turn in whole["turns"]] == [
        message["content"] for message in whole["messages"] if message["role"] == "assistant"
    ]


def test_regenerate_reports_exact_turns(database: Path, cli: Cli) -> None:
    code, out, _ = cli("regenerate", "--store", str(database), "--turn", "2", "--turn", "3")

    assert code == 0
    assert "EXACT" in out
    assert "turn   2  exact" in out


def test_retrace_compares_bits_and_shows_the_first_row_that_differs(
    database: Path, cli: Cli
) -> None:
    def add_one_unit(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE tokens SET logprob_f32 = logprob_f32 + 1 WHERE turn = 2")

    code, out, _ = cli("retrace", "--store", str(database))
    assert code == 0
    assert "EXACT" in out
    assert "every recorded number of" in out
    assert "compared bit for bit, 0 differ" in out

    code, out, _ = cli("retrace", "--store", str(altered_copy(database, add_one_unit)))
    assert code == 1
    assert "first row that differs: turn 2, token 0" in out
    assert "1 unit in the last place" in out

    code, out, _ = cli("retrace", "--store", str(database), "--turn", "2", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["verdict"] == "exact"
    assert [turn["differing_rows"] for turn in report["turns"]] == [0]
    assert report["rows"] == []


def test_an_exported_run_is_verified_from_its_files(
    database: Path, tmp_path: Path, cli: Cli
) -> None:
    sealed = tmp_path / "sealed"
    code, out, _ = cli("export", "--store", str(database), "-o", str(sealed))

    assert code == 0
    assert all(Path(line).is_file() for line in out.splitlines())
    assert cli("verify", "--store", str(sealed))[0] == 0
    assert "finished" in cli("list", "--store", str(sealed))[1]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("verify", "0000"), 2, "has no run '0000'"),
        (("verify", "--model", "./no-such-model"), 2, "there is no model folder"),
        (("verify", "--turn", "99"), 5, "no turn 99"),
        (("show", ""), 2, "has no run ''"),
        (("export", "-o", "/proc/nowhere"), 2, "cannot write to"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    database: Path, cli: Cli, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    before = database.read_bytes()
    found, out, err = cli(*arguments, "--store", str(database))

    assert (found, out) == (code, "")
    assert complaint in err
    assert err.startswith("tokentape: ")
    assert err.count("\n") == 1
    assert database.read_bytes() == before


def test_a_missing_store_is_not_created(tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("list", "--store", str(tmp_path / "runs.db"))

    assert code == 2
    assert "there is no store" in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_database_is_left_alone(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "notes.db"
    path.write_text("dear diary")
    code, out, err = cli("list", "--store", str(path))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not a database" in err
    assert path.read_text() == "dear diary"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_newer_store_exits_with_three(database: Path, cli: Cli) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE tokentape_version SET version_num = '9999'")
    code, _, err = cli("list", "--store", str(database))

    assert code == 3
    assert "upgrade tokentape" in err


def test_an_event_of_the_future_exits_with_three(database: Path, cli: Cli) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO events SELECT max(event_key) + 1, 0, NULL, 'Dreamt', 1, '{}', NULL "
            "FROM events"
        )

    assert cli("rebuild", "--store", str(database))[0] == 3


def test_an_empty_store_has_nothing_to_replay(tmp_path: Path, cli: Cli) -> None:
    tt.open_store(tmp_path / "runs.db").close()

    assert cli("verify", "--store", str(tmp_path / "runs.db"))[0] == 5
    assert json.loads(cli("list", "--store", str(tmp_path / "runs.db"), "--json")[1]) == []


def test_a_crash_is_one_line_and_no_divergence(
    database: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object, **named: object) -> object:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(tt, "rebuild", breaks)
    code, out, err = cli("rebuild", "--store", str(database))

    assert (code, out) == (2, "")
    assert err.startswith("tokentape: unexpected ZeroDivisionError")
    assert err.count("\n") == 1
    monkeypatch.setenv("TOKENTAPE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli("rebuild", "--store", str(database))


def test_drift_can_be_allowed_and_a_changed_recording_cannot(
    database: Path, tmp_path: Path, cli: Cli
) -> None:
    with tt.open_store(database) as store:
        run_id = store.summaries()[0].run_id
        lm = load_as_recorded(None, store.recording(run_id).started())
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.q_proj.weight.mul_(1.0005)
    lm.model.save_pretrained(tmp_path / "louder")
    lm.tokenizer.save_pretrained(tmp_path / "louder")
    other = ("--model", str(tmp_path / "louder"), "--ignore", "weights")

    assert cli("verify", "--store", str(database), *other)[0] == 1
    code, out, _ = cli("verify", "--store", str(database), *other, "--allow-drift", "--json")
    assert code == 0
    assert json.loads(out)["verdict"] == "drifted"
    assert json.loads(out)["ignored"] == ["weights"]
    with closing(sqlite3.connect(database)) as connection, without_triggers(connection):
        # For a float32 near one, this many units in the last place are about a hundredth.
        connection.execute(
            "UPDATE tokens SET logprob_f32 = logprob_f32 + 84000 WHERE turn = 1 AND step = 2"
        )
    code, out, _ = cli("verify", "--store", str(database), "--allow-drift")
    assert code == 1
    assert "turn 1 does not match its seal" in out


def test_commands_that_need_no_model_do_not_wait_for_torch() -> None:
    program = "import sys, tokentape.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "False\n"


def test_a_name_is_printed_as_text_and_never_as_markup(
    tmp_path: Path, lm: tt.LoadedModel, cli: Cli
) -> None:
    path = tmp_path / "runs.db"
    with (
        tt.open_store(path) as store,
        tt.Investigation(lm, store=store, name="[b]probe[/foo]", system_prompt="Hi.") as run,
    ):
        run.chat("Hello", max_new_tokens=2)
    code, out, _ = cli("list", "--store", str(path))

    assert code == 0
    assert "[b]probe[/foo]" in out


def test_looking_for_a_store_in_a_blank_database_leaves_it_blank(
    postgres_url: str, cli: Cli
) -> None:
    code, _, err = cli("list", "--store", postgres_url)
    engine = create_engine(postgres_url)

    assert code == 2
    assert "the database is blank" in err
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_run_without_a_seal_does_not_pass_the_check(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        tt.Recorder(store).record(run_started())
    code, out, _ = cli("check", "--store", str(path))

    assert code == 1
    assert "no turn is sealed" in out
    assert " as recorded" not in out
