"""Verify a recording: one teacher-forced forward over the conversation checks every turn.

Two signals are compared, which show different faults: whether the sampler
would pick the recorded token (sampler, seed, tokens), and how far its log-probability is from the
recorded one (weights, prompt, dtype). The log-probability after the processors shows the sampler's
settings at every token; the pick shows them only at some.
"""

from collections.abc import Sequence
from typing import Unpack

from tokentape.generation import LoadedModel
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.recorder import Recording
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.plain_values import plain_number
from tokentape.replay.checking.check_turns import (
    CheckedTurn,
    Progress,
    check_turns,
    turn_verdict,
)
from tokentape.replay.checking.noise_floor import (
    DEFAULT_FLOOR,
    hides_faults,
    is_off_on_average,
    plausible,
    predict_flips,
)
from tokentape.replay.checking.teacher_forcing import CHUNK_TOKENS
from tokentape.replay.options import OPTION_DEFAULTS, CheckKeywords, CheckOptions, check_options
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.results.report import Floor, Report, TurnVerdict
from tokentape.replay.results.verdict import Verdict, worst
from tokentape.replay.session import Conclusion, ReplaySession


@lists_keywords(OPTION_DEFAULTS)
def verify(
    recording: Recording | LoadedRun,
    lm: LoadedModel,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    progress: Progress | None = None,
    **options: Unpack[CheckKeywords],
) -> Report:
    """Check every recorded token of a run against one forward of the model.

    `chunk_tokens` are forwarded at once; fewer need less memory. `progress` is called with the
    number of tokens checked so far and their total. The other keywords are the fields of
    `CheckOptions`: `turns`, `floor`, `ignore`, `tools`, `processors`, `interventions` and
    `on_fingerprint_difference`.

    Return a report; a divergence is data and raises nothing. Raise RecordingError if the events are
    damaged, ReplayError if they do not suffice to replay a turn, and NothingToReplayError if no
    token was recorded.

    Example:
        >>> import tokentape as tt
        >>> report = tt.verify(store.recording(run_id), lm)
        >>> report.verdict.value, len(report.turns)
        ('verified', 3)
        >>> tt.verify(store.recording(run_id), lm, turns=[2]).turns[0].turn
        2
    """
    chunk_tokens = plain_number(chunk_tokens)
    if not isinstance(chunk_tokens, int) or chunk_tokens < 1:
        raise ReplayError(f"chunk_tokens must be a positive number of tokens: {chunk_tokens!r}")
    chosen = check_options("verify", options)
    # A turn of another thread must not run between the forwards.
    with exclusive_use(lm.model):
        return _verified(recording, lm, chosen, chunk_tokens, progress)


def _verified(
    recording: Recording | LoadedRun,
    lm: LoadedModel,
    options: CheckOptions,
    chunk_tokens: int,
    progress: Progress | None,
) -> Report:
    session = ReplaySession.begin("verify", recording, lm, options)
    checked = check_turns(
        session.turns,
        lm,
        session.floor or DEFAULT_FLOOR,
        session.interventions,
        processors=session.options.processors,
        progress=progress,
        chunk_tokens=chunk_tokens,
    )
    return verified_report(session, checked)


def verified_report(session: ReplaySession, checked: Sequence[CheckedTurn]) -> Report:
    """Return the report on a session whose turns were checked."""
    verdicts = [turn_verdict(each) for each in checked]
    gaps = [token.pick_gap for each in checked for token in each.tokens]
    predicted = predict_flips(gaps, session.floor) if session.floor else 0.0
    conclusion = conclude_within_floor(session, verdicts, predicted)
    return session.report(
        checked,
        verdicts,
        conclusion,
        explain=conclusion.verdict is not Verdict.VERIFIED and not _rounded_turn(session),
        predicted_flips=predicted,
    )


def conclude_within_floor(
    session: ReplaySession, turns: Sequence[TurnVerdict], predicted: float
) -> Conclusion:
    """Return the verdict on the whole recording, where differences up to the floor are noise."""
    if session.obstacle:
        return Conclusion(verdict=Verdict.INCOMPARABLE, reason=session.obstacle)
    rounded = _rounded_turn(session)
    if rounded:
        reason = (
            f"turn {rounded} read a quantized KV cache, which one forward does not: use "
            "`tokentape retrace`"
        )
        return Conclusion(verdict=Verdict.INCOMPARABLE, reason=reason)
    if session.floor is None:
        reason = (
            f"no noise floor is known for this model in {session.run.started.dtype}: "
            "measure one with `tokentape calibrate`"
        )
        return Conclusion(verdict=Verdict.INCOMPARABLE, reason=reason)
    if session.contradictions:
        return Conclusion(verdict=Verdict.DIVERGED)
    verdict = worst([turn.verdict for turn in turns])
    if not verdict.passes:
        return Conclusion(verdict=verdict)
    flips = sum(turn.near_ties for turn in turns)
    if not plausible(flips, predicted):
        reason = f"{flips} near ties, {predicted:.2g} expected: too many for noise"
        return Conclusion(verdict=Verdict.DIVERGED, reason=reason)
    if hides_faults(session.floor):
        return _conclude_within_noise(turns, flips, predicted, session.floor)
    if verdict is Verdict.NEAR_TIE:
        reason = f"{flips} picks within the noise ({predicted:.2g} expected)"
    else:
        reason = "the sampler picks every recorded token, and log-probabilities agree"
    return Conclusion(verdict=verdict, reason=reason)


def _rounded_turn(session: ReplaySession) -> int | None:
    """Return the first turn whose cache rounded its keys and values, or None."""
    return next(
        (
            turn.number
            for turn in session.turns
            if turn.started.sampling.get("cache_implementation") == "quantized"
        ),
        None,
    )


def _conclude_within_noise(
    turns: Sequence[TurnVerdict], flips: int, predicted: float, floor: Floor
) -> Conclusion:
    """Return the verdict from averages, where the floor hides faults at single tokens."""
    differences = [each for turn in turns for each in turn.logprob_differences]
    mean = sum(differences) / len(differences)
    if is_off_on_average(differences, floor):
        reason = (
            f"log-probabilities differ by {mean:.2g} nats on average, where noise explains "
            f"{floor.logprob_noise:.2g}: weights, prompt or numerics changed"
        )
        return Conclusion(verdict=Verdict.DRIFTED, reason=reason)
    reason = (
        f"within the noise of {floor.dtype}: {flips} of {len(differences)} picks differ "
        f"({predicted:.2g} expected), log-probabilities by {mean:.2g} nats on average; changes "
        f"below {floor.logprob_floor:.2g} nats a token are hidden, so it is not called verified"
    )
    return Conclusion(verdict=Verdict.NEAR_TIE, reason=reason)
