"""Fixtures of several files."""

import copy
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.generation.call_formats import (
    FORMATS,
    GPT_OSS_TEMPLATE,
    QWEN_TEMPLATE,
    RESPONSE_TEMPLATES,
    TOOLS,
    needs_response_templates,
)
from tokentape.generation import CallReader
from tokentape.generation.hf import traced_step
from tokentape.store import DatabaseStore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip cases of response templates where transformers cannot read them."""
    for item in items:
        case = getattr(item, "callspec", None)
        values = case.params.values() if case is not None else ()
        if any(isinstance(value, str) and value in RESPONSE_TEMPLATES for value in values):
            item.add_marker(needs_response_templates)


@pytest.fixture(scope="module")
def readers(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Callable[[], CallReader]]:
    """A reader of each format, and of a response template."""
    own = copy.deepcopy(tokenizer)
    own.response_template = QWEN_TEMPLATE
    other = copy.deepcopy(tokenizer)
    other.response_template = GPT_OSS_TEMPLATE

    def made(of: PreTrainedTokenizerFast, name: str) -> Callable[[], CallReader]:
        return lambda: CallReader(of, TOOLS, name)

    return {
        **{name: made(tokenizer, name) for name in FORMATS},
        "response_template": made(own, "auto"),
        "gpt-oss": made(other, "auto"),
    }


@pytest.fixture
def run(lm: tt.LoadedModel, store: DatabaseStore) -> Iterator[tt.Investigation]:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as begun:
        yield begun


@pytest.fixture
def on_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def be(day: int) -> None:
        class Frozen(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> "Frozen":
                return cls(2026, 7, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Frozen)

    return be


@pytest.fixture
def lm_with() -> Callable[[str], tt.LoadedModel]:
    def make(template: str) -> tt.LoadedModel:
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = template
        tokenizer.bos_token = "<|endoftext|>"
        return tiny_model("llama", tokenizer, num_hidden_layers=1)

    return make


@pytest.fixture
def early_traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace models after three steps, and from the third step of a turn on."""
    if torch.torch_version.TorchVersion(torch.__version__) < "2.13":
        pytest.skip("earlier releases of torch give other bits in a trace, and take none")
    monkeypatch.setattr(traced_step, "UNTRACED_STEPS", 3)
    monkeypatch.setattr(traced_step, "UNTRACED_TURN_STEPS", 2)
    yield
    traced_step._models.clear()
