"""The cause of other picks, or another end of the random stream, where the model agrees."""

from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.causes.prompts import contradicted_ids
from tokentape.replay.causes.rng_shift import StreamShift, find_shift
from tokentape.replay.causes.sampler_fit import SettingFit, fit_setting
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.results.report import Cause, Floor
from tokentape.replay.results.verdict import CauseKind, DivergenceKind

EXPLAINS = "explains the turn"
"""In the sentence of a setting that was found."""
READ_IDS = "the ids of the prompt that its penalties read"
"""In the sentence of a cause that need not be the settings."""
_HISTORY = ("repetition_penalty", "no_repeat_ngram_size", "encoder_repetition_penalty")
_TOKENS_MIN = 8
_ENTROPY_MIN = 10.0
"""Nats of a turn: tokens of less entropy may be those of another seed, too."""


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
        if shift is None and ended and not steps:
            name, sentence = _cause_of_end_state(checked)
            return Cause(name=name, sentence=f"{place}: {sentence}", turn=number)
        if shift != StreamShift() and ended:
            name, sentence = _cause_of_stream(checked, shift)
            return Cause(name=name, sentence=f"{place}: {sentence}", turn=number, step=step)
    fit = fit_setting(checked, evidence.lm, floor)
    if fit is None and _is_one_number(checked):
        sentence = (
            f"{place}: its log-probability after the processors differs, as that of no other token "
            "of the turn: no setting explains it, and the recorded number may have been changed"
        )
        return Cause(name=CauseKind.UNKNOWN, sentence=sentence, turn=number, step=step)
    sentence = f"{place}: the model agrees, the sampler does not: sampling settings changed"
    if fit is None and _reads_history(checked):
        contradicted = contradicted_ids(evidence.run, checked.turn, evidence.lm.tokenizer)
        if contradicted and not evidence.differs("tokenizer"):
            sentence = f"{place}: the model agrees, penalties of ids do not: {contradicted}"
            return Cause(name=CauseKind.PROMPT, sentence=sentence, turn=number, step=step)
        sentence += f", or {READ_IDS}"
    return Cause(name=CauseKind.SAMPLER, sentence=sentence + _fit_text(fit), turn=number, step=step)


def _reads_history(checked: CheckedTurn) -> bool:
    """Return whether a setting of the turn depends on the ids of its prompt."""
    sampling = checked.turn.started.sampling
    return any(sampling.get(name) not in (None, 0, 1) for name in _HISTORY)


def _is_one_number(checked: CheckedTurn) -> bool:
    """Return whether all tokens are picked as recorded, and one number of many is not."""
    steps = checked.wrong_steps
    return (
        len(steps) == 1
        and checked.tokens[steps[0]].kind is DivergenceKind.SAMPLER
        and len(checked.tokens) >= _TOKENS_MIN
    )


def _cause_of_end_state(checked: CheckedTurn) -> tuple[CauseKind, str]:
    """Return the cause of an end state that no near stream has, where every pick is the seed's."""
    entropy = sum(each.entropy for each in checked.turn.tokens)
    sentence = "the seed picks every recorded token, and does not lead to the recorded end state"
    if entropy >= _ENTROPY_MIN:
        return CauseKind.RECORDING, f"{sentence}: the recorded state was changed"
    return CauseKind.UNKNOWN, f"{sentence}: other seeds would pick these tokens, too"


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
    return f"; {fit.setting} {fit.explains:g} {EXPLAINS}, {recorded} is recorded"
