"""What an application asks for when it begins a run: the keywords of `tt.Investigation`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokentape.recorder import Redactor
from tokentape.recorder.events import RunStarted
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value
from tokentape.replay.playback.system_prompt import GivenTools

_CHANGE_PROMPTS: Mapping[str, Any] = {
    "history": "exact",
    "template_settings": {},
    "context_tokens": None,
    "at_context_limit": "refuse",
    "context_budget_tokens": None,
    "tool_calls_max": 8,
    "tool_call_format": "auto",
    "tool_result_role": "auto",
}
"""Settings of a run that change what the model reads, or how far it may go on, with defaults."""
_OTHERS = (
    "prefill_chunk_tokens",
    "top_logprobs",
    "cache_bytes",
    "prefix_folder",
    "threads",
    "plan",
    "metadata",
)
RUN_KEYWORDS = (*_CHANGE_PROMPTS, *_OTHERS)
"""The settings that `tt.Investigation` takes as keywords."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The keywords with which an application begins a run."""

    name: str = ""
    system_prompt: str = ""
    tools: GivenTools = field(default_factory=lambda: GivenTools(None))
    seed: int = 0
    redactor: Redactor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in RUN_KEYWORDS:
                raise TypeError(
                    f"Investigation has no setting {name!r}{nearest(name, RUN_KEYWORDS)}"
                )

    def redacted(self, text: str) -> str:
        """Return a text as the application's redactor lets it be recorded."""
        return text if self.redactor is None else self.redactor(text)


def compare_run_settings(
    started: RunStarted, request: RunRequest
) -> Iterator[tuple[str, str, str]]:
    """Yield what differs, and both values, of the settings of a run and the names of its tools."""
    recorded = started.settings
    for name, default in _CHANGE_PROMPTS.items():
        given = plain_value(request.settings.get(name, default))
        # A run records the format and the role in use, and no calls where it has no tools.
        chosen_by_run = given == "auto" or (name == "tool_calls_max" and not started.tools)
        if name in recorded and not chosen_by_run and recorded[name] != (given or default):
            yield f"the run's {name}", repr(recorded[name]), repr(given)
    now = request.tools.names
    if sorted(now) != sorted(started.tools):
        yield "the tools", ", ".join(started.tools), ", ".join(now)
