"""Settings of a run: typed keywords, one record, and which of them a fork may change."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import tokentape as tt
from tokentape.generation import run_settings
from tokentape.generation.run_settings import (
    ForkKeywords,
    GeneratorKeywords,
    InvestigationKeywords,
    ResumeKeywords,
    RunSettings,
)

OTHERS: dict[str, Any] = {
    "prefill_chunk_tokens": None,
    "top_logprobs": 2,
    "cache_bytes": 7,
    "prefix_folder": "prefixes",
    "threads": 3,
    "history": "template",
    "template_settings": {"enable_thinking": False},
    "at_context_limit": "prune_turns",
    "context_tokens": 4000,
    "context_budget_tokens": 900,
    "tool_calls_max": 1,
    "tool_call_format": "hermes",
    "tool_result_role": "user",
    "plan": {"name": "p"},
    "metadata": {"ticket": 7},
}


def test_every_setting_is_a_typed_keyword() -> None:
    hints = get_type_hints(RunSettings)

    assert get_type_hints(InvestigationKeywords).items() <= hints.items()
    assert get_type_hints(InvestigationKeywords).keys() == {
        each.name for each in fields(RunSettings)
    }
    assert get_type_hints(ResumeKeywords).keys() == set(run_settings.OF_THE_PROCESS)
    assert get_type_hints(ForkKeywords).keys() == {
        "name",
        "seed",
        *run_settings.OF_THE_PROCESS,
        *run_settings.FORKABLE,
    }


def test_the_page_of_investigations_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "investigations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (\w+) \| (yes|no) \|", page, flags=re.MULTILINE)
    defaults = RunSettings()

    assert rows == [
        (
            each.name,
            repr(getattr(defaults, each.name)),
            str(each.metadata["scope"]),
            "yes" if each.name in GeneratorKeywords.__annotations__ else "no",
        )
        for each in fields(RunSettings)
    ]


def test_what_is_recorded_comes_back_without_what_belongs_to_the_process() -> None:
    settings = RunSettings(**OTHERS)
    record = settings.to_record()
    restored = RunSettings.from_record(record)

    assert OTHERS.keys() == {each.name for each in fields(RunSettings)}
    assert all(getattr(settings, name) == value for name, value in OTHERS.items())
    assert record.keys() == OTHERS.keys() - {"prefix_folder", "threads"}
    assert restored.to_record() == record
    assert (restored.prefix_folder, restored.threads) == (None, None)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "no mapping"),
        ({"threads": 2}, "a setting 'threads'"),
        ({"history": "[hidden]"}, "history must be one of"),
        ({"top_logprobs": -1}, "top_logprobs must be"),
    ],
)
def test_damaged_settings_are_the_recordings_fault(record: Any, message: str) -> None:
    with pytest.raises(tt.RecordingError, match=message):
        RunSettings.from_record(record)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 3}, r"no setting 'candidates': use top_logprobs="),
        ({"behaviour": {}}, r"no setting 'behaviour': use metadata="),
        ({"colour": 3}, "no setting 'colour': there are prefill_chunk_tokens"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_name_to_use(
    lm: tt.LoadedModel,
    investigate: Callable[..., tt.Investigation],
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(TypeError, match=f"Investigation has {message}"):
        investigate(**settings)
    with pytest.raises(TypeError, match="ManualGenerator has no setting"):
        tt.ManualGenerator(lm.model, lm.tokenizer, **settings)


@pytest.mark.parametrize(
    "name",
    sorted(InvestigationKeywords.__annotations__.keys() - GeneratorKeywords.__annotations__.keys()),
)
def test_a_generator_sends_settings_of_a_conversation_to_investigation(
    lm: tt.LoadedModel, name: str
) -> None:
    settings: dict[str, Any] = {name: OTHERS[name]}

    with pytest.raises(TypeError, match="give it to Investigation"):
        tt.ManualGenerator(lm.model, lm.tokenizer, **settings)


@pytest.fixture
def investigate(lm: tt.LoadedModel) -> Callable[..., tt.Investigation]:
    def make(**settings: Any) -> tt.Investigation:
        with tt.open_store("sqlite://") as store:
            return tt.Investigation(lm, store=store, name="n", system_prompt="Hi.", **settings)

    return make
