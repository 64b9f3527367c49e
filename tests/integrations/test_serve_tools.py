"""Tools of a client of `tokentape serve`: the model calls them, the client runs them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

import tokentape as tt
from tests.forced import forced_reply
from tokentape.generation.completions.conversations import Conversations
from tokentape.recorder.events import ToolCalled, ToolReturned
from tokentape.store import DatabaseStore

openai: Any = pytest.importorskip("openai", reason="the extra `dev` has it")

from tests.integrations.endpoints import Endpoint, running_endpoint  # noqa: E402

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


@pytest.fixture
def saying(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Return a function that runs a server whose model replies with given texts."""

    @contextmanager
    def run(*texts: str) -> Iterator[Endpoint]:
        complete = Conversations.complete

        def forced(self: Conversations, request: Any, **keywords: Any) -> Any:
            processor = forced_reply(lm.tokenizer, texts)
            settings = {**request.settings, "logits_processor": [processor]}
            return complete(self, replace(request, settings=settings), **keywords)

        monkeypatch.setattr(Conversations, "complete", forced)
        with running_endpoint(lm, store, max_new_tokens=200) as endpoint:
            yield endpoint

    return run


pytestmark = pytest.mark.filterwarnings("ignore:turns with ForcedReply:UserWarning")


def events(endpoint: Endpoint, reply: Any, kind: type) -> list[Any]:
    every = [each.event for each in endpoint.recording(reply).events()]
    return [each for each in every if isinstance(each, kind)]


def test_a_call_and_its_result_are_recorded_in_one_run(saying: Callable[..., Any]) -> None:
    with saying(f"I look.\n{CALL}", "It rains.") as endpoint:
        asked: dict[str, Any] = {"tools": [WEATHER], "max_tokens": 150}
        first = endpoint.ask("How is Bonn?", **asked)
        (call,) = first.choices[0].message.tool_calls
        result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        second = endpoint.ask("How is Bonn?", first.choices[0].message, result, **asked)

        assert (call.function.name, json.loads(call.function.arguments)) == (
            "weather",
            {"city": "Bonn"},
        )
        assert first.choices[0].finish_reason == "tool_calls"
        assert "tool_call>" not in (first.choices[0].message.content or "")
        assert second.choices[0].message.content == "It rains."
        assert second.tokentape["run_id"] == first.tokentape["run_id"]
        assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens
        (called,) = events(endpoint, second, ToolCalled)
        (returned,) = events(endpoint, second, ToolReturned)
        assert (called.name, dict(called.arguments)) == ("weather", {"city": "Bonn"})
        assert returned.content == "rain"


def test_a_stream_holds_back_what_may_be_a_call(saying: Callable[..., Any]) -> None:
    with saying(f"Is 1 < 2? I look.\n{CALL}") as endpoint:
        whole = endpoint.ask("How?", tools=[WEATHER], max_tokens=150)
        chunks = list(endpoint.ask("How?", tools=[WEATHER], max_tokens=150, stream=True))
        deltas = [each.choices[0].delta for each in chunks]
        calls = [call for each in deltas for call in each.tool_calls or ()]
        texts = [each.content for each in deltas if each.content]

        assert "".join(texts) == whole.choices[0].message.content
        assert len(texts) > 5
        assert [each.function.name for each in calls] == ["weather"]
        assert json.loads(calls[0].function.arguments) == {"city": "Bonn"}
        assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_without_tools_a_call_is_text(saying: Callable[..., Any]) -> None:
    with saying(CALL) as endpoint:
        untold = endpoint.ask("How?", tools=[WEATHER], tool_choice="none", max_tokens=150)
        none = "".join(
            each.choices[0].delta.content or ""
            for each in endpoint.ask("How?", max_tokens=150, stream=True)
        )

        assert untold.choices[0].message.content == none == CALL
        assert untold.choices[0].finish_reason == "stop"


def test_a_malformed_call_is_text(saying: Callable[..., Any]) -> None:
    wrong = '<tool_call>\n{"name": "weather", "arguments": {"city": \n</tool_call>'
    with saying(wrong) as endpoint:
        chunks = list(endpoint.ask("How?", tools=[WEATHER], max_tokens=150, stream=True))

        assert "".join(each.choices[0].delta.content or "" for each in chunks) == wrong
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_agent_of_pydantic_ai_calls_a_tool_and_answers(saying: Callable[..., Any]) -> None:
    pytest.importorskip("pydantic_ai", reason="the extra `dev` has it")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    asked = []

    def weather(city: str) -> str:
        """Say the weather of a city."""
        asked.append(city)
        return f"rain in {city}"

    async def ask(endpoint: Endpoint) -> str:
        client = openai.AsyncOpenAI(base_url=endpoint.url, api_key="none", max_retries=0)
        async with client:
            provider = OpenAIProvider(openai_client=client)
            model = OpenAIChatModel(endpoint.model, provider=provider)
            agent = Agent(model, tools=[weather], instructions="Help.")
            result = await agent.run("How is Bonn?", model_settings={"max_tokens": 150})
            return result.output

    with saying(CALL, "It rains in Bonn.") as endpoint:
        answer = asyncio.run(ask(endpoint))
        (summary,) = endpoint.store.summaries()

        assert (asked, answer) == (["Bonn"], "It rains in Bonn.")
        assert len(endpoint.store.recording(summary.run_id).turns()) == 2
