"""The machine and the versions that a process recorded with, against those of a replay."""

from tokentape.generation import LoadedModel
from tokentape.generation.fingerprints import environment, environment_differences
from tokentape.generation.fingerprints.adapter_state import adapters_as_recorded
from tokentape.generation.hf.attention_kernel import ALWAYS_THERE, attention_kernel
from tokentape.generation.numerics.attention import cuda_device
from tokentape.generation.numerics.flags import FLAGS
from tokentape.recorder.events import RunResumed, RunStarted
from tokentape.replay.results.report import FingerprintDifference

FLAG_NAMES = frozenset(flag.name for flag in FLAGS)
"""The flags of torch, which a retrace sets as they were recorded, as far as it can."""
PROCESSOR = "cpu"
"""A key that recordings of 0.1.0 lack: which machine recorded them is not known."""
THREADS_MAX = 1024
"""More threads are not started for a recording: it may be a stranger's."""
# Versions that change no number of a forward.
_WITHOUT_EFFECT = frozenset({"python", "platform"})


def machine_differences(event: RunStarted | RunResumed, lm: LoadedModel) -> tuple[str, ...]:
    """Return the names of what differs now and can change the last bits of a forward.

    Threads and attention kernels are among them only where a retrace cannot set them as recorded.
    """
    found = environment_differences(event.environment, environment(cuda_device(lm.model)))
    names = [name for name, _, _ in found if name not in _WITHOUT_EFFECT]
    if PROCESSOR not in event.environment:
        names.append(PROCESSOR)
    if event.threads > THREADS_MAX:
        names.append("threads")
    if event.device != lm.model.device.type:
        names.append("device")
    if isinstance(event, RunStarted) and not _can_use(event.attention_kernel, lm):
        names.append("attention_kernel")
    return tuple(names)


def is_set_as_recorded(difference: FingerprintDifference, lm: LoadedModel) -> bool:
    """Return whether a retrace can set what differs as recorded."""
    if difference.field == "adapters":
        with adapters_as_recorded(lm.model, difference.recorded) as restored:
            return restored
    if difference.field == "attention_kernel":
        return _can_use(difference.recorded, lm)
    return difference.field == "threads"


def _can_use(kernel: str, lm: LoadedModel) -> bool:
    return kernel == attention_kernel(lm.model) or kernel in ALWAYS_THERE
