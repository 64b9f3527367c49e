"""Events for tests that need no model."""

from typing import Any

from tokentape.recorder.events import RunStarted


def run_started(**changes: Any) -> RunStarted:
    """Return a `RunStarted` with plain values, except for `changes`."""
    plain: dict[str, Any] = {
        "name": "n",
        "seed": 1,
        "model": "m",
        "weights_sha256": "w",
        "tokenizer_sha256": "t",
        "template_sha256": "",
        "generation_config": {},
        "sampler_sha256": "s",
        "dtype": "float32",
        "device": "cpu",
        "attention_kernel": "sdpa",
        "threads": 1,
        "context_tokens": None,
        "environment": {},
        "settings": {},
    }
    return RunStarted(**plain | changes)
