"""The adapter to transformers: all private calls into it, and all that differs between releases.

`GenerationMixin` has no public step. This package makes the calls of `generate()` and its loop in
the same order, so that the same forwards run on the same cache. What differs between releases is
chosen by what the installed one has (parameters, fields, attributes), never by its version.
`tests/generation/test_parity.py` checks that the results are equal, bit for bit. Models have the
type `Any` here, because the types that transformers declares lack these methods.
"""

from transformers import __version__ as VERSION

from tokentape.generation.hf.caches import (
    cache_argument,
    cache_kind,
    cache_name,
    can_crop,
    compact,
    crop,
    experts_setting,
    fixed_size,
    fork,
    held_tokens,
    keeps_all_tokens,
    kv_bytes,
    layer_kinds,
    new_cache,
    prefix_obstacle,
    put_states,
    recurrent,
    rounds_states,
    shapes,
    states_sha256,
    storage_bytes,
    take_states,
    tensors_of,
)
from tokentape.generation.hf.decoder import Decoder, decoding, forward_rows
from tokentape.generation.hf.generation_config import (
    check_can_be_read_back,
    effective_config,
    json_fields,
    own_settings,
    prefill_config,
    recordable,
    recorded_config,
)
from tokentape.generation.hf.growing_layer import GrowingLayer, grown_capacity
from tokentape.generation.hf.kv_layout import KvLayer, kv_layers
from tokentape.generation.hf.layer_cast import compute_dtype, weights_dtype
from tokentape.generation.hf.no_effect import SAMPLING_SETTINGS, obstacles_to
from tokentape.generation.hf.output import cache_of, generate_output
from tokentape.generation.hf.preparation import (
    Preparation,
    check_settings,
    prepare,
    recordable_settings,
)
from tokentape.generation.hf.processors import FILTERS, catch_up, process, process_rows
from tokentape.generation.hf.quiet_configs import quiet_configs
from tokentape.generation.hf.release_check import check_release
from tokentape.generation.hf.shared_forward import (
    SequenceStep,
    SharedForwards,
    cache_obstacle,
    sharing_obstacle,
)
from tokentape.generation.hf.signatures import accepts, unwrapped
from tokentape.generation.hf.stopping import stop_flags, stop_reason, stop_reason_of

__all__ = (
    "FILTERS",
    "SAMPLING_SETTINGS",
    "VERSION",
    "Decoder",
    "GrowingLayer",
    "KvLayer",
    "Preparation",
    "SequenceStep",
    "SharedForwards",
    "accepts",
    "cache_argument",
    "cache_kind",
    "cache_name",
    "cache_obstacle",
    "cache_of",
    "can_crop",
    "catch_up",
    "check_can_be_read_back",
    "check_release",
    "check_settings",
    "compact",
    "compute_dtype",
    "crop",
    "decoding",
    "effective_config",
    "experts_setting",
    "fixed_size",
    "fork",
    "forward_rows",
    "generate_output",
    "grown_capacity",
    "held_tokens",
    "json_fields",
    "keeps_all_tokens",
    "kv_bytes",
    "kv_layers",
    "layer_kinds",
    "new_cache",
    "obstacles_to",
    "own_settings",
    "prefill_config",
    "prefix_obstacle",
    "prepare",
    "process",
    "process_rows",
    "put_states",
    "quiet_configs",
    "recordable",
    "recordable_settings",
    "recorded_config",
    "recurrent",
    "rounds_states",
    "shapes",
    "sharing_obstacle",
    "states_sha256",
    "stop_flags",
    "stop_reason",
    "stop_reason_of",
    "storage_bytes",
    "take_states",
    "tensors_of",
    "unwrapped",
    "weights_dtype",
)
