"""The columns of every frame: name, type, whether a value may be missing, and its meaning.

Frames, empty ones too, and their tables in docs/analysis.md are made from these. The SQL views of a
live store have the same columns, but for `call` of `tools_df`, which is `arguments` there.
"""

import pyarrow as pa

from tokentape.recorder.events import CacheDecision
from tokentape.store.arrow import AT, NAME

_DECISIONS = ", ".join(f"`{each}`" for each in CacheDecision)
MEANING = b"meaning"


def _column(name: str, kind: pa.DataType, meaning: str, *, optional: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=optional, metadata={MEANING: meaning})


_RUN_ID = _column("run_id", pa.string(), "the run's id, a UUIDv7")
_TURN = _column("turn", pa.int32(), "the turn, counted from 1")
_SEQ = _column("seq", pa.int32(), "position among the events of the run, from 0")
_AT = _column("at", AT, "when it was recorded")

RUNS_DF = pa.schema(
    [
        _column("name", pa.string(), "the name that the user gave it"),
        _column(
            "status",
            NAME,
            "`running` (also after the process was killed), `finished`, `interrupted`, `failed`; "
            "`imported` for a conversation without tokens",
        ),
        _column("protocol", pa.string(), "the name of its plan, if it has one", optional=True),
        _column("model", NAME, "the name or path that the model was loaded from"),
        _column("generated_tokens", pa.int64(), "tokens of all replies that finished"),
        _column("prompt_tokens", pa.int64(), "tokens of all prompts"),
        _column("reused_tokens", pa.int64(), "of these, taken from the cache"),
        _RUN_ID,
        _column("parent_run_id", pa.string(), "the run that it was forked from", optional=True),
        _column("forked_at_turn", pa.int32(), "its first turn of its own", optional=True),
        _column("started_at", AT, "when it began"),
        _column("updated_at", AT, "its last change of status, prompt or reply"),
        _column("finished_at", AT, "when it ended, if it has", optional=True),
        _column("weights_sha256", pa.string(), "the sum of its weights"),
        _column("attention_kernel", NAME, "the attention implementation, such as `sdpa`"),
        _column("transformers", NAME, "the version of transformers", optional=True),
        _column("torch", NAME, "the version of torch", optional=True),
        _column(
            "tokentape",
            NAME,
            "the version of tokentape; none in runs recorded before it was (0.1.0 as released)",
            optional=True,
        ),
        _column("device", NAME, "the device of the model"),
        _column("dtype", NAME, "the type that it computes with"),
        _column(
            "duration_us", pa.int64(), "from its beginning to its end, if it ended", optional=True
        ),
        _column("note", pa.string(), "its note, or empty"),
        _column("tags", pa.string(), "its tags, sorted and separated by a comma and a space"),
        _column("tool_errors", pa.int32(), "calls of tools that failed"),
        _column("turns", pa.int32(), "turns that finished"),
        _column("seed", pa.int64(), "seed of the run, if it has one", optional=True),
        _column("error", pa.string(), "how it failed: the class and the message", optional=True),
    ]
)
EVENTS_DF = pa.schema(
    [
        _SEQ,
        _column(
            "turn",
            pa.int32(),
            "the turn it belongs to or, between turns, the next one; none at the start and the end "
            "of a run",
            optional=True,
        ),
        _AT,
        _RUN_ID,
        _column(
            "seal",
            pa.string(),
            "chained hash of the run up to here, at the end of a turn or run",
            optional=True,
        ),
        _column("version", pa.int16(), "version of that kind of event"),
        _column("kind", NAME, "what happened; `TokenSampled` for each token"),
    ]
)
TURNS_DF = pa.schema(
    [
        _TURN,
        _column("prompt_tokens", pa.int32(), "tokens of the prompt"),
        _column("reused_tokens", pa.int32(), "of these, taken from the cache", optional=True),
        _column(
            "generated_tokens",
            pa.int32(),
            "tokens of the reply; none if the turn was cut off",
            optional=True,
        ),
        _column(
            "first_step",
            pa.int32(),
            "tokens of the turn before this round; 0 unless the model called a tool in it",
        ),
        _column("computed_tokens", pa.int32(), "of these, forwarded", optional=True),
        _column("reason", NAME, "why that decision", optional=True),
        _column("tool_results", pa.int32(), "tool results that are new in its prompt"),
        _column("tool_tokens", pa.int32(), "tokens of these results as the model read them"),
        _column("pruned_tokens", pa.int32(), "tokens removed from the history before it"),
        _RUN_ID,
        _column("text", pa.string(), "the reply; none if the turn was cut off", optional=True),
        _column("started_at", AT, "when its prompt was complete"),
        _column(
            "history_reason", NAME, "why the history was not extended exactly; empty if it was"
        ),
        _column("duration_us", pa.int64(), "the whole turn, in microseconds", optional=True),
        _column("prefill_us", pa.int64(), "of this, the prompt", optional=True),
        _column("seed", pa.int64(), "seed of the turn, if it has one", optional=True),
        _column("temperature", pa.float64(), "none for a greedy turn", optional=True),
        _column("top_p", pa.float64(), "none for a greedy turn", optional=True),
        _column("top_k", pa.int32(), "none for a greedy turn", optional=True),
        _column("do_sample", pa.bool_(), "false for a greedy turn"),
        _column("decision", NAME, f"the cache's: {_DECISIONS}", optional=True),
        _column("stop_reason", NAME, "why it stopped; none if it was cut off", optional=True),
    ]
)
TOKENS_DF = pa.schema(
    [
        _TURN,
        _column("step", pa.int32(), "position in the reply, from 0"),
        _column(
            "text",
            pa.string(),
            "the token that was sampled, as text; none if its turn is running or was killed, and "
            "in runs recorded before token texts were recorded (0.1.0 as released)",
            optional=True,
        ),
        _column(
            "forced",
            pa.bool_(),
            "true for a token that the experimenter chose: of a reply prefix, or of a fork at a "
            "token; never true in a redacted run",
        ),
        _column(
            "logprob_processed", pa.float32(), "the same after the logits processors and warpers"
        ),
        _RUN_ID,
        _AT,
        _SEQ,
        _column("duration_us", pa.int64(), "time of this step, in microseconds"),
        _column("position", pa.int32(), "position in the sequence, prompt included, from 0"),
        _column("token_id", pa.int32(), "the id of the token"),
        _column("top_gap", pa.float32(), "difference of the two largest logits; half precision"),
        _column("logprob", pa.float32(), "its log-probability as the model gave it, in nats"),
        _column(
            "entropy", pa.float32(), "entropy of the model's distribution, in nats; half precision"
        ),
    ]
)
CACHE_DF = pa.schema(
    [
        _TURN,
        _column("decision", NAME, _DECISIONS),
        _column("reason", NAME, "why no more was reused; see caches.md"),
        _column("cached_tokens", pa.int32(), "tokens in the cache before"),
        _column("cropped_tokens", pa.int32(), "tokens cropped from it"),
        _column(
            "divergence_index",
            pa.int32(),
            "position of the first difference of prompt and cache",
            optional=True,
        ),
        _column("divergence_cached_id", pa.int32(), "the cache's token there", optional=True),
        _column("divergence_prompt_id", pa.int32(), "the prompt's token there", optional=True),
        _column("key_field", pa.string(), "field of the cache key that differed", optional=True),
        _RUN_ID,
        _column("decided_at", AT, "when it was decided"),
        _column("source", NAME, "`memory`, `disk` or `given`; empty if nothing was reused"),
        _column("disk_reason", pa.string(), "why a prefix on disk was not used, or empty"),
        _column("prefill_us", pa.int64(), "time of the prefill, in microseconds", optional=True),
        _column("kv_bytes", pa.int64(), "bytes of the cache after it", optional=True),
        _column("peak_bytes", pa.int64(), "highest memory; see `PrefillCompleted`", optional=True),
        _column("prompt_tokens", pa.int32(), "tokens of the prompt"),
        _column("reused_tokens", pa.int32(), "of these, taken from the cache"),
        _column("computed_tokens", pa.int32(), "of these, forwarded"),
    ]
)
TOOLS_DF = pa.schema(
    [
        _column(
            "turn",
            pa.int32(),
            "the turn whose prompt has the result",
            optional=True,
        ),
        _column("name", NAME, "the tool"),
        _column("payload_tokens", pa.int32(), "tokens of the full result"),
        _column("tensors", pa.int32(), "number of tensors inspected"),
        _RUN_ID,
        _column("call", pa.string(), "the call in Python's syntax", optional=True),
        _column("returned_at", AT, "when it returned"),
        _column("call_id", pa.string(), "id of the call"),
        _column(
            "payload_sha256", pa.string(), "sha256 of the full result; `store.blob(…)` returns it"
        ),
        _column("payload_bytes", pa.int64(), "bytes of the full result"),
        _column("duration_us", pa.int64(), "time of the call, in microseconds"),
        _column("content_tokens", pa.int32(), "tokens of the result as the model read it"),
        _column("error", pa.string(), "none if the tool succeeded", optional=True),
    ]
)
TOP_LOGPROBS_DF = pa.schema(
    [
        _TURN,
        _column("step", pa.int32(), "position in the reply, from 0"),
        _column("rank", pa.int32(), "0 for the likeliest token, 1 for the next"),
        _RUN_ID,
        _column("seq", pa.int32(), "`seq` of the token that was sampled there"),
        _column("token_id", pa.int32(), "the id of the token"),
        _column("text", pa.string(), "the token as text; see `text` of `tokens_df`", optional=True),
        _column(
            "logprob", pa.float32(), "its log-probability as the model gave it; half precision"
        ),
    ]
)
VERDICTS_DF = pa.schema(
    [
        _column("replay", NAME, "which replay: `verify`, `retrace`, `regenerate`"),
        _column("verdict", NAME, "the result; see replay.md"),
        _column("turns", pa.int32(), "turns that were replayed", optional=True),
        _column("tokens", pa.int64(), "tokens that were compared", optional=True),
        _column(
            "mismatches",
            pa.int64(),
            "of these, a different one was chosen, beyond the noise",
            optional=True,
        ),
        _column(
            "near_ties",
            pa.int64(),
            "of these, a different one was chosen, within the noise",
            optional=True,
        ),
        _column(
            "logprob_difference_max",
            pa.float64(),
            "greatest difference of a log-probability, in nats",
            optional=True,
        ),
        _RUN_ID,
        _column("at", AT, "when the replay ended"),
        _column("model", NAME, "the model used for the replay", optional=True),
        _column(
            "floor_version",
            pa.string(),
            "version of the noise floor, if there was one",
            optional=True,
        ),
        _column(
            "margin_max",
            pa.float64(),
            "greatest lead of another token over the recorded one, in raw logits",
            optional=True,
        ),
        _column("duration_us", pa.int64(), "time of the replay, in microseconds", optional=True),
        _column("reason", pa.string(), "why, in a line", optional=True),
    ]
)
MESSAGES_DF = pa.schema(
    [
        _TURN,
        _column("role", NAME, "`system`, `user`, `tool`, `assistant`; see below"),
        _column(
            "tokens",
            pa.int32(),
            "tokens that it adds to the prompt, or of the reply; none if the template renders the "
            "whole history for each turn",
            optional=True,
        ),
        _column("content", pa.string(), "the message"),
        _RUN_ID,
        _column("at", AT, "when it was added, or the reply finished"),
        _SEQ,
        _column("tool_call_id", pa.string(), "the call whose result it is", optional=True),
        _column("tool", NAME, "the tool whose result it is", optional=True),
    ]
)
INTERVENTIONS_DF = pa.schema(
    [
        _column("event", NAME, "`requested`, `withdrawn`, `applied`, `removed`"),
        _column("name", pa.string(), "the name of the intervention"),
        _column("kind", NAME, "how it changes the output of a layer", optional=True),
        _column(
            "from_position",
            pa.int32(),
            "the first position that an applied one acts on",
            optional=True,
        ),
        _column(
            "to_position",
            pa.int32(),
            "the first position that it does not act on, if it was removed",
            optional=True,
        ),
        _column(
            "to_turn", pa.int32(), "the turn in which it was removed, if it was", optional=True
        ),
        _column("positions", NAME, "the positions that it is for", optional=True),
        _RUN_ID,
        _AT,
        _SEQ,
        _column(
            "tensor_sha256",
            pa.string(),
            "sha256 of its tensor; empty for kinds without",
            optional=True,
        ),
        _column("tensor_start", pa.int32(), "position of a patch's first row", optional=True),
        _column(
            "turn",
            pa.int32(),
            "the turn it belongs to or, between turns, the next one",
            optional=True,
        ),
        _column("layers", pa.string(), "names of the modules, with commas", optional=True),
        _column("coefficient", pa.float64(), "its strength, if the kind has one", optional=True),
    ]
)


def _statistic(name: str, meaning: str, kind: pa.DataType | None = None) -> pa.Field:
    return _column(name, kind or pa.float64(), meaning, optional=True)


ACTIVATIONS_DF = pa.schema(
    [
        _TURN,
        _column("layer", NAME, "the module whose outputs are described"),
        _column("from_position", pa.int32(), "the first position"),
        _column("to_position", pa.int32(), "the position after the last one"),
        _column("source", NAME, "the forward: `prefill`, `decode`, `recomputed`"),
        _column("positions_covered", pa.int32(), "positions that were computed"),
        _SEQ,
        _statistic("near_zero_percentage", "percentage of numbers near zero"),
        _statistic("not_finite", "numbers that are not finite, if there are any", pa.int64()),
        _RUN_ID,
        _AT,
        _statistic("abs_max_position", "its position", pa.int32()),
        _statistic("abs_max_channel", "its channel", pa.int32()),
        _statistic("abs_max", "the largest magnitude"),
        _statistic("l2_norm_max", "the largest norm of a position"),
        _statistic("l2_norm_mean", "mean of the positions' norms"),
        _statistic("std", "their standard deviation"),
        _statistic("mean", "mean of the numbers"),
    ]
)
FRAMES = {
    "runs_df": RUNS_DF,
    "turns_df": TURNS_DF,
    "tokens_df": TOKENS_DF,
    "top_logprobs_df": TOP_LOGPROBS_DF,
    "cache_df": CACHE_DF,
    "tools_df": TOOLS_DF,
    "messages_df": MESSAGES_DF,
    "interventions_df": INTERVENTIONS_DF,
    "activations_df": ACTIVATIONS_DF,
    "events_df": EVENTS_DF,
    "verdicts_df": VERDICTS_DF,
}
