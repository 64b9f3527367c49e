"""The fields of a request for a chat completion: which are read, ignored and refused."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokentape.endpoint.errors import ApiError, bad_request
from tokentape.recorder.near_names import nearest

TOP_LOGPROBS_MAX = 20
"""The most that OpenAI's API takes."""

_IGNORED = frozenset(
    {
        *("prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("service_tier", "store"),
    }
)
"""Fields that change nothing in a reply."""
_RECORDED = ("metadata", "safety_identifier", "user")
_FACT_CHARS_MAX, _FACTS_MAX = 512, 16
_REFUSED: Mapping[str, str] = {
    "audio": "the model reads and writes text only",
    "function_call": "it is replaced by tool_choice",
    "functions": "it is replaced by tools",
    "guided_json": "replies are not constrained",
    "ignore_eos": "a reply ends where the model ends it",
    "reasoning_effort": "the chat template decides whether the model thinks",
    "structured_outputs": "replies are not constrained",
    "verbosity": "the model has no such setting",
    "web_search_options": "the model searches nothing",
}


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_Fact = Annotated[str, Field(max_length=_FACT_CHARS_MAX)]


class FunctionSchema(_Fields):
    """A function that the client runs for the model."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Accepted, though arguments are not constrained: a call that does not fit is not well-formed,
    and its text is content."""


class ToolSchema(_Fields):
    """A tool, which is a function."""

    type: Literal["function"]
    function: FunctionSchema


class StreamOptions(_Fields):
    """What a stream has besides the reply."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(_Fields):
    """The format of the reply: text."""

    type: Literal["text"]


class TapeOptions(_Fields):
    """What only this endpoint takes."""

    name: str | None = Field(default=None, max_length=200, pattern=r"^[^\x00]+$")
    """The name of a run that begins with the request."""
    session: str = Field(default="", max_length=200)
    """Only requests of one session continue each other's runs."""


class ChatBody(_Fields):
    """The body of a request, without the fields that are ignored."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolSchema] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    n: Literal[1] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=TOP_LOGPROBS_MAX)
    user: str | None = Field(default=None, max_length=_FACT_CHARS_MAX)
    safety_identifier: str | None = Field(default=None, max_length=_FACT_CHARS_MAX)
    metadata: dict[_Fact, _Fact] | None = Field(default=None, max_length=_FACTS_MAX)
    tokentape: TapeOptions = TapeOptions()

    def facts(self) -> dict[str, Any]:
        """Return what the client says of itself, which is recorded and changes nothing."""
        facts = {name: getattr(self, name) for name in _RECORDED}
        return {name: each for name, each in facts.items() if each is not None}


_READ = frozenset(ChatBody.model_fields)


def read_body(given: Any) -> ChatBody:
    """Return the fields of a request. Raise ApiError, which names the field, for a wrong one.

    A field that is null is as if it was left out. One that is not known may change the reply, and
    is refused.
    """
    if not isinstance(given, dict):
        raise bad_request("the body must be a JSON object")
    fields = {
        name: each for name, each in given.items() if each is not None and name not in _IGNORED
    }
    for name in fields.keys() - _READ:
        raise _unknown(name)
    try:
        body = ChatBody.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from None
    _check_choices(body)
    return body


def _unknown(name: str) -> ApiError:
    if name in _REFUSED:
        return bad_request(f"{name} is not supported: {_REFUSED[name]}", name)
    near = nearest(name, sorted(_READ | _IGNORED))
    return bad_request(f"there is no field {name!r}{near}", name, "unknown_parameter")


def _check_choices(body: ChatBody) -> None:
    """Raise ApiError for a field that would change the reply in a way that is not supported."""
    if body.tool_choice not in (None, "auto", "none"):
        raise bad_request(
            "tool_choice is auto or none: the model's calls are its own, and not forced",
            "tool_choice",
        )
    if body.parallel_tool_calls is False and body.tools:
        raise bad_request(
            "parallel_tool_calls cannot be false: the number of calls is the model's own",
            "parallel_tool_calls",
        )
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(body, name):
            raise bad_request(
                f"{name} is not supported: transformers has repetition_penalty, which is taken",
                name,
            )
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")


def _invalid(error: ValidationError) -> ApiError:
    """Return the first fault that was found, without the value, which may be of any size."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # The branches of a union are named after its types.
    path = [each for each in fault["loc"] if isinstance(each, int) or each in _NAMES]
    param = ".".join(map(str, path))
    return bad_request(f"{param}: {fault['msg']}" if param else str(fault["msg"]), param or None)


_NAMES = {
    *_READ,
    *(
        name
        for each in (ToolSchema, FunctionSchema, StreamOptions, ResponseFormat, TapeOptions)
        for name in each.model_fields
    ),
}
