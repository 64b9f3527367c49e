"""Retrace a recording: every forward again along its schedule, compared bit for bit.

The last bits of a forward depend on its shapes, on how its cache was filled, and on the machine.
Events hold the first two: the lengths of the prefills, the cache decisions, and single steps for
the tokens of replies. So a retrace computes what the recording process computed, and no noise has
to be allowed for, in 16 bits neither.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from tokentape.generation import LoadedModel
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.recorder import Recording
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.check_turns import Progress
from tokentape.replay.checking.machine import FLAG_NAMES, is_set_as_recorded
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR, predict_flips
from tokentape.replay.options import OPTION_DEFAULTS, CheckKeywords, CheckOptions, check_options
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.results.report import Cause, Floor, Report
from tokentape.replay.results.row_difference import RowDifference
from tokentape.replay.results.verdict import CauseKind, Verdict, worst
from tokentape.replay.retracing.retracer import Retracer, Unrepeatable
from tokentape.replay.retracing.round_comparison import RetracedRound
from tokentape.replay.retracing.schedule import schedule_of, steps_to_retrace
from tokentape.replay.session import Conclusion, ReplaySession
from tokentape.replay.verify import conclude_within_floor


def no_noise(dtype: str) -> Floor:
    """Return the floor on the machine that recorded: what differs above it is no rounding.

    A difference below it is found too, by its bits; these numbers only tell the causes apart.
    """
    return Floor(
        version="no-noise",
        dtype=dtype,
        margin_eps=1e-4,
        logprob_floor=1e-5,
        margin_noise=0.0,
        logprob_noise=0.0,
        tokens=0,
        measured_on="the machine that recorded",
    )


@lists_keywords(OPTION_DEFAULTS)
def retrace(
    recording: Recording | LoadedRun,
    lm: LoadedModel,
    *,
    progress: Progress | None = None,
    **options: Unpack[CheckKeywords],
) -> Report:
    """Run every forward of a run again along its schedule, and compare every number.

    Prefills have the recorded lengths, the cache is reused, cut and cleared as recorded, and the
    recorded tokens are forwarded one at a time whatever the sampler now picks. Threads, flags of
    torch, attention kernel and active adapters are set as recorded, and restored afterwards.
    The verdict is `exact` if all log-probabilities, entropies, gaps, top tokens, picks, stops and
    end states of random generators are equal bit for bit. Else rows say which numbers differ, and
    the verdict and the causes are those of `verify`. Nothing is recorded, and torch's global random
    state is not used. `turns` compares only these; forwards that they depend on are run as well.
    `progress`, the other keywords and the errors are those of `verify`; raise ReplayError also for
    a turn with a time limit or with stopping criteria of the user's own.

    Example:
        >>> import tokentape as tt
        >>> report = tt.retrace(store.recording(run_id), lm)
        >>> report.verdict.value, sum(turn.differing_rows for turn in report.turns)
        ('exact', 0)
    """
    chosen = check_options("retrace", options)
    run = load_run(recording)
    if run.only_turns is not None:
        raise ReplayError("a retrace needs the whole run: load it without turns")
    with exclusive_use(lm.model):
        return _retraced(run, lm, chosen, progress)


def _retraced(
    run: LoadedRun, lm: LoadedModel, options: CheckOptions, progress: Progress | None
) -> Report:
    session = ReplaySession.begin(
        "retrace", run, lm, options, restores=lambda each: is_set_as_recorded(each, lm)
    )
    _check_can_be_retraced(session)
    retracer = Retracer(
        run,
        lm,
        session.interventions,
        same_machine_floor=no_noise(run.started.dtype),
        other_machine_floor=session.floor or DEFAULT_FLOOR,
        processors=options.processors,
    )
    steps = steps_to_retrace(schedule_of(run), {turn.number for turn in session.turns})
    total, done = sum(len(turn.tokens) for turn in session.turns), 0
    rounds: list[RetracedRound] = []
    for each in retracer.rounds(steps, session.turns):
        rounds.append(each)
        done += len(each.checked.tokens)
        if progress is not None:
            progress(done, total)
    kept = tuple(
        each
        for each in session.differences
        if each.field not in FLAG_NAMES or each.field in retracer.machine_differences
    )
    return _report(replace(session, differences=kept), rounds, retracer.unrepeatable)


def clock_obstacle(turn: Turn) -> str:
    """Return why a turn cannot be retraced although it can be verified; empty if it can."""
    if "max_time" not in turn.started.unreplayable:
        return ""
    return (
        f"turn {turn.number} was generated with max_time: where the clock stops a reply cannot be "
        "retraced; `verify` checks its tokens"
    )


def _check_can_be_retraced(session: ReplaySession) -> None:
    """Raise ReplayError for a turn that the clock may have stopped."""
    for turn in session.turns:
        obstacle = clock_obstacle(turn)
        if obstacle:
            raise ReplayError(obstacle)


def _report(
    session: ReplaySession, rounds: Sequence[RetracedRound], unrepeatable: Sequence[Unrepeatable]
) -> Report:
    same_machine = all(each.same_machine for each in rounds)
    if same_machine:
        session = replace(session, floor=no_noise(session.run.started.dtype))
    gaps = [token.pick_gap for each in rounds for token in each.checked.tokens]
    predicted = predict_flips(gaps, session.floor) if session.floor else 0.0
    conclusion = _conclude(session, rounds, predicted)
    rows = [row for each in rounds for row in each.differences]
    return session.report(
        [each.checked for each in rounds],
        [each.verdict for each in rounds],
        conclusion,
        explain=conclusion.verdict is not Verdict.EXACT,
        predicted_flips=predicted,
        rows=rows,
        known_causes=_causes_of_schedule(rounds, unrepeatable),
        fallback=_cause_of_rows(rows, same_machine=same_machine),
    )


def _conclude(
    session: ReplaySession, rounds: Sequence[RetracedRound], predicted: float
) -> Conclusion:
    """Return the verdict on the whole recording."""
    verdicts = [each.verdict for each in rounds]
    differing = [each for each in rounds if not each.is_exact]
    if any(not each.same_machine for each in differing):
        return conclude_within_floor(session, verdicts, predicted)
    if session.obstacle:
        return Conclusion(verdict=Verdict.INCOMPARABLE, reason=session.obstacle)
    if session.contradictions:
        return Conclusion(verdict=Verdict.DIVERGED)
    if differing:
        return Conclusion(verdict=worst([each.verdict for each in verdicts]))
    tokens = sum(each.tokens for each in verdicts)
    reason = f"every recorded number of {tokens:,} tokens is equal, bit for bit"
    return Conclusion(verdict=Verdict.EXACT, reason=reason)


def _causes_of_schedule(
    rounds: Sequence[RetracedRound], unrepeatable: Sequence[Unrepeatable]
) -> tuple[Cause, ...]:
    """Return the cause of rows that differ after states whose forwards are not recorded."""
    first = next((each for each in rounds if each.differences), None)
    if first is None or not unrepeatable:
        return ()
    turn = first.differences[0].turn
    due = [each for each in unrepeatable if each.turn <= turn]
    if not due:
        return ()
    each = due[-1]
    sentence = (
        f"turn {turn}: {each.tokens:,} cached tokens came from {each.origin}, and no event says in "
        "which forwards they were computed"
    )
    return (Cause(name=CauseKind.SCHEDULE, sentence=sentence, turn=turn),)


def _cause_of_rows(rows: Sequence[RowDifference], *, same_machine: bool) -> Cause | None:
    """Return what the rows themselves show, for differences that nothing else explains.

    Another machine explains the last bits; on the one that recorded, nothing does.
    """
    if not rows:
        return None
    first, ulps = rows[0], max(each.ulps_max for each in rows)
    nats = max(each.nats_max for each in rows)
    sentence = (
        f"turn {first.turn}, token {first.step}: from this token on, {len(rows):,} rows differ by "
        f"at most {ulps:,} units in the last place ({nats:.2g} nats): model, prompt, numerics or a "
        "recorded number changed, and nothing that is recorded says which"
    )
    kind = CauseKind.UNKNOWN if same_machine else CauseKind.NUMERICS
    return Cause(name=kind, sentence=sentence, turn=first.turn, step=first.step)
