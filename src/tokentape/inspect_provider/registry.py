"""The entry point that Inspect AI loads: it names the provider, and imports nothing heavy.

Inspect loads the entry points of all packages, in evaluations of other models, too. torch is
imported when the first model is made.
"""

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="tokentape")
def tokentape() -> type[ModelAPI]:
    """Return the class of the models whose names begin with `tokentape/`."""
    from tokentape.inspect_provider.api import TokentapeAPI

    return TokentapeAPI
