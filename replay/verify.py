"""Verify a recording: one teacher-forced forward over the conversation checks every turn.

Two signals, each blind where the other sees: whether the sampler would pick the recorded token
(sampler, seed, tokens), and how far its log-probability is from the recorded one (weights,
prompt, dtype). The processed log-probability shows the sampler's settings at every token, where
the pick shows them only now and then.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from generation import LoadedModel, hf
from generation.checks import refuse_training
from generation.history.conversation import decode_after
from recorder import Recording, RecordingError
from recorder.projections import Turn
from recorder.redaction import REDACTED
from replay.compare import compare_fingerprints, repro_line
from replay.errors import NothingToReplayError, ReplayError
from replay.floor import FLOORS, floor_of, plausible, predict_flips
from replay.forward import teacher_forced_logits
from replay.judge import Judgement, TurnJudge, describe_divergence
from replay.rebuild import find_altered
from replay.verdict import Divergence, FieldDifference, Floor, Report, TurnVerdict, Verdict, worst

Progress = Callable[[int, int], None]
"""Called with the tokens judged so far and their total."""

_MISMATCHES = ("token", "filtered")


@dataclass(frozen=True, slots=True)
class _Judged:
    turn: Turn
    tokens: list[Judgement]
    generator_matches: bool | None
    stop_matches: bool | None


def verify(
    recording: Recording,
    lm: LoadedModel,
    *,
    turns: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check every recorded token, or those of some turns, against one forward of the model.

    A divergence is in the report, not raised. Raises RecordingError for a recording that
    contradicts itself, ReplayError for turns that events cannot replay, and
    NothingToReplayError where no token was recorded.
    """
    began = time.perf_counter()
    refuse_training(lm.model)
    started = recording.started()
    chosen = choose_turns(recording, turns)
    sampled = any(turn.started.seed is not None for turn in chosen)
    differences = compare_fingerprints(started, lm, sampled=sampled)
    floor = floor_of(lm.model, started.dtype)
    refuse_unknown_ids(chosen, lm)
    judged, divergences = _judge_all(chosen, lm, floor or FLOORS["float32"], progress)
    verdicts = tuple(_judge_turn(each) for each in judged)
    gaps = [token.pick_gap for each in judged for token in each.tokens]
    predicted = predict_flips(gaps, floor) if floor else 0.0
    altered, texts = find_altered(recording), tuple(_altered_texts(chosen, lm, differences))
    verdict, reason = _conclude(verdicts, differences, altered, predicted, floor, started.dtype)
    if not reason:
        reason = explain(verdicts, divergences, floor or FLOORS["float32"])
    if texts and verdict.passes:
        verdict, reason = Verdict.DIVERGED, texts[0]
    first_turn = divergences[0].turn if divergences else chosen[0].number
    return Report(
        replay="verify",
        run_id=recording.run_id,
        name=started.name,
        model=lm.name,
        verdict=verdict,
        reason=reason,
        causes=(),
        turns=verdicts,
        divergences=tuple(divergences),
        differences=differences,
        altered=(*altered, *texts),
        floor=floor,
        predicted_flips=predicted,
        duration_ms=(time.perf_counter() - began) * 1000.0,
        generation_ms=sum(turn.finished.duration_ms for turn in chosen if turn.finished),
        repro=repro_line("verify", recording, lm, first_turn),
    )


def choose_turns(recording: Recording, numbers: Sequence[int] | None) -> list[Turn]:
    """The turns that hold tokens, or those asked for. Raises NothingToReplayError."""
    every = [turn for turn in recording.turns() if turn.tokens]
    chosen = [turn for turn in every if numbers is None or turn.number in numbers]
    missing = sorted(set(numbers or ()) - {turn.number for turn in chosen})
    if missing:
        raise NothingToReplayError(f"run {recording.run_id} has no turn {missing[0]} with tokens")
    if not chosen:
        raise NothingToReplayError(f"run {recording.run_id} has no token to replay")
    if any(REDACTED in turn.started.unreplayable for turn in chosen):
        raise NothingToReplayError(
            f"run {recording.run_id} was redacted: the ids that the model saw were not kept"
        )
    for turn in chosen:
        own = [name for name in turn.started.unreplayable if name != "max_time"]
        if own:
            raise ReplayError(
                f"turn {turn.number} was generated with {', '.join(own)}, which no event rebuilds"
            )
    return chosen


def refuse_unknown_ids(turns: Sequence[Turn], lm: LoadedModel) -> None:
    """Raise RecordingError for ids that the model cannot read."""
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    for turn in turns:
        highest = max((*turn.prompt_ids, *turn.reply_ids))
        if highest >= vocabulary:
            raise RecordingError(
                f"turn {turn.number} holds token {highest}, and the model has {vocabulary}: "
                "this is another model, or the recording is altered"
            )


def _altered_texts(
    turns: Sequence[Turn], lm: LoadedModel, differences: Sequence[FieldDifference]
) -> Iterator[str]:
    """Replies whose text is not what their ids spell, where the tokenizer is the recorded one."""
    if any(each.field == "tokenizer" for each in differences):
        return
    for turn in turns:
        if turn.finished is not None:
            recorded = turn.finished.text + turn.finished.stop_text
            if recorded != decode_after(lm.tokenizer, turn.prompt_ids, turn.reply_ids):
                yield f"turn {turn.number}: the text of the reply is not what its ids spell"


def _branches(turns: Sequence[Turn], *, alone: bool) -> Iterator[list[Turn]]:
    """Turns of which each continues the one before: they share a forward.

    A history that was written anew begins another branch. Turns stay `alone` for a model to which
    a prefix is not the same in a longer sequence.
    """
    branch: list[Turn] = []
    stream: tuple[int, ...] = ()
    for turn in turns:
        if branch and (alone or turn.prompt_ids[: len(stream)] != stream):
            yield branch
            branch = []
        branch.append(turn)
        stream = (*turn.prompt_ids, *turn.reply_ids)
    if branch:
        yield branch


def _judge_all(
    turns: Sequence[Turn], lm: LoadedModel, floor: Floor, progress: Progress | None
) -> tuple[list[_Judged], list[Divergence]]:
    total = sum(len(turn.tokens) for turn in turns)
    judged: list[_Judged] = []
    divergences: list[Divergence] = []
    done = 0
    for branch in _branches(turns, alone=hf.prefix_obstacle(lm.model) is not None):
        last = branch[-1]
        rows = [
            len(turn.prompt_ids) + step - 1 for turn in branch for step in range(len(turn.tokens))
        ]
        logits_of_rows = teacher_forced_logits(lm.model, (*last.prompt_ids, *last.reply_ids), rows)
        for turn in branch:
            judge = TurnJudge(turn, lm, floor)
            tokens = []
            for step in range(len(turn.tokens)):
                _, logits = next(logits_of_rows)
                token = judge.judge(step, logits)
                tokens.append(token)
                if token.kind:
                    divergences.append(describe_divergence(token, turn, step, logits, lm.tokenizer))
                done += 1
                if progress is not None:
                    progress(done, total)
            judged.append(
                _Judged(turn, tokens, judge.end_state_matches(), judge.stops_as_recorded())
            )
    return judged, divergences


def _judge_turn(judged: _Judged) -> TurnVerdict:
    kinds = [token.kind for token in judged.tokens]
    differences = [token.logprob_difference for token in judged.tokens]
    mismatches = sum(kind in _MISMATCHES for kind in kinds)
    contradicted = judged.generator_matches is False or judged.stop_matches is False
    if mismatches or "sampler" in kinds or contradicted:
        verdict = Verdict.DIVERGED
    elif "logprob" in kinds:
        verdict = Verdict.DRIFTED
    else:
        verdict = Verdict.NEAR_TIE if "near_tie" in kinds else Verdict.VERIFIED
    return TurnVerdict(
        turn=judged.turn.number,
        verdict=verdict,
        tokens=len(kinds),
        sampled=judged.turn.started.seed is not None,
        mismatches=mismatches,
        near_ties=kinds.count("near_tie"),
        margin_max=max((token.margin or 0.0 for token in judged.tokens), default=0.0),
        logprob_difference_max=max(differences),
        logprob_difference_mean=sum(differences) / len(differences),
        processed_difference_max=max(token.processed_difference or 0.0 for token in judged.tokens),
        generator_matches=judged.generator_matches,
        stop_matches=judged.stop_matches,
        logprob_differences=tuple(differences),
        margins=tuple(token.margin for token in judged.tokens),
    )


def _conclude(
    turns: Sequence[TurnVerdict],
    differences: Sequence[FieldDifference],
    altered: Sequence[str],
    predicted: float,
    floor: Floor | None,
    dtype: str,
) -> tuple[Verdict, str]:
    """The verdict on the whole recording, and its reason where the turns do not tell it."""
    forbidding = [each.field for each in differences if each.forbids]
    if forbidding:
        return Verdict.INCOMPARABLE, f"not what was recorded: {', '.join(forbidding)}"
    if floor is None:
        return Verdict.INCOMPARABLE, f"no noise floor is known for this model in {dtype}"
    if altered:
        return Verdict.DIVERGED, altered[0]
    verdict = worst([turn.verdict for turn in turns])
    if verdict is Verdict.VERIFIED:
        return verdict, "every token is the one that is picked, log-probabilities agree"
    if verdict is Verdict.NEAR_TIE:
        flips = sum(turn.near_ties for turn in turns)
        if plausible(flips, predicted):
            return verdict, f"{flips} picks within the noise ({predicted:.2g} expected)"
        return Verdict.DIVERGED, f"{flips} near ties, {predicted:.2g} expected: too many for noise"
    return verdict, ""


def explain(turns: Sequence[TurnVerdict], divergences: Sequence[Divergence], floor: Floor) -> str:
    """The likely cause, read off the first divergence, and the turn it is in."""
    seeds = [turn.turn for turn in turns if turn.generator_matches is False]
    first = next((each for each in divergences if each.kind != "near_tie"), None)
    if seeds and (first is None or seeds[0] <= first.turn):
        return f"turn {seeds[0]}: the seed does not lead to the recorded end state: seed changed"
    stops = [turn.turn for turn in turns if turn.stop_matches is False]
    if stops and (first is None or stops[0] < first.turn):
        return f"turn {stops[0]}: its settings do not stop it where, or why, it stopped"
    if first is None:
        return ""
    place = f"turn {first.turn}, token {first.step}"
    if first.kind == "logprob":
        return f"{place}: log-probabilities differ from there on: weights or prompt changed"
    if first.logprob_difference > floor.logprob_floor:
        return f"{place}: not what the model said there: the token was altered"
    return f"{place}: the model agrees, the sampler does not: sampling settings changed"
