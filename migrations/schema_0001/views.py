"""The views of schema 0001: the data frames in SQL, with the same names and columns.

SQLite refuses to rename a table that a view reads, so a later revision that alters one drops the
views first and creates its own.
"""

from sqlalchemy import Connection

from tokentape.migrations.schema_0001.dialects import (
    JSON_FUNCTION,
    Dialect,
    Postgres,
    Sqlite,
    in_run,
)


def create_views(connection: Connection) -> None:
    dialect: Dialect
    if connection.dialect.name == "sqlite":
        dialect = Sqlite()
    else:
        dialect = Postgres()
        connection.exec_driver_sql(JSON_FUNCTION)
    queries = {
        "runs_df": runs(dialect),
        "events_df": events(dialect),
        "turns_df": turns(dialect),
        "tokens_df": tokens(dialect),
        "top_logprobs_df": dialect.top_logprobs(),
        "cache_df": cache(dialect),
        "tools_df": tools(dialect),
        "verdicts_df": verdicts(dialect),
    }
    for name, query in queries.items():
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def runs(dialect: Dialect) -> str:
    return (
        "SELECT run_id, name, status, model, seed, turns, prompt_tokens, reused_tokens, "
        f"generated_tokens, {dialect.instant('started_at_us')} AS started_at, "
        f"{dialect.instant('updated_at_us')} AS updated_at, parent_run_id, forked_at_turn FROM runs"
    )


def events(dialect: Dialect) -> str:
    def stream(table: str, kind: str, seal: str) -> str:
        return (
            f"SELECT run_id, {dialect.seq(table)} AS seq, {at(dialect, table)} AS at, "
            f"{table}.turn, {kind} AS kind, version, {seal} AS seal "
            f"FROM runs JOIN {table} ON {in_run(dialect, table)}"
        )

    tokens_stream = stream("tokens", "'TokenSampled'", "NULL")
    return f"{stream('events', 'kind', 'seal')} UNION ALL {tokens_stream}"


def tokens(dialect: Dialect) -> str:
    return (
        "SELECT run_id, turn, step, position, token_id, "
        f"{dialect.float32('logprob_f32')} AS logprob, "
        f"{dialect.float32('logprob_processed_f32')} AS logprob_processed, "
        f"{dialect.float16('entropy_f16')} AS entropy, "
        f"{dialect.float16('top_gap_f16')} AS top_gap, "
        f"duration_us, {dialect.seq('tokens')} AS seq, {at(dialect, 'tokens')} AS at "
        f"FROM runs JOIN tokens ON {in_run(dialect, 'tokens')}"
    )


def turns(dialect: Dialect) -> str:
    """Return one row for each `TurnStarted`: a turn with tool calls has one for each round."""
    columns = [
        "run_id",
        "started.turn",
        f"coalesce({dialect.field('started', 'first_step', 'integer')}, 0) AS first_step",
        field(dialect, "started", "prompt_tokens", "integer"),
        field(dialect, "cachedecided", "reused_tokens", "integer"),
        field(dialect, "cachedecided", "computed_tokens", "integer"),
        field(dialect, "turnfinished", "generated_tokens", "integer"),
        field(dialect, "cachedecided", "decision", "text"),
        field(dialect, "cachedecided", "reason", "text"),
        f"{dialect.field('started', 'sampling.do_sample', 'boolean')} AS do_sample",
        sampling_field(dialect, "temperature", "float"),
        sampling_field(dialect, "top_p", "float"),
        sampling_field(dialect, "top_k", "integer"),
        field(dialect, "started", "seed", "bigint"),
        field(dialect, "turnfinished", "stop_reason", "text"),
        field(dialect, "turnfinished", "duration_us", "bigint"),
        f"{dialect.field('prefillcompleted', 'duration_us', 'bigint')} AS prefill_us",
        field(dialect, "turnfinished", "text", "text"),
        f"{at(dialect, 'started')} AS started_at",
        *prompt_totals(dialect),
        field(dialect, "started", "history_reason", "text"),
    ]
    followers = " ".join(
        follower(dialect, kind, of="started", of_kind="TurnStarted")
        for kind in ("CacheDecided", "PrefillCompleted", "TurnFinished")
    )
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS started "
        f"ON {in_run(dialect, 'started')} AND started.kind = 'TurnStarted' "
        f"{dialect.parsed('started')} {followers}"
    )


def prompt_totals(dialect: Dialect) -> list[str]:
    """Return the columns that count the events between a `TurnStarted` and the one before it."""

    def total(kind: str, aggregate: str) -> str:
        row = kind.lower()
        return (
            f"(SELECT {aggregate} FROM events AS {row} {dialect.parsed(row)}"
            f"WHERE {row}.kind = '{kind}' AND {row}.turn = started.turn "
            f"AND {row}.event_key > coalesce((SELECT max(other.event_key) "
            "FROM events AS other WHERE other.kind = 'TurnStarted' "
            f"AND other.event_key < started.event_key AND {in_run(dialect, 'other')}), "
            f"{dialect.run_key} << 28) AND {row}.event_key < started.event_key)"
        )

    content = dialect.field("toolreturned", "content_tokens", "integer")
    before = dialect.field("historypruned", "tokens_before", "integer")
    after = dialect.field("historypruned", "tokens_after", "integer")
    pruned = f"coalesce(sum({before} - {after}), 0)"
    return [
        f"{total('ToolReturned', 'count(*)')} AS tool_results",
        f"{total('ToolReturned', f'coalesce(sum({content}), 0)')} AS tool_tokens",
        f"{total('HistoryPruned', pruned)} AS pruned_tokens",
    ]


def cache(dialect: Dialect) -> str:
    numbers = (
        "prompt_tokens reused_tokens computed_tokens cached_tokens cropped_tokens "
        "divergence_index divergence_cached_id divergence_prompt_id"
    )
    columns = [
        "run_id",
        "decided.turn",
        *(field(dialect, "decided", name, "text") for name in ("decision", "reason")),
        *(field(dialect, "decided", name, "integer") for name in numbers.split()),
        *(field(dialect, "decided", name, "text") for name in ("key_field", "source")),
        field(dialect, "decided", "disk_reason", "text"),
        f"{dialect.field('prefillcompleted', 'duration_us', 'bigint')} AS prefill_us",
        field(dialect, "prefillcompleted", "kv_bytes", "bigint"),
        field(dialect, "prefillcompleted", "peak_bytes", "bigint"),
        f"{at(dialect, 'decided')} AS decided_at",
    ]
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS decided "
        f"ON {in_run(dialect, 'decided')} AND decided.kind = 'CacheDecided' "
        f"{dialect.parsed('decided')} "
        + follower(dialect, "PrefillCompleted", of="decided", of_kind="CacheDecided")
    )


def tools(dialect: Dialect) -> str:
    """Return one row for each `ToolReturned`, with the arguments of the call before it."""
    same_call = (
        f"{dialect.unparsed_field('earlier', 'call_id', 'text')} = "
        f"{dialect.field('returned', 'call_id', 'text')}"
    )
    columns = [
        "run_id",
        "returned.turn",
        field(dialect, "returned", "call_id", "text"),
        field(dialect, "returned", "name", "text"),
        f"{dialect.field('called', 'arguments', 'json')} AS arguments",
        field(dialect, "returned", "content_tokens", "integer"),
        field(dialect, "returned", "payload_tokens", "integer"),
        field(dialect, "returned", "payload_bytes", "bigint"),
        field(dialect, "returned", "payload_sha256", "text"),
        f"{dialect.length('returned', 'tensors')} AS tensors",
        field(dialect, "returned", "error", "text"),
        field(dialect, "returned", "duration_us", "bigint"),
        f"{at(dialect, 'returned')} AS returned_at",
    ]
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS returned "
        f"ON {in_run(dialect, 'returned')} AND returned.kind = 'ToolReturned' "
        f"{dialect.parsed('returned')} LEFT JOIN events AS called ON called.event_key = ("
        "SELECT max(earlier.event_key) FROM events AS earlier "
        f"WHERE earlier.event_key < returned.event_key AND {in_run(dialect, 'earlier')} "
        f"AND earlier.kind = 'ToolCalled' AND {same_call}) {dialect.parsed('called')}"
    )


def verdicts(dialect: Dialect) -> str:
    return (
        f"SELECT run_id, {dialect.instant('at_us')} AS at, replay, verdict, reason, "
        "verdicts.model, floor_version, verdicts.turns, tokens, mismatches, near_ties, "
        "logprob_difference_max, margin_max, duration_us "
        "FROM runs JOIN verdicts ON verdicts.run_key = runs.run_key"
    )


def at(dialect: Dialect, row: str) -> str:
    """Return the time of a row of a stream, which counts from the start of its run."""
    return dialect.instant(f"runs.started_at_us + {row}.after_us")


def field(dialect: Dialect, row: str, name: str, kind: str) -> str:
    return f"{dialect.field(row, name, kind)} AS {name}"


def sampling_field(dialect: Dialect, name: str, kind: str) -> str:
    """Return a setting of the sampler; NULL for a greedy turn."""
    sampled = dialect.field("started", "sampling.do_sample", "boolean")
    value = dialect.field("started", f"sampling.{name}", kind)
    return f"CASE WHEN {sampled} THEN {value} END AS {name}"


def follower(dialect: Dialect, kind: str, *, of: str, of_kind: str) -> str:
    """Join the event of that kind that follows a row, before the next row of that row's kind."""
    row = kind.lower()
    return (
        f"LEFT JOIN events AS {row} ON {row}.kind = '{kind}' AND {row}.turn = {of}.turn "
        f"AND {row}.event_key = (SELECT min(later.event_key) FROM events AS later "
        f"WHERE later.event_key > {of}.event_key AND {in_run(dialect, 'later')} "
        f"AND later.kind IN ('{of_kind}', '{kind}')) {dialect.parsed(row)}"
    )
