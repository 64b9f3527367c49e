"""Judging one row: would the sampler pick the recorded token from these logits?"""

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from generation import LoadedModel, ModelError, hf
from generation.sampling import generator_sha256
from recorder import RecordingError
from recorder.events import TokenSampled
from recorder.projections import Turn
from replay.verdict import Candidate, Divergence, Floor

_CONTEXT_TOKENS = 12
_CANDIDATES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A token replayed. `kind` is empty where both sides agree; otherwise see `Divergence`.

    `pick_gap` is by how many raw logits the pick beat the next token, noise included.
    """

    kind: str
    picked_id: int
    margin: float | None
    boundary_gap: float | None
    pick_gap: float
    logprob_difference: float
    processed_difference: float | None


class TurnJudge:
    """Judges the tokens of a turn in order, with the turn's own processors and random stream.

    Noise is drawn as `torch.multinomial` draws it: it picks the largest of probability divided by
    an exponential, one for each token of the vocabulary. The margin is by how much the recorded
    token falls short of the pick, in raw logits, so that it does not grow as temperature falls.
    """

    def __init__(self, turn: Turn, lm: LoadedModel, floor: Floor) -> None:
        """Raises RecordingError for settings or a seed that no turn could have been begun with."""
        self._turn = turn
        self._floor = floor
        device = lm.model.device
        ids = torch.tensor([[*turn.prompt_ids, *turn.reply_ids]], dtype=torch.long, device=device)
        prompt = ids[:, : len(turn.prompt_ids)]
        try:
            config = hf.recorded_config(turn.started.sampling)
            prepared = hf.prepare(lm.model, lm.tokenizer, config, prompt)
            self._temperature = float(config.temperature or 1.0) if config.do_sample else 1.0
            self._generator = (
                torch.Generator(device=device).manual_seed(turn.started.seed or 0)
                if config.do_sample
                else None
            )
        except (ModelError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(f"turn {turn.number} has damaged settings: {error}") from None
        self._ids = ids
        self._processors = prepared.processors
        self._criteria = prepared.criteria
        self._filters = any(isinstance(each, hf.FILTERS) for each in self._processors)

    def judge(self, step: int, logits: torch.Tensor) -> Judgement:
        """The token of a step against its logits, float32 of shape (1, vocab)."""
        token = self._turn.tokens[step]
        seen = self._ids[:, : len(self._turn.prompt_ids) + step]
        scores = hf.process(self._processors, seen, logits)
        noise = self._noise(scores)
        picked_id = self._pick(scores, noise)
        noised = (scores if noise is None else scores - noise.log())[0]
        best, second = (torch.topk(noised, 2).values * self._temperature).tolist()
        kept = scores[0] > -math.inf
        margin: float | None = None
        boundary_gap: float | None = None
        processed_difference: float | None = None
        if bool(kept[token.token_id]):
            margin = max(best - noised[token.token_id].item() * self._temperature, 0.0)
            processed_difference = self._processed_difference(token, logits, scores, kept)
        elif self._filters:
            boundary_gap = logits[0][kept].min().item() - logits[0, token.token_id].item()
        logprob = torch.log_softmax(logits, dim=-1)[0, token.token_id].item()
        logprob_difference = abs(logprob - token.logprob)
        if picked_id == token.token_id:
            kind = self._kind_of_match(logprob_difference, processed_difference or 0.0)
        elif logprob_difference <= self._floor.logprob_floor and self._is_near_tie(
            token.token_id, picked_id, seen, logits, noise, margin
        ):
            kind = "near_tie"
        else:
            kind = "token" if margin is not None else "filtered"
        return Judgement(
            kind=kind,
            picked_id=picked_id,
            margin=margin,
            boundary_gap=boundary_gap,
            pick_gap=best - second,
            logprob_difference=logprob_difference,
            processed_difference=processed_difference,
        )

    def stops_as_recorded(self) -> bool | None:
        """Whether the turn stops at its last token, for its reason, and not before.

        None where the clock or something of the caller's own could have stopped it.
        """
        if self._turn.started.unreplayable:
            return None
        finished = self._turn.finished
        prompt_tokens = len(self._turn.prompt_ids)
        for step in range(1, len(self._turn.tokens) + 1):
            reason = hf.stop_reason(self._criteria, self._ids[:, : prompt_tokens + step])
            if step == len(self._turn.tokens):
                return finished is None or reason == finished.stop_reason
            if reason is not None:
                return False
        return None

    def end_state_matches(self) -> bool | None:
        """Whether the stream ends where the recording's ended, once every token is judged."""
        if self._generator is None or self._turn.finished is None:
            return None
        return generator_sha256(self._generator) == self._turn.finished.generator_sha256

    def _noise(self, scores: torch.Tensor) -> torch.Tensor | None:
        """The exponentials of the next draw; None where nothing is drawn."""
        if self._generator is None:
            return None
        return torch.empty_like(scores).exponential_(1.0, generator=self._generator)

    def _pick(self, scores: torch.Tensor, noise: torch.Tensor | None) -> int:
        if noise is None:
            return int(torch.argmax(scores, dim=-1).item())
        return int(torch.argmax(torch.softmax(scores, dim=-1) / noise, dim=-1).item())

    def _is_near_tie(
        self,
        token_id: int,
        picked_id: int,
        seen: torch.Tensor,
        logits: torch.Tensor,
        noise: torch.Tensor | None,
        margin: float | None,
    ) -> bool:
        """Whether noise alone could have made the sampler pick the recorded token.

        Either the two are closer than the noise; or a filter would have kept the one or cut the
        other, had their logits been off by the noise, and then the recorded token wins.
        """
        eps = self._floor.margin_eps
        if margin is not None and margin <= eps:
            return True
        if not self._filters:
            return False
        moved = logits.clone()
        # Half each: a margin is a difference, and so is the noise that is allowed it.
        moved[0, token_id] += eps / 2
        moved[0, picked_id] -= eps / 2
        scores = hf.process(self._processors, seen, moved)
        recorded_kept, picked_kept = (scores[0, [token_id, picked_id]] > -math.inf).tolist()
        if not recorded_kept or (picked_kept and margin is not None):
            # The filter is not at issue, and by the margin it is no tie.
            return False
        noised = (scores if noise is None else scores - noise.log())[0] * self._temperature
        return bool(noised.max() - noised[token_id] <= eps)

    def _kind_of_match(self, logprob_difference: float, processed_difference: float) -> str:
        floor = self._floor.logprob_floor
        if logprob_difference > floor:
            return "logprob"
        # Dividing logits by the temperature divides their noise, too.
        return "sampler" if processed_difference > floor / min(1.0, self._temperature) else ""

    def _processed_difference(
        self, token: TokenSampled, logits: torch.Tensor, scores: torch.Tensor, kept: torch.Tensor
    ) -> float:
        """How far the processed log-probability is from the recorded one, in nats.

        A token at the edge of a filter may be on either side of it. All others are renormalised
        then, by an amount that is known: the smallest difference counts.
        """
        total = scores.logsumexp(dim=-1).item()
        shifts = [0.0]
        if self._filters and not bool(kept.all()):
            last_kept = scores[0][kept].min().item() - total
            first_cut = logits[0][~kept].max().item() / self._temperature - total
            if last_kept < 0.0:
                shifts.append(-math.log1p(-math.exp(last_kept)))
            shifts.append(-math.log1p(math.exp(first_cut)))
        logprob = scores[0, token.token_id].item() - total
        return min(abs(logprob + shift - token.logprob_processed) for shift in shifts)


def describe_divergence(
    judged: Judgement,
    turn: Turn,
    step: int,
    logits: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
) -> Divergence:
    """Everything a reader needs to see what happened at a token."""
    token = turn.tokens[step]
    logprobs = torch.log_softmax(logits, dim=-1)[0]
    top = torch.topk(logprobs, min(max(len(token.candidate_ids), _CANDIDATES), len(logprobs)))
    before = [*turn.prompt_ids, *turn.reply_ids[:step]][-_CONTEXT_TOKENS:]
    after = turn.reply_ids[step + 1 :][:_CONTEXT_TOKENS]

    def candidate(token_id: int, logprob: float) -> Candidate:
        text = str(tokenizer.decode([token_id], skip_special_tokens=False))
        return Candidate(token_id=token_id, text=text, logprob=logprob)

    return Divergence(
        kind=judged.kind,
        turn=turn.number,
        step=step,
        position=token.position,
        recorded=candidate(token.token_id, token.logprob),
        replayed=candidate(judged.picked_id, logprobs[judged.picked_id].item()),
        margin=judged.margin,
        boundary_gap=judged.boundary_gap,
        logprob_difference=judged.logprob_difference,
        processed_difference=judged.processed_difference,
        text_before=str(tokenizer.decode(before, skip_special_tokens=False)),
        text_after=str(tokenizer.decode(list(after), skip_special_tokens=False)),
        recorded_candidates=tuple(map(candidate, token.candidate_ids, token.candidate_logprobs)),
        replayed_candidates=tuple(map(candidate, top.indices.tolist(), top.values.tolist())),
    )
