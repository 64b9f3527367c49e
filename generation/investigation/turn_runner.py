"""A turn from the user's message to the end of the reply, with the tool calls in between."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.turn import RoundPlan, TurnResult, TurnSettings
from tokentape.generation.errors import PromptTooLongError
from tokentape.generation.history.chosen_tokens import encode_reply_prefix
from tokentape.generation.history.context_limit import extend_within
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.interrupts import interrupted_between_tokens
from tokentape.generation.investigation.recorded_settings import recorded_settings
from tokentape.generation.investigation.reply import Reply, reply_of
from tokentape.generation.investigation.resume_point import recorded_result
from tokentape.generation.investigation.token_fork import TokenFork
from tokentape.generation.investigation.tool_call_detector import ToolCallDetector
from tokentape.generation.run_settings import AT_CONTEXT_LIMIT, RunSettings
from tokentape.generation.tools.interface import ToolResult
from tokentape.generation.tools.runner import ToolRunner
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder.events import StopReason, ToolCalled
from tokentape.recorder.projections import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRunner:
    """A runner of the turns of a generator's conversation, round by round.

    A round ends with tool calls of the model; their results begin the next one. Ctrl-C ends a round
    after its next token.
    """

    generator: ManualGenerator
    detector: ToolCallDetector
    tools: ToolRunner
    run_settings: RunSettings
    """They limit the length of a prompt."""

    def run_turn(
        self,
        user_message: str,
        tool_calls: Sequence[ToolCall],
        settings: TurnSettings,
        reply_prefix: str | tuple[int, ...] = "",
    ) -> Reply:
        """Run the user's tool calls, put message and results into the prompt, and reply.

        The reply begins with `reply_prefix`, a text or ids.

        Raise PromptError if the prompt does not fit; only the calls are recorded then. If the chat
        template rejects the message or the results, nothing is run or recorded.
        """
        self.generator.warn_of_replay_limits(settings)
        question = NewMessage(role="user", content=user_message)
        if tool_calls:
            expected = self.tools.expected_from_user(tool_calls)
            prompt = self._prompt([question, *expected], settings)
            plan = RoundPlan(forced_ids=self._forced_ids(prompt, reply_prefix))
            self.generator.check_turn(prompt, settings, plan)
            self.generator.start_run()
        shown = [self.tools.run_for_user(call) for call in tool_calls]
        results = [message for message, _ in shown]
        prompt = self._prompt([question, *results], settings)
        first = self._run_round(prompt, settings, forced_ids=self._forced_ids(prompt, reply_prefix))
        return self.continue_turn([first], settings, [result for _, result in shown])

    def run_given(
        self,
        messages: Sequence[NewMessage],
        results: Sequence[tuple[ToolCalled, str]],
        settings: TurnSettings,
        *,
        fit_context: bool = False,
    ) -> TurnResult:
        """Run a turn of one round on messages that a client gives, and return it.

        `results` are the calls whose results are among the messages, with these results. With
        `fit_context`, ask for as many new tokens as the context has room for. Raise as `run_turn`
        does, before anything is recorded.
        """
        self.generator.warn_of_replay_limits(settings)
        if fit_context and self.run_settings.at_context_limit == AT_CONTEXT_LIMIT[0]:
            settings = self._fitting(messages, settings)
        prompt = self._prompt(messages, settings)
        self.generator.check_turn(prompt, settings)
        self.generator.start_run()
        for called, content in results:
            self.tools.record_given(called, content)
        with self._round_plan(prompt, first_step=0, calls_so_far=0) as plan:
            plan = replace(plan, pause_reason=StopReason.CLIENT_CALL)
            return self.generator.run_turn(prompt, settings, plan)

    def _forced_ids(self, prompt: Prompt, reply_prefix: str | tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(reply_prefix, tuple):
            return reply_prefix
        return encode_reply_prefix(self.generator.tokenizer, prompt.text, reply_prefix)

    def resume_round(
        self,
        opened: Turn,
        prompt: Prompt,
        settings: TurnSettings,
        calls_so_far: int,
        *,
        forked: TokenFork | None = None,
    ) -> TurnResult:
        """Finish a round that was cut off in another process, or that a fork shares so far."""
        with self._round_plan(prompt, opened.first_step, calls_so_far) as plan:
            if forked is not None:
                plan = forked.planned(plan)
            else:
                began = opened.continued_by or opened.started
                plan = replace(
                    plan,
                    forced_ids=began.forced_ids,
                    continued_tokens=began.continued_tokens,
                    continued_text=opened.continued_text,
                )
            recorded = None if forked is None else forked.prompt
            return self.generator.resume_turn(opened, prompt, settings, plan, forked=recorded)

    def finish_turn(
        self,
        rounds: Sequence[Turn],
        prompt: Prompt | None,
        forked: TokenFork | None = None,
    ) -> Reply | None:
        """Finish the last turn of recorded rounds, which continues in this process or in this fork.

        `prompt` is that of the last round if it is open. Return None if nothing is left to do.
        """
        last = rounds[-1]
        settings = recorded_settings(last) if forked is None else forked.settings
        rounds = [each for each in rounds if each.number == last.number]
        calls_so_far = sum(len(each.messages) for each in rounds if each.first_step)
        results = [recorded_result(each) for each in rounds if each.finished is not None]
        if prompt is not None:
            results.append(self.resume_round(last, prompt, settings, calls_so_far, forked=forked))
        elif last.finished is None or not self.detector.parse(results[-1], calls_so_far):
            return None
        return self.continue_turn(results, settings, calls_so_far=calls_so_far)

    def continue_turn(
        self,
        rounds: Sequence[TurnResult],
        settings: TurnSettings,
        results: Sequence[ToolResult] = (),
        calls_so_far: int = 0,
    ) -> Reply:
        """Run further rounds until one ends without a tool call. Return the whole turn's reply.

        `settings` are those of the last of the `rounds`; `calls_so_far` counts the turn's calls
        before the end of that round. A result that does not fit into the context ends the turn.
        Raise PromptError, before a tool runs, if the chat template rejects results.
        """
        rounds, results = list(rounds), list(results)
        while calls := self.detector.parse(rounds[-1], calls_so_far):
            last = rounds[-1]
            step = last.first_step + len(last.token_ids)
            next_settings = settings.for_next_round(sampled=len(last.token_ids), first_step=step)
            if next_settings is None:
                break
            settings = next_settings
            allowed = self.detector.within_limit(calls, calls_so_far)
            self.generator.conversation.extend(self.tools.expected_from_model(allowed))
            shown = [self.tools.run_for_model(call, turn=last.turn, step=step) for call in allowed]
            results += (result for _, result in shown)
            calls_so_far += len(calls)
            try:
                prompt = self._prompt([message for message, _ in shown], settings)
            except PromptTooLongError:
                break
            rounds.append(self._run_round(prompt, settings, step, calls_so_far))
        return reply_of(rounds, results)

    def _run_round(
        self,
        prompt: Prompt,
        settings: TurnSettings,
        first_step: int = 0,
        calls_so_far: int = 0,
        forced_ids: tuple[int, ...] = (),
    ) -> TurnResult:
        with self._round_plan(prompt, first_step, calls_so_far) as plan:
            plan = replace(plan, forced_ids=forced_ids)
            return self.generator.run_turn(prompt, settings, plan)

    @contextmanager
    def _round_plan(
        self, prompt: Prompt, first_step: int, calls_so_far: int
    ) -> Iterator[RoundPlan]:
        """Yield the plan of a round that ends at a tool call, if one is allowed, or at Ctrl-C."""
        with interrupted_between_tokens() as raise_if_interrupted:
            yield RoundPlan(
                first_step=first_step,
                pauses=self.detector.pause_after_call(prompt.text, calls_so_far),
                between_tokens=raise_if_interrupted,
            )

    def _fitting(self, messages: Sequence[NewMessage], settings: TurnSettings) -> TurnSettings:
        """Return the settings with at most as many new tokens as the context has room for."""
        model_tokens = self.run_settings.context_of(self.generator.model)
        longest = self.run_settings.prompt_tokens_max(model_tokens, 0)
        if longest is None:
            return settings
        prompt = self.generator.conversation.extend(messages)
        room = max(1, longest - len(prompt.ids))
        if room >= int(settings.config.max_new_tokens or 0):
            return settings
        config = copy.deepcopy(settings.config)
        config.max_new_tokens = room
        return replace(settings, config=config)

    def _prompt(self, messages: Sequence[NewMessage], settings: TurnSettings) -> Prompt:
        """Return the next prompt, pruned if the run allows that. Raise PromptError if too long."""
        new_tokens = int(settings.config.max_new_tokens or 0)
        model_tokens = self.run_settings.context_of(self.generator.model)
        longest = self.run_settings.prompt_tokens_max(model_tokens, new_tokens)
        prompt = extend_within(
            self.generator.conversation,
            messages,
            prompt_tokens_max=longest,
            at_context_limit=self.run_settings.at_context_limit,
        )
        if longest is not None and len(prompt.ids) > longest:
            raise PromptTooLongError(
                f"a prompt of {len(prompt.ids)} tokens and {new_tokens} new ones do not fit into "
                f"{longest + new_tokens}: shorten the one, ask for fewer, or have the history "
                "pruned with at_context_limit"
            )
        return prompt
