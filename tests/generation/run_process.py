"""A process that records a run of 20 turns, or resumes one, for tests that kill it."""

import os
from collections.abc import Callable
from typing import Any

import torch

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.generation.tools.calls import CallReader, ParsedCall

TURNS = 20
NEW_TOKENS = {"tiny": 12, "demo": 12}
_LAYER = "model.layers.0.input_layernorm.weight"
_SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_p": 0.95}


class _CallsNowAndThen(CallReader):
    """A call reader that parses the seventh character of a reply, if a letter, as a tool call.

    A model of random weights writes no calls, and the tests need turns that pause for one.
    """

    def completed(self, text: str, *, prefix: str = "") -> tuple[ParsedCall, ...]:
        if len(text) != 7 or not text[-1].isalpha():
            return ()
        arguments = {"layer_name": _LAYER}
        return (ParsedCall(name="get_weight_statistics", arguments=arguments, text=text[-1]),)


def load(which: str) -> tt.LoadedModel:
    """Load the demo model (`demo`) or a tiny one, and use one thread."""
    torch.set_num_threads(1)
    if which == "demo":
        return tt.load_model()
    return tiny_model("llama", byte_tokenizer(), max_position_embeddings=16_384)


def run_turns(run: tt.Investigation, new_tokens: int) -> None:
    """Run the turns that are missing of 20; every third has a tool result in its prompt."""
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": _LAYER})
    for number in range(run.generator.turn + 1, TURNS + 1):
        run.chat(
            f"Say number {number} in words.",
            tool_calls=[call] if number % 3 == 0 else [],
            max_new_tokens=new_tokens,
            **_SAMPLED,
        )


def record(url: str, which: str, run_id: str | None, send_id: Callable[[str], None]) -> None:
    """Start a run, or resume `run_id`, send its id, and run all of its turns."""
    # The investigation makes its reader itself, and a tiny model writes calls in no known format.
    import tokentape.generation.investigation.investigation as investigation

    investigation.CallReader = _CallsNowAndThen  # type: ignore[misc]
    lm = load(which)
    tools = tt.default_tools(lm)
    with tt.open_store(url) as store:
        run = (
            tt.Investigation(
                lm, store=store, name="talk", system_prompt="Be kind.", tools=tools, seed=9
            )
            if run_id is None
            else tt.Investigation.resume(store, run_id, lm, tools=tools)
        )
        send_id(run.run_id)
        with run:
            run_turns(run, NEW_TOKENS[which])


def record_in_process(url: str, which: str, run_id: str | None, pipe: Any) -> None:
    """Run `record` in a child process, and send the run's id through the pipe."""
    os.environ["OMP_NUM_THREADS"] = "1"
    record(url, which, run_id, pipe.send)
