"""The metadata of a store, as Datasette reads it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

app = pytest.importorskip("datasette.app", reason="datasette is not installed")


@pytest.fixture(scope="module")
def metadata(runs_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with tt.open_store(runs_db) as store:
        path = tt.export_datasette(store, tmp_path_factory.mktemp("datasette") / "metadata.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def get(runs_db: Path, metadata: Any) -> Callable[[str], Any]:
    """Return a function that asks Datasette for the JSON of a path below the database."""

    async def answer(path: str) -> Any:
        served = app.Datasette([str(runs_db)], metadata=metadata)
        await served.invoke_startup()
        try:
            found = await served.client.get(f"/runs{path}")
            assert found.status_code == 200, found.text
            return found.json() if ".json" in path else found.text
        finally:
            for database in served.databases.values():
                database.close()
            if served.executor is not None:
                served.executor.shutdown()

    return lambda path: asyncio.run(answer(path))


def views(metadata: Any) -> dict[str, Any]:
    tables = metadata["databases"]["runs"]["tables"]
    return {name: each for name, each in tables.items() if not each.get("hidden")}


def test_only_views_are_shown(get: Callable[[str], Any], metadata: Any) -> None:
    listed = get(".json")

    assert [each["name"] for each in listed["tables"] if not each["hidden"]] == []
    assert {each["name"] for each in listed["views"]} == set(views(metadata))


def test_every_column_of_every_view_is_described(get: Callable[[str], Any], metadata: Any) -> None:
    for name, described in views(metadata).items():
        assert set(get(f"/{name}.json?_size=1")["columns"]) == set(described["columns"]), name
        assert all(described["columns"].values()), name


def test_a_page_shows_what_a_column_means(get: Callable[[str], Any]) -> None:
    page = get("/tokens_df")

    assert "its log-probability as the model gave it, in nats" in page


def test_units_are_those_of_the_columns(metadata: Any) -> None:
    assert views(metadata)["tools_df"]["units"] == {"payload_bytes": "byte", "duration_us": "µs"}


def test_every_query_runs(get: Callable[[str], Any], metadata: Any) -> None:
    queries = metadata["databases"]["runs"]["queries"]
    found = {
        name: get(f"/{name}.json?run_id=&turn=2&step=0&text=naïve")["rows"] for name in queries
    }

    # Of the failed run, the newest, which was cut off after a token.
    assert [row[1] for row in found["conversation"]] == ["system", "user"]
    assert len(found["surprising_tokens"]) == 1
    assert found["likeliest_tokens"] == []
    assert len(found["cache_savings"]) == 3
    assert found["cache_misses"]
    assert found["tools"][0][:3] == ["look_up", 2, 0]
    assert found["verdicts"][0][2:4] == ["verify", "verified"]
    assert found["said"][0][3] == "Hello? naïve 🦜"


def test_a_query_takes_a_run(get: Callable[[str], Any], recordings: list[tt.Recording]) -> None:
    rows = get(f"/likeliest_tokens.json?run_id={recordings[0].run_id}&turn=1&step=0")["rows"]

    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert sum(row[3] for row in rows) <= 1


def test_a_store_that_is_no_sqlite_file_is_refused(store: DatabaseStore, tmp_path: Path) -> None:
    with pytest.raises(tt.StoreError, match="Datasette reads SQLite files"):
        tt.export_datasette(store, tmp_path / "metadata.json")


@pytest.mark.parametrize("content", ["{}", "[]", "title: mine", "[" * 100_000])
def test_metadata_of_somebody_else_is_not_replaced(
    content: str, runs: DatabaseStore, tmp_path: Path
) -> None:
    path = tmp_path / "metadata.yaml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(tt.StoreError, match="is not an export of metadata"):
        tt.export_datasette(runs, path)

    assert path.read_text(encoding="utf-8") == content
