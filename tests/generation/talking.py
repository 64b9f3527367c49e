"""A process that records a run of 20 turns, or goes on with one: made to be killed."""

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
    """Takes the seventh character of a reply for a call of a tool, where it is a letter.

    A model of random weights writes no calls; that one pauses and goes on is what is tried.
    """

    def completed(self, text: str, *, prefix: str = "") -> tuple[ParsedCall, ...]:
        if len(text) != 7 or not text[-1].isalpha():
            return ()
        arguments = {"layer_name": _LAYER}
        return (ParsedCall(name="get_weight_statistics", arguments=arguments, text=text[-1]),)


def load(which: str) -> tt.LoadedModel:
    torch.set_num_threads(1)
    if which == "demo":
        return tt.load_model()
    return tiny_model("llama", byte_tokenizer(), max_position_embeddings=16_384)


def talk(run: tt.Investigation, new_tokens: int) -> None:
    """The turns that the run has not taken yet; every third has a tool's result in its prompt."""
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": _LAYER})
    for number in range(run.generator.turn + 1, TURNS + 1):
        run.chat(
            f"Say number {number} in words.",
            tool_calls=[call] if number % 3 == 0 else [],
            max_new_tokens=new_tokens,
            **_SAMPLED,
        )


def record(url: str, which: str, run_id: str | None, told: Callable[[str], None]) -> None:
    """Begin a run, or go on with it, and take all of its turns; `told` gets its id."""
    # The reader is the investigation's own business: there is no other way to teach a tiny model.
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
        told(run.run_id)
        with run:
            talk(run, NEW_TOKENS[which])


def record_in_process(url: str, which: str, run_id: str | None, pipe: Any) -> None:
    """What a child process runs; it tells the id of the run through the pipe."""
    os.environ["OMP_NUM_THREADS"] = "1"
    record(url, which, run_id, pipe.send)
