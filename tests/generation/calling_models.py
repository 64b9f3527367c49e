"""Models that are made to call tools."""

import json
import time
from typing import Any

from transformers import LogitsProcessorList

import tokentape as tt
from tests.forced import forced_reply
from tokentape.store import DatabaseStore


@tt.tool
def look_up(name: str) -> str:
    """
    Look something up.

    Args:
        name: What to look for.
    """
    return f"about {name}"


@tt.tool
def fail() -> str:
    """Fail."""
    raise RuntimeError("nothing there")


@tt.tool(seconds_max=0.02)
def dawdle() -> str:
    """Take too long."""
    time.sleep(0.2)
    return "late"


@tt.tool(output_chars_max=200)
def ramble() -> str:
    """Say too much."""
    return "word " * 200


TOOLS = tt.ToolInterface([look_up, fail, dawdle, ramble])


def call(call_format: str, name: str = "look_up", /, **arguments: Any) -> str:
    """Return a call as a model writes it in this format."""
    given = json.dumps(arguments)
    literals = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return {
        "hermes": f'<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>',
        "llama3": f'{{"name": "{name}", "parameters": {given}}}',
        "mistral": f'[TOOL_CALLS] [{{"name": "{name}", "arguments": {given}}}]',
        "python": f"[{name}({literals})]",
        "response_template": f'<tool_call>{{"name": "{name}", "arguments": {given}}}</tool_call>',
    }[call_format]


def several(call_format: str, *names: str) -> str:
    """Return several calls as one list, which only two formats allow."""
    if call_format == "python":
        return "[" + ", ".join(f"look_up(name={name!r})" for name in names) + "]"
    calls = [{"name": "look_up", "arguments": {"name": name}} for name in names]
    return f"[TOOL_CALLS] {json.dumps(calls)}"


def says(lm: tt.LoadedModel, *texts: str) -> LogitsProcessorList:
    return LogitsProcessorList([forced_reply(lm.tokenizer, texts)])


def begun(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str = "hermes", **settings: Any
) -> tt.Investigation:
    return tt.Investigation(
        lm,
        store=store,
        name="calls",
        system_prompt="Be kind.",
        tool_call_format=call_format,
        **{"tools": TOOLS, **settings},
    )


def events(store: DatabaseStore, run: tt.Investigation, *kinds: type) -> list[Any]:
    every = [each.event for each in store.recording(run.run_id).events()]
    return [each for each in every if not kinds or isinstance(each, kinds)]


def status(store: DatabaseStore, run: tt.Investigation) -> str:
    summary = store.summary(run.run_id)
    assert summary is not None
    return summary.status
