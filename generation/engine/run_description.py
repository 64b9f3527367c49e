"""A run as it is recorded: its name, its seed, its settings and its tools."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokentape.generation.checks import check_seed
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.run_settings import RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDescription:
    """What the caller of an engine says of a run; the model and the machine say the rest."""

    name: str
    model: str
    """The name that `load_model` was given, for a replay to load it again."""
    seed: int | None
    settings: RunSettings
    tools: tuple[str, ...] = ()
    """Names of the tools that can be called."""
    tool_sources: Mapping[str, Any] = field(default_factory=dict)
    """What `ToolInterface.sources` returns."""
    conversation_format: ConversationFormat = field(default_factory=ConversationFormat)
    """How the chat template is given the messages."""
    warnings: tuple[str, ...] = ()
    """What the user is warned of when the run begins."""
    resumed: bool = False
    """The recorder continues a run that has events already."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))
