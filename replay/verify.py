"""Verify a recording: one teacher-forced forward over the conversation checks every turn.

Two signals, each blind where the other sees: whether the sampler would pick the recorded token
(sampler, seed, tokens), and how far its log-probability is from the recorded one (weights,
prompt, dtype). The processed log-probability shows the sampler's settings at every token, where
the pick shows them only now and then.
"""

from collections.abc import Collection, Sequence

from tokentape.generation import LoadedModel
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder import Recording
from tokentape.replay.checking.check_turns import Progress, check_turns, turn_verdict
from tokentape.replay.checking.noise_floor import (
    DEFAULT_FLOOR,
    hides_faults,
    is_off_on_average,
    plausible,
    predict_flips,
)
from tokentape.replay.checking.teacher_forcing import CHUNK_TOKENS
from tokentape.replay.checking.turns import OwnProcessors
from tokentape.replay.errors import ReplayError
from tokentape.replay.session import Differing, Replay
from tokentape.replay.verdict import Cause, Floor, Report, TurnVerdict, Verdict, worst


def verify(
    recording: Recording,
    lm: LoadedModel,
    *,
    turns: Sequence[int] | None = None,
    floor: Floor | None = None,
    ignore: Collection[str] = (),
    tools: ToolInterface | None = None,
    processors: OwnProcessors | None = None,
    interventions: bool = True,
    chunk_tokens: int = CHUNK_TOKENS,
    progress: Progress | None = None,
    differing: Differing | None = None,
) -> Report:
    """Check every recorded token, or those of some turns, against one forward of the model.

    `floor` is the noise of this machine and model as `calibrate` measured it; float32 attention
    models have one without. Fingerprints to `ignore` are named in the report and forbid nothing.
    Tools are answered from the recording; those in `tools` are run again and compared as well.
    `processors` makes the caller's own logits processors anew for a turn that had any.
    `interventions=False` leaves out what was done inside the model. Of `chunk_tokens`, fewer take
    less memory.

    A divergence is in the report, not raised. Raises RecordingError for a recording that
    contradicts itself, ReplayError for turns that events cannot replay, and
    NothingToReplayError where no token was recorded.
    """
    if not isinstance(chunk_tokens, int) or chunk_tokens < 1:
        raise ReplayError(f"chunk_tokens is a number of tokens, at least one: {chunk_tokens!r}")
    replay = Replay.begin(
        "verify",
        recording,
        lm,
        turns=turns,
        floor=floor,
        ignore=ignore,
        interventions=interventions,
        processors=processors,
        differing=differing,
    )
    judged = check_turns(
        replay.turns,
        lm,
        replay.floor or DEFAULT_FLOOR,
        replay.interventions,
        processors=processors,
        progress=progress,
        chunk_tokens=chunk_tokens,
    )
    verdicts = [turn_verdict(each) for each in judged]
    gaps = [token.pick_gap for each in judged for token in each.tokens]
    predicted = predict_flips(gaps, replay.floor) if replay.floor else 0.0
    altered = replay.altered()
    verdict, reason = _conclude(replay, verdicts, altered, predicted)
    return replay.report(
        judged,
        verdicts,
        altered,
        verdict=verdict,
        reason=reason,
        explain=verdict is not Verdict.VERIFIED,
        predicted_flips=predicted,
        tools=tools,
    )


def _conclude(
    replay: Replay, turns: Sequence[TurnVerdict], altered: Sequence[Cause], predicted: float
) -> tuple[Verdict, str]:
    """The verdict on the whole recording, and its reason where no cause is to tell it."""
    if replay.forbidden:
        return Verdict.INCOMPARABLE, replay.forbidden
    if replay.floor is None:
        return Verdict.INCOMPARABLE, (
            f"no noise floor is known for this model in {replay.recording.started().dtype}: "
            "measure one with `tokentape calibrate`"
        )
    if altered:
        return Verdict.DIVERGED, ""
    verdict = worst([turn.verdict for turn in turns])
    if not verdict.passes:
        return verdict, ""
    flips = sum(turn.near_ties for turn in turns)
    if not plausible(flips, predicted):
        return Verdict.DIVERGED, f"{flips} near ties, {predicted:.2g} expected: too many for noise"
    if hides_faults(replay.floor):
        return _conclude_in_noise(turns, flips, predicted, replay.floor)
    if verdict is Verdict.NEAR_TIE:
        return verdict, f"{flips} picks within the noise ({predicted:.2g} expected)"
    return verdict, "every token is the one that is picked, log-probabilities agree"


def _conclude_in_noise(
    turns: Sequence[TurnVerdict], flips: int, predicted: float, floor: Floor
) -> tuple[Verdict, str]:
    """Where the floor hides faults, averages are all that can be vouched for."""
    differences = [each for turn in turns for each in turn.logprob_differences]
    mean = sum(differences) / len(differences)
    if is_off_on_average(differences, floor):
        return Verdict.DRIFTED, (
            f"log-probabilities are off by {mean:.2g} nats on average, where noise makes "
            f"{floor.logprob_noise:.2g}: weights, prompt or numerics changed"
        )
    return Verdict.NEAR_TIE, (
        f"within the noise of {floor.dtype}: {flips} of {len(differences)} picks differ "
        f"({predicted:.2g} expected), log-probabilities by {mean:.2g} nats on average; changes "
        f"below {floor.logprob_floor:.2g} nats a token are hidden, so it is not called verified"
    )
