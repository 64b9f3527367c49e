"""Loading with transformers without progress bars, log lines and, if wished, requests."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants
from transformers.utils import logging as transformers_logging

# transformers imports torchao where it is installed, which says what of it cannot be loaded.
_LOUD = ("huggingface_hub", "torchao", "torch.utils._pytree")

_offline_lock = threading.Lock()
_uses_offline = 0
_was_offline = False


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Disable progress bars and log lines of libraries, and restore the caller's settings after."""
    log: Any = transformers_logging
    bars = log.is_progress_bar_enabled()
    logs = {logging.getLogger(name): logging.getLogger(name).level for name in _LOUD}
    log.disable_progress_bar()
    for each in logs:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in logs.items():
            each.setLevel(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def local_files_alone(offline: bool) -> Iterator[None]:
    """Within this context, let no library send a request to the hub if `offline`.

    `local_files_only` is not enough: some releases of transformers ask the hub for more files than
    those of the model. The switch is that of `HF_HUB_OFFLINE`, for the whole process; of contexts
    in several threads the first sets it, and the last restores it.
    """
    global _uses_offline, _was_offline
    if not offline:
        yield
        return
    with _offline_lock:
        if not _uses_offline:
            _was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        _uses_offline += 1
    try:
        yield
    finally:
        with _offline_lock:
            _uses_offline -= 1
            if not _uses_offline:
                constants.HF_HUB_OFFLINE = _was_offline
