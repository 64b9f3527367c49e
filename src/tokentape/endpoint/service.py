"""The endpoint as a whole: conversations, a batch for their turns, and the HTTP server."""

import copy
import hashlib
import json
import os
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tokentape as tt
from tokentape.endpoint.access import EndpointAccess, EndpointKey
from tokentape.endpoint.app import ChatService, make_app
from tokentape.endpoint.chat_requests import ServedModel
from tokentape.endpoint.errors import ApiError, ClientLeftError, place_of
from tokentape.endpoint.http_server import HttpServer
from tokentape.endpoint.request_reading import BodyLimits
from tokentape.endpoint.served_turns import ServedTurn, ServedTurns, TurnEnd
from tokentape.endpoint.token_logprobs import TokenLogprobs
from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion
from tokentape.generation.completions.conversations import OPEN_MAX, Conversations
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder.short_forms import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokentape.store import DatabaseStore

_WAITING_MAX = 64
_FORMATS_MAX = 64
_FINGERPRINT_CHARS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """The choices of a server."""

    key: EndpointKey | None
    on_loopback: bool
    batch: int
    """How many turns run at once; others wait."""
    top_logprobs: int
    max_new_tokens: int
    """The most tokens of a reply whose request does not say."""
    body_bytes_max: int


class TurnReports:
    """Reports each turn that ends in a line, without anything of its messages."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.interrupted: dict[str, None] = {}
        """The runs without tools whose turns the end of the server cut off."""

    def on_end(self, turn: ServedTurn, end: TurnEnd, cause: BaseException | None) -> None:
        """Report a turn; see `OnEnd`."""
        if isinstance(end, Completion):
            self.report(_finished(end))
            return
        begun, where = turn.begun, "a turn that had not begun"
        if begun is not None:
            where = _named(begun.run_id, begun.turn)
        if isinstance(end, ClientLeftError):
            self.report(f"{where}: the client left")
        elif isinstance(cause, KeyboardInterrupt | SystemExit):
            self.report(f"{where}: cut off")
            if begun is not None and not turn.request.tools:
                self.interrupted[begun.run_id] = None
        elif isinstance(end, ApiError) and end.status < 500:
            code = "" if end.code is None else f", {end.code}"
            self.report(f"{where}: refused with status {int(end.status)}{code}")
        elif cause is not None:
            self.report(f"{where}: unexpected {place_of(cause)}")
            if os.environ.get("TOKENTAPE_TRACEBACK"):
                for line in "".join(traceback.format_exception(cause)).splitlines():
                    self.report(line)


def _named(run_id: str, turn: int) -> str:
    return f"run {run_id} turn {turn}"


def _finished(completion: Completion) -> str:
    seconds, tokens = completion.duration_us / 1e6, len(completion.tokens)
    cache = completion.cache
    speed = f"{counted(tokens, 'token')} in {seconds:.1f} s, {tokens / max(seconds, 1e-6):.1f}/s"
    reused = f"{cache.reused_tokens:,} of {cache.prompt_tokens:,} tokens reused"
    return (
        f"{_named(completion.run_id, completion.turn)} {completion.continuation}: {speed}; "
        f"{cache.decision}, {reused}; {completion.stop_reason}"
    )


@contextmanager
def served_endpoint(
    lm: "tt.LoadedModel",
    store: "DatabaseStore",
    listening: socket.socket,
    settings: EndpointSettings,
    reports: TurnReports,
) -> Iterator[None]:
    """Within this context, answer requests with recorded turns of a model.

    Leaving it refuses new requests and waits for the running turns. Ctrl-C, SIGTERM or another
    exception ends them after their next token, so that each can be resumed.
    """
    model = ServedModel.of(
        lm, top_logprobs=settings.top_logprobs, max_new_tokens=settings.max_new_tokens
    )
    conversations = Conversations(
        lm,
        store,
        open_max=max(OPEN_MAX, 2 * settings.batch),
        top_logprobs=settings.top_logprobs,
    )
    batch = tt.Batch(lm, size=settings.batch)
    turns = ServedTurns(
        batch,
        conversations.complete,
        size=settings.batch,
        waiting_max=_WAITING_MAX,
        on_end=reports.on_end,
    )
    service = ChatService(
        turns=turns,
        model=model,
        fingerprint=system_fingerprint(lm),
        logprobs=TokenLogprobs(lm.tokenizer),
        call_opening=CallOpenings(lm.tokenizer).get,
        limits=BodyLimits(bytes_max=settings.body_bytes_max),
        created=int(time.time()),
    )
    access = EndpointAccess(key=settings.key, on_loopback=settings.on_loopback)
    with HttpServer(make_app(service, access), listening, reports.report) as server, conversations:
        try:
            with batch:
                server.start()
                try:
                    yield
                finally:
                    turns.stop()
        finally:
            turns.abandon()


class CallOpenings:
    """The patterns that calls begin with, by the tools of a request."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self._found: OrderedDict[str, str] = OrderedDict()

    def get(self, request: ChatRequest) -> str | None:
        """Return the pattern for a request; None if the model may call nothing."""
        if not request.tools:
            return None
        name = json.dumps(request.tools, sort_keys=True)
        with self._lock:
            if name not in self._found:
                tools = ToolInterface.from_schemas(request.tools)
                self._found[name] = CallReader(self._tokenizer, tools).opening
            while len(self._found) > _FORMATS_MAX:
                self._found.popitem(last=False)
            return self._found[name]


def system_fingerprint(lm: "tt.LoadedModel") -> str:
    """Return a short name of what replies depend on besides a request."""
    described = lm.identity.described()
    parts = ("weights_sha256", "tokenizer_sha256", "template_sha256", "dtype", "device")
    text = json.dumps([described.get(each) for each in (*parts, "attention_kernel")])
    return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_CHARS]}"
