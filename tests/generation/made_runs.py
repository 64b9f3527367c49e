"""Runs to interrupt, resume and fork."""

from typing import Any

import tokentape as tt
from tokentape.recorder import EventLog

SETTINGS: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_k": 40}


LAYER = "model.layers.0.input_layernorm.weight"


TURNS = ("What of layer 0?", "And of layer 1, compared with it?", "Conclude.")


def go_on(run: tt.Investigation) -> None:
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": LAYER})
    for number, message in enumerate(TURNS, start=1):
        if number > run.generator.turn:
            run.chat(
                message, tool_calls=[call] if number == 2 else [], max_new_tokens=8, **SETTINGS
            )


def begin(lm: tt.LoadedModel, log: EventLog, **settings: Any) -> tt.Investigation:
    return tt.Investigation(
        lm,
        store=log,
        name="cut",
        system_prompt="Be kind and brief.",
        tools=tt.default_tools(lm),
        seed=5,
        **settings,
    )
