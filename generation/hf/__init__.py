"""Every private call into transformers, in one place.

`GenerationMixin` has no public step. What happens here follows `generate()`, `_prefill` and
`_sample` of transformers 5.23 call for call, so that the same forwards run on the same cache.
`tests/generation/test_parity.py` holds the two equal, bit for bit. Models are `Any` here: the
types that transformers declares do not know these methods.
"""

from transformers import __version__ as VERSION

from tokentape.generation.hf.caches import (
    cache_name,
    can_crop,
    compact,
    crop,
    fixed_size,
    fork,
    held_tokens,
    keeps_everything,
    kv_bytes,
    layer_kinds,
    new_cache,
    prefix_obstacle,
    put_states,
    recurrent,
    shapes,
    states_sha256,
    storage_bytes,
    take_states,
    tensors_of,
)
from tokentape.generation.hf.decoder import Decoder, decoding, forward_rows
from tokentape.generation.hf.growing import GrowingLayer
from tokentape.generation.hf.rows import catch_up, process_rows
from tokentape.generation.hf.settings import (
    FILTERS,
    Preparation,
    effective_config,
    prepare,
    process,
    recordable,
    recorded_config,
    rehearse,
    stop_flags,
    stop_reason,
    stop_reason_of,
    what_can_be_recorded,
)

__all__ = (
    "FILTERS",
    "VERSION",
    "Decoder",
    "GrowingLayer",
    "Preparation",
    "cache_name",
    "can_crop",
    "catch_up",
    "compact",
    "crop",
    "decoding",
    "effective_config",
    "fixed_size",
    "fork",
    "forward_rows",
    "held_tokens",
    "keeps_everything",
    "kv_bytes",
    "layer_kinds",
    "new_cache",
    "prefix_obstacle",
    "prepare",
    "process",
    "process_rows",
    "put_states",
    "recordable",
    "recorded_config",
    "recurrent",
    "rehearse",
    "shapes",
    "states_sha256",
    "stop_flags",
    "stop_reason",
    "stop_reason_of",
    "storage_bytes",
    "take_states",
    "tensors_of",
    "what_can_be_recorded",
)
