"""The machine and the versions that a process recorded with, against those of a replay."""

from tokentape.generation import LoadedModel
from tokentape.generation.fingerprints import environment, environment_differences
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.numerics.attention import cuda_device
from tokentape.generation.numerics.flags import FLAGS
from tokentape.recorder.events import RunResumed, RunStarted

SET_AS_RECORDED = frozenset({"threads", *(flag.name for flag in FLAGS)})
"""What a retrace sets as it was recorded, as far as it can."""
# Versions that change no number of a forward.
_WITHOUT_EFFECT = frozenset({"python", "platform"})


def machine_differences(event: RunStarted | RunResumed, lm: LoadedModel) -> tuple[str, ...]:
    """Return the names of what differs now and can change the last bits of a forward.

    Threads are not among them: a replay can always set them as recorded.
    """
    found = environment_differences(event.environment, environment(cuda_device(lm.model)))
    names = [name for name, _, _ in found if name not in _WITHOUT_EFFECT]
    if event.device != lm.model.device.type:
        names.append("device")
    if isinstance(event, RunStarted) and event.attention_kernel != attention_kernel(lm.model):
        names.append("attention_kernel")
    return tuple(names)
