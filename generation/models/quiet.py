"""Loading with transformers without progress bars and log lines."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

# transformers imports torchao where it is installed, which says what of it cannot be loaded.
_LOUD = ("huggingface_hub", "torchao", "torch.utils._pytree")


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
