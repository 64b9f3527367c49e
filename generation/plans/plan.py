"""A protocol: what is said to a model turn by turn, and when background reaches it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokentape.generation.history.context_limit import POLICIES
from tokentape.generation.plans.background import (
    AFTER_CONCLUSIONS,
    BEFORE_FIRST_TASK,
    BEFORE_LAST_TASK,
    Background,
)
from tokentape.generation.plans.fields import Place, choice, mapping, several, text, whole
from tokentape.generation.plans.tasks import Task, read_sampling
from tokentape.generation.tools.runner import ToolCall

_NEW_TOKENS = 48
_CALLS = 4
_PAUSE_TITLE = "Background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`at_context_limit` is that of `Investigation`; `tool_calls_max` counts those that the model
    makes in a turn.

    `turns_max` ends the protocol early; None for all of its turns.
    """

    max_new_tokens: int = _NEW_TOKENS
    at_context_limit: str = "refuse"
    tool_calls_max: int = _CALLS
    turns_max: int | None = None

    @classmethod
    def read(cls, value: object, place: Place) -> "Limits":
        fields = ("max_new_tokens", "at_context_limit", "tool_calls_max", "turns_max")
        given = mapping(value, place, fields)
        turns_max = given.get("turns_max")
        return cls(
            max_new_tokens=whole(
                given.get("max_new_tokens", _NEW_TOKENS), place.at("max_new_tokens"), least=1
            ),
            at_context_limit=choice(
                given.get("at_context_limit", "refuse"),
                place.at("at_context_limit"),
                tuple(POLICIES),
            ),
            tool_calls_max=whole(
                given.get("tool_calls_max", _CALLS), place.at("tool_calls_max"), least=0
            ),
            turns_max=None
            if turns_max is None
            else whole(turns_max, place.at("turns_max"), least=1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTurn:
    """A turn as it is to be run: turn `number` of the protocol is that of the run.

    `settings` are those of `Investigation.chat`. `document` names what reaches the model in this
    turn; empty where nothing does.
    """

    number: int
    task: str
    message: str
    tool_calls: tuple[ToolCall, ...]
    settings: Mapping[str, Any]
    document: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlan:
    """`system_prompt` may hold `{tools}` and `{memory}`; `tools` are those told of and called."""

    name: str
    description: str
    system_prompt: str
    tasks: tuple[Task, ...]
    tools: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    background: Background = field(default_factory=lambda: Background(pauses={}))

    @classmethod
    def read(cls, value: object, file: str) -> "ExperimentPlan":
        """From plain values. Raises PromptError with the file, the field, and what is allowed."""
        place = Place(file)
        required = ("name", "system_prompt", "tasks")
        given = mapping(value, place, _FIELDS, required=required)
        protocol = cls(
            name=text(given["name"], place.at("name")),
            description=text(given.get("description", ""), place.at("description"), empty=True),
            system_prompt=text(given["system_prompt"], place.at("system_prompt")),
            tasks=several(given["tasks"], place.at("tasks"), Task.read, least=1),
            tools=several(given.get("tools", ()), place.at("tools"), text),
            limits=Limits.read(given.get("limits", {}), place.at("limits")),
            sampling=read_sampling(given.get("sampling", {}), place.at("sampling")),
            seed=whole(given.get("seed", 0), place.at("seed"), least=-(2**63)),
            background=Background.read(given.get("background", {}), place.at("background")),
        )
        if "\0" in protocol.name:
            place.at("name").refuse("holds a NUL character")
        protocol._refuse_contradictions(place)
        return protocol

    @classmethod
    def from_described(cls, described: Mapping[str, Any]) -> "ExperimentPlan":
        """The protocol that a recording describes. Raises PromptError for what is none."""
        return cls.read(described, "the recorded protocol")

    def described(self) -> dict[str, Any]:
        """All of it, documents too, as plain JSON; it is a protocol file itself."""
        return {
            "name": self.name,
            "description": self.description,
            "seed": self.seed,
            "system_prompt": self.system_prompt,
            "tools": list(self.tools),
            "limits": asdict(self.limits),
            "sampling": dict(self.sampling),
            "background": self.background.described(),
            "tasks": [task.described() for task in self.tasks],
        }

    def turns(self) -> tuple[PlanTurn, ...]:
        """Every turn in order, up to `limits.turns_max`."""
        drafts = list(self._drafts())[: self.limits.turns_max]
        return tuple(replace(draft, number=number) for number, draft in enumerate(drafts, 1))

    def with_limits(
        self,
        *,
        seed: int | None = None,
        turns_max: int | None = None,
        max_new_tokens: int | None = None,
    ) -> "ExperimentPlan":
        """The protocol with what is given in place of its own. Raises PromptError."""
        described = self.described()
        given = {"turns_max": turns_max, "max_new_tokens": max_new_tokens}
        described["limits"] |= {name: each for name, each in given.items() if each is not None}
        described["seed"] = self.seed if seed is None else seed
        return ExperimentPlan.read(described, self.name)

    def _drafts(self) -> Iterator[PlanTurn]:
        yield from self._pause(BEFORE_FIRST_TASK)
        for number, task in enumerate(self.tasks, 1):
            if number == len(self.tasks):
                yield from self._pause(BEFORE_LAST_TASK)
            for turn in task.turns:
                sampling = {**self.sampling, **task.sampling, **turn.sampling}
                yield self._draft(task.title, turn.message, turn.tool_calls, sampling)
                if turn.concludes:
                    yield from self._pause(AFTER_CONCLUSIONS)

    def _pause(self, pause: str) -> Iterator[PlanTurn]:
        said = self.background.said(pause)
        if said is not None:
            document = self.background.document if self.background.when == pause else None
            draft = self._draft(_PAUSE_TITLE, said, (), self.sampling)
            yield replace(draft, document=document.name if document else "")

    def _draft(
        self,
        task: str,
        message: str,
        tool_calls: tuple[ToolCall, ...],
        sampling: Mapping[str, Any],
    ) -> PlanTurn:
        settings = {**sampling, "max_new_tokens": self.limits.max_new_tokens}
        return PlanTurn(
            number=0, task=task, message=message, tool_calls=tool_calls, settings=settings
        )

    def _refuse_contradictions(self, place: Place) -> None:
        concluding = [turn for task in self.tasks for turn in task.turns if turn.concludes]
        if len(concluding) > 1:
            place.at("tasks").refuse(f"conclude {len(concluding)} times: mark one turn")
        waits = self.background.said(AFTER_CONCLUSIONS) is not None
        if waits and not concluding:
            place.at("background").refuse(
                f"waits for {AFTER_CONCLUSIONS}, and no turn says `concludes: true`"
            )
        for number, task in enumerate(self.tasks, 1):
            for count, turn in enumerate(task.turns, 1):
                here = place.at("tasks").at(number).at("turns").at(count).at("tool_calls")
                for call in turn.tool_calls:
                    if call.name not in self.tools:
                        here.refuse(f"name {call.name!r}, which is not among the tools")


_FIELDS = (
    "name",
    "description",
    "seed",
    "system_prompt",
    "tools",
    "limits",
    "sampling",
    "background",
    "tasks",
)
