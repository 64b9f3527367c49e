"""Recorded conversations, and what the benchmark says of a replay of them."""

from typing import Any

import tokentape as tt

SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
_SYSTEM_PROMPT = (
    "You study the weights of a small language model, a layer at a time. Give the mean, the "
    "largest value and the norm, and say so when you do not know."
)


def record_turns(
    lm: tt.LoadedModel, store: tt.EventLog, *, turns: int, tokens: int, **settings: Any
) -> str:
    """Record turns of exactly `tokens` tokens, sampled and greedy by turns; return the run's id."""
    with tt.Investigation(
        lm, store=store, name="gpu", system_prompt=_SYSTEM_PROMPT, seed=7, **settings
    ) as run:
        for turn in range(1, turns + 1):
            chosen = SAMPLED if turn % 2 else {"do_sample": False}
            run.chat(
                f"Question {turn}: what is the norm of layer {turn}, and is it larger than that "
                "of the layer before?",
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                **chosen,
            )
    return str(run.run_id)


def summary(report: tt.Report) -> dict[str, Any]:
    """Return what a report says, as plain values."""
    first = report.rows[0] if report.rows else None
    return {
        "verdict": report.verdict.value,
        "tokens": sum(each.tokens for each in report.turns),
        "rows_that_differ": len(report.rows),
        "mismatches": sum(each.mismatches for each in report.turns),
        "worst_nats": max((each.logprob_difference_max for each in report.turns), default=0.0),
        "causes": [each.name.value for each in report.causes],
        "first_row": ""
        if first is None
        else f"turn {first.turn}, token {first.step}, {first.ulps_max} ulps",
        "reason": "" if report.passes else report.reason[:200],
        "seconds": report.duration_us / 1e6,
        "generated_s": report.generation_us / 1e6,
    }
