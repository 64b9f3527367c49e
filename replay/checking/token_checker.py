"""Judging rows: would the sampler pick the recorded tokens from these logits?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import LogitsProcessorList

from tokentape.generation import LoadedModel, ModelError, hf
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.recorder import RecordingError
from tokentape.recorder.events import StopReason
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.rng_stream import NoiseStream
from tokentape.replay.verdict import Floor

# Rows times the vocabulary that are judged at once: bounds each tensor to 16 MB.
_BLOCK = 2**22


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


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """The tokens of consecutive steps from `first` on, and the numbers that they were judged by.

    `logits` are raw, `scores` processed, `noised` what the pick is the largest of; all float32 of
    shape (rows, vocab).
    """

    first: int
    judgements: list[Judgement]
    logits: torch.Tensor
    scores: torch.Tensor
    noised: torch.Tensor


class TokenChecker:
    """Judges the tokens of a turn in order, with the turn's own processors and random stream.

    Noise is drawn as `torch.multinomial` draws it: it picks the largest of probability divided by
    an exponential, one for each token of the vocabulary. The margin is by how much the recorded
    token falls short of the pick, in raw logits, so that it does not grow as temperature falls.
    """

    def __init__(
        self,
        turn: Turn,
        lm: LoadedModel,
        floor: Floor,
        *,
        own: Callable[[], LogitsProcessorList | None] = lambda: None,
    ) -> None:
        """`own` makes the processors of the caller's own, where the turn had any.

        Raises RecordingError for settings or a seed that no turn could have been begun with.
        """
        self.turn = turn
        self._floor = floor
        device = lm.model.device
        ids = torch.tensor([[*turn.prompt_ids, *turn.reply_ids]], dtype=torch.long, device=device)
        self._prompt_tokens = len(turn.prompt_ids)
        prompt = ids[:, : self._prompt_tokens]
        vocabulary = lm.model.get_input_embeddings().num_embeddings
        try:
            config = hf.recorded_config(turn.started.sampling)
            prepare_turn = hf.prepare(lm.model, lm.tokenizer, config, prompt, processors=own())
            self._temperature = float(config.temperature or 1.0) if config.do_sample else 1.0
            self._stream = (
                NoiseStream(turn.started.seed or 0, vocabulary, device)
                if config.do_sample
                else None
            )
        except (ModelError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(f"turn {turn.number} has damaged settings: {error}") from None
        self._prepare_again: Callable[[], hf.Preparation] = lambda: hf.prepare(
            lm.model, lm.tokenizer, config, prompt, processors=own()
        )
        self._ids = ids
        self._processors = prepare_turn.processors
        self._criteria = prepare_turn.criteria
        self._filters = any(isinstance(each, hf.FILTERS) for each in self._processors)
        self._vocabulary = vocabulary
        self._block: int = max(1, _BLOCK // vocabulary)
        self._step = 0

    @cached_property
    def _spare(self) -> LogitsProcessorList:
        """For a second look at a row: a processor with a state must not see a row twice."""
        return self._prepare_again().processors

    @property
    def temperature(self) -> float:
        return self._temperature

    @property
    def due(self) -> int:
        """How many of the next tokens can be judged at once; zero when all are."""
        return min(len(self.turn.tokens) - self._step, self._block)

    def judge(self, logits: torch.Tensor) -> CheckedRows:
        """The next tokens, `due` at most, against their raw logits, float32 (rows, vocab).

        Raises ModelError for logits that are not finite, RecordingError where the settings of the
        turn cannot be applied.
        """
        first, rows = self._step, len(logits)
        seen = self._prompt_tokens + first
        # Minus infinity is how some models mask what is no token.
        if not bool(logits.amax(dim=-1).isfinite().all()):
            raise ModelError(
                f"the model's logits are not finite in turn {self.turn.number}, from token {first} "
                "on: its weights are broken"
            )
        ids = self._ids[0, seen : seen + rows, None]
        try:
            scores = hf.process_rows(self._processors, self._ids, seen, logits)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(
                f"the settings of turn {self.turn.number} cannot be applied: {error}"
            ) from None
        kept = scores > -math.inf
        picked, noised = self._pick(scores, kept)
        best, place = noised.max(dim=-1, keepdim=True)
        second = noised.scatter(1, place, -math.inf).amax(dim=-1)
        measured = torch.stack(
            (
                (best[:, 0] - second) * self._temperature,
                (best - noised.gather(1, ids))[:, 0] * self._temperature,
                torch.log_softmax(logits, dim=-1).gather(1, ids)[:, 0],
                scores.gather(1, ids)[:, 0] - scores.logsumexp(dim=-1),
                torch.where(kept, logits, math.inf).amin(dim=-1) - logits.gather(1, ids)[:, 0],
            ),
            dim=-1,
        ).tolist()
        self._step += rows
        judged = CheckedRows(first, [], logits, scores, noised)
        for row, (picked_id, numbers) in enumerate(zip(picked.tolist(), measured, strict=True)):
            judged.judgements.append(self._judge_row(judged, row, picked_id, numbers))
        return judged

    def stops_as_recorded(self) -> bool | None:
        """Whether the turn stops at its last token, for its reason, and not before.

        None where the clock or something of the caller's own could have stopped it.
        """
        if self.turn.started.unreplayable:
            return None
        finished = self.turn.finished
        for step in range(1, len(self.turn.tokens) + 1):
            reason = hf.stop_reason(self._criteria, self._ids[:, : self._prompt_tokens + step])
            if step == len(self.turn.tokens):
                # Whether the reply calls a tool there is told by its text, not by its settings.
                due = None if finished is None else finished.stop_reason
                return finished is None or reason == (None if due == StopReason.TOOL_CALL else due)
            if reason is not None:
                return False
        return None

    def end_state_matches(self) -> bool | None:
        """Whether the stream ends where the recording's ended, once every token is judged."""
        if self._stream is None or self.turn.finished is None:
            return None
        return generator_sha256(self._stream.generator) == self.turn.finished.generator_sha256

    def _pick(self, scores: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens picked, shape (rows,), and what they are the largest of."""
        if self._stream is None:
            return scores.argmax(dim=-1), scores
        noise = self._stream.exponentials(kept)
        return (torch.softmax(scores, dim=-1) / noise).argmax(dim=-1), scores - noise.log()

    def _judge_row(
        self, judged: CheckedRows, row: int, picked_id: int, numbers: list[float]
    ) -> Judgement:
        pick_gap, short, logprob, processed, boundary = numbers
        step = judged.first + row
        token = self.turn.tokens[step]
        is_kept = processed > -math.inf
        margin = max(short, 0.0) if is_kept else None
        difference = abs(logprob - token.logprob)
        processed_difference: float | None = None
        if is_kept:
            processed_difference = abs(processed - token.logprob_processed)
            if processed_difference > self._processed_floor:
                processed_difference = self._least_difference(judged, row, processed_difference)
        if picked_id == token.token_id:
            kind = self._kind_of_match(difference, processed_difference or 0.0)
        elif self._is_near_tie(judged, row, picked_id, margin):
            kind = "near_tie" if difference <= self._floor.logprob_floor else "logprob"
        else:
            kind = "filtered" if margin is None else "token"
        return Judgement(
            kind=kind,
            picked_id=picked_id,
            margin=margin,
            boundary_gap=boundary if margin is None and self._filters else None,
            pick_gap=pick_gap,
            logprob_difference=difference,
            processed_difference=processed_difference,
        )

    @property
    def _processed_floor(self) -> float:
        # Dividing logits by the temperature divides their noise, too.
        return self._floor.logprob_floor / min(1.0, self._temperature)

    def _kind_of_match(self, logprob_difference: float, processed_difference: float) -> str:
        if logprob_difference > self._floor.logprob_floor:
            return "logprob"
        return "sampler" if processed_difference > self._processed_floor else ""

    def _is_near_tie(
        self, judged: CheckedRows, row: int, picked_id: int, margin: float | None
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
        step = judged.first + row
        token_id = self.turn.tokens[step].token_id
        # Half each: a margin is a difference, and so is the noise that is allowed it.
        moved = judged.logits[row : row + 1].clone()
        moved[0, token_id] += eps / 2
        moved[0, picked_id] -= eps / 2
        scores = self._processed_again(step, moved)
        recorded_kept, picked_kept = (scores[0, [token_id, picked_id]] > -math.inf).tolist()
        if not recorded_kept or (picked_kept and margin is not None):
            # The filter is not at issue, and by the margin it is no tie.
            return False
        noise = self._noise_of(step)
        noised = scores[0] if noise is None else scores[0] - noise.log()
        return bool((noised.max() - noised[token_id]) * self._temperature <= eps)

    def _noise_of(self, step: int) -> torch.Tensor | None:
        """All exponentials of a step once more, shape (vocab,); None where none are drawn."""
        if self._stream is None:
            return None
        stream = self._stream.again()
        stream.skip(step * self._vocabulary)
        everything = torch.ones((1, self._vocabulary), dtype=torch.bool, device=self._ids.device)
        return stream.exponentials(everything)[0]

    def _processed_again(
        self, step: int, logits: torch.Tensor, processors: LogitsProcessorList | None = None
    ) -> torch.Tensor:
        seen = self._ids[:, : self._prompt_tokens + step]
        return hf.process(self._spare if processors is None else processors, seen, logits)

    def _least_difference(self, judged: CheckedRows, row: int, difference: float) -> float:
        """How far the processed log-probability is off where noise moves the edge of a filter.

        All others are renormalised then. Tried are the token that is kept last a little lower, the
        first that is cut a little higher, and all that are kept a little higher or lower than
        those that are cut, which moves the sums that some filters look at.
        """
        logits, kept = judged.logits[row], judged.scores[row] > -math.inf
        if not self._filters or bool(kept.all()):
            return difference
        step, eps = judged.first + row, self._floor.margin_eps
        token = self.turn.tokens[step]
        others = [each for each in self._spare if not isinstance(each, hf.FILTERS)]
        unfiltered = self._processed_again(step, logits[None], LogitsProcessorList(others))[0]
        last = torch.where(kept, logits, math.inf).argmin()
        first = torch.where(kept, -math.inf, logits).argmax()
        for places, change in ((last, -eps), (first, eps), (kept, eps), (kept, -eps)):
            moved = logits.clone()
            moved[places] += change
            still_kept = self._processed_again(step, moved[None])[0] > -math.inf
            total = unfiltered[still_kept].logsumexp(dim=-1)
            processed = (unfiltered[token.token_id] - total).item()
            difference = min(difference, abs(processed - token.logprob_processed))
        return difference
