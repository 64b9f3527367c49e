"""Fixtures of the tests of commands: a recorded run in a file, and its store."""

from pathlib import Path

import pytest

import tokentape as tt

SAMPLED = {"do_sample": True, "temperature": 0.9}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def recorded(url: str, tiny_folder: Path) -> tt.Recording:
    """A run of three turns, the second with a tool's result; its model can be loaded again."""
    lm = tt.load_model(tiny_folder)
    layer = {"layer_name": "model.layers.0.input_layernorm.weight"}
    call = tt.ToolCall(name="get_weight_statistics", arguments=layer)
    with (
        tt.open_store(url) as store,
        tt.Investigation(
            lm,
            store=store,
            name="probe",
            system_prompt="Be kind.",
            tools=tt.default_tools(lm),
            seed=4,
        ) as run,
    ):
        run.chat("One?", max_new_tokens=8, **SAMPLED)
        run.chat("Two?", tool_calls=[call], max_new_tokens=8, **SAMPLED)
        run.chat("Three?", max_new_tokens=8, **SAMPLED)
    return tt.open_store(url).recording(run.run_id)
