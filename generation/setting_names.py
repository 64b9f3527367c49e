"""The names of the settings of `generate`, known without torch."""

from collections.abc import Iterable
from functools import cache

from tokentape.generation.errors import ModelError
from tokentape.recorder.near_names import nearest


@cache
def setting_names() -> tuple[str, ...]:
    """Return the names of the settings of `generate`, as the installed release has them."""
    # It takes a second to import, but does not import torch.
    from transformers.generation.configuration_utils import GenerationConfig

    fields = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    return tuple(
        name for name in fields if not name.startswith("_") and name != "transformers_version"
    )


def check_setting_names(names: Iterable[str]) -> None:
    """Raise ModelError for a name that is neither a setting of `generate` nor `seed`."""
    for name in names:
        if name != "seed" and name not in setting_names():
            raise ModelError(f"turns have no setting {name!r}{nearest(name, setting_names())}")
