"""Regenerate turns with Hugging Face `generate`, from the recorded ids, seed and settings."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from tokentape.generation import LoadedModel, hf
from tokentape.generation.cache import common_prefix_length
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.recorder import Recording
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.events.turn import CALLS
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.noise_floor import (
    DEFAULT_FLOOR,
    MARGIN_EPS_MAX,
    NO_DRIFT,
    plausible,
    predict_flips,
)
from tokentape.replay.checking.token_checker import TokenChecker
from tokentape.replay.checking.turns import TurnProcessors
from tokentape.replay.options import OPTION_DEFAULTS, CheckKeywords, CheckOptions, check_options
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.results.report import Divergence, Floor, Report, TurnVerdict
from tokentape.replay.results.verdict import DivergenceKind, Verdict, worst
from tokentape.replay.session import Conclusion, ReplaySession

_GLOBAL_GENERATOR = threading.RLock()
"""Held while torch's global generator is seeded and drawn from, with any model."""

TurnDone = Callable[[TurnVerdict, int], None]
"""Called with the verdict on each round and the microseconds that it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Generated:
    """The output of `generate` for one round."""

    ids: tuple[int, ...]
    logits: tuple[torch.Tensor, ...]
    """Raw logits of each step, float32 of shape (1, vocab)."""
    end_state: str | None
    """Hash of the generator's end state; None for greedy turns."""


@lists_keywords(OPTION_DEFAULTS)
def regenerate(
    recording: Recording | LoadedRun,
    lm: LoadedModel,
    *,
    progress: TurnDone | None = None,
    **options: Unpack[CheckKeywords],
) -> Report:
    """Run `model.generate` on each turn's whole prompt, without a cache, and compare the tokens.

    A turn is compared up to its first different token, after which the two histories differ.
    Without a floor only tokens are compared, and another token is `incomparable` unless no noise
    explains its margin. torch's global random state is restored. `progress` is called with the
    verdict on each round and its microseconds. The other keywords and the errors are those of
    `verify`.

    Example:
        >>> import tokentape as tt
        >>> report = tt.regenerate(store.recording(run_id), lm, turns=[2])
        >>> report.verdict.value, report.turns[0].generator_matches
        ('exact', True)
    """
    chosen = check_options("regenerate", options)
    # `generate` draws from the global generator and reads the model's own generation config.
    with exclusive_use(lm.model), _GLOBAL_GENERATOR:
        return _regenerated(recording, lm, chosen, progress)


def _regenerated(
    recording: Recording | LoadedRun,
    lm: LoadedModel,
    options: CheckOptions,
    progress: TurnDone | None,
) -> Report:
    session = ReplaySession.begin("regenerate", recording, lm, options)
    floor = session.floor or NO_DRIFT
    verdicts: list[TurnVerdict] = []
    checked: list[CheckedTurn] = []
    for turn in session.turns:
        turn_began = time.perf_counter()
        verdict, checked_turn = _regenerate_turn(session, turn, floor)
        verdicts.append(verdict)
        checked.append(checked_turn)
        if progress is not None:
            progress(verdict, elapsed_us(turn_began))
    gaps = [token.top_gap for turn in session.turns for token in turn.tokens]
    predicted = predict_flips(gaps, floor)
    conclusion = _conclude(session, verdicts, predicted)
    return session.report(
        checked,
        verdicts,
        conclusion,
        explain=not conclusion.verdict.passes,
        predicted_flips=predicted,
    )


def _conclude(session: ReplaySession, turns: Sequence[TurnVerdict], predicted: float) -> Conclusion:
    """Return the verdict on the whole recording."""
    if session.obstacle:
        return Conclusion(verdict=Verdict.INCOMPARABLE, reason=session.obstacle)
    found = [turn.verdict for turn in turns]
    verdict = Verdict.DIVERGED if Verdict.DIVERGED in found else worst(found)
    if session.contradictions and verdict is not Verdict.DIVERGED:
        reason = session.contradictions[0].sentence
        return Conclusion(verdict=Verdict.DIVERGED, reason=reason)
    first = next(turn for turn in turns if turn.verdict is verdict)
    if verdict is Verdict.EXACT:
        reason = "the same tokens and the same end state of the random generator"
    elif verdict is Verdict.NEAR_TIE:
        flips = sum(turn.near_ties for turn in turns)
        if not plausible(flips, predicted):
            reason = f"{flips} near ties: too many for noise"
            return Conclusion(verdict=Verdict.DIVERGED, reason=reason)
        reason = f"turn {first.turn}: another token within the noise, compared up to there"
    elif verdict is Verdict.DRIFTED:
        reason = f"turn {first.turn}: the same tokens with other log-probabilities"
    elif verdict is Verdict.INCOMPARABLE:
        reason = (
            f"turn {first.turn}: `generate` produces another token, and no noise floor is known "
            f"for this model in {session.run.started.dtype}: measure one with `tokentape calibrate`"
        )
    elif first.generator_matches is False:
        reason = f"turn {first.turn}: the seed does not lead to the recorded end state"
    else:
        reason = f"turn {first.turn}: `generate` produces other tokens"
    return Conclusion(verdict=verdict, reason=reason)


def _regenerate_turn(
    session: ReplaySession, turn: Turn, floor: Floor
) -> tuple[TurnVerdict, CheckedTurn]:
    lm, interventions = session.lm, session.interventions
    with interventions.applied(lm.model, interventions.of_turn(turn)):
        generated = _generate(turn, lm, session.options.processors)
    # The reply of a turn that a time limit or a kill cut off may be shorter than the generated.
    complete = turn.finished is not None and "max_time" not in turn.started.unreplayable
    step = _first_difference(turn.reply_ids, generated.ids, complete=complete)
    compared = len(turn.tokens) if step is None else step
    checked = _check_tokens(session, turn, floor, generated.logits[: compared + 1])
    shown_step = None if step is None else turn.first_step + step
    divergence = next((each for each in checked.divergences if each.step == shown_step), None)
    verdict = Verdict.EXACT
    if step is not None:
        verdict = _verdict_on(divergence, session.floor)
        if divergence is None:
            checked.stop_matches = False
    elif complete and turn.finished is not None and generated.end_state is not None:
        checked.generator_matches = generated.end_state == turn.finished.generator_sha256
        verdict = Verdict.EXACT if checked.generator_matches else Verdict.DIVERGED
    if max(checked.differences[:compared], default=0.0) > floor.logprob_floor:
        verdict = worst([verdict, Verdict.DRIFTED])
    is_mismatch = verdict in (Verdict.DIVERGED, Verdict.INCOMPARABLE)
    mismatches = int(is_mismatch and step is not None)
    return _verdict_of(checked, verdict, compared, divergence, mismatches), checked


def _verdict_on(divergence: Divergence | None, floor: Floor | None) -> Verdict:
    """Return the verdict on a reply that is not the recorded one, by its first other token.

    `divergence` is None for the same tokens with another end. Without a floor another token may be
    noise, if its margin is one that a floor may have.
    """
    if divergence is None:
        return Verdict.DIVERGED
    if divergence.kind is DivergenceKind.NEAR_TIE:
        return Verdict.NEAR_TIE
    may_be_noise = divergence.margin is None or divergence.margin <= MARGIN_EPS_MAX
    return Verdict.INCOMPARABLE if floor is None and may_be_noise else Verdict.DIVERGED


def _verdict_of(
    checked: CheckedTurn,
    verdict: Verdict,
    compared: int,
    divergence: Divergence | None,
    mismatches: int,
) -> TurnVerdict:
    """Return the verdict with the numbers of the first `compared` tokens."""
    tokens, differences = checked.tokens[:compared], checked.differences[:compared]
    return TurnVerdict(
        turn=checked.turn.number,
        verdict=verdict,
        tokens=compared,
        sampled=checked.turn.started.seed is not None,
        mismatches=mismatches,
        near_ties=int(verdict is Verdict.NEAR_TIE),
        margin_max=(divergence.margin or 0.0) if divergence else 0.0,
        logprob_difference_max=max(differences, default=0.0),
        logprob_difference_mean=sum(differences) / max(len(differences), 1),
        processed_difference_max=max(
            (each.processed_difference or 0.0 for each in tokens), default=0.0
        ),
        generator_matches=checked.generator_matches,
        logprob_differences=tuple(differences),
        margins=tuple(each.margin for each in tokens),
    )


def _checker(
    turn: Turn, lm: LoadedModel, floor: Floor, processors: TurnProcessors | None
) -> TokenChecker:
    return TokenChecker(
        turn, lm, floor, user_processors=lambda: None if processors is None else processors(turn)
    )


def _check_tokens(
    session: ReplaySession, turn: Turn, floor: Floor, logits: Sequence[torch.Tensor]
) -> CheckedTurn:
    """Check the tokens up to the first difference on the logits of `generate` itself."""
    checker = _checker(turn, session.lm, floor, session.options.processors)
    checked = CheckedTurn(turn)
    steps = min(len(logits), len(turn.tokens))
    while len(checked.tokens) < steps:
        start = len(checked.tokens)
        rows = torch.cat(tuple(logits[start : min(start + checker.rows_due, steps)]))
        checked.add(checker.check(rows), session.lm, checker.temperature)
    return checked


def _generate(turn: Turn, lm: LoadedModel, processors: TurnProcessors | None) -> _Generated:
    """Run `generate` on the prompt with the recorded settings and seed."""
    model: Any = lm.model
    own_prompt = turn.prompt_ids[: turn.own_prompt_tokens]
    prompt = torch.tensor([own_prompt], dtype=torch.long, device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    end_state: str | None = None
    with torch.random.fork_rng(devices=devices), _no_defaults(model), hf.quiet_configs():
        # Recordings may come from anywhere: this rejects damaged settings and seeds beforehand.
        _checker(turn, lm, DEFAULT_FLOOR, processors)
        if turn.started.seed is not None:
            torch.manual_seed(turn.started.seed)
        try:
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                tokenizer=lm.tokenizer,
                stopping_criteria=_pause(turn),
                logits_processor=_user_processors(turn, processors),
                **_settings(turn),
            )
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ReplayError(f"`generate` refuses turn {turn.number}: {first_line}") from None
        if turn.started.seed is not None:
            end_state = generator_sha256(_default_generator(model.device))
    ids = output.sequences[0, len(turn.prompt_ids) :].tolist()
    logits = output.logits[turn.continued_tokens :]
    return _Generated(ids=tuple(ids), logits=logits, end_state=end_state)


class _Copy(LogitsProcessor):
    """Copies the scores, so that user processors that write in place leave the raw logits."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.clone()


def _user_processors(turn: Turn, processors: TurnProcessors | None) -> LogitsProcessorList | None:
    own_tokens = turn.own_prompt_tokens
    forced = (*turn.prompt_ids[own_tokens:], *turn.started.forced_ids)
    last = [_Forced(own_tokens, forced)] if forced else []
    if processors is None:
        return LogitsProcessorList(last) or None
    return LogitsProcessorList([_Copy(), *processors(turn), *last])


class _Forced(LogitsProcessor):
    """Leaves one token at each of the first steps, so that `generate` begins with these tokens.

    Each of these steps uses one draw, as in the recorded turn.
    """

    def __init__(self, prompt_tokens: int, token_ids: Sequence[int]) -> None:
        self._prompt_tokens = prompt_tokens
        self._token_ids = token_ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._prompt_tokens
        if step >= len(self._token_ids):
            return scores
        only = torch.full_like(scores, -torch.inf)
        only[:, self._token_ids[step]] = 0.0
        return only


def _pause(turn: Turn) -> StoppingCriteriaList:
    """Return a length limit where the turn paused for a tool call, which `generate` cannot see."""
    if turn.finished is None or turn.finished.stop_reason not in CALLS:
        return StoppingCriteriaList()
    tokens = len(turn.prompt_ids) + len(turn.tokens)
    return StoppingCriteriaList([MaxLengthCriteria(max_length=tokens)])


def _settings(turn: Turn) -> dict[str, Any]:
    """Return the recorded settings except those that change no token: time limit and chunks."""
    config = hf.recorded_config(turn.started.sampling)
    return {
        **{
            name: getattr(config, name)
            for name in turn.started.sampling
            if name not in ("max_time", "prefill_chunk_size")
        },
        "return_dict_in_generate": True,
        "output_logits": True,
    }


@contextmanager
def _no_defaults(model: Any) -> Iterator[None]:
    """Replace the model's own generation config, so that only recorded settings apply."""
    before = model.generation_config
    model.generation_config = hf.recorded_config({})
    try:
        yield
    finally:
        model.generation_config = before


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _first_difference(
    recorded: Sequence[int], replayed: Sequence[int], *, complete: bool
) -> int | None:
    """Return the first step with another token; an incomplete reply may be a mere beginning."""
    same = common_prefix_length(recorded, replayed)
    if same == len(recorded) and (same == len(replayed) or not complete):
        return None
    return same
