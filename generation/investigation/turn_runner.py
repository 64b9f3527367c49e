"""A turn to its end: the model replies, the tools that it calls are run, and it goes on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tokentape.generation.checks import context_tokens
from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.turn import RoundPlan, TurnResult, TurnSettings
from tokentape.generation.errors import PromptError
from tokentape.generation.history.context_limit import extend_within
from tokentape.generation.history.conversation import Prompt
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.restored_conversation import prompt_tokens_max
from tokentape.generation.investigation.interrupts import interrupted_between_tokens
from tokentape.generation.investigation.reply import Reply, reply_of
from tokentape.generation.investigation.tool_call_detector import ToolCallDetector
from tokentape.generation.tools.interface import ToolResult
from tokentape.generation.tools.runner import ToolCall, ToolRunner
from tokentape.recorder.projections import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRunner:
    """Takes turns of the generator's conversation, each in as many parts as its calls make of it.

    `calls` reads those of the model, `use` runs them. Of the run's `behaviour` it heeds how long a
    prompt may be and what is done about one that is longer. Ctrl-C ends a part at its next token.
    """

    generator: ManualGenerator
    calls: ToolCallDetector
    use: ToolRunner
    behaviour: Mapping[str, Any]

    def take_turn(
        self,
        user_message: str,
        tool_calls: Sequence[ToolCall],
        settings: TurnSettings,
    ) -> Reply:
        """Say something, with the results of calls beneath it, and let the model reply.

        Raises PromptError where that does not fit, with nothing but the calls recorded.
        """
        shown = [self.use.run_for_user(call) for call in tool_calls]
        messages = [NewMessage(role="user", content=user_message), *(each for each, _ in shown)]
        first = self._take_part(self._prompt(messages, settings), settings, 0, made=0)
        return self.go_on([first], settings, [result for _, result in shown])

    def resume_part(
        self, opened: Turn, prompt: Prompt, settings: TurnSettings, made: int
    ) -> TurnResult:
        """Finish a part that was cut off; see `ManualGenerator.resume_turn`."""
        with self._round(prompt, opened.first_step, made) as plan:
            return self.generator.resume_turn(opened, prompt, settings, plan)

    def go_on(
        self,
        parts: Sequence[TurnResult],
        settings: TurnSettings,
        results: Sequence[ToolResult] = (),
        made: int = 0,
    ) -> Reply:
        """Run the tools that the model calls, and let it go on, until it has replied.

        `settings` are those of the last of the parts, `made` counts the calls of the turn before
        its end. Where a result does not fit into the context any more the turn is over.
        """
        parts, results = list(parts), list(results)
        while calls := self.calls.parse(parts[-1], made):
            turn = parts[-1]
            step = turn.first_step + len(turn.token_ids)
            rest = settings.for_next_round(sampled=len(turn.token_ids), first_step=step)
            if rest is None:
                break
            settings = rest
            shown = [
                self.use.run_for_model(each, turn=turn.turn, step=step)
                for each in self.calls.within_limit(calls, made)
            ]
            results += (result for _, result in shown)
            made += len(calls)
            try:
                prompt = self._prompt([message for message, _ in shown], settings)
            except PromptError:
                break
            parts.append(self._take_part(prompt, settings, step, made))
        return reply_of(parts, results)

    def _take_part(
        self, prompt: Prompt, settings: TurnSettings, first_step: int, made: int
    ) -> TurnResult:
        with self._round(prompt, first_step, made) as plan:
            return self.generator.take_turn(prompt, settings, plan)

    @contextmanager
    def _round(self, prompt: Prompt, first_step: int, made: int) -> Iterator[RoundPlan]:
        """What ends a part: Ctrl-C, and a call while some may be made."""
        with interrupted_between_tokens() as leave_if_asked:
            yield RoundPlan(
                first_step=first_step,
                pauses=self.calls.pause_after_call(prompt.text, made),
                between_tokens=leave_if_asked,
            )

    def _prompt(self, messages: Sequence[NewMessage], settings: TurnSettings) -> Prompt:
        new_tokens = int(settings.config.max_new_tokens or 0)
        model_tokens = context_tokens(self.generator.model)
        longest = prompt_tokens_max(self.behaviour, model_tokens, new_tokens)
        prompt = extend_within(
            self.generator.conversation,
            messages,
            prompt_tokens_max=longest,
            at_context_limit=self.behaviour["at_context_limit"],
        )
        if longest is not None and len(prompt.ids) > longest:
            raise PromptError(
                f"a prompt of {len(prompt.ids)} tokens and {new_tokens} new ones do not fit into "
                f"{longest + new_tokens}: shorten the one, ask for fewer, or have the history "
                "pruned with at_context_limit"
            )
        return prompt
