"""Runs of conversations whose messages a client sends whole each time."""

import json
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Self, Unpack

from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.client_run import ClientRun
from tokentape.generation.completions.completed_turn import completion_of
from tokentape.generation.completions.completion import Completion, Continuation
from tokentape.generation.completions.token_tap import TokenListener, TokenTap
from tokentape.generation.completions.tool_schemas import client_tools
from tokentape.generation.completions.transcript import Transcript, renamed_results
from tokentape.generation.errors import PromptError
from tokentape.generation.history.incremental_decoder import decode_each
from tokentape.generation.investigation.investigation import RunStore
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.run_settings import CACHE_BYTES, InvestigationKeywords, setting_defaults
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder import TokentapeError
from tokentape.recorder.chat_messages import ASSISTANT, SYSTEM, ChatMessage
from tokentape.recorder.derived_seeds import turn_seed
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.plain_values import plain_whole

OPEN_MAX = 16
_REMEMBERED_MAX = 1000
"""Ended runs whose messages are kept, to resume them."""


@dataclass(slots=True, eq=False)
class _Conversation:
    """A run and what its client has seen of it."""

    key: tuple[str, str, str]
    """Session, system prompt and tools."""
    seed: int
    transcript: Transcript = field(default_factory=Transcript)
    run_id: str = ""
    run: ClientRun | None = None
    """None after it was ended to make room."""
    tap: TokenTap | None = None
    next_turn: int = 1
    """The turn before which a fork shares the whole transcript."""
    used: int = 0
    """When it was used last, as a number that grows."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held during a turn."""

    def turn_after(self, turns: int) -> int:
        """Return the turn before which a fork shares this many turns."""
        seen = self.transcript.turns
        return seen[turns].number if turns < len(seen) else self.next_turn


class Conversations:
    """Runs that are found by their messages, for clients that send a conversation whole each time.

    Each request becomes a turn. A run that has the messages of a request up to its newest ones
    continues, with its exact tokens and its cache. If another message differs, the run is forked
    before the first turn that differs. Otherwise a run begins; its assistant's messages are then
    texts that the client gives. Threads may use the object at once, and a `Batch` shares their
    forwards.

    Example:
        >>> from tokentape.generation.completions.chat_request import ChatRequest
        >>> from tokentape.generation.completions.conversations import Conversations
        >>> from tokentape.recorder.chat_messages import ChatMessage
        >>> hello = ChatMessage(role="user", content="Hello")
        >>> with Conversations(lm, store) as conversations:
        ...     settings = {"max_new_tokens": 3, "do_sample": False}
        ...     first = conversations.complete(ChatRequest(messages=(hello,), settings=settings))
        ...     messages = (hello, first.message, hello)
        ...     second = conversations.complete(ChatRequest(messages=messages, settings=settings))
        >>> second.run_id == first.run_id, second.turn, str(second.cache.decision)
        (True, 2, 'hit')
    """

    @lists_keywords(setting_defaults())
    def __init__(
        self,
        lm: LoadedModel,
        store: RunStore,
        *,
        open_max: int = OPEN_MAX,
        **settings: Unpack[InvestigationKeywords],
    ) -> None:
        """Prepare to record conversations with a model into a store.

        At most `open_max` runs keep their caches, of `cache_bytes` together; the one that was used
        longest ago ends to make room, and is resumed when its client continues it. `settings` are
        those of every run.
        """
        self._lm = lm
        self._store = store
        self._open_max = plain_whole(open_max)
        if self._open_max < 1:
            raise TokentapeError(f"open_max must be at least 1, not {open_max!r}")
        self._settings = settings
        self._cache_bytes = plain_whole(settings.get("cache_bytes", CACHE_BYTES))
        self._conversations: list[_Conversation] = []
        self._lock = threading.Lock()
        self._uses = count(1)
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def complete(
        self,
        request: ChatRequest,
        *,
        on_run: Callable[[str], None] | None = None,
        on_token: TokenListener | None = None,
    ) -> Completion:
        """Generate and record the next reply of a conversation. Return it.

        `on_run` is called with the id of the run before its turn begins, `on_token` with each
        recorded token and the text that is final with it. An exception that one of them raises ends
        the reply after this token, and is raised; the request can be sent again. In a batch, the
        other runs wait while it is called: it must not wait itself.

        Raise PromptError for messages that the chat template rejects, ModelError for settings that
        no turn can have, and TokentapeError after `close`.
        """
        _check_messages(request.messages)
        system, given = _without_system(request.messages)
        tools = client_tools(request.tools)
        key = (request.session, system, json.dumps(tools.get_available_tools(), sort_keys=True))
        with self._lock:
            if self._is_closed:
                raise TokentapeError("the conversations are closed: no run can continue")
            found, shared = self._find(key, given)
            conversation, how = self._take(found, shared, key, request)
        try:
            if conversation.run is None:
                self._begin(conversation, found, shared, how, tools, request)
            if on_run is not None:
                on_run(conversation.run_id)
            return self._reply(conversation, how, given, request, on_token)
        except BaseException as error:
            is_interrupt = not isinstance(error, Exception)
            # An interrupted run ends as such, so that its turn can be resumed.
            if is_interrupt or how is not Continuation.CONTINUED:
                self._abandon(conversation, error)
            raise
        finally:
            conversation.lock.release()

    def _find(
        self, key: tuple[str, str, str], given: Sequence[ChatMessage]
    ) -> tuple[_Conversation | None, int]:
        """Return the conversation that shares most turns with the messages, and how many it shares.

        One that can continue is preferred; None if no turn is shared.
        """
        best: tuple[tuple[int, bool, int], _Conversation] | None = None
        for each in self._conversations:
            shared = each.transcript.shared_turns(given) if each.key == key else 0
            rank = (shared, _can_continue(each, shared), each.used)
            if shared and (best is None or rank > best[0]):
                best = rank, each
        return (None, 0) if best is None else (best[1], best[0][0])

    def _take(
        self,
        found: _Conversation | None,
        shared: int,
        key: tuple[str, str, str],
        request: ChatRequest,
    ) -> tuple[_Conversation, Continuation]:
        """Return the conversation of the next turn, locked, and how its run comes to be."""
        if found is not None and _can_continue(found, shared):
            conversation, how = found, Continuation.CONTINUED
        else:
            seed = secrets.randbits(63) if request.seed is None else request.seed
            conversation, how = _Conversation(key=key, seed=seed), Continuation.STARTED
            if found is not None:
                conversation.transcript = found.transcript.before(shared)
                how = Continuation.FORKED
        conversation.lock.acquire()
        conversation.used = next(self._uses)
        return conversation, how

    def _begin(
        self,
        conversation: _Conversation,
        found: _Conversation | None,
        shared: int,
        how: Continuation,
        tools: ToolInterface,
        request: ChatRequest,
    ) -> None:
        """Begin the run of a conversation, as a fork of the one found or resumed if need be."""
        self._make_room(coming=1)
        tap = TokenTap(self._store)
        if how is Continuation.CONTINUED:
            run = ClientRun.resume(tap, conversation.run_id, self._lm, tools=tools)
        elif how is Continuation.FORKED:
            assert found is not None
            run = ClientRun.fork(
                tap,
                found.run_id,
                self._lm,
                at_turn=found.turn_after(shared),
                tools=tools,
                seed=conversation.seed,
            )
        else:
            metadata = {**self._settings.get("metadata", {}), **request.metadata}
            settings: Any = {**self._settings, "metadata": metadata}
            run = ClientRun(
                self._lm,
                store=tap,
                name=request.name,
                system_prompt=conversation.key[1],
                tools=tools,
                seed=conversation.seed,
                **settings,
            )
        run.start()
        conversation.run, conversation.tap, conversation.run_id = run, tap, run.run_id
        if how is Continuation.FORKED and found is not None:
            conversation.next_turn = found.turn_after(shared)

    def _reply(
        self,
        conversation: _Conversation,
        how: Continuation,
        given: Sequence[ChatMessage],
        request: ChatRequest,
        on_token: TokenListener | None,
    ) -> Completion:
        run, tap, seen = conversation.run, conversation.tap, conversation.transcript
        assert run is not None
        assert tap is not None
        known = len(seen.messages)
        new = given[known:]
        replies = sum(each.role == ASSISTANT for each in given)
        seed = conversation.seed if request.seed is None else request.seed
        settings = dict(request.settings)
        if on_token is not None:
            settings["callback"] = tap.listen(
                on_token, self._lm.tokenizer, lambda: run.generator.conversation.ids
            )
        tap.tokens.clear()
        done = run.reply_to(
            renamed_results(seen, given[:known], new),
            seed=turn_seed(seed, replies + 1),
            settings=settings,
            fit_context=request.fit_context,
        )
        completion = completion_of(
            done,
            run_id=run.run_id,
            continuation=how,
            awaited=run.awaited,
            tokens=tuple(tap.tokens),
            pieces=decode_each(self._lm.tokenizer, done.prompt.ids, done.token_ids),
            stop_strings=request.settings.get("stop_strings"),
        )
        conversation.transcript = seen.with_turn(
            conversation.next_turn,
            new,
            completion.message,
            [each.as_sent for each in completion.calls],
        )
        conversation.next_turn = run.turns_begun + 1
        if how is not Continuation.CONTINUED:
            with self._lock:
                self._conversations.append(conversation)
        self._make_room(coming=0)
        return completion

    def _make_room(self, *, coming: int) -> None:
        """End the runs that were used longest ago while there are too many, or their caches are
        too large, with `coming` further runs.
        """
        with self._lock:
            held_bytes = {
                each: run.generator.kv_bytes
                for each in self._conversations
                if (run := each.run) is not None
            }
            for each in sorted(held_bytes, key=lambda each: each.used):
                fits = sum(held_bytes.values()) <= self._cache_bytes
                if fits and len(held_bytes) + coming <= self._open_max:
                    break
                if not each.lock.locked():
                    del held_bytes[each]
                    _end(each)
            ended = [each for each in self._conversations if each.run is None]
            for each in ended[: max(0, len(ended) - _REMEMBERED_MAX)]:
                self._conversations.remove(each)

    def _abandon(self, conversation: _Conversation, error: BaseException) -> None:
        """End a run that has no reply, with the error."""
        run, conversation.run, conversation.tap = conversation.run, None, None
        if run is not None:
            run.__exit__(type(error), error, error.__traceback__)

    def end_session(self, session: str) -> None:
        """End the runs of a session; a later request of it resumes them or begins others."""
        with self._lock:
            for each in self._conversations:
                if each.key[0] == session and not each.lock.locked():
                    _end(each)

    def close(self) -> None:
        """End all runs. A run whose turn is in progress in another thread ends with that turn."""
        with self._lock:
            self._is_closed = True
            conversations = list(self._conversations)
        for each in conversations:
            with each.lock:
                _end(each)


def _end(conversation: _Conversation) -> None:
    run, conversation.run, conversation.tap = conversation.run, None, None
    if run is not None:
        run.finish()


def _can_continue(conversation: _Conversation, shared: int) -> bool:
    return shared == len(conversation.transcript.turns) and not conversation.lock.locked()


def _check_messages(messages: Sequence[ChatMessage]) -> None:
    """Raise PromptError for messages that ask for no reply, or that UTF-8 does not have."""
    if not messages or all(each.role == SYSTEM for each in messages):
        raise PromptError("there is no message to reply to: send one of the user")
    if messages[-1].role == ASSISTANT:
        raise PromptError("the last message is the assistant's own: there is nothing to reply to")
    for index, each in enumerate(messages):
        try:
            each.content.encode()
        except UnicodeEncodeError:
            raise PromptError(f"messages[{index}] has a lone surrogate, which is no text") from None


def _without_system(
    messages: Sequence[ChatMessage],
) -> tuple[str, tuple[ChatMessage, ...]]:
    """Return the system prompt, and the messages after it."""
    first = next(index for index, each in enumerate(messages) if each.role != SYSTEM)
    return "\n\n".join(each.content for each in messages[:first]), tuple(messages[first:])
