"""What releases of DuckDB can read."""

import duckdb
import pytest

duckdb_of_tokens = pytest.mark.skipif(
    int(duckdb.__version__.partition(".")[0]) < 2,
    reason="DuckDB below 2, which Inspect Scout needs, does not read the encoding of tokens",
)
"""Marks tests that read sealed tokens with DuckDB."""
