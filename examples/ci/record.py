"""Record the tapes in `examples/ci/recordings` with the demo model: `python examples/ci/record.py`.

The greedy tape can be replayed wherever the weights are equal. The sampled tape also needs the same
random stream, which may change between versions of torch.
"""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import tokentape as tt

RECORDINGS = Path(__file__).resolve().parent / "recordings"
SYSTEM_PROMPT = "You study your own weights. Answer in one short sentence."
NORM = {"layer_name": "model.norm.weight", "compact": True}

GREEDY = ({"do_sample": False}, {"do_sample": False, "repetition_penalty": 1.2})
SAMPLED = (
    {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1},
    {"do_sample": True, "temperature": 1.2, "top_k": 40, "min_p": 0.02},
)


def investigate(
    lm: tt.LoadedModel, store: tt.EventLog, name: str, settings: tuple[dict[str, Any], ...]
) -> str:
    """Record three turns, the second with a tool result; return the id of the run."""
    first, then = settings
    tools = tt.default_tools(lm)
    look = tt.ToolCall(name="get_weight_statistics", arguments=NORM)
    with tt.Investigation(
        lm, store=store, name=name, system_prompt=SYSTEM_PROMPT, tools=tools, seed=20261123
    ) as run:
        run.chat("What is a layer norm for?", max_new_tokens=14, **first)
        run.chat("Here is your last one.", tool_calls=[look], max_new_tokens=14, **then)
        run.chat("Sum it up in five words.", max_new_tokens=10, **first)
    return run.run_id


def main() -> None:
    lm = tt.load_model("smollm2-demo")
    # Do not publish the name of the machine that recorded.
    with (
        patch("platform.platform", return_value="Linux"),
        patch("socket.gethostname", return_value="recorder"),
        tt.open_store("sqlite://") as store,
    ):
        for name, settings in (("greedy", GREEDY), ("sampled", SAMPLED)):
            recording = store.recording(investigate(lm, store, name, settings))
            tape = RECORDINGS / f"{name}.tape"
            tape.unlink(missing_ok=True)
            tt.pack([recording], store, tape)
            print(f"{tape.name}: {tape.stat().st_size:,} bytes")
            for turn in recording.turns():
                print(f"  turn {turn.number}: {turn.reply_text!r}")


if __name__ == "__main__":
    main()
