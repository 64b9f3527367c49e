"""A tape names no folder of the machine that recorded it, and a replay finds the model."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tests.made_models import make_adapter
from tokentape.generation.models.recorded_model import load_as_recorded
from tokentape.recorder.paths import name_without_folders

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of a user who has a model, an adapter, and works there."""
    home = tmp_path / "home" / "alice-secret"
    shutil.copytree(tiny_folder, home / "models" / "tiny")
    make_adapter(tiny_folder, home / "adapters" / "mine")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def recorded(home: Path, cli: Cli) -> str:
    """Return the id of a failed run with a stored verdict and floor, packed into `x.tape`."""

    def look(name: str) -> str:
        """
        Look.

        Args:
            name: What at.
        """
        raise RuntimeError("nothing to see")

    lm = tt.load_model(home / "models" / "tiny", adapter=home / "adapters" / "mine")
    call = tt.ToolCall(name="look", arguments={"name": "x"})
    with (
        tt.open_store(f"sqlite:///{home}/runs.db") as store,
        pytest.raises(ZeroDivisionError),
        tt.Investigation(
            lm, store=store, name="x", system_prompt="Hi.", tools=tt.ToolInterface([look])
        ) as run,
    ):
        with pytest.warns(UserWarning, match="look"):
            run.chat("Look.", tool_calls=[call], max_new_tokens=6)
        raise ZeroDivisionError
    url = f"sqlite:///{home}/runs.db"
    assert (
        cli("calibrate", run.run_id, "--store", url, "--output", str(home / "floor.json"))[0] == 0
    )
    assert cli("verify", run.run_id, "--store", url)[0] == 0
    assert cli("pack", run.run_id, "--store", url, "--output", str(home / "x.tape"))[0] == 0
    return run.run_id


def texts_of(tape: Path) -> str:
    """Return all that a tape holds as text: names, manifest, values and metadata of its files."""
    found = []
    with zipfile.ZipFile(tape) as opened:
        for name in opened.namelist():
            found.append(name)
            data = opened.read(name)
            if name.endswith(".parquet"):
                path = tape.with_suffix(".part")
                path.write_bytes(data)
                table = pq.read_table(path)
                found += [str(table.to_pylist()), str(pq.read_metadata(path).metadata)]
            else:
                found.append(data.decode(errors="replace"))
    return "\n".join(found)


def test_a_tape_names_no_folder_of_its_machine(home: Path, recorded: str) -> None:
    texts = texts_of(home / "x.tape")

    assert "nothing to see" in texts
    assert "ZeroDivisionError" in texts
    for folder in ("alice-secret", str(home.parent), os.getcwd(), str(Path(__file__).parent)):
        assert folder not in texts, texts[max(0, texts.index(folder) - 200) :][:400]
    started = tt.open_store(home / "x.tape").recording(recorded).started()
    assert (started.model, started.loading["adapter"]) == ("tiny", "mine")


def test_a_replay_on_the_same_machine_finds_the_model(
    home: Path, recorded: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    tape = str(home / "x.tape")
    code, out, err = cli("verify", tape, "--json")

    assert code == 0, err
    assert json.loads(out)["model"] == "tiny"
    started = tt.open_store(tape).recording(recorded).started()
    assert load_as_recorded(None, started).name == str(home / "models" / "tiny")


def test_a_replay_elsewhere_says_how_to_name_the_model(
    home: Path, recorded: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    tape = str(home / "x.tape")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "other-machine"))
    monkeypatch.chdir(home / "adapters")
    code, _, err = cli("verify", tape)
    assert code == 2
    assert "'tiny'" in err
    assert "name it with --model" in err

    options = ("--model", str(tiny_folder), "--adapter", str(home / "adapters" / "mine"))
    assert cli("verify", tape, *options)[0] == 0


def test_a_place_with_another_model_is_not_taken_for_one_of_that_name(
    home: Path, recorded: str, tiny_folder: Path
) -> None:
    """The place is written down for the weights, and holds only while the names agree."""
    started = tt.open_store(home / "x.tape").recording(recorded).started()
    (place,) = (home / ".cache" / "tokentape" / "places").iterdir()
    for content in (
        "no json",
        "[]",
        '{"model": 3}',
        json.dumps({"model": str(tiny_folder.parent)}),
    ):
        place.write_text(content)
        with pytest.raises(tt.ModelError):
            load_as_recorded(None, started)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/alice/models/tiny", "tiny"),
        ("/models/tiny/", "tiny"),
        ("~/tiny.gguf", "tiny.gguf"),
        ("../tiny", "tiny"),
        (r"C:\models\tiny", "tiny"),
        ("models/tiny", "models/tiny"),
        ("someone/tiny", "someone/tiny"),
        ("smollm2-demo", "smollm2-demo"),
        ("https://host/tiny", "https://host/tiny"),
        ("", ""),
    ],
)
def test_names_lose_the_folders_of_the_machine(path: str, name: str) -> None:
    assert name_without_folders(path) == name


@given(st.lists(st.text("ab.~/\\: ", max_size=4), max_size=5).map("/".join))
def test_no_name_begins_outside_of_the_working_folder(path: str) -> None:
    name = name_without_folders(path)

    if "://" not in path:
        assert not name.startswith("/")
        assert name_without_folders(name) == name
