"""A conversation with a model that looks at itself, recorded as it goes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from generation.checks import context_tokens
from generation.errors import PromptError, ToolError
from generation.hf.control_tokens import encode, mark
from generation.history.context_limit import extend_within, refuse_unknown_policy
from generation.history.conversation import NewMessage
from generation.manual import ManualGenerator
from generation.models import LoadedModel
from generation.sampling import turn_seed
from generation.tools import ToolInterface, ToolResult
from generation.turn import turn_settings
from recorder import EventLog, Recorder, Redactor, TokentapeError
from recorder.events import CacheDecided, ToolCalled, ToolReturned


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model said in a turn, and what it had been shown."""

    turn: int
    text: str
    token_ids: tuple[int, ...]
    stop_reason: str
    cache: CacheDecided
    tool_results: tuple[ToolResult, ...]
    duration_ms: float


class Investigation:
    """A run: entered, it starts and caches the system prompt; left, it ends, or fails.

    The seed of each turn follows from that of the run. Errors of a request, such as a prompt that
    does not fit, are raised before anything of the turn is recorded; results of its tools are by
    then.
    """

    def __init__(
        self,
        lm: LoadedModel,
        *,
        store: EventLog,
        name: str,
        system_prompt: str,
        tools: ToolInterface | None = None,
        seed: int = 0,
        history: str = "exact",
        at_context_limit: str = "refuse",
        template_settings: Mapping[str, Any] | None = None,
        redactor: Redactor | None = None,
        **engine: Any,
    ) -> None:
        """`history` is `exact` or `template`; see `Conversation`, also for `template_settings`.

        `at_context_limit` says what becomes of a message that no longer fits into the model's
        context: `refuse` it, or take out the oldest of the history and record that:
        `prune_tool_results` or `prune_turns`; see `plan_pruning`. A `redactor` rewrites what is
        written, not what the model reads; see `recorder.redaction`. `engine` are further settings
        of `ManualGenerator`: prefix_folder, cache_bytes, threads and others.
        """
        refuse_unknown_policy(at_context_limit)
        if redactor is not None and engine.get("prefix_folder") is not None:
            raise PromptError(
                "a prefix folder keeps the ids that a redactor withholds: give one or the other"
            )
        self._lm = lm
        self._tools = tools or ToolInterface([])
        self._system_prompt = system_prompt
        self._seed = seed
        self._at_context_limit = at_context_limit
        self._calls = 0
        self._recorder = Recorder(store, redactor=redactor)
        self.generator = ManualGenerator(
            lm.model,
            lm.tokenizer,
            self._recorder,
            name=name,
            model_name=lm.name,
            seed=seed,
            identity=lm.identity,
            history=history,
            template_settings=template_settings,
            behaviour={"at_context_limit": at_context_limit},
            **engine,
        )

    @property
    def run_id(self) -> str:
        return self._recorder.run_id

    def __enter__(self) -> Self:
        try:
            self.generator.cache_system_prompt(self._system_prompt)
        except BaseException as error:
            self._recorder.fail(error)
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._recorder.__exit__(error_type, error, trace)

    def chat(
        self, user_message: str, *, tool_calls: Sequence[ToolCall] = (), **settings: Any
    ) -> Reply:
        """Say something, with the results of tools beneath it, and let the model reply.

        `settings` are those of `ManualGenerator.generate`; `seed` overrides that of the turn.
        """
        if not self._recorder.started:
            raise TokentapeError("the investigation has not begun: enter it with `with`")
        if not user_message.strip():
            raise PromptError("the message is empty: there is nothing to reply to")
        settings.setdefault("seed", turn_seed(self._seed, self.generator.turn + 1))
        chosen = turn_settings(self._lm.model, **settings)
        max_new_tokens = int(chosen.config.max_new_tokens or 0)
        messages = [NewMessage(role="user", content=user_message)]
        results = []
        for call in tool_calls:
            call_id, result = self._run_tool(call)
            results.append(result)
            messages.append(NewMessage(role="tool", content=result.content, tool_call_id=call_id))
        longest = context_tokens(self._lm.model)
        prompt = extend_within(
            self.generator.conversation,
            messages,
            prompt_tokens_max=None if longest is None else longest - max_new_tokens,
            at_context_limit=self._at_context_limit,
        )
        turn = self.generator.take_turn(prompt, chosen)
        return Reply(
            turn=turn.turn,
            text=turn.text,
            token_ids=turn.token_ids,
            stop_reason=turn.stop_reason,
            cache=turn.cache,
            tool_results=tuple(results),
            duration_ms=turn.duration_ms,
        )

    def _run_tool(self, call: ToolCall) -> tuple[str, ToolResult]:
        self._calls += 1
        call_id = f"call_{self._calls}"
        try:
            json.dumps(dict(call.arguments), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ToolError(f"the arguments of {call.name} cannot be recorded: {error}") from None
        self._recorder.record(
            ToolCalled(call_id=call_id, name=call.name, arguments=dict(call.arguments))
        )
        result = self._tools.call(call.name, call.arguments)
        tokenizer = self._lm.tokenizer
        sha256 = hashlib.sha256(result.payload).hexdigest()
        self._recorder.put_blob(sha256, result.payload)
        self._recorder.record(
            ToolReturned(
                call_id=call_id,
                name=call.name,
                content=result.content,
                content_tokens=len(encode(tokenizer, mark(tokenizer, result.content))),
                payload_sha256=sha256,
                payload_bytes=len(result.payload),
                payload_tokens=len(encode(tokenizer, result.payload.decode())),
                tensors=result.tensors,
                error=result.error,
                duration_ms=result.duration_ms,
            )
        )
        return call_id, result
