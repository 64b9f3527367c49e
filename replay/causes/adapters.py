"""Adapters (LoRA) as a cause: other ones than recorded, or unknown ones."""

from tokentape.generation.fingerprints.adapter_state import active_adapters
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.checking.fingerprint_check import adapters_known


def adapters_sentence(recorded: str, replayed: str) -> str:
    """Return a sentence on two different states of adapters, as the cache key describes them."""
    before, now = _names_of(recorded), _names_of(replayed)
    if before == now:
        return f"the adapters {now} have another scaling, or act in other layers, than recorded"
    return f"the active adapters are not those that were recorded: {before} then, {now} now"


def unknown_adapters(evidence: Evidence) -> str:
    """Return why the adapters may be the cause although nothing says so; empty if they cannot."""
    now = active_adapters(evidence.lm.model)
    if now == "none" or adapters_known([each.turn for each in evidence.turns]):
        return ""
    return (
        "the recording does not say which adapters were active "
        f"({_names_of(now)} now), or the ids of the prompt changed"
    )


def _names_of(adapters: str) -> str:
    """Return the description without its hash."""
    names, _, _ = adapters.rpartition(" ")
    return names or adapters
