"""One generator with a system prompt for every call."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from tests.samplers import GREEDY


def test_a_model_manager_keeps_a_system_prompt_for_all_calls(tiny_folder: Path) -> None:
    manager = tt.ModelManager(tiny_folder)
    with pytest.raises(tt.ModelError, match="enable_manual_generation"):
        manager.generate_manual("Hello")
    manager.enable_manual_generation("Be kind.")
    said = manager.generate_manual("Hello", max_new_tokens=8, temperature=0)
    again = manager.generate_manual("Hello", max_new_tokens=8, temperature=0)
    assert manager.manual_generator is not None
    plain = tt.ManualGenerator(manager.model, manager.tokenizer)
    plain.cache_system_prompt("Be kind.")

    assert said == again == plain.generate("Hello", max_new_tokens=8, **GREEDY)["generated_text"]
    assert isinstance(manager.tokenizer, PreTrainedTokenizerFast)
