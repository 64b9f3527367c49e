"""Faults of a model that its weights do not show: config, code, restored states."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any
from unittest.mock import patch

import torch

import tokentape as tt
from benchmarks.replay.fault_case import SYSTEM_PROMPT, Case, record_case
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.generation import hf
from tokentape.generation.cache.prefix_folder import PrefixFolder
from tokentape.store import DatabaseStore

_WINDOW = 9
_SOFTCAP = 5.0
# Of the keys of a forged prefix.
_FORGED_FACTOR = 1.2

Inject = Callable[[Case], Case]


def other_config(change: Callable[[Any], None], family: str = "") -> Inject:
    """Return a fault that makes the model again, of a changed config and with the same weights.

    Where the model's own config has no such field, the case is one of a tiny model of `family`.
    """

    def inject(case: Case) -> Case:
        used = _case_of(family, case) if family else case
        config = copy.deepcopy(used.lm.model.config)
        change(config)
        with torch.random.fork_rng(devices=[]):
            model = type(used.lm.model)(config).eval()
        model.to(device=used.lm.model.device, dtype=used.lm.model.dtype)
        model.load_state_dict(used.lm.model.state_dict())
        # Some buffers are cast with the weights, and some are not.
        for name, buffer in used.lm.model.named_buffers():
            other = model.get_buffer(name)
            other.data = other.data.to(buffer.dtype)
        return replace(used, lm=tt.LoadedModel(model, used.lm.tokenizer, used.lm.name))

    return inject


def _case_of(family: str, case: Case) -> Case:
    lm = tiny_model(family, byte_tokenizer(), dtype=case.lm.model.dtype)
    lm.model.to(case.lm.model.device)
    return record_case(lm, tokens=len(case.recording.turns()[0].tokens))


def other_model(change: Callable[[Any], None]) -> Inject:
    """Return a fault that changes a copy of the model in place."""

    def inject(case: Case) -> Case:
        model = copy.deepcopy(case.lm.model)
        change(model)
        return replace(case, lm=tt.LoadedModel(model, case.lm.tokenizer, case.lm.name))

    return inject


def norm_eps(config: Any) -> None:
    config.rms_norm_eps = 0.03


def rope_theta(config: Any) -> None:
    config.rope_parameters["rope_theta"] *= 1.001


def hidden_act(config: Any) -> None:
    config.hidden_act = "gelu"


def sliding_window(config: Any) -> None:
    config.sliding_window = _WINDOW


def softcap(config: Any) -> None:
    config.final_logit_softcapping = _SOFTCAP


def attention_scale(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.05


def mask(model: Any) -> None:
    """Hide the first token of every sequence from all later ones."""
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(_without_first_token, layer.self_attn)


def _without_first_token(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
    # Its name since transformers 5.24, and before.
    held = kwargs.get("cache", kwargs.get("past_key_values"))
    start = 0 if held is None else held.get_seq_length(self.layer_idx)
    rows = torch.arange(start, start + hidden_states.shape[1], device=hidden_states.device)
    columns = torch.arange(start + hidden_states.shape[1], device=hidden_states.device)
    seen = (columns[None] <= rows[:, None]) & ((columns[None] > 0) | (rows[:, None] == 0))
    kwargs["attention_mask"] = seen[None, None]
    return type(self).forward(self, hidden_states, **kwargs)


def zero_a_head(model: Any) -> None:
    """Zero the first head of the second layer where its output is projected."""
    attention = model.model.layers[1].self_attn
    width = attention.head_dim

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., :width] = 0.0
        return torch.nn.functional.linear(x, self.weight, self.bias)

    attention.o_proj.forward = MethodType(forward, attention.o_proj)


def forged_prefix(case: Case) -> Case:
    """Record with a stored system prompt whose keys and values are not those of the model.

    The file has valid sums and the user's signature, as that of another program of the user may.
    """
    store = tt.open_store("sqlite://")
    assert isinstance(store, DatabaseStore)
    tokens = len(case.recording.turns()[0].tokens)
    with tempfile.TemporaryDirectory() as folder:
        with _forging():
            _converse(case, store, Path(folder), tokens=1)
        run_id = _converse(case, store, Path(folder), tokens=tokens)
    return Case(store.recording(run_id), case.lm, store)


def _converse(case: Case, store: DatabaseStore, folder: Path, *, tokens: int) -> str:
    with tt.Investigation(
        case.lm,
        store=store,
        name="prefix",
        system_prompt=SYSTEM_PROMPT,
        seed=7,
        prefix_folder=folder,
    ) as run:
        for text in ("What is a norm?", "Tell me a story.", "And now?", "Go on."):
            run.chat(text, max_new_tokens=tokens, do_sample=False)
    return run.run_id


@contextmanager
def _forging() -> Iterator[None]:
    """Within this context, prefixes are stored with other keys and values."""
    store = PrefixFolder.store

    def store_forged(self: PrefixFolder, ids: Any, cache: Any, *args: Any) -> Any:
        forged = hf.fork(cache)
        layers: list[Any] = forged.layers
        for layer in layers:
            layer.keys.mul_(_FORGED_FACTOR)
        return store(self, ids, forged, *args)

    with patch.object(PrefixFolder, "store", store_forged):
        yield
