"""Loading with transformers without progress bars and log lines."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Disable progress bars and the hub's log lines, and restore the caller's settings after."""
    log: Any = transformers_logging
    bars = log.is_progress_bar_enabled()
    hub, level = logging.getLogger("huggingface_hub"), logging.getLogger("huggingface_hub").level
    log.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        if bars:
            log.enable_progress_bar()
