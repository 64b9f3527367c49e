"""Check of recorded tokens against logits: would the sampler pick them?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import LogitsProcessorList

from tokentape.generation import LoadedModel, ModelError, hf
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.recorder import RecordingError
from tokentape.recorder.events import TokenSampled
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.rng_stream import NoiseStream
from tokentape.replay.checking.turns import prepare_round, stop_of_settings
from tokentape.replay.results.report import Floor
from tokentape.replay.results.verdict import DivergenceKind

# Rows times the vocabulary that are checked at once: bounds each tensor to 16 MB.
_BLOCK = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedToken:
    """The result of checking one recorded token."""

    kind: DivergenceKind | None
    """None where both sides agree."""
    picked_id: int
    margin: float | None
    """Raw logits by which the recorded token falls short of the pick; None where it is filtered."""
    boundary_gap: float | None
    """Raw logits that a filtered token falls short of the last token that the filter keeps."""
    pick_gap: float
    """Raw logits by which the pick beats the second token, noise included."""
    logprob_difference: float
    """Nats, before the processors."""
    processed_difference: float | None
    """Nats, after the processors; None where the recorded token is filtered."""


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Consecutive checked tokens of a turn and their scores, float32 of shape (rows, vocab)."""

    first: int
    """Step of the first row, counted from the beginning of the round."""
    tokens: list[CheckedToken]
    logits: torch.Tensor
    """Raw logits."""
    scores: torch.Tensor
    """Logits after the processors."""
    noised: torch.Tensor
    """Scores plus the sampler's noise: the pick is the largest."""


class TokenChecker:
    """Checks the tokens of a turn in order, with the turn's processors and random numbers.

    The noise is drawn as `torch.multinomial` draws it: it picks the largest quotient of probability
    and an exponential, one for each token of the vocabulary. The margin is how far the recorded
    token falls short of the pick, in raw logits, so that it does not depend on the temperature.
    """

    def __init__(
        self,
        turn: Turn,
        lm: LoadedModel,
        floor: Floor,
        *,
        user_processors: Callable[[], LogitsProcessorList | None] = lambda: None,
    ) -> None:
        """`user_processors` creates the user's own processors that the turn was generated with.

        Raise RecordingError for settings or a seed that no turn can be generated with.
        """
        self.turn = turn
        self._floor = floor
        device = lm.model.device
        ids = torch.tensor([[*turn.prompt_ids, *turn.reply_ids]], dtype=torch.long, device=device)
        self._prompt_tokens = len(turn.prompt_ids)
        vocabulary = lm.model.get_input_embeddings().num_embeddings
        try:
            config = hf.recorded_config(turn.started.sampling)
            prepared = prepare_round(turn, lm, config, ids, processors=user_processors())
            self.temperature = float(config.temperature or 1.0) if config.do_sample else 1.0
            self._stream = (
                NoiseStream(turn.started.seed or 0, vocabulary, device)
                if config.do_sample
                else None
            )
            if self._stream is not None:
                self._stream.skip(turn.continued_tokens * vocabulary)
        except (ModelError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(f"turn {turn.number} has damaged settings: {error}") from None
        self._prepare_again: Callable[[], hf.Preparation] = lambda: prepare_round(
            turn, lm, config, ids, processors=user_processors()
        )
        self._ids = ids
        self._processors = prepared.processors
        self._criteria = prepared.criteria
        self._filters = any(isinstance(each, hf.FILTERS) for each in self._processors)
        self._vocabulary = vocabulary
        self._block: int = max(1, _BLOCK // vocabulary)
        self._step = 0

    @cached_property
    def _spare_processors(self) -> LogitsProcessorList:
        """Processors for a second look at a row: one with a state must not see a row twice."""
        return self._prepare_again().processors

    @property
    def rows_due(self) -> int:
        """Number of next tokens that can be checked at once; zero after the last token."""
        return min(len(self.turn.tokens) - self._step, self._block)

    def check(self, logits: torch.Tensor) -> CheckedRows:
        """Check the next tokens, at most `rows_due`, against raw logits, float32 (rows, vocab).

        Raise ModelError for logits that are not finite, and RecordingError if the settings of the
        turn cannot be applied.
        """
        first, rows = self._step, len(logits)
        seen = self._prompt_tokens + first
        # Some models give ids that are not tokens a logit of minus infinity.
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
        unfiltered = scores > -math.inf
        picked, noised = self._pick(scores, unfiltered)
        best, best_index = noised.max(dim=-1, keepdim=True)
        second = noised.scatter(1, best_index, -math.inf).amax(dim=-1)
        measured = torch.stack(
            (
                (best[:, 0] - second) * self.temperature,
                (best - noised.gather(1, ids))[:, 0] * self.temperature,
                torch.log_softmax(logits, dim=-1).gather(1, ids)[:, 0],
                scores.gather(1, ids)[:, 0] - scores.logsumexp(dim=-1),
                torch.where(unfiltered, logits, math.inf).amin(dim=-1)
                - logits.gather(1, ids)[:, 0],
            ),
            dim=-1,
        ).tolist()
        self._step += rows
        checked = CheckedRows(first, [], logits, scores, noised)
        for row, (picked_id, numbers) in enumerate(zip(picked.tolist(), measured, strict=True)):
            checked.tokens.append(self._check_row(checked, row, picked_id, numbers))
        return checked

    def skip(self, rows: int) -> None:
        """Leave the next tokens out: their random numbers are drawn, their logits not checked."""
        if self._stream is not None:
            self._stream.skip(rows * self._vocabulary)
        self._step += rows

    def stops_as_recorded(self) -> bool | None:
        """Return whether the turn stops at its last token, for its stop reason, and not before.

        None where a time limit or the user's own stopping criteria could have stopped it.
        """
        if self.turn.started.unreplayable:
            return None
        finished = self.turn.finished
        for step in range(1, len(self.turn.tokens) + 1):
            reason = hf.stop_reason(self._criteria, self._ids[:, : self._prompt_tokens + step])
            if step == len(self.turn.tokens):
                return finished is None or reason == stop_of_settings(finished)
            if reason is not None:
                return False
        return None

    def end_state_matches(self) -> bool | None:
        """Return whether the generator ends in the recorded state; call after the last check."""
        if self._stream is None or self.turn.finished is None:
            return None
        return generator_sha256(self._stream.generator) == self.turn.finished.generator_sha256

    def _pick(
        self, scores: torch.Tensor, unfiltered: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the picked ids, shape (rows,), and the noised scores that they maximise."""
        if self._stream is None:
            return scores.argmax(dim=-1), scores
        noise = self._stream.exponentials(unfiltered)
        return (torch.softmax(scores, dim=-1) / noise).argmax(dim=-1), scores - noise.log()

    def _check_row(
        self, checked: CheckedRows, row: int, picked_id: int, numbers: list[float]
    ) -> CheckedToken:
        pick_gap, short, logprob, processed, boundary = numbers
        token = self.turn.tokens[checked.first + row]
        if checked.first + row < self.turn.forced_tokens:
            return self._check_forced(token, logprob)
        is_unfiltered = processed > -math.inf
        margin = max(short, 0.0) if is_unfiltered else None
        difference = abs(logprob - token.logprob)
        processed_difference: float | None = None
        if is_unfiltered:
            processed_difference = abs(processed - token.logprob_processed)
            if processed_difference > self._processed_floor:
                processed_difference = self._least_difference(checked, row, processed_difference)
        kind: DivergenceKind | None
        if picked_id == token.token_id:
            kind = self._kind_of_match(difference, processed_difference or 0.0)
        elif self._is_near_tie(checked, row, picked_id, margin):
            within = difference <= self._floor.logprob_floor
            kind = DivergenceKind.NEAR_TIE if within else DivergenceKind.LOGPROB
        else:
            kind = DivergenceKind.FILTERED if margin is None else DivergenceKind.TOKEN
        return CheckedToken(
            kind=kind,
            picked_id=picked_id,
            margin=margin,
            boundary_gap=boundary if margin is None and self._filters else None,
            pick_gap=pick_gap,
            logprob_difference=difference,
            processed_difference=processed_difference,
        )

    def _check_forced(self, token: TokenSampled, logprob: float) -> CheckedToken:
        """Check the model's number for a token that the sampler did not choose."""
        difference = abs(logprob - token.logprob)
        processed_difference = abs(logprob - token.logprob_processed)
        return CheckedToken(
            kind=self._kind_of_match(difference, processed_difference),
            picked_id=token.token_id,
            margin=0.0,
            boundary_gap=None,
            pick_gap=math.inf,
            logprob_difference=difference,
            processed_difference=processed_difference,
        )

    @property
    def _processed_floor(self) -> float:
        # Dividing logits by the temperature divides their noise, too.
        return self._floor.logprob_floor / min(1.0, self.temperature)

    def _kind_of_match(
        self, logprob_difference: float, processed_difference: float
    ) -> DivergenceKind | None:
        if logprob_difference > self._floor.logprob_floor:
            return DivergenceKind.LOGPROB
        return DivergenceKind.SAMPLER if processed_difference > self._processed_floor else None

    def _is_near_tie(
        self, checked: CheckedRows, row: int, picked_id: int, margin: float | None
    ) -> bool:
        """Return whether noise alone could have made the sampler pick the recorded token.

        Either the two tokens are closer than the noise; or, with their logits moved by the noise, a
        filter would have kept the recorded one or cut the other, and the recorded one then wins.
        """
        eps = self._floor.margin_eps
        if margin is not None and margin <= eps:
            return True
        if not self._filters:
            return False
        step = checked.first + row
        token_id = self.turn.tokens[step].token_id
        # Half each: the margin and the noise allowed for it are both differences of two logits.
        moved = checked.logits[row : row + 1].clone()
        moved[0, token_id] += eps / 2
        moved[0, picked_id] -= eps / 2
        scores = self._processed_again(step, moved)
        recorded_stays, picked_stays = (scores[0, [token_id, picked_id]] > -math.inf).tolist()
        if not recorded_stays or (picked_stays and margin is not None):
            # The filter decides nothing here, and the margin is above the noise.
            return False
        noise = self._noise_of(step)
        noised = scores[0] if noise is None else scores[0] - noise.log()
        return bool((noised.max() - noised[token_id]) * self.temperature <= eps)

    def _noise_of(self, step: int) -> torch.Tensor | None:
        """Draw all exponentials of a step again, shape (vocab,); None for greedy turns."""
        if self._stream is None:
            return None
        stream = self._stream.restarted()
        stream.skip((self.turn.continued_tokens + step) * self._vocabulary)
        everything = torch.ones((1, self._vocabulary), dtype=torch.bool, device=self._ids.device)
        return stream.exponentials(everything)[0]

    def _processed_again(
        self, step: int, logits: torch.Tensor, processors: LogitsProcessorList | None = None
    ) -> torch.Tensor:
        seen = self._ids[:, : self._prompt_tokens + step]
        return hf.process(
            self._spare_processors if processors is None else processors, seen, logits
        )

    def _least_difference(self, checked: CheckedRows, row: int, difference: float) -> float:
        """Return the least processed difference when noise moves the edge of a filter.

        A token more or less in the filter renormalises the rest. Tried are: the last token kept a
        little lower, the first token cut a little higher, and all kept tokens a little higher or
        lower than the rest, which moves the sums that some filters compare.
        """
        logits, unfiltered = checked.logits[row], checked.scores[row] > -math.inf
        if not self._filters or bool(unfiltered.all()):
            return difference
        step, eps = checked.first + row, self._floor.margin_eps
        token = self.turn.tokens[step]
        others = [each for each in self._spare_processors if not isinstance(each, hf.FILTERS)]
        without_filters = self._processed_again(step, logits[None], LogitsProcessorList(others))[0]
        last = torch.where(unfiltered, logits, math.inf).argmin()
        first = torch.where(unfiltered, -math.inf, logits).argmax()
        for moved_tokens, change in (
            (last, -eps),
            (first, eps),
            (unfiltered, eps),
            (unfiltered, -eps),
        ):
            moved = logits.clone()
            moved[moved_tokens] += change
            still_unfiltered = self._processed_again(step, moved[None])[0] > -math.inf
            total = without_filters[still_unfiltered].logsumexp(dim=-1)
            processed = (without_filters[token.token_id] - total).item()
            difference = min(difference, abs(processed - token.logprob_processed))
        return difference
