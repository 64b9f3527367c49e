"""Add views that spell everything out.

They have the names and the columns of the data frames. SQLite keeps the floats of tokens as the
bits of IEEE numbers, and candidates as bytes: they are decoded exactly, by integers and powers of
two alone. PostgreSQL has no text with a NUL, so U+FFFD stands for it here, in SQLite, too.

SQLite refuses to rename a table that a view reads: a migration that alters one drops the views
first and makes its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

VIEWS = (
    "runs_df",
    "events_df",
    "turns_df",
    "tokens_df",
    "top_logprobs_df",
    "cache_df",
    "tools_df",
)
OF_RUN = (
    "{row}.event_key BETWEEN (runs.run_key{big} << 28) AND (runs.run_key{big} << 28 | 268435455)"
)
# What stands for an escaped backslash meanwhile is a bare control character: no JSON has one.
WITHOUT_NUL = r"replace(replace(replace({body}, '\\', {mark}), '\u0000', '\ufffd'), {mark}, '\\')"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        dialect: Sqlite | Postgres = Sqlite()
    else:
        dialect = Postgres()
        connection.exec_driver_sql(JSON_FUNCTION)
    queries = {
        "runs_df": runs(dialect),
        "events_df": events(dialect),
        "turns_df": turns(dialect),
        "tokens_df": tokens(dialect),
        "top_logprobs_df": dialect.candidates(),
        "cache_df": cache(dialect),
        "tools_df": tools(dialect),
    }
    for name in VIEWS:
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {queries[name]}")


def downgrade() -> None:
    connection = op.get_bind()
    for name in VIEWS:
        op.execute(sa.text(f"DROP VIEW {name}"))
    if connection.dialect.name != "sqlite":
        op.execute(sa.text("DROP FUNCTION tokentape_json(text)"))


JSON_FUNCTION = (
    "CREATE FUNCTION tokentape_json(body text) RETURNS jsonb "
    "LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT CASE "
    r"WHEN strpos(body, '\u0000') > 0 "
    f"THEN {WITHOUT_NUL.format(body='body', mark='chr(1)')}::jsonb ELSE body::jsonb END $$"
)


class Sqlite:
    big = ""

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

    call_id = field

    def length(self, row: str, path: str) -> str:
        return f"json_array_length({row}.body, '$.{path}')"

    def float32(self, bits: str) -> str:
        """Sign, 8 bits of exponent, 23 of fraction. No shift reaches 2**149, so three divide."""
        exponent = f"({bits} >> 23 & 255)"
        sign = f"(1 - ({bits} < 0) * 2.0)"
        significand = f"(({bits} & 8388607) + ({exponent} > 0) * 8388608)"
        down = f"(150 - max({exponent}, 1))"
        up = f"({exponent} - 150)"
        return (
            f"CASE WHEN {exponent} BETWEEN 100 AND 149 "
            f"THEN ({bits} & 8388607 | 8388608) * {sign} / (1 << 150 - {exponent}) "
            f"WHEN {exponent} < 150 THEN {significand} * {sign} / (1 << {down} / 3) "
            f"/ (1 << {down} / 3) / (1 << {down} - {down} / 3 * 2) "
            f"ELSE {significand} * {sign} * (1 << {up} / 2) * (1 << {up} - {up} / 2) END"
        )

    def float16(self, bits: str) -> str:
        return self.half(f"({bits} >> 8)", f"({bits} & 255)")

    def half(self, high: str, low: str) -> str:
        """Sign, 5 bits of exponent, 10 of fraction, in two bytes."""
        exponent = f"({high} >> 2 & 31)"
        significand = f"((({high} & 3) << 8) + {low} + ({exponent} > 0) * 1024)"
        return (
            f"(64.0 - ({high} >> 7 & 1) * 128.0) * {significand} / (1 << 31 - max({exponent}, 1))"
        )

    def candidates(self) -> str:
        """A JSON array of as many zeros as there are candidates is what counts them off."""
        count = "length(candidate_logprobs_f16) / 2"
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
            f"{self.half(high, low)} AS logprob "
            f"FROM (SELECT run_id, turn, step, {self.seq('tokens')} AS seq, places.key AS rank, "
            f"top_ids AS ids, candidate_logprobs_f16 AS logprobs, "
            f"length(top_ids) / ({count}) AS width, x'{every_byte}' AS every_byte "
            f"FROM runs JOIN tokens ON {of_run(self, 'tokens')} "
            f"JOIN json_each({zeros}) AS places WHERE top_ids IS NOT NULL)"
        )


class Postgres:
    big = "::bigint"

    def instant(self, microseconds: str) -> str:
        return f"timestamptz 'epoch' + ({microseconds}) * interval '1 microsecond'"

    def seq(self, row: str) -> str:
        return f"({row}.event_key & 268435455)::integer"

    def parsed(self, row: str) -> str:
        # Without OFFSET the body would be parsed anew for every column.
        return (
            f"CROSS JOIN LATERAL (SELECT tokentape_json({row}.body) AS body OFFSET 0) "
            f"AS {row}_json "
        )

    def field(self, row: str, path: str, kind: str) -> str:
        return self._cast(f"{row}_json.body", path, kind)

    def call_id(self, row: str, path: str, kind: str) -> str:
        return self._cast(f"tokentape_json({row}.body)", path, kind)

    def _cast(self, body: str, path: str, kind: str) -> str:
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

    def candidates(self) -> str:
        return (
            f"SELECT run_id, turn, step, {self.seq('tokens')} AS seq, "
            "(place - 1)::integer AS rank, places.token_id, logprob::float8 AS logprob "
            f"FROM runs JOIN tokens ON {of_run(self, 'tokens')} "
            "CROSS JOIN LATERAL unnest(top_ids, candidate_logprobs_f16) "
            "WITH ORDINALITY AS places (token_id, logprob, place)"
        )


def of_run(dialect: Sqlite | Postgres, row: str) -> str:
    return OF_RUN.format(row=row, big=dialect.big)


def at(dialect: Sqlite | Postgres, row: str) -> str:
    return dialect.instant(f"runs.started_at_us + {row}.after_us")


def runs(dialect: Sqlite | Postgres) -> str:
    return (
        "SELECT run_id, name, status, model, seed, turns, prompt_tokens, reused_tokens, "
        f"generated_tokens, {dialect.instant('started_at_us')} AS started_at, "
        f"{dialect.instant('updated_at_us')} AS updated_at FROM runs"
    )


def events(dialect: Sqlite | Postgres) -> str:
    def stream(table: str, kind: str, seal: str) -> str:
        return (
            f"SELECT run_id, {dialect.seq(table)} AS seq, {at(dialect, table)} AS at, "
            f"{table}.turn, {kind} AS kind, version, {seal} AS seal "
            f"FROM runs JOIN {table} ON {of_run(dialect, table)}"
        )

    tokens_stream = stream("tokens", "'TokenSampled'", "NULL")
    return f"{stream('events', 'kind', 'seal')} UNION ALL {tokens_stream}"


def tokens(dialect: Sqlite | Postgres) -> str:
    return (
        "SELECT run_id, turn, step, position, token_id, "
        f"{dialect.float32('logprob_f32')} AS logprob, "
        f"{dialect.float32('logprob_processed_f32')} AS logprob_processed, "
        f"{dialect.float16('entropy_f16')} AS entropy, "
        f"{dialect.float16('top_gap_f16')} AS top_gap, "
        "duration_us, "
        f"{dialect.seq('tokens')} AS seq, {at(dialect, 'tokens')} AS at "
        f"FROM runs JOIN tokens ON {of_run(dialect, 'tokens')}"
    )


def follower(dialect: Sqlite | Postgres, kind: str, *, of: str, of_kind: str) -> str:
    """The event of that kind before the next one of the kind that it follows."""
    row = kind.lower()
    return (
        f"LEFT JOIN events AS {row} ON {row}.kind = '{kind}' AND {row}.turn = {of}.turn "
        f"AND {row}.event_key = (SELECT min(later.event_key) FROM events AS later "
        f"WHERE later.event_key > {of}.event_key AND {of_run(dialect, 'later')} "
        f"AND later.kind IN ('{of_kind}', '{kind}')) {dialect.parsed(row)}"
    )


def turns(dialect: Sqlite | Postgres) -> str:
    def of(row: str, *columns: tuple[str, str]) -> str:
        return ", ".join(f"{dialect.field(row, name, kind)} AS {name}" for name, kind in columns)

    def setting(name: str, kind: str) -> str:
        sampled = dialect.field("started", "sampling.do_sample", "boolean")
        value = dialect.field("started", f"sampling.{name}", kind)
        return f"CASE WHEN {sampled} THEN {value} END AS {name}"

    def total(kind: str, what: str) -> str:
        """Over the events of that turn, which all lie between the turns beside it."""
        starts = "FROM events AS other WHERE other.kind = 'TurnStarted' AND other.event_key"
        row = kind.lower()
        return (
            f"(SELECT {what} FROM events AS {row} {dialect.parsed(row)}"
            f"WHERE {row}.kind = '{kind}' AND {row}.turn = started.turn AND {row}.event_key "
            f"> coalesce((SELECT max(other.event_key) {starts} < started.event_key "
            f"AND {of_run(dialect, 'other')}), runs.run_key{dialect.big} << 28) "
            f"AND {row}.event_key < coalesce((SELECT min(other.event_key) {starts} "
            f"> started.event_key AND {of_run(dialect, 'other')}), "
            f"(runs.run_key{dialect.big} + 1) << 28))"
        )

    pruned = " - ".join(
        dialect.field("historypruned", name, "integer")
        for name in ("tokens_before", "tokens_after")
    )
    content = dialect.field("toolreturned", "content_tokens", "integer")
    sampling = [
        setting("temperature", "float"),
        setting("top_p", "float"),
        setting("top_k", "integer"),
    ]
    decided = of("cachedecided", ("reused_tokens", "integer"), ("computed_tokens", "integer"))
    finished = "turnfinished"
    columns = [
        "run_id",
        "started.turn",
        of("started", ("prompt_tokens", "integer")),
        decided,
        of(finished, ("generated_tokens", "integer")),
        of("cachedecided", ("decision", "text"), ("reason", "text")),
        f"{dialect.field('started', 'sampling.do_sample', 'boolean')} AS do_sample",
        *sampling,
        of("started", ("seed", "bigint")),
        of(finished, ("stop_reason", "text"), ("duration_us", "bigint")),
        f"{dialect.field('prefillcompleted', 'duration_us', 'bigint')} AS prefill_us",
        of(finished, ("text", "text")),
        f"{at(dialect, 'started')} AS started_at",
        f"{total('ToolReturned', 'count(*)')} AS tool_results",
        f"{total('ToolReturned', f'coalesce(sum({content}), 0)')} AS tool_tokens",
        f"{total('HistoryPruned', f'coalesce(sum({pruned}), 0)')} AS pruned_tokens",
        of("started", ("history_reason", "text")),
    ]
    followers = " ".join(
        follower(dialect, kind, of="started", of_kind="TurnStarted")
        for kind in ("CacheDecided", "PrefillCompleted", "TurnFinished")
    )
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS started "
        f"ON {of_run(dialect, 'started')} AND started.kind = 'TurnStarted' "
        f"{dialect.parsed('started')} {followers}"
    )


def cache(dialect: Sqlite | Postgres) -> str:
    row, prefill = "decided", "prefillcompleted"
    kinds = {
        "decision": "text",
        "reason": "text",
        "key_field": "text",
        "source": "text",
        "disk_reason": "text",
    }
    names = (
        "decision reason prompt_tokens reused_tokens computed_tokens cached_tokens cropped_tokens "
        "divergence_index divergence_cached_id divergence_prompt_id key_field source disk_reason"
    )
    columns = [
        f"{dialect.field(row, name, kinds.get(name, 'integer'))} AS {name}"
        for name in names.split()
    ]
    return (
        f"SELECT run_id, {row}.turn, {', '.join(columns)}, "
        f"{dialect.field(prefill, 'duration_us', 'bigint')} AS prefill_us, "
        f"{dialect.field(prefill, 'kv_bytes', 'bigint')} AS kv_bytes, "
        f"{dialect.field(prefill, 'peak_bytes', 'bigint')} AS peak_bytes, "
        f"{at(dialect, row)} AS decided_at FROM runs JOIN events AS {row} "
        f"ON {of_run(dialect, row)} AND {row}.kind = 'CacheDecided' {dialect.parsed(row)} "
        + follower(dialect, "PrefillCompleted", of=row, of_kind="CacheDecided")
    )


def tools(dialect: Sqlite | Postgres) -> str:
    def field(name: str, kind: str) -> str:
        return f"{dialect.field('returned', name, kind)} AS {name}"

    same_call = (
        f"{dialect.call_id('earlier', 'call_id', 'text')} = "
        f"{dialect.field('returned', 'call_id', 'text')}"
    )
    columns = [
        "run_id",
        "returned.turn",
        field("call_id", "text"),
        field("name", "text"),
        f"{dialect.field('called', 'arguments', 'json')} AS arguments",
        field("content_tokens", "integer"),
        field("payload_tokens", "integer"),
        field("payload_bytes", "bigint"),
        field("payload_sha256", "text"),
        f"{dialect.length('returned', 'tensors')} AS tensors",
        field("error", "text"),
        field("duration_us", "bigint"),
        f"{at(dialect, 'returned')} AS returned_at",
    ]
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS returned "
        f"ON {of_run(dialect, 'returned')} AND returned.kind = 'ToolReturned' "
        f"{dialect.parsed('returned')} LEFT JOIN events AS called ON called.event_key = ("
        "SELECT max(earlier.event_key) FROM events AS earlier "
        f"WHERE earlier.event_key < returned.event_key AND {of_run(dialect, 'earlier')} "
        f"AND earlier.kind = 'ToolCalled' AND {same_call}) {dialect.parsed('called')}"
    )
