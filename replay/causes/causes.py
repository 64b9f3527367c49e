"""The likely causes of a divergence, each with the first token that shows it.

The two signals tell them apart. Other weights, prompts and dtypes change log-probabilities. Another
sampler or random stream leaves these unchanged and picks other tokens. A tampered token is one that
an unchanged row of logits does not pick.
"""

from dataclasses import replace

from tokentape.replay.causes.adapters import adapters_sentence
from tokentape.replay.causes.drift import cause_of_drift
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.causes.loading import cause_of_weights
from tokentape.replay.causes.prompts import other_encoding, other_rendering
from tokentape.replay.causes.sampler import EXPLAINS, cause_of_sampler
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.results.report import Cause, FingerprintDifference
from tokentape.replay.results.verdict import CauseKind, DivergenceKind

_FINGERPRINT_SENTENCES = {
    "config": "the model's config, or a value that its modules hold, is not the recorded one",
    "model_code": "the model's code is not the one that was recorded",
    "tokenizer": "the tokenizer is not the one that was recorded",
    "template": "the chat template is not the one that was recorded",
    "random_stream": "this torch draws other random numbers than the one that recorded",
}


def find_causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Return the likely causes, the likeliest first: at most one of a kind from the numbers.

    Fingerprints come first, then contradictions and what the numbers show, by turn; texts that do
    not match their ids and broken seals come last, since they follow from other causes. Empty if
    nothing differs.
    """
    last = [
        each for each in evidence.contradictions if each.name in (CauseKind.TEXT, CauseKind.SEAL)
    ]
    found = [
        *_causes_of_fingerprints(evidence),
        *(each for each in evidence.contradictions if each not in last),
        *evidence.known,
    ]
    for cause in _causes_of_numbers(evidence):
        same = next((each for each in found if each.name == cause.name), None)
        if same is None:
            found.append(cause)
        else:
            found[found.index(same)] = replace(same, turn=cause.turn, step=cause.step)
    any_kind = any(token.kind for turn in evidence.turns for token in turn.tokens)
    if evidence.floor and not found and any_kind:
        found.append(_cause_of_near_ties(evidence))
    return (*found, *last)


def _causes_of_numbers(evidence: Evidence) -> list[Cause]:
    """Return the causes of drifts, other picks and other stops: the first turn of each, by turn."""
    floor = evidence.floor
    if floor is None:
        return []
    drifting = next((each for each in evidence.turns if each.is_drifting(floor)), None)
    sampler = next((each for each in evidence.turns if each.sampler_differs(floor)), None)
    stop = next((each for each in evidence.turns if each.stop_matches is False), None)
    found = [] if drifting is None else [cause_of_drift(evidence, drifting, floor)]
    if sampler is not None:
        cause = cause_of_sampler(evidence, sampler, floor)
        # Penalties read the ids of the prompt: after a drift they may differ for its reason.
        follows = drifting is not None and drifting.turn.number < sampler.turn.number
        if cause.name is not CauseKind.SAMPLER or not follows or EXPLAINS in cause.sentence:
            found.append(cause)
    if stop is not None and stop not in (drifting, sampler):
        found.append(_cause_of_stop(stop))
    return sorted(found, key=lambda cause: cause.turn or 0)


def _causes_of_fingerprints(evidence: Evidence) -> list[Cause]:
    found = []
    for each in evidence.differences:
        if not each.forbids:
            continue
        detail = each.detail
        if each.field == "template":
            detail = detail or other_rendering(evidence.run, evidence.lm.tokenizer)
        if each.field == "tokenizer":
            detail = detail or other_encoding(evidence.run, evidence.lm.tokenizer)
        kind, sentence = CauseKind(each.field), _fingerprint_sentence(each)
        if each.field == "weights":
            kind, sentence = cause_of_weights(evidence)
        found.append(
            Cause(
                name=kind,
                sentence=sentence + (f": {detail}" if detail else ""),
                changes_prompts=bool(detail) and each.field in ("template", "tokenizer"),
            )
        )
    return found


def _fingerprint_sentence(difference: FingerprintDifference) -> str:
    """Return a sentence on a fingerprint that differs, other than that of the weights."""
    if difference.field in ("device", "dtype"):
        return f"the {difference.field} is {difference.replayed}, and it was {difference.recorded}"
    if difference.field == "adapters":
        return adapters_sentence(difference.recorded, difference.replayed)
    return _FINGERPRINT_SENTENCES.get(difference.field, "")


def _cause_of_stop(checked: CheckedTurn) -> Cause:
    number = checked.turn.number
    sentence = f"turn {number}: its settings do not stop it at its last token, for its stop reason"
    return Cause(name=CauseKind.STOP, sentence=sentence, turn=number)


def _cause_of_near_ties(evidence: Evidence) -> Cause:
    count = sum(
        token.kind is DivergenceKind.NEAR_TIE for turn in evidence.turns for token in turn.tokens
    )
    return Cause(name=CauseKind.NUMERICS, sentence=f"{count} picks within the noise of numbers")
