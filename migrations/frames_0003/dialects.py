"""SQL fragments that differ between SQLite and PostgreSQL, for the views of revision 0003."""

from typing import Protocol

from tokentape.migrations.schema_0001 import dialects as first


class FrameDialect(first.Dialect, Protocol):
    """One database's SQL, with what the views of revision 0003 need."""

    layer_name: str
    """The name of a layer in the rows that `layers` joins."""

    def spelled(self, run: str, token_id: str) -> str:
        """Return the join of `spelled.text`, the text of a token of a row of `runs`, or NULL.

        The first event that spells an id is the one. SQLite reads those of all runs.
        """

    def sorted_texts(self, query: str) -> str:
        """Return the query of the texts of another query, sorted, with commas."""

    def joined(self, row: str, path: str) -> str:
        """Return the texts of a list in a parsed body, with commas; NULL without the list."""

    def layers(self, row: str) -> str:
        """Return the join of the layers of an observation, one row each."""

    def statistic(self, name: str, kind: str) -> str:
        """Return a number of a layer in the rows that `layers` joins."""


class SqliteFrames(first.Sqlite):
    """SQLite's functions for JSON."""

    layer_name = "layer.key"

    def spelled(self, run: str, token_id: str) -> str:
        # LIMIT keeps the rows in one table, which SQLite joins by an index of its own.
        body = _without_nul("named.body")
        return (
            "LEFT JOIN (SELECT (named.event_key >> 28 << 32) + CAST(said.key AS INTEGER) AS place, "
            "said.value AS text, min(named.event_key) "
            f"FROM events AS named JOIN json_each({body}, '$.texts') AS said "
            "WHERE named.kind = 'TokensSpelled' GROUP BY 1 LIMIT -1) AS spelled "
            f"ON spelled.place = ({run}.run_key << 32) + {token_id}"
        )

    def sorted_texts(self, query: str) -> str:
        ordered = f"SELECT text FROM ({query}) ORDER BY text"
        return f"SELECT group_concat(text, ', ') FROM ({ordered})"

    def joined(self, row: str, path: str) -> str:
        body = _without_nul(f"{row}.body")
        return f"(SELECT group_concat(value, ', ') FROM json_each({body}, '$.{path}'))"

    def layers(self, row: str) -> str:
        return f"JOIN json_each({_without_nul(f'{row}.body')}, '$.statistics') AS layer"

    def statistic(self, name: str, kind: str) -> str:
        found = f"json_extract(layer.value, '$.{name}')"
        return f"CAST({found} AS REAL)" if kind == "float" else found


def _without_nul(body: str) -> str:
    clean = first.WITHOUT_NUL.format(body=body, mark="char(1)")
    return rf"CASE WHEN instr({body}, '\u0000') THEN {clean} ELSE {body} END"


class PostgresFrames(first.Postgres):
    """PostgreSQL's `jsonb`."""

    layer_name = "layer.key"

    def spelled(self, run: str, token_id: str) -> str:
        # PostgreSQL passes `run_id = …` into it, and leaves it out of a query that reads no text.
        return (
            "LEFT JOIN (SELECT DISTINCT ON (run_id, said.key::integer) run_id, "
            "said.key::integer AS token_id, said.value AS text FROM runs JOIN events AS named "
            f"ON {first.in_run(self, 'named')} AND named.kind = 'TokensSpelled' "
            "CROSS JOIN LATERAL jsonb_each_text(tokentape_json(named.body) -> 'texts') AS said "
            "ORDER BY run_id, said.key::integer, named.event_key) AS spelled "
            f"ON spelled.run_id = {run}.run_id AND spelled.token_id = {token_id}"
        )

    def sorted_texts(self, query: str) -> str:
        ordered = """string_agg(text, ', ' ORDER BY text COLLATE "C")"""
        return f"SELECT {ordered} FROM ({query}) AS run_tags"

    def joined(self, row: str, path: str) -> str:
        return (
            "(SELECT string_agg(each.value, ', ' ORDER BY each.place) "
            f"FROM jsonb_array_elements_text({row}_json.body -> '{path}') "
            "WITH ORDINALITY AS each (value, place))"
        )

    def layers(self, row: str) -> str:
        return f"CROSS JOIN LATERAL jsonb_each({row}_json.body -> 'statistics') AS layer"

    def statistic(self, name: str, kind: str) -> str:
        found = f"(layer.value ->> '{name}')"
        return f"{found}::float8" if kind == "float" else f"{found}::{kind}"
