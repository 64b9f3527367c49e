"""What must be equal for a run to be repeated, hashed or named."""

from tokentape.generation.fingerprints.environment import environment
from tokentape.generation.fingerprints.files import FileStamp, LoadedFiles, model_files, stamps_of
from tokentape.generation.fingerprints.known import note_files, weights_of
from tokentape.generation.fingerprints.sampler import sampler_sha256
from tokentape.generation.fingerprints.tensors import tensor_sha256
from tokentape.generation.fingerprints.texts import json_sha256, template_sha256, tokenizer_sha256
from tokentape.generation.fingerprints.weights import weights_sha256
from tokentape.generation.fingerprints.weights_manifest import (
    TensorFingerprint,
    WeightsManifest,
    split_at_number,
)
from tokentape.generation.fingerprints.weights_version import weights_version

__all__ = (
    "FileStamp",
    "LoadedFiles",
    "TensorFingerprint",
    "WeightsManifest",
    "environment",
    "json_sha256",
    "model_files",
    "note_files",
    "sampler_sha256",
    "split_at_number",
    "stamps_of",
    "template_sha256",
    "tensor_sha256",
    "tokenizer_sha256",
    "weights_of",
    "weights_sha256",
    "weights_version",
)
