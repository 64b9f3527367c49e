"""The cause of other picks, or another end of the random stream, where the model agrees."""

from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.causes.rng_shift import StreamShift, find_shift
from tokentape.replay.causes.sampler_fit import SettingFit, fit_setting
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.results.report import Cause, Floor
from tokentape.replay.results.verdict import CauseKind


def cause_of_sampler(evidence: Evidence, checked: CheckedTurn, floor: Floor) -> Cause:
    """Return the cause for a turn whose sampler differs: seed, draws, or a setting.

    Where this torch or this device draws other numbers than the recorded one, the numbers of a
    sampled turn say nothing of seed and settings.
    """
    number, steps = checked.turn.number, checked.wrong_steps
    step = checked.turn.first_step + steps[0] if steps else None
    place = f"turn {number}" + ("" if step is None else f", token {step}")
    sampled = checked.turn.started.seed is not None
    if sampled and (evidence.differs("random_stream") or evidence.differs("device")):
        sentence = f"{place}: other random numbers are drawn from the recorded seed here"
        return Cause(name=CauseKind.RANDOM_STREAM, sentence=sentence, turn=number, step=step)
    if checked.generator_matches is not True and checked.turn.started.seed is not None:
        vocabulary = evidence.lm.model.get_input_embeddings().num_embeddings
        shift = find_shift(checked.turn, vocabulary, evidence.lm.model.device)
        ended = checked.turn.finished is not None
        if shift != StreamShift() and ended:
            name, sentence = _cause_of_stream(checked, shift)
            return Cause(name=name, sentence=f"{place}: {sentence}", turn=number, step=step)
    fit = fit_setting(checked, evidence.lm, floor)
    sentence = f"{place}: the model agrees, the sampler does not: sampling settings changed"
    return Cause(name=CauseKind.SAMPLER, sentence=sentence + _fit_text(fit), turn=number, step=step)


def _cause_of_stream(checked: CheckedTurn, shift: StreamShift | None) -> tuple[CauseKind, str]:
    seed = checked.turn.started.seed or 0
    if shift is not None and not shift.seed_offset:
        count, unit = shift.draws or shift.exponentials, "draw" if shift.draws else "number"
        plural = "s" if abs(count) > 1 else ""
        shifted = f"{abs(count)} {unit}{plural} {'lost' if count < 0 else 'too many'}"
        return CauseKind.DRAWS, f"the random stream is shifted from this token on: {shifted}"
    sentence = "the seed does not lead to the recorded end state: seed changed"
    if shift is not None:
        sentence += f"; {seed + shift.seed_offset} leads there, {seed} is recorded"
    return CauseKind.SEED, sentence


def _fit_text(fit: SettingFit | None) -> str:
    if fit is None:
        return ""
    recorded = "none" if fit.recorded is None else f"{fit.recorded:g}"
    return f"; {fit.setting} {fit.explains:g} explains the turn, {recorded} is recorded"
