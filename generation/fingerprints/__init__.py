"""Fingerprints of all that must be equal to repeat a run: weights, tokenizer, versions."""

from tokentape.generation.fingerprints.environment import environment, environment_differences
from tokentape.generation.fingerprints.manifest_cache import manifest_of, set_source
from tokentape.generation.fingerprints.model_code import model_class, model_code
from tokentape.generation.fingerprints.model_config import config_fields, moves_numbers
from tokentape.generation.fingerprints.model_source import (
    FileState,
    ModelSource,
    file_states,
    folder_states,
)
from tokentape.generation.fingerprints.module_state import TENSOR, module_state
from tokentape.generation.fingerprints.sampler import sampler_sha256
from tokentape.generation.fingerprints.tensors import tensor_sha256
from tokentape.generation.fingerprints.texts import json_sha256, template_sha256, tokenizer_sha256
from tokentape.generation.fingerprints.weights_manifest import (
    TensorFingerprint,
    WeightsManifest,
    split_at_number,
)
from tokentape.generation.fingerprints.weights_version import weights_version

__all__ = (
    "TENSOR",
    "FileState",
    "ModelSource",
    "TensorFingerprint",
    "WeightsManifest",
    "config_fields",
    "environment",
    "environment_differences",
    "file_states",
    "folder_states",
    "json_sha256",
    "manifest_of",
    "model_class",
    "model_code",
    "module_state",
    "moves_numbers",
    "sampler_sha256",
    "set_source",
    "split_at_number",
    "template_sha256",
    "tensor_sha256",
    "tokenizer_sha256",
    "weights_version",
)
