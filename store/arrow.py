"""The Arrow schemas of recordings: of sealed files, and of tables on the way into frames.

`seq` numbers the events of a run across `events` and `tokens`. Times are microseconds in UTC.
"""

import pyarrow as pa

AT = pa.timestamp("us", tz="UTC")
NAME = pa.dictionary(pa.int32(), pa.string())
RUN_ID = pa.dictionary(pa.int32(), pa.string())

EVENTS = pa.schema(
    [
        ("run_id", RUN_ID),
        ("seq", pa.int32()),
        ("at", AT),
        ("turn", pa.int32()),
        ("kind", NAME),
        ("version", pa.int16()),
        ("body", pa.string()),
        ("seal", pa.string()),
    ]
)
TOKENS = pa.schema(
    [
        ("run_id", RUN_ID),
        ("seq", pa.int32()),
        ("at", AT),
        ("version", pa.int16()),
        ("turn", pa.int32()),
        ("step", pa.int32()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("logprob", pa.float32()),
        ("logprob_processed", pa.float32()),
        ("entropy", pa.float32()),
        ("top_gap", pa.float32()),
        ("duration_us", pa.int64()),
        ("top_ids", pa.list_(pa.int32())),
        ("top_logprobs", pa.list_(pa.float32())),
    ]
)
BLOBS = pa.schema([("sha256", pa.string()), ("payload", pa.binary())])
RUNS = pa.schema(
    [
        ("run_id", RUN_ID),
        ("name", pa.string()),
        ("status", NAME),
        ("model", NAME),
        ("seed", pa.int64()),
        ("started_at", AT),
        ("updated_at", AT),
        ("turns", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("reused_tokens", pa.int64()),
        ("generated_tokens", pa.int64()),
        ("parent_run_id", pa.string()),
        ("forked_at_turn", pa.int32()),
    ]
)

VERDICTS = pa.schema(
    [
        ("run_id", RUN_ID),
        ("at", AT),
        ("replay", NAME),
        ("verdict", NAME),
        ("reason", pa.string()),
        ("model", NAME),
        ("floor_version", pa.string()),
        ("turns", pa.int32()),
        ("tokens", pa.int64()),
        ("mismatches", pa.int64()),
        ("near_ties", pa.int64()),
        ("logprob_difference_max", pa.float64()),
        ("margin_max", pa.float64()),
        ("duration_us", pa.int64()),
        ("sha256", pa.string()),
        ("report", pa.string()),
    ]
)
FLOORS = pa.schema(
    [
        ("run_id", RUN_ID),
        ("at", AT),
        ("version", pa.string()),
        ("sha256", pa.string()),
        ("floor", pa.string()),
    ]
)
LABELS = pa.schema(
    [
        ("run_id", RUN_ID),
        ("at", AT),
        ("label", NAME),
        ("text", pa.string()),
        ("sha256", pa.string()),
    ]
)


def of_file(schema: pa.Schema) -> pa.Schema:
    """Return the columns of a sealed file; the run is in the name of its folder."""
    return pa.schema([field for field in schema if field.name != "run_id"])
