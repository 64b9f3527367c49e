"""The names of the fingerprints that make the numbers of a replay incomparable if they differ."""

from collections.abc import Collection

from tokentape.recorder.near_names import nearest
from tokentape.replay.results.errors import ReplayError

FORBIDDING = (
    "weights",
    "adapters",
    "config",
    "model_code",
    "tokenizer",
    "template",
    "device",
    "dtype",
    "random_stream",
)


def check_ignored(names: Collection[str]) -> Collection[str]:
    """Return the names of fingerprints to ignore. Raise ReplayError for another name."""
    if isinstance(names, str):
        names = (names,)
    for name in names:
        if name not in FORBIDDING:
            raise ReplayError(
                f"cannot ignore {name!r}{nearest(name, FORBIDDING)}: the fingerprints are "
                f"{', '.join(FORBIDDING)}"
            )
    return names
