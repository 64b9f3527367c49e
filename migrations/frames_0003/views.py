"""The views of tokens with their texts, and of runs, messages, interventions and activations."""

from sqlalchemy import Connection

from tokentape.migrations.frames_0003.dialects import FrameDialect, PostgresFrames, SqliteFrames
from tokentape.migrations.schema_0001 import views as first
from tokentape.migrations.schema_0001.dialects import in_run
from tokentape.migrations.schema_0001.views import at, field

# The last label about a tag decides whether the run has it.
_TAGS = (
    "SELECT text FROM run_labels AS given WHERE given.run_key = runs.run_key AND label = 'tag' "
    "AND NOT EXISTS (SELECT 1 FROM run_labels AS later WHERE later.run_key = given.run_key "
    "AND later.text = given.text AND later.label <> 'note' AND (later.at_us > given.at_us "
    "OR (later.at_us = given.at_us AND later.sha256 > given.sha256)))"
)
_NOTE = (
    "SELECT text FROM run_labels WHERE run_labels.run_key = runs.run_key AND label = 'note' "
    "ORDER BY at_us DESC, sha256 DESC LIMIT 1"
)


def create_views(connection: Connection) -> None:
    dialect: FrameDialect = (
        SqliteFrames() if connection.dialect.name == "sqlite" else PostgresFrames()
    )
    for name in ("runs_df", "tokens_df", "top_logprobs_df"):
        connection.exec_driver_sql(f"DROP VIEW {name}")
    queries = {
        "runs_df": runs(dialect),
        "tokens_df": tokens(dialect),
        "top_logprobs_df": top_logprobs(dialect),
        "messages_df": messages(dialect),
        "interventions_df": interventions(dialect),
        "activations_df": activations(dialect),
    }
    for name, query in queries.items():
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def runs(dialect: FrameDialect) -> str:
    """Return one row for each run, with what its first event says and how it ended."""
    last = (
        f"SELECT max(later.event_key) FROM events AS later WHERE {in_run(dialect, 'later')} "
        "AND later.kind IN ('RunResumed', 'RunFinished', 'RunFailed')"
    )
    error = " || ': ' || ".join(
        dialect.field("ended", name, "text") for name in ("error", "message")
    )
    tool_errors = (
        f"SELECT count(*) FROM events AS returned WHERE {in_run(dialect, 'returned')} "
        "AND returned.kind = 'ToolReturned' "
        f"AND {dialect.unparsed_field('returned', 'error', 'text')} IS NOT NULL"
    )
    columns = [
        "run_id, name, status, turns, generated_tokens, prompt_tokens, reused_tokens, seed, model",
        f"{dialect.field('started', 'settings.plan.name', 'text')} AS protocol",
        f"CASE WHEN ended.kind = 'RunFailed' THEN {error} END AS error",
        f"coalesce(({dialect.sorted_texts(_TAGS)}), '') AS tags",
        f"coalesce(({_NOTE}), '') AS note",
        f"({tool_errors}) AS tool_errors",
        "parent_run_id, forked_at_turn",
        f"{dialect.instant('started_at_us')} AS started_at",
        f"{dialect.instant('updated_at_us')} AS updated_at",
        f"{at(dialect, 'ended')} AS finished_at",
        *(
            field(dialect, "started", name, "text")
            for name in ("weights_sha256", "attention_kernel")
        ),
        *(
            f"{dialect.field('started', f'environment.{name}', 'text')} AS {name}"
            for name in ("transformers", "torch")
        ),
        f"nullif({dialect.field('started', 'tokentape_version', 'text')}, '') AS tokentape",
        *(field(dialect, "started", name, "text") for name in ("device", "dtype")),
        "ended.after_us AS duration_us",
    ]
    return (
        f"SELECT {', '.join(columns)} FROM runs "
        f"LEFT JOIN events AS started ON started.event_key = {dialect.run_key} << 28 "
        f"{dialect.parsed('started')} "
        f"LEFT JOIN events AS ended ON ended.event_key = ({last}) AND ended.kind <> 'RunResumed' "
        f"{dialect.parsed('ended')}"
    )


def tokens(dialect: FrameDialect) -> str:
    """Return the view of schema 0001, with the text of each token, and who chose it."""
    before = first.tokens(dialect)
    selected = before.replace("SELECT run_id, turn", "SELECT runs.run_id, tokens.turn", 1).replace(
        "token_id, ", "tokens.token_id, spelled.text, begun.run_id IS NOT NULL AS forced, ", 1
    )
    return f"{selected} {dialect.spelled('runs', 'tokens.token_id')} {_forced(dialect)}"


def _forced(dialect: FrameDialect) -> str:
    """Return the join of the rounds that begin with tokens of the experimenter."""
    count = dialect.length("started", "forced_ids")
    is_sqlite = isinstance(dialect, SqliteFrames)
    # LIMIT keeps the rows in one table, which SQLite joins by an index of its own.
    likely = """instr(started.body, '"forced_ids":[') AND """ if is_sqlite else ""
    return (
        "LEFT JOIN (SELECT runs.run_id, started.turn, "
        f"{field(dialect, 'started', 'first_step', 'integer')}, {count} AS ids "
        f"FROM runs JOIN events AS started ON {in_run(dialect, 'started')} "
        f"AND started.kind = 'TurnStarted' {dialect.parsed('started')} "
        f"WHERE {likely}{count} > 0{' LIMIT -1' if is_sqlite else ''}) AS begun "
        "ON begun.run_id = runs.run_id AND begun.turn = tokens.turn "
        "AND tokens.step >= begun.first_step AND tokens.step < begun.first_step + begun.ids"
    )


def top_logprobs(dialect: FrameDialect) -> str:
    """Return the view of schema 0001, with the text of each token."""
    return (
        "SELECT runs.run_id, turn, step, seq, rank, top.token_id, spelled.text, logprob "
        f"FROM ({dialect.top_logprobs()}) AS top JOIN runs ON runs.run_id = top.run_id "
        f"{dialect.spelled('runs', 'top.token_id')}"
    )


def messages(dialect: FrameDialect) -> str:
    """Return one row for each message, without those that were recorded again after a resumption.

    The system prompt, and replies, are messages too.
    """

    def of(kind: str, role: str, content: str, tokens: str, more: str, where: str) -> str:
        columns = [
            "run_id",
            f"{dialect.seq('said')} AS seq",
            f"{at(dialect, 'said')} AS at",
            "said.turn",
            f"{role} AS role",
            f"{dialect.field('said', content, 'text')} AS content",
            f"{tokens} AS tokens",
            more,
        ]
        return (
            f"SELECT {', '.join(columns)} FROM runs JOIN events AS said "
            f"ON {in_run(dialect, 'said')} AND said.kind = '{kind}' {dialect.parsed('said')}{where}"
        )

    ids = dialect.length("said", "ids")
    call_id = dialect.field("said", "tool_call_id", "text")
    tool = (
        f"(SELECT {dialect.unparsed_field('returned', 'name', 'text')} FROM events AS returned "
        f"WHERE {in_run(dialect, 'returned')} AND returned.event_key < said.event_key "
        "AND returned.kind = 'ToolReturned' "
        f"AND {dialect.unparsed_field('returned', 'call_id', 'text')} = {call_id} "
        "ORDER BY returned.event_key DESC LIMIT 1)"
    )
    called = f"{call_id} AS tool_call_id, {tool} AS tool"
    none = "CAST(NULL AS text) AS tool_call_id, CAST(NULL AS text) AS tool"
    follows = (
        "(SELECT later.kind FROM events AS later WHERE later.event_key > said.event_key "
        f"AND {in_run(dialect, 'later')} "
        "AND later.kind IN ('TurnStarted', 'TurnFinished', 'RunResumed') "
        "ORDER BY later.event_key LIMIT 1)"
    )
    content = dialect.field("said", "content", "text")
    generated = dialect.field("said", "generated_tokens", "integer")
    role = dialect.field("said", "role", "text")
    queries = [
        of("SystemPromptCached", "'system'", "content", ids, none, f"WHERE {content} <> ''"),
        of(
            "MessageAdded",
            role,
            "content",
            f"nullif({ids}, 0)",
            called,
            f"WHERE coalesce({follows}, '') <> 'RunResumed'",
        ),
        of("TurnFinished", "'assistant'", "text", generated, none, ""),
    ]
    return " UNION ALL ".join(queries)


def interventions(dialect: FrameDialect) -> str:
    """Return one row for each event of an intervention; an applied one has its end."""
    name = dialect.field("event", "name", "text")
    next_of_name = (
        "SELECT min(later.event_key) FROM events AS later "
        f"WHERE later.event_key > event.event_key AND {in_run(dialect, 'later')} "
        "AND later.kind IN ('InterventionApplied', 'InterventionRemoved') "
        f"AND {dialect.unparsed_field('later', 'name', 'text')} = {name}"
    )
    applied = "event.kind = 'InterventionApplied'"
    removed = "event.kind = 'InterventionRemoved'"
    position = dialect.field("event", "position", "integer")
    end = dialect.unparsed_field("ended", "position", "integer")
    columns = [
        "run_id",
        f"{dialect.seq('event')} AS seq",
        f"{at(dialect, 'event')} AS at",
        "event.turn",
        "lower(substr(event.kind, 13)) AS event",
        f"{name} AS name",
        field(dialect, "event", "kind", "text"),
        field(dialect, "event", "coefficient", "float"),
        f"{dialect.joined('event', 'layers')} AS layers",
        field(dialect, "event", "positions", "text"),
        field(dialect, "event", "tensor_sha256", "text"),
        field(dialect, "event", "tensor_start", "integer"),
        f"CASE WHEN {applied} THEN {position} END AS from_position",
        f"CASE WHEN {removed} THEN event.turn ELSE ended.turn END AS to_turn",
        f"CASE WHEN {removed} THEN {position} ELSE {end} END AS to_position",
    ]
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS event "
        f"ON {in_run(dialect, 'event')} AND event.kind IN ('InterventionRequested', "
        "'InterventionWithdrawn', 'InterventionApplied', 'InterventionRemoved') "
        f"{dialect.parsed('event')} LEFT JOIN events AS ended ON {applied} "
        f"AND ended.event_key = ({next_of_name}) AND ended.kind = 'InterventionRemoved'"
    )


def activations(dialect: FrameDialect) -> str:
    """Return one row for each layer of each observation."""
    columns = [
        "run_id",
        f"{dialect.seq('observed')} AS seq",
        f"{at(dialect, 'observed')} AS at",
        "observed.turn",
        f"{dialect.layer_name} AS layer",
        field(dialect, "observed", "source", "text"),
        *(
            f"{dialect.field('observed', path, 'integer')} AS {name}"
            for name, path in (
                ("from_position", "start"),
                ("to_position", "end"),
                ("positions_covered", "positions_covered"),
            )
        ),
        *(
            f"{dialect.statistic(name, kind)} AS {name}"
            for kind, names in (
                (
                    "float",
                    "mean std l2_norm_mean l2_norm_max abs_max near_zero_percentage",
                ),
                ("integer", "abs_max_position abs_max_channel"),
                ("bigint", "not_finite"),
            )
            for name in names.split()
        ),
    ]
    return (
        f"SELECT {', '.join(columns)} FROM runs JOIN events AS observed "
        f"ON {in_run(dialect, 'observed')} AND observed.kind = 'ActivationObserved' "
        f"{dialect.parsed('observed')} {dialect.layers('observed')}"
    )
