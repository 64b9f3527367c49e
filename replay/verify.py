"""Verify a recording: one teacher-forced forward over the conversation checks every turn.

Two signals, each blind where the other sees: whether the sampler would pick the recorded token
(sampler, seed, tokens), and how far its log-probability is from the recorded one (weights,
prompt, dtype). The processed log-probability shows the sampler's settings at every token, where
the pick shows them only now and then.
"""

import time
from collections.abc import Callable, Collection, Sequence

from generation import LoadedModel
from generation.checks import refuse_training
from generation.tools import ToolInterface
from recorder import Recording
from replay.alterations import find_alterations
from replay.causes import Evidence, find_causes
from replay.compare import compare_fingerprints, repro_line
from replay.errors import ReplayError
from replay.floor import (
    YARDSTICK,
    floor_of,
    hides_faults,
    is_off_on_average,
    plausible,
    predict_flips,
)
from replay.forward import CHUNK_TOKENS
from replay.judging import Progress, judge_turns, turn_verdict
from replay.tool_results import rerun_tools, with_drifts
from replay.turns import OwnProcessors, choose_turns, refuse_unknown_ids
from replay.verdict import Cause, FieldDifference, Floor, Report, TurnVerdict, Verdict, worst

Differing = Callable[[Sequence[FieldDifference]], None]
"""Called with the fingerprints that differ, before the model runs."""


def verify(
    recording: Recording,
    lm: LoadedModel,
    *,
    turns: Sequence[int] | None = None,
    floor: Floor | None = None,
    ignore: Collection[str] = (),
    tools: ToolInterface | None = None,
    processors: OwnProcessors | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    progress: Progress | None = None,
    differing: Differing | None = None,
) -> Report:
    """Check every recorded token, or those of some turns, against one forward of the model.

    `floor` is the noise of this machine and model as `calibrate` measured it; float32 attention
    models have one without. Fingerprints to `ignore` are named in the report and forbid nothing.
    Tools are answered from the recording; those in `tools` are run again and compared as well.
    `processors` makes the caller's own logits processors anew for a turn that had any. Of
    `chunk_tokens`, fewer take less memory.

    A divergence is in the report, not raised. Raises RecordingError for a recording that
    contradicts itself, ReplayError for turns that events cannot replay, and
    NothingToReplayError where no token was recorded.
    """
    began = time.perf_counter()
    refuse_training(lm.model)
    if not isinstance(chunk_tokens, int) or chunk_tokens < 1:
        raise ReplayError(f"chunk_tokens is a number of tokens, at least one: {chunk_tokens!r}")
    started = recording.started()
    chosen = choose_turns(recording, turns, processors)
    sampled = any(turn.started.seed is not None for turn in chosen)
    differences = compare_fingerprints(recording, lm, sampled=sampled, ignore=ignore)
    if differing is not None:
        differing(differences)
    known_floor = floor_of(lm, started.dtype, floor)
    yardstick = known_floor or YARDSTICK
    refuse_unknown_ids(chosen, lm)
    judged = judge_turns(
        chosen,
        lm,
        yardstick,
        processors=processors,
        progress=progress,
        chunk_tokens=chunk_tokens,
    )
    verdicts = tuple(turn_verdict(each) for each in judged)
    divergences = tuple(divergence for each in judged for divergence in each.divergences)
    gaps = [token.pick_gap for each in judged for token in each.tokens]
    predicted = predict_flips(gaps, known_floor) if known_floor else 0.0
    same_tokenizer = not any(each.field == "tokenizer" for each in differences)
    altered = find_alterations(recording, chosen, lm.tokenizer if same_tokenizer else None)
    verdict, reason = conclude(
        verdicts, differences, altered, predicted, known_floor, started.dtype
    )
    causes: tuple[Cause, ...] = ()
    if verdict is not Verdict.VERIFIED or differences:
        evidence = Evidence(
            recording=recording,
            lm=lm,
            turns=judged,
            differences=differences,
            altered=altered,
            floor=known_floor,
        )
        causes = find_causes(evidence)
    first_turn = divergences[0].turn if divergences else chosen[0].number
    report = Report(
        replay="verify",
        run_id=recording.run_id,
        name=started.name,
        model=lm.name,
        verdict=verdict,
        reason=reason or (causes[0].sentence if causes else "the numbers do not agree"),
        causes=causes,
        turns=verdicts,
        divergences=divergences,
        differences=differences,
        altered=tuple(each.sentence for each in altered),
        floor=known_floor,
        predicted_flips=predicted,
        duration_ms=(time.perf_counter() - began) * 1000.0,
        generation_ms=sum(turn.finished.duration_ms for turn in chosen if turn.finished),
        repro=repro_line("verify", recording, lm, first_turn),
    )
    if tools is None:
        return report
    return with_drifts(report, rerun_tools(recording, tools, turns=[t.number for t in chosen]))


def conclude(
    turns: Sequence[TurnVerdict],
    differences: Sequence[FieldDifference],
    altered: Sequence[Cause],
    predicted: float,
    floor: Floor | None,
    dtype: str,
) -> tuple[Verdict, str]:
    """The verdict on the whole recording, and its reason where no cause is to tell it."""
    forbidding = [each.field for each in differences if each.forbids and not each.ignored]
    if forbidding:
        return Verdict.INCOMPARABLE, f"not what was recorded: {', '.join(forbidding)}"
    if floor is None:
        return Verdict.INCOMPARABLE, (
            f"no noise floor is known for this model in {dtype}: measure one with "
            "`tokentape calibrate`"
        )
    if altered:
        return Verdict.DIVERGED, ""
    verdict = worst([turn.verdict for turn in turns])
    if not verdict.passes:
        return verdict, ""
    flips = sum(turn.near_ties for turn in turns)
    if not plausible(flips, predicted):
        return Verdict.DIVERGED, f"{flips} near ties, {predicted:.2g} expected: too many for noise"
    if hides_faults(floor):
        return _conclude_in_noise(turns, flips, predicted, floor)
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
