"""The arguments of a model: those of `-M` on Inspect's command line, and of `get_model`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tokentape.generation.errors import ModelError
from tokentape.generation.models.loading_settings import LoadingKeywords
from tokentape.generation.run_settings import InvestigationKeywords
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_whole
from tokentape.store.default_store import DEFAULT_URL

BATCH_SIZE = 8
_OWN = ("store", "batch_size", "sample_seeds")
_OF_SAMPLES = ("metadata", "plan")
"""Settings of a run that the provider chooses itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """Where a model records, how it is loaded, and the settings of its runs."""

    store: str
    batch_size: int
    """How many replies are generated at once."""
    sample_seeds: bool
    """Whether each sample has a seed of its own; else all have that of the evaluation."""
    loading: LoadingKeywords
    runs: InvestigationKeywords


def read_model_arguments(
    given: Mapping[str, Any], *, max_connections: int | None = None
) -> ModelArguments:
    """Return the arguments with their defaults; `max_connections` is that of `batch_size`.

    The default store is that of the command line. Raise ModelError for an unknown argument, with
    the nearest known name.
    """
    arguments = dict(given)
    store = arguments.pop("store", None) or os.environ.get("TOKENTAPE_DATABASE_URL") or DEFAULT_URL
    batch_size = plain_whole(arguments.pop("batch_size", max_connections or BATCH_SIZE))
    sample_seeds = arguments.pop("sample_seeds", True)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ModelError(f"batch_size is a number of replies, at least 1, not {batch_size!r}")
    if not isinstance(sample_seeds, bool):
        raise ModelError(f"sample_seeds is true or false, not {sample_seeds!r}")
    of_runs = [name for name in InvestigationKeywords.__annotations__ if name not in _OF_SAMPLES]
    known = [*_OWN, *LoadingKeywords.__annotations__, *of_runs]
    for name in arguments:
        if name not in known:
            raise ModelError(
                f"tokentape has no model argument {name!r}{nearest(name, known)}; there are "
                f"{', '.join(known)}"
            )
    return ModelArguments(
        store=os.fspath(store),
        batch_size=batch_size,
        sample_seeds=sample_seeds,
        loading=cast("LoadingKeywords", _named(arguments, LoadingKeywords.__annotations__)),
        runs=cast("InvestigationKeywords", _named(arguments, of_runs)),
    )


def _named(arguments: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in names}
