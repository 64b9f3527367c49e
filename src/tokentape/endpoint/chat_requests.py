"""A request of a client as a turn: its messages, its tools, and the settings of `generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tokentape.endpoint.errors import ApiError, bad_request
from tokentape.endpoint.request_body import ChatBody, ToolSchema, read_body
from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.context_length import context_tokens
from tokentape.recorder.chat_messages import ChatMessage, ChatMessageError, read_chat_messages

if TYPE_CHECKING:
    import tokentape as tt

_STOPS_MAX = 16
_STOP_CHARS_MAX = 1000
_BIAS_MAX = 100.0
_SHRINKING = 4
"""A tokenizer may normalise a text to one so many times shorter."""
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The model of a server, as requests name it."""

    name: str
    """The name that it was loaded by."""
    vocabulary: int
    """The number of ids that its logits have."""
    samples: bool
    """Whether a request that does not say how tokens are chosen samples them."""
    sampling: Mapping[str, Any]
    """Settings of a turn that samples, where its request does not say."""
    top_logprobs: int
    """How many of the likeliest tokens the runs record."""
    max_new_tokens: int
    """The most tokens of a reply whose request does not say."""
    context_tokens: int | None
    token_bytes: int
    """The bytes of the longest token of the vocabulary in UTF-8."""

    @classmethod
    def of(cls, lm: "tt.LoadedModel", *, top_logprobs: int, max_new_tokens: int) -> "ServedModel":
        """Return a loaded model with the choices of a server.

        A request that leaves the sampling out gets that of the model's own generation config, and
        where that has none, samples at temperature 1, as OpenAI's API does. Left to itself,
        `generate` would be greedy, and would sample from 50 tokens only.
        """
        own = lm.model.generation_config
        return cls(
            name=lm.name,
            vocabulary=int(lm.model.get_output_embeddings().weight.shape[0]),
            samples=own.do_sample is not False,
            sampling={"top_k": 0} if own.top_k is None else {},
            top_logprobs=top_logprobs,
            max_new_tokens=max_new_tokens,
            context_tokens=context_tokens(lm.model),
            token_bytes=max(
                len(each.encode(errors="replace")) for each in lm.tokenizer.get_vocab()
            ),
        )

    def check_may_fit(self, messages: Sequence[ChatMessage]) -> None:
        """Raise ApiError for messages that are too long however they are encoded.

        Each takes a token at least, and none of their tokens is longer than the longest. Rendering
        and encoding megabytes takes minutes, in which other turns wait.
        """
        if self.context_tokens is None:
            return
        text_bytes = sum(len(each.content.encode(errors="replace")) for each in messages)
        most = _SHRINKING * self.context_tokens * self.token_bytes
        if len(messages) > self.context_tokens or text_bytes > most:
            raise bad_request(
                f"{len(messages):,} messages of {text_bytes:,} bytes do not fit into a context of "
                f"{self.context_tokens:,} tokens",
                "messages",
                "context_length_exceeded",
            )

    @property
    def id(self) -> str:
        """The last part of its name, which is that of a folder or a file."""
        return PurePath(self.name).name or self.name

    def check_named(self, name: str) -> None:
        """Raise ApiError for the name of another model."""
        if name not in (self.id, self.name):
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                f"this server has the model {self.id!r}, not {name!r}",
                param="model",
                code="model_not_found",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request, and how its client wants the reply."""

    chat: ChatRequest
    stops: tuple[str, ...]
    streams: bool
    wants_usage: bool
    """Whether a stream ends with the number of tokens."""
    top_logprobs: int | None
    """How many of the likeliest tokens the reply has at each step; None for no log-probabilities
    at all."""


def parse_request(given: Any, model: ServedModel) -> ParsedRequest:
    """Return the turn that the body of a request asks for. Raise ApiError for a wrong one."""
    body = read_body(given)
    model.check_named(body.model)
    if (body.top_logprobs or 0) > model.top_logprobs:
        raise bad_request(
            f"top_logprobs is at most {model.top_logprobs}: the server records so many, and was "
            "started with --top-logprobs",
            "top_logprobs",
        )
    try:
        messages = read_chat_messages(body.messages)
    except ChatMessageError as error:
        raise bad_request(str(error), f"messages.{error.index}") from None
    model.check_may_fit(messages)
    stops = _stops(body.stop)
    options = body.stream_options
    name: dict[str, Any] = {} if body.tokentape.name is None else {"name": body.tokentape.name}
    chat = ChatRequest(
        messages=messages,
        tools=tuple(_tools(body)),
        settings=_settings(body, stops, model),
        seed=body.seed,
        session=body.tokentape.session,
        metadata=body.facts(),
        **name,
    )
    return ParsedRequest(
        chat=chat,
        stops=stops,
        streams=bool(body.stream),
        wants_usage=options is not None and bool(options.include_usage),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _STOPS_MAX:
        raise bad_request(f"stop has at most {_STOPS_MAX} texts", "stop")
    if not all(0 < len(each) <= _STOP_CHARS_MAX for each in stops):
        raise bad_request(f"each text of stop has 1 to {_STOP_CHARS_MAX:,} characters", "stop")
    return stops


def _tools(body: ChatBody) -> list[Mapping[str, Any]]:
    """Return the schemas of the tools. With `tool_choice: none` the model is not told of any."""
    if body.tool_choice == "none":
        return []
    tools = body.tools or []
    names = [each.function.name for each in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise bad_request(f"two tools are called {name!r}", f"tools.{index}.function.name")
    return [_schema(index, each) for index, each in enumerate(tools)]


def _schema(index: int, tool: ToolSchema) -> Mapping[str, Any]:
    function = tool.function
    parameters = {"type": "object", "properties": {}, **(function.parameters or {})}
    if parameters["type"] != "object" or not isinstance(parameters["properties"], dict):
        raise bad_request(
            "the parameters of a function are a JSON schema of type object",
            f"tools.{index}.function.parameters",
        )
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": parameters,
    }


def _settings(body: ChatBody, stops: tuple[str, ...], model: ServedModel) -> dict[str, Any]:
    """Return keywords of `Investigation.chat`; what is left out is the model's own choice."""
    settings: dict[str, Any] = {"max_new_tokens": _new_tokens(body, model)}
    sampling = {name: getattr(body, name) for name in _OF_SAMPLING}
    sampling = {name: each for name, each in sampling.items() if each is not None}
    if body.top_k == -1:
        # As vLLM spells a filter that is off.
        sampling["top_k"] = 0
    is_greedy = body.temperature == 0 or not (sampling or model.samples)
    settings |= {"do_sample": False} if is_greedy else {"do_sample": True, **model.sampling}
    settings |= {} if is_greedy else sampling
    if body.repetition_penalty is not None:
        settings["repetition_penalty"] = body.repetition_penalty
    if body.min_tokens:
        settings["min_new_tokens"] = body.min_tokens
    if stops:
        settings["stop_strings"] = list(stops)
    if body.logit_bias:
        settings["sequence_bias"] = _biases(body.logit_bias, model)
    return settings


def _new_tokens(body: ChatBody, model: ServedModel) -> int:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise bad_request(
            "max_tokens is the old name of max_completion_tokens: give one of them", "max_tokens"
        )
    return body.max_completion_tokens or body.max_tokens or model.max_new_tokens


def _biases(given: Mapping[str, float], model: ServedModel) -> list[list[Any]]:
    """Return what is added to the logits of single tokens, as `generate` takes it."""
    biases: list[list[Any]] = []
    for text, bias in given.items():
        token_id = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not 0 <= token_id < model.vocabulary:
            raise bad_request(
                f"logit_bias is given by token ids from 0 to {model.vocabulary - 1}", "logit_bias"
            )
        if abs(bias) > _BIAS_MAX:
            raise bad_request("a bias is from -100 to 100", "logit_bias")
        if bias:
            biases.append([[token_id], float(bias)])
    return biases
