"""Experiment plans: the messages of an investigation, turn by turn, and its settings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from tokentape.generation.errors import PromptError
from tokentape.generation.history.context_policies import POLICIES
from tokentape.generation.plans.background import (
    AFTER_CONCLUSIONS,
    BEFORE_FIRST_TASK,
    BEFORE_LAST_TASK,
    Background,
)
from tokentape.generation.plans.tasks import PlanTask, Sampling
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.generation.tools.validation import (
    InvalidValue,
    Text,
    as_json,
    at_least,
    check_encodable,
    fit,
    one_of,
)
from tokentape.recorder.plain_values import plain_value

_PAUSE_TITLE = "Background"


def check_name(name: str) -> str:
    """Check that a plan's name can be the name of a run."""
    if "\0" in name:
        raise InvalidValue("has a NUL character")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """Limits of a plan's turns."""

    max_new_tokens: Annotated[int, at_least(1)] = 48
    """Tokens that the model may generate in a turn."""
    at_context_limit: Annotated[str, one_of(tuple(POLICIES))] = "refuse"
    """What happens when a prompt exceeds the context; see `Investigation`."""
    tool_calls_max: Annotated[int, at_least(0)] = 4
    """Tool calls that the model may make in a turn."""
    turns_max: Annotated[int, at_least(1)] | None = None
    """Turns to run; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTurn:
    """A turn as it is run."""

    number: int
    """The turn's number in the run, from 1."""
    task: str
    """The title of the turn's task."""
    message: str
    tool_calls: tuple[ToolCall, ...]
    settings: Mapping[str, Any]
    """Keywords of `Investigation.chat`."""
    document: str = ""
    """Name of the background document in this turn's message; "" without one."""
    reply_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlan:
    """An investigation as data, as a YAML file holds it; see `load_plan` and `run_plan`."""

    name: Annotated[Text, check_name]
    description: Annotated[str, check_encodable] = ""
    seed: Annotated[int, at_least(-(2**63))] = 0
    system_prompt: Text
    """May hold `{tools}` and `{memory}`; see `Investigation`."""
    tools: tuple[Text, ...] = ()
    """Names of the tools that the model is given and that turns may call."""
    tools_file: Text | None = None
    """A Python file with tools, in the folder of the plan; see `load_tools`."""
    limits: PlanLimits = field(default_factory=PlanLimits)
    sampling: Sampling = field(default_factory=dict)
    """Settings of `generate` for all turns."""
    background: Background = field(default_factory=Background)
    tasks: tuple[PlanTask, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InvalidValue("is empty", "tasks")
        concluding = [turn for task in self.tasks for turn in task.turns if turn.concludes]
        if len(concluding) > 1:
            raise InvalidValue(f"conclude {len(concluding)} times: mark one turn", "tasks")
        if self.background.message_at(AFTER_CONCLUSIONS) is not None and not concluding:
            raise InvalidValue(
                f"has a message for {AFTER_CONCLUSIONS}, but no turn has `concludes: true`",
                "background",
            )
        for number, task in enumerate(self.tasks):
            for count, turn in enumerate(task.turns):
                for call in turn.tool_calls:
                    if call.name not in self.tools:
                        path = ("tasks", number, "turns", count, "tool_calls")
                        raise InvalidValue(f"call {call.name!r}, which is not in tools", *path)

    @classmethod
    def read(cls, value: object, file: str) -> "ExperimentPlan":
        """Return the plan in a mapping as YAML or JSON gives it; `file` names it in errors.

        Raise PromptError with the file, the field and the rule.
        """
        # A YAML file can refer to itself: `fit` then names the place.
        with suppress(RecursionError):
            value = plain_value(value)
        try:
            plan: ExperimentPlan = fit(value, cls, cast=False)
        except InvalidValue as error:
            steps = (each + 1 if isinstance(each, int) else each for each in error.path)
            place = ".".join(map(str, steps)) or "the plan"
            raise PromptError(f"{file}: {place} {error.rule}") from None
        return plan

    @classmethod
    def from_described(cls, described: Mapping[str, Any]) -> "ExperimentPlan":
        """Return the plan that a recording holds. Raise PromptError if it is invalid."""
        return cls.read(described, "the recorded plan")

    def described(self) -> dict[str, Any]:
        """Return the plan as plain JSON, documents included: the content of a plan file."""
        described: dict[str, Any] = as_json(asdict(self))
        return described

    def turns(self) -> tuple[PlanTurn, ...]:
        """Return the turns in order, at most `limits.turns_max`."""
        drafts = list(self._drafts())[: self.limits.turns_max]
        return tuple(replace(draft, number=number) for number, draft in enumerate(drafts, 1))

    def with_overrides(
        self,
        *,
        seed: int | None = None,
        turns_max: int | None = None,
        max_new_tokens: int | None = None,
        tools: Sequence[str] | None = None,
        tools_file: str | None = None,
    ) -> "ExperimentPlan":
        """Return the plan with the given values in place of its own. Raise PromptError if invalid.

        None keeps the value of the plan.
        """
        described = self.described()
        given = {"tools": None if tools is None else list(tools), "tools_file": tools_file}
        described |= {name: each for name, each in given.items() if each is not None}
        limits = {"turns_max": turns_max, "max_new_tokens": max_new_tokens}
        described["limits"] |= {name: each for name, each in limits.items() if each is not None}
        described["seed"] = self.seed if seed is None else seed
        return ExperimentPlan.read(described, self.name)

    def _drafts(self) -> Iterator[PlanTurn]:
        """Yield the turns without their numbers."""
        yield from self._pause(BEFORE_FIRST_TASK)
        for number, task in enumerate(self.tasks, 1):
            if number == len(self.tasks):
                yield from self._pause(BEFORE_LAST_TASK)
            for turn in task.turns:
                sampling = {**self.sampling, **task.sampling, **turn.sampling}
                draft = self._draft(task.title, turn.message, turn.tool_calls, sampling)
                yield replace(draft, reply_prefix=turn.reply_prefix)
                if turn.concludes:
                    yield from self._pause(AFTER_CONCLUSIONS)

    def _pause(self, pause: str) -> Iterator[PlanTurn]:
        message = self.background.message_at(pause)
        if message is not None:
            document = self.background.document if self.background.when == pause else None
            draft = self._draft(_PAUSE_TITLE, message, (), self.sampling)
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
