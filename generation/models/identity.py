"""The identity of a model: the fingerprints that a run records at its start."""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import fingerprints, hf
from tokentape.generation.context_length import context_tokens
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.generation_config import json_fields
from tokentape.generation.models.model_places import remember_places, without_folders
from tokentape.generation.numerics.attention import cuda_device
from tokentape.recorder import Recorder, process
from tokentape.recorder.events import RunStarted

_loadings: "weakref.WeakKeyDictionary[Any, Mapping[str, Any]]" = weakref.WeakKeyDictionary()


def set_loading(model: Any, loading: Mapping[str, Any]) -> None:
    """Remember how a model was loaded, for runs that get it without its `LoadedModel`."""
    _loadings[model] = loading


@cache
def _tokentape_version() -> str:
    """Return the version of tokentape; empty if it runs from files that were not installed."""
    try:
        return version("tokentape")
    except PackageNotFoundError:
        return ""


class ModelIdentity:
    """Fingerprints of a model and its tokenizer.

    The weights are hashed on first use and again after a change.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        loading: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe a model that was loaded with `loading`; see `LoadedModel.loading`.

        Without it, with the one that `set_loading` remembers.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._loading = dict(loading or _loadings.get(model, {}))
        self._held: dict[str, Any] | None = None
        """Within `held`: the fields of `_described_model`, once they are computed."""
        self._holders = 0

    @property
    def weights(self) -> fingerprints.WeightsManifest:
        """The manifest of the current weights."""
        return fingerprints.manifest_of(self._model)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within this context, fingerprint the tokenizer and the model's code and config once.

        Neither of them may change meanwhile. Changes of the weights are noticed.
        """
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._held = None

    @property
    def weights_sha256(self) -> str:
        """The hexadecimal sha256 of the manifest."""
        return self.weights.sha256

    def described(self) -> dict[str, Any]:
        """Return the fields of `RunStarted` that the model and this machine determine."""
        return self._described(self.weights)

    def record_start(self, recorder: Recorder, **fields: Any) -> None:
        """Record the weights manifest and `RunStarted`, with `fields` over those of `described`.

        The recording names no folder of this machine; see `model_places`. Raise ModelError if the
        weights cannot be hashed; nothing is recorded then.
        """
        weights = self.weights
        recorder.put_weights_manifest(weights.sha256, weights.payload)
        described = {**self._described(weights), **fields}
        remember_places(
            weights.sha256, described.get("model", ""), str(self._loading.get("adapter", ""))
        )
        recorder.record(RunStarted(**without_folders(described)))

    def _described(self, weights: fingerprints.WeightsManifest) -> dict[str, Any]:
        model = self._model
        held = self._held
        if held is None:
            held = self._described_model()
            if self._holders:
                self._held = held
        return {
            "weights_sha256": weights.sha256,
            "weights_listed": True,
            "dtype": str(hf.compute_dtype(model)).removeprefix("torch."),
            "device": model.device.type,
            "attention_kernel": attention_kernel(model),
            "threads": torch.get_num_threads(),
            "context_tokens": context_tokens(model),
            "environment": fingerprints.environment(cuda_device(model)),
            "process": process.this_process(),
            "tokentape_version": _tokentape_version(),
            "loading": self._loading,
            **held,
        }

    def _described_model(self) -> dict[str, Any]:
        model = self._model
        return {
            "tokenizer_sha256": fingerprints.tokenizer_sha256(self._tokenizer),
            "template_sha256": fingerprints.template_sha256(self._tokenizer),
            "generation_config": json_fields(model.generation_config.to_dict()),
            "sampler_sha256": fingerprints.sampler_sha256(),
            "model_class": fingerprints.model_class(model),
            "config": fingerprints.config_fields(model),
            "module_state": fingerprints.module_state(model),
            "model_code": fingerprints.model_code(model),
        }
