"""DuckDB, polars, pandas and Ray Data read a folder in an object store without tokentape."""

import os
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

import tokentape as tt
from tests.store.made_runs import make_run
from tokentape.store import DatabaseStore

ENDPOINT = "AWS_ENDPOINT_URL"


@pytest.fixture
def folder(store: DatabaseStore, bucket: str) -> str:
    """A folder of two runs of 12 tokens."""
    for _ in range(2):
        tt.export_parquet(store.recording(make_run(store)), store, f"{bucket}/runs")
    return f"{bucket}/runs"


@pytest.fixture
def expected(store: DatabaseStore, folder: str) -> pd.DataFrame:
    """What the readers should find: the run, the place in it, and the token."""
    columns = ["run_id", "seq", "token_id", "logprob"]
    return tt.tokens_df(store)[columns].astype({"run_id": str}).reset_index(drop=True)


def assert_found(frame: pd.DataFrame, expected: pd.DataFrame) -> None:
    found = frame[list(expected.columns)].astype({"run_id": str})
    found = found.sort_values(["run_id", "seq"], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_duckdb(folder: str, expected: pd.DataFrame, s3: Any) -> None:
    with duckdb.connect() as connection:
        connection.register_filesystem(s3)
        query = f"SELECT * FROM read_parquet('{folder}/tokens/**/*.parquet')"
        assert_found(connection.sql(query).df(), expected)


def test_duckdb_leaves_out_a_run_that_is_not_committed(
    folder: str, expected: pd.DataFrame, s3: Any, store: DatabaseStore
) -> None:
    files = tt.export_parquet(store.recording(make_run(store)), store, folder)
    s3.rm_file(next(str(each) for each in files if "/runs/schema=1/" in str(each)))
    with duckdb.connect() as connection:
        connection.register_filesystem(s3)
        tokens = f"read_parquet('{folder}/tokens/**/*.parquet')"
        runs = f"read_parquet('{folder}/runs/**/*.parquet')"
        everything = connection.sql(f"SELECT * FROM {tokens}").df()
        query = f"SELECT * FROM {tokens} WHERE run_id IN (SELECT run_id FROM {runs})"
        committed = connection.sql(query).df()

    assert len(everything) == len(expected) + 12
    assert_found(committed, expected)


def test_polars(folder: str, expected: pd.DataFrame) -> None:
    options = {
        "aws_endpoint_url": os.environ[ENDPOINT],
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    lazy = pl.scan_parquet(f"{folder}/tokens/", storage_options=options)
    assert_found(lazy.select(list(expected.columns)).collect().to_pandas(), expected)


def test_pandas(folder: str, expected: pd.DataFrame) -> None:
    options = {"endpoint_url": os.environ[ENDPOINT]}
    assert_found(pd.read_parquet(f"{folder}/tokens", storage_options=options), expected)


@pytest.mark.slow
# Ray warns of settings that it sets itself.
@pytest.mark.filterwarnings("ignore")
def test_ray(folder: str, expected: pd.DataFrame, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise Ray writes a token into the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray", reason="needs Ray")
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        path = folder.removeprefix("s3://")
        found = ray.data.read_parquet(f"{path}/tokens", filesystem=s3).to_pandas()
    finally:
        ray.shutdown()
    assert_found(found, expected)
