"""Why the two sides differ: the likely causes, each with where it shows first.

Told apart by what each signal sees. Other weights, prompts and types of numbers move
log-probabilities; another sampler or random stream leaves these as they are and picks other
tokens; a token that was tampered with is one that the model did not say, on an unmoved row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tokentape.generation import LoadedModel
from tokentape.recorder import Recording
from tokentape.recorder.projections import ActiveRange
from tokentape.replay.causes.prompts import encoded_otherwise, rendered_otherwise, spelled_otherwise
from tokentape.replay.causes.rng_shift import StreamShift, find_shift
from tokentape.replay.causes.sampler_fit import SettingFit, fit_setting
from tokentape.replay.checking.check_turns import MISMATCHES, CheckedTurn
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.teacher_forcing import teacher_forced_logits
from tokentape.replay.verdict import Cause, Divergence, FieldDifference, Floor

# Of the model's own numbers, but not of its size: differences as kernels and processors make them.
_NUMERICS_FACTOR = 30.0
_NUMERIC_FIELDS = (
    "attention_kernel",
    "threads",
    "torch",
    "transformers",
    "machine",
    "cpu_capability",
    "cuda",
    "gpu",
)
# A token that the model did not say is off by more, among candidates that are off by less; these
# are recorded in half precision.
_TAMPERED_NATS = 0.05
_CANDIDATE_NATS = 0.02
_INTERVENTIONS_TRIED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a replay has seen. Without a `floor` the numbers are no evidence: all may be noise."""

    recording: Recording
    lm: LoadedModel
    turns: Sequence[CheckedTurn]
    differences: Sequence[FieldDifference]
    altered: Sequence[Cause]
    floor: Floor | None
    interventions: Interventions

    def differs(self, field: str) -> bool:
        return any(each.field == field for each in self.differences)


def find_causes(seen: Evidence) -> tuple[Cause, ...]:
    """The causes in order: fingerprints, contradictions, what the numbers show, broken seals.

    Empty where nothing is to be explained. Of turns that show the same, the first is named.
    """
    # A reply that does not spell its text, and a broken seal, follow from what the numbers show.
    following = [each for each in seen.altered if each.name in ("text", "seal")]
    found = [*_of_fingerprints(seen), *(each for each in seen.altered if each not in following)]
    for cause in _of_numbers(seen):
        same = next((each for each in found if each.name == cause.name), None)
        if same is None:
            found.append(cause)
        else:
            place = replace(same, turn=cause.turn, step=cause.step)
            found[found.index(same)] = place
    if seen.floor and not found and any(token.kind for turn in seen.turns for token in turn.tokens):
        found.append(_of_near_ties(seen))
    return (*found, *following)


def _of_numbers(seen: Evidence) -> list[Cause]:
    """What the model's numbers, the sampler's picks and the ends of turns show, by turn."""
    floor = seen.floor
    if floor is None:
        return []
    drifting = next((each for each in seen.turns if each.is_drifting(floor)), None)
    off = next((each for each in seen.turns if each.is_off_the_sampler(floor)), None)
    stopping = next((each for each in seen.turns if each.stop_matches is False), None)
    found = [] if drifting is None else [_of_drift(seen, drifting, floor.logprob_floor)]
    if off is not None:
        found.append(_of_sampler(seen, off, floor))
    if stopping is not None and stopping not in (drifting, off):
        found.append(_of_stop(stopping))
    return sorted(found, key=lambda cause: cause.turn or 0)


def _of_fingerprints(seen: Evidence) -> list[Cause]:
    found = []
    for each in seen.differences:
        if not each.forbids:
            continue
        detail = each.detail
        if each.field == "template":
            detail = detail or rendered_otherwise(seen.recording, seen.lm.tokenizer)
        if each.field == "tokenizer":
            detail = detail or encoded_otherwise(seen.recording, seen.lm.tokenizer)
        found.append(
            Cause(name=each.field, sentence=_named(each) + (f": {detail}" if detail else ""))
        )
    return found


def _named(difference: FieldDifference) -> str:
    if difference.field in ("device", "dtype"):
        return f"the {difference.field} is {difference.replayed}, and it was {difference.recorded}"
    sentences = {
        "weights": "the weights are not those that were recorded",
        "tokenizer": "the tokenizer is not the one that was recorded",
        "template": "the chat template is not the one that was recorded",
        "random_stream": "this torch draws other random numbers than the one that recorded",
    }
    return sentences[difference.field]


def _of_drift(seen: Evidence, turn: CheckedTurn, floor: float) -> Cause:
    place_in_part = next(i for i, each in enumerate(turn.differences) if each > floor)
    number, step = turn.turn.number, turn.turn.first_step + place_in_part
    place = f"turn {number}, token {step}"
    differ = f"{place}: log-probabilities differ from there on"
    left_out = () if seen.interventions.act else turn.turn.interventions
    if left_out:
        sentence = f"{differ}: replayed without {_interventions_named(left_out)}"
        return Cause(name="intervention", sentence=sentence, turn=number, step=step)
    divergence = next((each for each in turn.divergences if each.step == step), None)
    if divergence is not None and _is_tampered(divergence, place_in_part):
        sentence = f"{place}: not what the model said there: the token was altered"
        return Cause(name="token", sentence=sentence, turn=number, step=step)
    for field in ("weights", "dtype"):
        if seen.differs(field):
            return Cause(name=field, sentence=f"{differ}: {field} changed", turn=number, step=step)
    numerics = [each for each in seen.differences if each.field in _NUMERIC_FIELDS]
    largest = max(max(each.differences) for each in seen.turns)
    if numerics and largest <= _NUMERICS_FACTOR * floor:
        named = ", ".join(f"{each.field} was {each.recorded}" for each in numerics)
        sentence = (
            f"{differ}, by little: numerics changed ({named}); `tokentape calibrate` may tell"
        )
        return Cause(name="numerics", sentence=sentence, turn=number, step=step)
    acting = seen.interventions.of_turn(turn.turn)
    idle = _idle_intervention(seen, turn, place_in_part, floor)
    if idle:
        sentence = f"{differ}, and agree without {_interventions_named(idle)}: it did not act there"
        return Cause(name="intervention", sentence=sentence, turn=number, step=step)
    hint = ""
    if not seen.differs("tokenizer"):
        hint = spelled_otherwise(seen.recording, seen.lm.tokenizer)
    before = "of its prompt" if number == seen.turns[0].turn.number else "added before it"
    sentence = (
        f"{differ}, and the weights are those recorded: prompt changed, in the ids {before}"
        + (f" ({hint})" if hint else "")
        + (f", or {_interventions_named(acting)} is not what acted" if acting else "")
    )
    return Cause(name="prompt", sentence=sentence, turn=number, step=step)


def _idle_intervention(
    seen: Evidence, judged: CheckedTurn, step: int, floor: float
) -> list[ActiveRange]:
    """The ranges of the one intervention without which the first token that drifts agrees."""
    turn, ranges = judged.turn, seen.interventions.of_turn(judged.turn)
    row = len(turn.prompt_ids) + step - 1
    ids, token = (*turn.prompt_ids, *turn.reply_ids), turn.tokens[step]
    # Each costs a forward; of many, the first are as likely as the others.
    for name in list(dict.fromkeys(each.name for each in ranges))[:_INTERVENTIONS_TRIED]:
        others = [each for each in ranges if each.name != name]
        with seen.interventions.acting(seen.lm.model, others):
            (logits,) = teacher_forced_logits(seen.lm.model, ids, [row])
        logprob = torch.log_softmax(logits[0], dim=-1)[token.token_id].item()
        if abs(logprob - token.logprob) <= floor:
            return [each for each in ranges if each.name == name]
    return []


def _interventions_named(ranges: Sequence[ActiveRange]) -> str:
    """Each once: its name, kind and layers."""
    named = (
        f"intervention {each.name!r} ({each.applied.kind} in {', '.join(each.applied.layers)})"
        for each in ranges
    )
    return ", ".join(dict.fromkeys(named))


def _is_tampered(divergence: Divergence, step: int) -> bool:
    """Whether the row is as it was recorded, and only the token is not what it gives."""
    if divergence.kind not in MISMATCHES or divergence.logprob_difference < _TAMPERED_NATS:
        return False
    now = {each.token_id: each.logprob for each in divergence.replayed_candidates}
    pairs = [
        (each.logprob, now[each.token_id])
        for each in divergence.recorded_candidates
        if each.token_id in now
    ]
    if not divergence.recorded_candidates:
        return step > 0
    return bool(pairs) and all(abs(a - b) <= _CANDIDATE_NATS for a, b in pairs)


def _of_sampler(seen: Evidence, judged: CheckedTurn, floor: Floor) -> Cause:
    number = judged.turn.number
    wrong = [i for i, each in enumerate(judged.tokens) if each.kind not in ("", "near_tie")]
    step = judged.turn.first_step + wrong[0] if wrong else None
    place = f"turn {number}" + ("" if step is None else f", token {step}")
    if judged.generator_matches is not True and judged.turn.started.seed is not None:
        vocabulary = seen.lm.model.get_input_embeddings().num_embeddings
        shift = find_shift(judged.turn, vocabulary, seen.lm.model.device)
        ended = judged.turn.finished is not None
        if shift != StreamShift() and ended:
            name, sentence = _of_stream(judged, shift, place)
            return Cause(name=name, sentence=sentence, turn=number, step=step)
    fit = fit_setting(judged, seen.lm, floor)
    sentence = f"{place}: the model agrees, the sampler does not: sampling settings changed"
    return Cause(name="sampler", sentence=sentence + _fitted(fit), turn=number, step=step)


def _of_stream(judged: CheckedTurn, shift: StreamShift | None, place: str) -> tuple[str, str]:
    seed = judged.turn.started.seed or 0
    if shift is not None and not shift.seed_offset:
        count, unit = shift.draws or shift.exponentials, "draw" if shift.draws else "number"
        many = f"{abs(count)} {unit}{'s' if abs(count) > 1 else ''}"
        what = f"{many} lost" if count < 0 else f"{many} too many"
        return "draws", f"{place}: the random stream is shifted from there on: {what}"
    said = "the seed does not lead to the recorded end state: seed changed"
    if shift is not None:
        said += f"; {seed + shift.seed_offset} leads there, {seed} is recorded"
    return "seed", f"{place}: {said}"


def _fitted(fit: SettingFit | None) -> str:
    if fit is None:
        return ""
    recorded = "none" if fit.recorded is None else f"{fit.recorded:g}"
    return f"; {fit.setting} {fit.explains:g} explains the turn, {recorded} is recorded"


def _of_stop(judged: CheckedTurn) -> Cause:
    number = judged.turn.number
    sentence = f"turn {number}: its settings do not stop it where, or why, it stopped"
    return Cause(name="stop", sentence=sentence, turn=number)


def _of_near_ties(seen: Evidence) -> Cause:
    count = sum(token.kind == "near_tie" for turn in seen.turns for token in turn.tokens)
    return Cause(name="numerics", sentence=f"{count} picks within the noise of numbers")
