"""The sentence on a difference that no recorded fingerprint explains."""

from tokentape.generation.fingerprints.adapter_state import NO_ADAPTERS, active_adapters
from tokentape.generation.fingerprints.weights import hash_weights
from tokentape.replay.causes.adapters import adapter_names
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.causes.intervention_text import interventions_text
from tokentape.replay.causes.prefixes import restored_turns
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.fingerprint_check import adapters_known
from tokentape.replay.checking.model_check import is_code_compared, is_config_known
from tokentape.replay.checking.weights import changed_tensors, recorded_weights


def unknown_sentence(evidence: Evidence, turn: CheckedTurn, floor: float) -> str:
    """Return a sentence for numbers that differ although nothing says why."""
    started, now = evidence.run.started, evidence.lm.identity.described()
    known = ["weights"]
    missing = []
    if is_config_known(started):
        known.append("config")
        if is_code_compared(started, now):
            known.append("code")
        else:
            missing.append("code and values of modules of another release are not compared")
    else:
        missing.append("the recording does not say which config and code its model had")
    adapters = active_adapters(evidence.lm.model)
    if adapters_known([each.turn for each in evidence.turns]):
        known.append("adapters")
    elif adapters != NO_ADAPTERS:
        names = adapter_names(adapters)
        missing.append(f"the recording does not say which adapters were active ({names} now)")
    fields = f"{', '.join(known)} and dtype" if len(known) > 1 else "weights and dtype"
    parts = [
        "model or prompt, which cannot be told apart here",
        f"{fields} of the model are those recorded, and no id contradicts its text",
        *missing,
        *_suspects(evidence, turn, floor),
    ]
    return f"{parts[0]}: {'; '.join(parts[1:])}"


def changed_unseen(evidence: Evidence) -> str:
    """Return which weights changed unnoticed since they were hashed; empty if none did.

    Writes of a few numbers through `.data` are found by hashing all of them again.
    """
    started, weights = evidence.run.started, hash_weights(evidence.lm.model)
    if weights.sha256 == started.weights_sha256 or evidence.differs("weights"):
        return ""
    read_blob = evidence.run.recording.read_blob
    recorded = None if read_blob is None else recorded_weights(started, read_blob)
    named = "" if recorded is None else f": {changed_tensors(recorded, weights).summary}"
    return f"the weights are not those that were recorded{named}"


def _suspects(evidence: Evidence, turn: CheckedTurn, floor: float) -> list[str]:
    """Return what else the turn depends on, and what agrees before it."""
    found = []
    number = turn.turn.number
    earlier = {each.turn.number for each in evidence.turns if each.turn.number < number}
    if earlier:
        changed = f"the ids added before turn {number}, or the model in it, changed"
        found.append(f"the turns before agree: {changed}")
    if sum(each > floor for each in turn.differences) == 1 < len(turn.differences):
        found.append(
            "no other token of the turn differs: its recorded number may have been changed"
        )
    acting = evidence.interventions.of_turn(turn.turn)
    if acting:
        found.append(f"{interventions_text(acting)} may not be what acted")
    if number in restored_turns(evidence.run.envelopes):
        found.append("the turn read states that the run did not compute")
    return found
