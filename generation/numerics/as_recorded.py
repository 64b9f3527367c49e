"""The flags of a recording, set for the time of a replay."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tokentape.generation.numerics.flags import FLAGS, NumericFlag, current


@contextmanager
def numerics_as_recorded(environment: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Within this context, let torch compute with the flags of a recorded environment.

    Yield the names of the recorded flags that could not be set here: torch refuses them, lacks
    them, or they are no values of theirs. Flags that the recording lacks keep their values (0.1.0
    recorded none). All flags have their earlier values after it. They are those of the process:
    other threads compute with them, too.
    """
    changed: list[tuple[NumericFlag, str]] = []
    try:
        yield tuple(
            flag.name
            for flag in FLAGS
            if flag.name in environment and not _set(flag, environment[flag.name], changed)
        )
    finally:
        for flag, before in reversed(changed):
            # CUDA may have been initialised since.
            with suppress(ValueError, RuntimeError):
                flag.write(before)


def _set(flag: NumericFlag, recorded: object, changed: list[tuple[NumericFlag, str]]) -> bool:
    """Return whether the flag has its recorded value now. Add it to `changed` if it was changed."""
    before = current(flag)
    if before is None or not isinstance(recorded, str):
        return False
    if before == recorded:
        return True
    if flag.may_set and recorded not in flag.may_set:
        return False
    changed.append((flag, before))
    with suppress(ValueError, RuntimeError):
        flag.write(recorded)
    return current(flag) == recorded
