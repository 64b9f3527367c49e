"""The calls of tools that a model makes in its turns: which there are, and how many may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokentape.generation.callbacks import Pause
from tokentape.generation.engine.turn import TurnResult
from tokentape.generation.tools.calls import CallReader, ParsedCall
from tokentape.generation.tools.runner import NOT_RUN
from tokentape.recorder.events.turn import TOOL_CALL


@dataclass(frozen=True, slots=True)
class ToolCallDetector:
    """Reads calls while a turn has made fewer than `most`; `made` is how many it has."""

    reader: CallReader
    most: int

    def pauses_behind(self, prompt_text: str, made: int) -> Pause | None:
        """Whether a reply to the prompt has just called a tool; None where it may not."""
        if made >= self.most:
            return None
        return lambda text: bool(self.reader.completed(text, prefix=prompt_text))

    def of(self, part: TurnResult, made: int) -> tuple[ParsedCall, ...]:
        """What the model asks of tools at the end of a part of its turn."""
        read = {TOOL_CALL: self.reader.completed, "eos": self.reader.unfinished}
        if made >= self.most or part.stop_reason not in read:
            return ()
        return read[part.stop_reason](part.text, prefix=part.prompt.text)

    def within_limit(self, calls: Sequence[ParsedCall], made: int) -> list[ParsedCall]:
        """Calls that were written at once; of those that are too many the model is told so."""
        error = f"{NOT_RUN}: a turn may make {self.most} calls, go on without it"
        return [
            call if place < self.most else replace(call, error=call.error or error)
            for place, call in enumerate(calls, start=made)
        ]
