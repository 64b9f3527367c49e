"""The examples of docs/object-stores.md run, in order, as one program."""

import os
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.store.made_runs import make_run
from tokentape.store import DatabaseStore

PAGE = Path(__file__).resolve().parents[3] / "docs" / "object-stores.md"


def test_the_examples_run(
    store: DatabaseStore, bucket: str, s3: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text(encoding="utf-8").replace("s3://bucket", bucket)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, object] = {
        "store": store,
        "run_id": make_run(store),
        "polars_options": {
            "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"],
            "aws_allow_http": "true",
        },
    }
    try:
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
    finally:
        duckdb.unregister_filesystem("s3")

    assert len(blocks) == 3
    assert capsys.readouterr().out.splitlines() == [
        "12 True",
        "by",
        "hand é",
        "12 12 12",
        "12",
    ]
