"""Find the tool calls that a model writes in its turns, up to a limit per turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokentape.generation.callbacks import Pause
from tokentape.generation.engine.turn import TurnResult
from tokentape.generation.investigation.initial_prompt import TOOLS_PLACEHOLDER
from tokentape.generation.tools.calls import CallReader, ParsedCall
from tokentape.recorder.events import StopReason
from tokentape.recorder.events.tool import NOT_RUN
from tokentape.recorder.events.turn import CALLS


@dataclass(frozen=True, slots=True)
class ToolCallDetector:
    """Reads the calls of a turn's rounds, at most `max_calls` per turn.

    `calls_so_far` is the number of calls that the turn has made in its earlier rounds.
    """

    reader: CallReader
    max_calls: int

    def instructions(self) -> str:
        """Return how the model writes its calls; empty if it may make none."""
        return self.reader.instructions() if self.max_calls else ""

    def pause_after_call(self, prompt_text: str, calls_so_far: int) -> Pause | None:
        """Return a predicate on the reply's text, true when it has just completed a call.

        None if the turn may make no further call.
        """
        if calls_so_far >= self.max_calls:
            return None
        return lambda text: bool(self.reader.completed(text, prefix=prompt_text))

    def parse(self, round_: TurnResult, calls_so_far: int) -> tuple[ParsedCall, ...]:
        """Return the calls with which a round of a turn ended."""
        if calls_so_far >= self.max_calls:
            return ()
        if round_.stop_reason in CALLS:
            return self.reader.completed(round_.text, prefix=round_.prompt.text)
        if round_.stop_reason == StopReason.EOS:
            return self.reader.unfinished(round_.text, prefix=round_.prompt.text)
        return ()

    def within_limit(self, calls: Sequence[ParsedCall], calls_so_far: int) -> list[ParsedCall]:
        """Return the calls of one round; those above the limit get an error and are not run."""
        error = f"{NOT_RUN}: a turn may make {self.max_calls} calls; continue without it"
        return [
            call if number < self.max_calls else replace(call, error=call.error or error)
            for number, call in enumerate(calls, start=calls_so_far)
        ]


def call_warnings(reader: CallReader, system_prompt: str, max_calls: int) -> tuple[str, ...]:
    """Return what the user is warned of before a run whose model may call tools.

    A model whose template writes no calls, and whose system prompt says how to write them, writes
    them so.
    """
    told = TOOLS_PLACEHOLDER in system_prompt and not reader.template_writes_calls
    return (reader.warning,) if reader.warning and max_calls and not told else ()
