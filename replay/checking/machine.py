"""The machine and the versions that a process recorded with, against those of a replay."""

from collections.abc import Mapping
from typing import Any

from tokentape.generation import LoadedModel, fingerprints
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.recorder.events import RunResumed, RunStarted

# Versions that change no number of a forward.
_WITHOUT_EFFECT = frozenset({"python", "platform"})


def machine_differences(event: RunStarted | RunResumed, lm: LoadedModel) -> tuple[str, ...]:
    """Return the names of what differs and can change the last bits of a forward.

    Threads are not among them: a replay sets them as recorded.
    """
    names = list(_differing(event.environment, fingerprints.environment()))
    if event.device != lm.model.device.type:
        names.append("device")
    if isinstance(event, RunStarted) and event.attention_kernel != attention_kernel(lm.model):
        names.append("attention_kernel")
    return tuple(names)


def _differing(recorded: Mapping[str, Any], replayed: Mapping[str, str]) -> list[str]:
    """Return the keys with other values. A key that an older version did not record is equal."""
    return [
        name
        for name, value in replayed.items()
        if name not in _WITHOUT_EFFECT and recorded.get(name, value) != value
    ]
