"""Description of a divergence: both sides of one token, with the text around it."""

import math
from collections.abc import Sequence

import torch

from tokentape.generation import LoadedModel, hf
from tokentape.generation.history.spelling import excerpt, spell_token
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.token_checker import CheckedRows
from tokentape.replay.checking.turns import prepare_round
from tokentape.replay.results.report import Divergence, ScoredToken

_CONTEXT_TOKENS = 12
_TOP_TOKENS = 5


def describe_divergence(
    checked: CheckedRows, row: int, turn: Turn, lm: LoadedModel, temperature: float
) -> Divergence:
    """Return the divergence at a checked row, whose token must have a `kind`."""
    step = checked.first + row
    result, token = checked.tokens[row], turn.tokens[step]
    assert result.kind is not None
    logits = checked.logits[row]
    logprobs = torch.log_softmax(logits, dim=-1)
    top = torch.topk(logprobs, min(max(len(token.top_ids), _TOP_TOKENS), len(logprobs)))
    top_ids = top.indices.tolist()
    removed = _removing_processors([*top_ids, result.picked_id], logits, turn, step, lm)

    def spell(token_id: int) -> str:
        return spell_token(lm.tokenizer, token_id)

    def recorded(token_id: int, logprob: float) -> ScoredToken:
        return ScoredToken(token_id=token_id, text=spell(token_id), logprob=logprob)

    def replayed(token_id: int) -> ScoredToken:
        score = checked.noised[row, token_id].item() * temperature
        return ScoredToken(
            token_id=token_id,
            text=spell(token_id),
            logprob=logprobs[token_id].item(),
            score=score if math.isfinite(score) else None,
            filtered_by=removed.get(token_id, "") if score == -math.inf else "",
        )

    before, after = [*turn.prompt_ids, *turn.reply_ids[:step]], turn.reply_ids[step + 1 :]
    return Divergence(
        kind=result.kind,
        turn=turn.number,
        step=turn.first_step + step,
        position=token.position,
        recorded=recorded(token.token_id, token.logprob),
        replayed=replayed(result.picked_id),
        margin=result.margin,
        boundary_gap=result.boundary_gap,
        logprob_difference=result.logprob_difference,
        processed_difference=result.processed_difference,
        text_before=excerpt(lm.tokenizer, before[:-_CONTEXT_TOKENS], before[-_CONTEXT_TOKENS:]),
        text_after=excerpt(lm.tokenizer, [*before, token.token_id], after[:_CONTEXT_TOKENS]),
        recorded_top=tuple(map(recorded, token.top_ids, token.top_logprobs)),
        replayed_top=tuple(replayed(token_id) for token_id in top_ids),
    )


def _removing_processors(
    token_ids: Sequence[int], logits: torch.Tensor, turn: Turn, step: int, lm: LoadedModel
) -> dict[int, str]:
    """Return the class of the processor that removed each token; tokens that stay are left out."""
    ids = [*turn.prompt_ids, *turn.reply_ids[:step]]
    seen = torch.tensor([ids], device=logits.device, dtype=torch.long)
    config = hf.recorded_config(turn.started.sampling)
    prepared = prepare_round(turn, lm, config, seen)
    removed: dict[int, str] = {}
    scores = logits[None]
    for processor in prepared.processors:
        scores = processor(seen, scores.clone())
        for token_id in token_ids:
            if scores[0, token_id] == -math.inf:
                removed.setdefault(token_id, type(processor).__name__)
    return removed
