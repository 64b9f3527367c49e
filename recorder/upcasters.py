"""Old versions of events, changed into today's when they are read.

A class of events that changes gets a new version and, here, a function from the fields of version
n to those of version n + 1. The recording itself is never rewritten.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tokentape.recorder.generate_settings import GENERATE_SETTINGS

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]


def _with_own_settings(fields: Fields) -> Fields:
    """Return a `TurnStarted` whose own fields of the generation config are in `own_settings`."""
    sampling = fields["sampling"]
    own = {name: value for name, value in sampling.items() if name not in GENERATE_SETTINGS}
    read = {name: value for name, value in sampling.items() if name in GENERATE_SETTINGS}
    return {**fields, "sampling": read, "own_settings": own}


def _with_key(fields: Fields) -> Fields:
    """Return a `CacheDecided` that says nothing about the cache key."""
    return {**fields, "key": {}}


def _with_start(fields: Fields) -> Fields:
    """Return a `RunStarted` with what version 0.1.0 did not record."""
    return {
        **fields,
        "conversation_format": {},
        "warnings": [],
        "process": {},
        "loading": {},
        "model_class": "",
        "config": {},
        "module_state": {},
        "model_code": {},
    }


def _with_process(fields: Fields) -> Fields:
    """Return a `RunResumed` that does not say which process resumed the run."""
    return {**fields, "process": {}}


def _with_reserved(fields: Fields) -> Fields:
    """Return a `MemorySampled` that does not say what the allocator holds."""
    return {**fields, "device_reserved_bytes": None, "device_fragmented_bytes": None}


def _with_signal(fields: Fields) -> Fields:
    """Return a `RunFinished` that no signal but Ctrl-C ended."""
    return {**fields, "signal": ""}


def _with_traceback(fields: Fields) -> Fields:
    """Return a `ToolReturned` that does not say where the tool failed."""
    return {**fields, "traceback": ""}


def _at_turn(fields: Fields) -> Fields:
    """Return a `RunForked` at the beginning of a turn, with the model of the parent."""
    return {**fields, "at_token": None, "other_model": []}


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("CacheDecided", 1): _with_key,
    ("MemorySampled", 1): _with_reserved,
    ("RunFinished", 1): _with_signal,
    ("RunForked", 1): _at_turn,
    ("RunResumed", 1): _with_process,
    ("RunStarted", 1): _with_start,
    ("ToolReturned", 1): _with_traceback,
    ("TurnStarted", 1): _with_own_settings,
}
"""The step from version n to n + 1, by kind and n."""


def check_chain(versions: Mapping[str, int], upcasters: Mapping[tuple[str, int], Upcaster]) -> None:
    """Check that a step leads from every older version of every kind to the next.

    `versions` has today's version of each kind. Raise TypeError for a missing or useless step.
    """
    due = {(kind, n) for kind, today in versions.items() for n in range(1, today)}
    for kind, version in sorted(due - set(upcasters)):
        raise TypeError(f"no upcaster leads from {kind} version {version} to {version + 1}")
    for kind, version in sorted(set(upcasters) - due):
        raise TypeError(f"an upcaster of {kind} version {version} leads nowhere")


def upcast(
    kind: str, version: int, fields: Fields, upcasters: Mapping[tuple[str, int], Upcaster]
) -> Fields:
    """Return the fields of an old version as today's version of the kind has them."""
    while (kind, version) in upcasters:
        fields = upcasters[kind, version](fields)
        version += 1
    return fields
