"""Everything a reader needs to see what happened at a token."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from tokentape.generation import LoadedModel, hf
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.token_checker import CheckedRows
from tokentape.replay.verdict import Candidate, Divergence

_CONTEXT_TOKENS = 12
_CANDIDATES = 5


def describe_divergence(
    judged: CheckedRows, row: int, turn: Turn, lm: LoadedModel, temperature: float
) -> Divergence:
    """Both sides of a judged token: texts, candidates, margin, differences."""
    step = judged.first + row
    judgement, token = judged.judgements[row], turn.tokens[step]
    logits = judged.logits[row]
    logprobs = torch.log_softmax(logits, dim=-1)
    top = torch.topk(logprobs, min(max(len(token.top_ids), _CANDIDATES), len(logprobs)))
    top_ids = top.indices.tolist()
    removed = _filtered_by([*top_ids, judgement.picked_id], logits, turn, step, lm)

    def decode(ids: Any) -> str:
        return str(lm.tokenizer.decode(list(ids), skip_special_tokens=False))

    def recorded(token_id: int, logprob: float) -> Candidate:
        return Candidate(token_id=token_id, text=decode([token_id]), logprob=logprob)

    def replayed(token_id: int) -> Candidate:
        score = judged.noised[row, token_id].item() * temperature
        return Candidate(
            token_id=token_id,
            text=decode([token_id]),
            logprob=logprobs[token_id].item(),
            score=score if math.isfinite(score) else None,
            filtered_by=removed.get(token_id, "") if score == -math.inf else "",
        )

    return Divergence(
        kind=judgement.kind,
        turn=turn.number,
        step=turn.first_step + step,
        position=token.position,
        recorded=recorded(token.token_id, token.logprob),
        replayed=replayed(judgement.picked_id),
        margin=judgement.margin,
        boundary_gap=judgement.boundary_gap,
        logprob_difference=judgement.logprob_difference,
        processed_difference=judgement.processed_difference,
        text_before=decode([*turn.prompt_ids, *turn.reply_ids[:step]][-_CONTEXT_TOKENS:]),
        text_after=decode(turn.reply_ids[step + 1 :][:_CONTEXT_TOKENS]),
        recorded_candidates=tuple(map(recorded, token.top_ids, token.top_logprobs)),
        replayed_candidates=tuple(replayed(token_id) for token_id in top_ids),
    )


def _filtered_by(
    token_ids: Sequence[int], logits: torch.Tensor, turn: Turn, step: int, lm: LoadedModel
) -> dict[int, str]:
    """The processor that took each token out, by its class; those that are left are not named."""
    ids = [*turn.prompt_ids, *turn.reply_ids[:step]]
    seen = torch.tensor([ids], device=logits.device, dtype=torch.long)
    config = hf.recorded_config(turn.started.sampling)
    prepare_turn = hf.prepare(lm.model, lm.tokenizer, config, seen[:, : len(turn.prompt_ids)])
    removed: dict[int, str] = {}
    scores = logits[None]
    for processor in prepare_turn.processors:
        scores = processor(seen, scores.clone())
        for token_id in token_ids:
            if scores[0, token_id] == -math.inf:
                removed.setdefault(token_id, type(processor).__name__)
    return removed
