"""The queries of a metadata file for Datasette."""

_NEWEST = "SELECT run_id FROM runs_df ORDER BY started_at DESC LIMIT 1"
# Without a run, the newest one.
_RUN = f"run_id = coalesce(nullif(:run_id, ''), ({_NEWEST}))"

QUERIES = {
    "conversation": {
        "title": "The conversation of a run",
        "description": "The messages, in order. Without run_id, of the newest run.",
        "sql": f"SELECT turn, role, content, tokens, tool, at FROM messages_df\nWHERE {_RUN}\n"
        "ORDER BY seq",
    },
    "surprising_tokens": {
        "title": "The most surprising tokens of a run",
        "description": "The tokens that the model thought the least likely, the 100 first.",
        "sql": "SELECT turn, step, text, -logprob AS surprise, entropy, top_gap FROM tokens_df\n"
        f"WHERE {_RUN} AND NOT forced\nORDER BY logprob LIMIT 100",
    },
    "likeliest_tokens": {
        "title": "The candidates of one token",
        "description": "The top k of a step of a turn, the likeliest first.",
        "sql": "SELECT rank, text, logprob, exp(logprob) AS probability FROM top_logprobs_df\n"
        f"WHERE {_RUN} AND turn = :turn AND step = :step\nORDER BY rank",
    },
    "cache_savings": {
        "title": "Tokens that the cache saved, by run",
        "description": "How many tokens of all prompts were taken from the KV cache.",
        "sql": "SELECT run_id, name, model, prompt_tokens, reused_tokens,\n"
        "  round(100.0 * reused_tokens / nullif(prompt_tokens, 0), 1) AS percent\n"
        "FROM runs_df ORDER BY reused_tokens DESC",
    },
    "cache_misses": {
        "title": "Why the cache was not used",
        "description": "Decisions by reason, with the tokens that were computed.",
        "sql": "SELECT decision, reason, count(*) AS decisions, sum(computed_tokens) AS computed\n"
        "FROM cache_df GROUP BY decision, reason ORDER BY computed DESC",
    },
    "tools": {
        "title": "Tools: calls, errors, cost",
        "description": "Over all runs: calls, failed ones, tokens that the model read, seconds.",
        "sql": "SELECT name, count(*) AS calls, sum(error IS NOT NULL) AS errors,\n"
        "  sum(content_tokens) AS tokens, round(sum(duration_us) / 1e6, 3) AS seconds\n"
        "FROM tools_df GROUP BY name ORDER BY tokens DESC",
    },
    "verdicts": {
        "title": "The newest verdict of each run and replay",
        "description": "What replays found, the newest first.",
        "sql": "SELECT runs_df.run_id, name, replay, verdict, max(at) AS at, mismatches,\n"
        "  near_ties, logprob_difference_max FROM verdicts_df\n"
        "JOIN runs_df USING (run_id) GROUP BY runs_df.run_id, replay ORDER BY at DESC",
    },
    "said": {
        "title": "Messages that contain a text",
        "description": "Of all runs; upper and lower case are the same.",
        "sql": "SELECT run_id, turn, role, content FROM messages_df\n"
        "WHERE content LIKE '%' || :text || '%' ORDER BY run_id, seq LIMIT 200",
    },
}
"""By name, as Datasette reads them."""
