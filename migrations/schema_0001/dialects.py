"""SQL fragments that differ between SQLite and PostgreSQL, for the views of schema 0001.

Both decode floats exactly: SQLite keeps them as the bits of IEEE numbers, which are decoded with
integers and powers of two. PostgreSQL has no text with a NUL, so U+FFFD replaces it in the views
of both.
"""

from typing import Protocol

# A bare control character marks an escaped backslash: no JSON text contains one.
WITHOUT_NUL = r"replace(replace(replace({body}, '\\', {mark}), '\u0000', '\ufffd'), {mark}, '\\')"

JSON_FUNCTION = (
    "CREATE FUNCTION tokentape_json(body text) RETURNS jsonb "
    "LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT CASE "
    r"WHEN strpos(body, '\u0000') > 0 "
    f"THEN {WITHOUT_NUL.format(body='body', mark='chr(1)')}::jsonb ELSE body::jsonb END $$"
)


class Dialect(Protocol):
    """One database's SQL. `row` is the alias of a row of `events` or `tokens`."""

    run_key: str
    """The key of a row of `runs`, as an integer that can be shifted by 28 bits."""

    def instant(self, microseconds: str) -> str:
        """Return a UTC time from microseconds since 1970."""

    def seq(self, row: str) -> str:
        """Return the place of an event in its run."""

    def parsed(self, row: str) -> str:
        """Return the join that parses the body of a row once, for `field`."""

    def field(self, row: str, path: str, kind: str) -> str:
        """Return a field of a parsed body, as `text`, `json`, `boolean` or a type of number."""

    def unparsed_field(self, row: str, path: str, kind: str) -> str:
        """Return a field of the body of a row that `parsed` does not join."""

    def length(self, row: str, path: str) -> str:
        """Return the length of a list in a parsed body."""

    def float32(self, column: str) -> str:
        """Return the number in a column of float32."""

    def float16(self, column: str) -> str:
        """Return the number in a column of half-precision numbers."""

    def top_logprobs(self) -> str:
        """Return the query of the view `top_logprobs_df`."""


def in_run(dialect: Dialect, row: str) -> str:
    """Return the condition that a row of a stream belongs to the row of `runs`."""
    first = f"{dialect.run_key} << 28"
    return f"{row}.event_key BETWEEN ({first}) AND ({first} | 268435455)"


class Sqlite:
    """SQLite's functions for JSON, and integer arithmetic for floats."""

    run_key = "runs.run_key"

    def instant(self, microseconds: str) -> str:
        return (
            f"strftime('%Y-%m-%dT%H:%M:%S', ({microseconds}) / 1000000, 'unixepoch') "
            f"|| printf('.%06dZ', ({microseconds}) % 1000000)"
        )

    def seq(self, row: str) -> str:
        return f"{row}.event_key & 268435455"

    def parsed(self, row: str) -> str:
        return ""

    def field(self, row: str, path: str, kind: str) -> str:
        found = f"json_extract({row}.body, '$.{path}')"
        if kind == "float":
            return f"CAST({found} AS REAL)"
        if kind == "boolean":
            return f"coalesce({found}, 0)"
        if kind in ("text", "json"):
            clean = WITHOUT_NUL.format(body=f"{row}.body", mark="char(1)")
            return (
                rf"CASE WHEN instr({row}.body, '\u0000') THEN json_extract({clean}, '$.{path}') "
                f"ELSE {found} END"
            )
        return found

    unparsed_field = field

    def length(self, row: str, path: str) -> str:
        return f"json_array_length({row}.body, '$.{path}')"

    def float32(self, column: str) -> str:
        """Decode sign, 8 bits of exponent and 23 of fraction.

        No shift reaches 2**149, so the smallest numbers are divided three times.
        """
        exponent = f"({column} >> 23 & 255)"
        sign = f"(1 - ({column} < 0) * 2.0)"
        significand = f"(({column} & 8388607) + ({exponent} > 0) * 8388608)"
        down = f"(150 - max({exponent}, 1))"
        up = f"({exponent} - 150)"
        return (
            f"CASE WHEN {exponent} BETWEEN 100 AND 149 "
            f"THEN ({column} & 8388607 | 8388608) * {sign} / (1 << 150 - {exponent}) "
            f"WHEN {exponent} < 150 THEN {significand} * {sign} / (1 << {down} / 3) "
            f"/ (1 << {down} / 3) / (1 << {down} - {down} / 3 * 2) "
            f"ELSE {significand} * {sign} * (1 << {up} / 2) * (1 << {up} - {up} / 2) END"
        )

    def float16(self, column: str) -> str:
        return half(high=f"({column} >> 8)", low=f"({column} & 255)")

    def top_logprobs(self) -> str:
        """Unpack ids and half-precision numbers from bytes.

        A JSON array with as many zeros as there are ids yields one row for each id.
        """
        count = "length(top_logprobs_f16) / 2"
        zeros = f"'[' || rtrim(replace(hex(zeroblob({count})), '00', '0,'), ',') || ']'"
        every_byte = bytes(range(256)).hex()

        def byte(column: str, place: str) -> str:
            return f"(instr(every_byte, substr({column}, {place}, 1)) - 1)"

        first = "rank * width + 1"
        token_id = " + ".join(
            f"CASE WHEN width > {n} THEN {byte('ids', f'{first} + {n}')} << {8 * n} ELSE 0 END"
            for n in range(4)
        )
        low, high = byte("logprobs", "rank * 2 + 1"), byte("logprobs", "rank * 2 + 2")
        return (
            f"SELECT run_id, turn, step, seq, rank, {token_id} AS token_id, "
            f"{half(high=high, low=low)} AS logprob "
            f"FROM (SELECT run_id, turn, step, {self.seq('tokens')} AS seq, places.key AS rank, "
            f"top_ids AS ids, top_logprobs_f16 AS logprobs, "
            f"length(top_ids) / ({count}) AS width, x'{every_byte}' AS every_byte "
            f"FROM runs JOIN tokens ON {in_run(self, 'tokens')} "
            f"JOIN json_each({zeros}) AS places WHERE top_ids IS NOT NULL)"
        )


def half(*, high: str, low: str) -> str:
    """Return SQLite's decoding of sign, 5 bits of exponent and 10 of fraction in two bytes."""
    exponent = f"({high} >> 2 & 31)"
    significand = f"((({high} & 3) << 8) + {low} + ({exponent} > 0) * 1024)"
    return f"(64.0 - ({high} >> 7 & 1) * 128.0) * {significand} / (1 << 31 - max({exponent}, 1))"


class Postgres:
    """PostgreSQL's `jsonb`, `real` and arrays."""

    run_key = "runs.run_key::bigint"

    def instant(self, microseconds: str) -> str:
        return f"timestamptz 'epoch' + ({microseconds}) * interval '1 microsecond'"

    def seq(self, row: str) -> str:
        return f"({row}.event_key & 268435455)::integer"

    def parsed(self, row: str) -> str:
        # OFFSET 0 keeps PostgreSQL from parsing the body again for each column.
        return (
            f"CROSS JOIN LATERAL (SELECT tokentape_json({row}.body) AS body OFFSET 0) "
            f"AS {row}_json "
        )

    def field(self, row: str, path: str, kind: str) -> str:
        return self._field(f"{row}_json.body", path, kind)

    def unparsed_field(self, row: str, path: str, kind: str) -> str:
        return self._field(f"tokentape_json({row}.body)", path, kind)

    def _field(self, body: str, path: str, kind: str) -> str:
        found = f"({body} #>> '{{{path.replace('.', ',')}}}')"
        if kind == "text":
            return found
        if kind == "float":
            return f"{found}::float8"
        if kind == "boolean":
            return f"coalesce({found}::boolean, false)"
        if kind == "json":
            return f"{body} -> '{path}'"
        return f"{found}::{kind}"

    def length(self, row: str, path: str) -> str:
        return f"jsonb_array_length({row}_json.body -> '{path}')"

    def float32(self, column: str) -> str:
        return f"{column}::float8"

    float16 = float32

    def top_logprobs(self) -> str:
        return (
            f"SELECT run_id, turn, step, {self.seq('tokens')} AS seq, "
            "(place - 1)::integer AS rank, places.token_id, logprob::float8 AS logprob "
            f"FROM runs JOIN tokens ON {in_run(self, 'tokens')} "
            "CROSS JOIN LATERAL unnest(top_ids, top_logprobs_f16) "
            "WITH ORDINALITY AS places (token_id, logprob, place)"
        )
