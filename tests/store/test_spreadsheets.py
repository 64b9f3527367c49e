"""CSV files give every reader the same rows and texts."""

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tokentape as tt
from tests.store.made_runs import STARTED, TICKS_US, say
from tokentape.recorder.events import TurnFinished
from tokentape.store import DatabaseStore
from tokentape.store.copies.spreadsheets import TABLES

ODD = [
    *("one\rtwo", "one\r\ntwo", "\n", "\r", 'a "quote", and\ttab', '"', '""', "=1+1", "@x", "-"),
    *("NA", "null", "None", "NaN", "", " lead", "trail ", "1", "1e5", "true", "2026-11-26"),
    *("\u2028 \u0085 \x0b\x0c\x1c", "é漢🙂", "a;b|c", "\\", '\\"', "'", "#", "\ufeff"),
]
TEXT = st.text(st.one_of(st.sampled_from("\r\n\t\",;'=\\ "), st.characters(codec="utf-8")))


def record(store: DatabaseStore, name: str, texts: list[str]) -> str:
    """Record a run with a turn for each text, and one that was cut off."""
    with tt.Recorder(store, clock_us=TICKS_US.__next__) as recorder:
        recorder.record(replace(STARTED, name=name))
        inner = recorder.record

        def with_text(event: Any) -> None:
            if isinstance(event, TurnFinished):
                event = replace(event, text=texts[event.turn - 1])
            inner(event)

        recorder.record = with_text  # type: ignore[assignment]
        for turn in range(1, len(texts) + 1):
            say(recorder, turn, tokens=1)
        recorder.record = inner  # type: ignore[method-assign]
    return recorder.run_id


@settings(max_examples=15)
@given(
    name=TEXT.map(lambda text: text.replace("\x00", "")),
    texts=st.lists(TEXT, min_size=1, max_size=4),
)
@example(name="a\rb", texts=ODD)
def test_python_and_pandas_read_every_text_as_it_is(name: str, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, tt.open_store("sqlite://") as store:
        run_id = record(store, name, texts)
        tt.export_csv(store, run_id, folder)
        with Path(folder, "turns.csv").open(newline="", encoding="utf-8") as file:
            assert [row["text"] for row in csv.DictReader(file)] == texts
        with Path(folder, "runs.csv").open(newline="", encoding="utf-8") as file:
            assert [row["name"] for row in csv.DictReader(file)] == [name]
        if "\x00" not in "".join(texts):
            read = pd.read_csv(f"{folder}/turns.csv", keep_default_na=False, dtype={"text": str})
            assert read["text"].tolist() == texts


def test_duckdb_and_polars_read_every_text_as_it_is(store: DatabaseStore, tmp_path: Path) -> None:
    run_id = record(store, "a\rb", ODD)
    tt.export_csv(store, run_id, tmp_path)
    path = str(tmp_path / "turns.csv")
    rows = f"FROM read_csv('{path}', allow_quoted_nulls=false, all_varchar=true"
    by_duckdb = duckdb.sql(f"SELECT text {rows}) ORDER BY turn::int").fetchall()
    count = duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall()
    by_polars = pl.read_csv(path, schema_overrides={"text": pl.String})["text"].to_list()

    assert [text for (text,) in by_duckdb] == ODD
    assert by_polars == ODD
    assert count == [(len(ODD),)]


def test_a_nul_reaches_python(store: DatabaseStore, tmp_path: Path) -> None:
    tt.export_csv(store, record(store, "x", ["\x00nul", "nul\x00"]), tmp_path)
    with (tmp_path / "turns.csv").open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == ["\x00nul", "nul\x00"]


def test_a_missing_text_is_not_an_empty_one(store: DatabaseStore, tmp_path: Path) -> None:
    run_id = record(store, "x", [""])
    tt.export_csv(store, run_id, tmp_path)
    header, row = (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()
    fields = dict(zip(header.replace('"', "").split(","), row.split(","), strict=True))

    assert (fields["name"], fields["parent_run_id"], fields["turns"]) == ('"x"', "", "1")
    turns = (tmp_path / "turns.csv").read_text(encoding="utf-8")
    # The text, and a reason that is empty.
    assert turns.count(',""') == 2


@pytest.mark.parametrize("name", TABLES)
def test_numbers_and_times_are_those_of_the_frames(
    name: str, store: DatabaseStore, tmp_path: Path
) -> None:
    run_id = record(store, "x", ["a", "b"])
    tt.export_csv(store, run_id, tmp_path)
    frame = getattr(tt, f"{name}_df")(store, run_id)
    times = [each for each in frame.columns if each == "at" or each.endswith("_at")]
    read = pd.read_csv(tmp_path / f"{name}.csv", parse_dates=times)

    assert read.columns.tolist() == frame.columns.tolist()
    for column in frame.columns:
        for theirs, ours in zip(read[column], frame[column], strict=True):
            if pd.isna(ours) or ours == "":
                assert pd.isna(theirs), column
            else:
                number = isinstance(ours, float)
                assert theirs == (pytest.approx(ours) if number else ours), column
