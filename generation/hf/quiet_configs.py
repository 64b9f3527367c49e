"""Generation configs without the warnings of transformers that are false for a turn.

A config warns in each change of its fields, not when a turn uses it: of a temperature of the
model's own config if the turn is greedy, of beam settings that no turn reads, of a padding token
that a single sequence does not need. What a user asks for in vain is refused instead: see
`no_effect`.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_FALSE = (
    "The following generation flags are not valid and may be ignored",
    "- `",  # the details of the same
    "`max_cache_len` is only used with static caches",
    "Passing `generation_config` together with generation-related",
    "Setting `pad_token_id` to",  # a single sequence is not padded
    "Both `min_new_tokens`",  # `min_length` of the model's own config
)
"""How the warnings begin that are false for a turn, in all releases that are supported."""

_LOGGERS = (
    logging.getLogger("transformers.generation.configuration_utils"),
    logging.getLogger("transformers.generation.utils"),
)
_METHODS = ("warning", "warning_once", "info_once")


class _Depth(threading.local):
    """How many contexts this thread is within: other threads hear everything."""

    value = 0


_depth = _Depth()
_lock = threading.Lock()
_uses = 0
_replaced: list[tuple[logging.Logger, str, Any]] = []


@contextmanager
def quiet_configs() -> Iterator[None]:
    """Within this context, suppress the warnings of configs that are false for the turn.

    Other messages of these modules pass. transformers gives some warnings once; a message
    that is suppressed here does not count, so that the user's own calls of
    `generate` warn as without tokentape.
    """
    global _uses
    with _lock:
        _uses += 1
        if _uses == 1:
            _replace_methods()
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1
        with _lock:
            _uses -= 1
            if not _uses:
                _restore_methods()


def _replace_methods() -> None:
    for logger in _LOGGERS:
        for name in _METHODS:
            _replaced.append((logger, name, vars(logger).get(name)))
            setattr(logger, name, _filtered(getattr(logger, name)))


def _restore_methods() -> None:
    while _replaced:
        logger, name, before = _replaced.pop()
        if before is None:
            delattr(logger, name)
        else:
            setattr(logger, name, before)


def _filtered(log: Callable[..., None]) -> Callable[..., None]:
    def log_unless_false(message: object, *arguments: Any, **keywords: Any) -> None:
        if not (_depth.value and str(message).startswith(_FALSE)):
            log(message, *arguments, **keywords)

    return log_unless_false
