"""How the model was loaded as a cause: another adapter, revision or quantization than recorded."""

from collections.abc import Mapping
from typing import Any

from tokentape.generation.models.model_places import without_folders
from tokentape.recorder.paths import name_without_folders
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.results.verdict import CauseKind

_OF_THE_WEIGHTS = ("revision", "quantization", "adapter")
"""The keywords of `load_model` that choose other weights of one name."""


def cause_of_weights(evidence: Evidence) -> tuple[CauseKind, str]:
    """Return the cause of other weights, and a sentence on it.

    It is the adapter if nothing else was loaded in another way.
    """
    lm, started = evidence.lm, evidence.run.started
    described = without_folders({"model": lm.name, "loading": lm.loading})
    recorded = without_folders({"loading": started.loading})["loading"]
    now = described["loading"]
    changed = [name for name in _OF_THE_WEIGHTS if recorded.get(name) != now.get(name)]
    if described["model"] != name_without_folders(started.model):
        changed = []
    told = ", ".join(
        f"{name} {_text(recorded.get(name))} then, {_text(now.get(name))} now" for name in changed
    )
    if changed == ["adapter"]:
        return CauseKind.ADAPTERS, f"the {told}"
    sentence = "the weights are not those that were recorded"
    return CauseKind.WEIGHTS, f"{sentence} ({told})" if told else sentence


def _text(value: Any) -> str:
    """Return a recorded setting, shortened to the method and type of a quantization."""
    if isinstance(value, Mapping):
        named = (value.get(name) for name in ("quant_method", "weights", "bits"))
        return " ".join(str(each) for each in named if each is not None)
    return "none" if value is None else str(value)
