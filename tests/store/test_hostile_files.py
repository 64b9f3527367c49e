"""A hostile file is refused in one line, before it takes memory or time that its size denies."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tokentape as tt
from tests.store.bounded import commands, run
from tests.store.hostile_files import SEALED, Maker, part, sealed
from tests.store.hostile_others import FLOORS, OTHERS, PLANS
from tests.store.hostile_tapes import TAPES, tape
from tokentape.generation.plans.files import load_plan
from tokentape.recorder.limits import SETTING, expanded_bytes_max, load_json
from tokentape.store.arrow import TOKENS, of_file
from tokentape.store.sealed.expansion import ExpansionError, measure
from tokentape.store.sealed.parquet import TableFile

STORES: dict[str, Maker] = {**SEALED, **TAPES, **OTHERS}
_TOO_LARGE = rf"takes [\d,]+ bytes, and [\d,]+ are allowed: set {SETTING}"
FAULTS = {
    "rows_of_runs": _TOO_LARGE,
    "rows_of_tokens": _TOO_LARGE,
    "long_text": _TOO_LARGE,
    "long_list": _TOO_LARGE,
    "wide_dictionary": _TOO_LARGE,
    "lying_footer": _TOO_LARGE,
    "wide_json": _TOO_LARGE,
    "repeated_beginnings": "no tokentape writes the encoding of its column body",
    "many_columns": "too many elements",
    "deep_schema": "too many columns",
    "names_outside": "which is not a file of the run",
    "absolute_name": "which is not a file of the run",
    "name_twice": "it lists a file twice",
    "link_outside": "is a link out of the folder",
    "pipe": "is a device or a pipe",
    "large_manifest": _TOO_LARGE,
    "wide_manifest": _TOO_LARGE,
    "deep_manifest": "manifest.json is damaged|nested too deeply",
    "deflated_member": _TOO_LARGE,
    "lying_member": "it has 1000 bytes, but",
    "other_method": "compressed by another method than deflate",
    "many_members": "holds no run|there is no run",
    "overlapping_members": _TOO_LARGE,
    "endless_line": _TOO_LARGE,
    "wide_line": _TOO_LARGE,
    "deep_line": "line 1 is not a record of a run",
}
"""What a message says, by the beginning of a maker's name."""


def faults_of(path: Path) -> Iterator[str]:
    """Yield what reading everything in a store says, an error or the faults of `check`."""
    try:
        if path.suffix == ".jsonl":
            with tt.open_store("sqlite://") as store:
                tt.import_runs(path, store)
            return
        with tt.open_store(path, must_exist=True) as store:
            summaries = store.summaries()
            if not summaries:
                yield f"{path} holds no run"
            for each in summaries:
                yield from tt.check(store, each.run_id).faults
    except tt.TokentapeError as error:
        yield str(error)


QUICK = [name for name in STORES if not name.endswith("_in_a_tape")]


@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_store_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    check_refused(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STORES if name not in QUICK])
def test_a_hostile_folder_in_a_tape_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    check_refused(name, tmp_path)


def check_refused(name: str, folder: Path) -> None:
    """Read everything in a hostile store, and check what is said."""
    path = STORES[name](folder)
    expected = next(found for start, found in FAULTS.items() if name.startswith(start))

    faults = list(faults_of(path))

    assert faults
    assert any(re.search(expected, each) for each in faults), faults
    assert all("\n" not in each for each in faults)


def test_commands_on_a_hostile_store_stay_small_and_quick(tmp_path: Path) -> None:
    check_commands("lying_footer_in_a_tape", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_every_command_on_every_hostile_store_stays_small_and_quick(
    name: str, tmp_path: Path
) -> None:
    check_commands(name, tmp_path)


def check_commands(name: str, folder: Path) -> None:
    """Run the commands of a stranger's store, and check what each took and printed."""
    made = folder / "made"
    made.mkdir()
    path = STORES[name](made)
    for command, arguments in commands(path, folder).items():
        outcome = run(arguments, folder)
        printed = outcome.stdout + outcome.stderr
        assert outcome.is_bounded, (command, outcome)
        assert outcome.code in (0, 1, 2, 4, 5), (command, outcome)
        assert not re.search("unexpected|Traceback", printed), (command, printed)
        assert outcome.code == 0 or printed.strip(), command


@pytest.mark.parametrize("name", PLANS)
def test_a_hostile_plan_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(tt.PromptError) as refused:
        load_plan(PLANS[name](tmp_path))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", FLOORS)
def test_a_hostile_floor_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(tt.ReplayError) as refused:
        tt.read_floor(FLOORS[name](tmp_path))

    assert "\n" not in str(refused.value)


def equal_tokens(folder: Path, rows: int) -> Path:
    """Write a sealed file of equal tokens with five candidates, as a real clock times them."""
    rng = np.random.default_rng(1)
    jitter = rng.integers(0, 200, rows)
    lists = pa.array(np.arange(rows + 1, dtype=np.int32) * 5)
    columns = {
        "seq": np.arange(rows),
        "at": np.cumsum(30_000 + jitter),
        "step": np.arange(rows),
        "position": np.arange(rows),
        "duration_us": 30_000 + jitter,
        "top_ids": pa.ListArray.from_arrays(lists, pa.array(np.tile(np.arange(5), rows))),
        "top_logprobs": pa.ListArray.from_arrays(lists, pa.array(np.zeros(5 * rows))),
    }
    table = {
        field.name: pa.array(columns.get(field.name, np.ones(rows, np.int64))).cast(field.type)
        for field in of_file(TOKENS)
    }
    with TableFile(folder, "tokens/part.parquet") as file:
        file.add(pa.table(table, schema=of_file(TOKENS)))
        file.finish({})
        file.commit()
    return file.path


def test_a_run_of_many_equal_tokens_is_within_the_limit(tmp_path: Path) -> None:
    path = equal_tokens(tmp_path, 200_000)

    found = measure(str(path))

    assert found.rows == 200_000
    assert found.expanded_bytes > 2 * 64 * 1024**2, "the ratio is what counts here, not the floor"


def test_the_limit_is_raised_by_one_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = part(SEALED["long_text"](tmp_path), "events")
    with pytest.raises(ExpansionError, match=SETTING):
        measure(str(path))

    monkeypatch.setenv(SETTING, str(1024**3))

    assert measure(str(path)).rows == 1


@pytest.mark.parametrize("given", ["1e9", "-1", "64 MB", "٣"])
def test_a_setting_that_is_no_number_is_refused(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, given)

    with pytest.raises(tt.TokentapeError, match="must be a whole number of bytes"):
        expanded_bytes_max(1)


def test_a_limit_is_never_below_the_size_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "10")

    assert expanded_bytes_max(1_000) == 1_000


def test_json_of_a_million_ids_is_read() -> None:
    assert len(load_json(json.dumps([7] * 1_000_000))) == 1_000_000


def test_a_link_into_the_objects_of_git_annex_is_followed(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "repository" / "runs")
    path = part(folder, "events")
    target = tmp_path / "repository" / ".git" / "annex" / "objects" / "events.parquet"
    target.parent.mkdir(parents=True)
    path.rename(target)
    path.symlink_to(target)

    assert list(faults_of(folder)) == []


def test_a_folder_that_is_a_link_itself_is_read(tmp_path: Path) -> None:
    sealed(tmp_path / "runs")
    (tmp_path / "link").symlink_to(tmp_path / "runs")

    assert list(faults_of(tmp_path / "link")) == []


def test_a_tape_that_was_zipped_again_is_read(tmp_path: Path) -> None:
    path = tape(sealed(tmp_path / "sealed"), method=zipfile.ZIP_DEFLATED)

    with tt.open_store(path) as store:
        assert [each.turns for each in store.summaries()] == [2]
        assert len(list(store.recording("hostile-run").records())) == 19
