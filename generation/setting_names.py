"""The names of the settings of `generate`, known without torch."""

from functools import cache


@cache
def setting_names() -> tuple[str, ...]:
    """Return the names of the settings of `generate`, as the installed release has them."""
    # It takes a second to import, but does not import torch.
    from transformers.generation.configuration_utils import GenerationConfig

    fields = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    return tuple(
        name for name in fields if not name.startswith("_") and name != "transformers_version"
    )
