"""Conversations of different kinds, for tests that run several of them at once."""

import threading
from typing import Any

import torch

import tokentape as tt
from tokentape.store import DatabaseStore


class Waits:
    """A tool that waits until it is told to go on."""

    def __init__(self) -> None:
        self.may_return = threading.Event()
        self.was_called = threading.Event()

    def tools(self) -> tt.ToolInterface:
        def wait() -> str:
            """Wait."""
            self.was_called.set()
            assert self.may_return.wait(60)
            return "done"

        return tt.ToolInterface([wait])


def talk(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    number: int,
    *,
    turns: int = 3,
    greedy: bool = False,
    steered: bool = False,
    **settings: Any,
) -> str:
    """Record a conversation that follows from its number alone. Return the id of its run."""
    system_prompt = "Be brief." + "." * (7 * number % 20)
    with tt.Investigation(
        lm, store=store, name=f"talk {number}", system_prompt=system_prompt, seed=number, **settings
    ) as run:
        if steered:
            vector = torch.randn(64, generator=torch.Generator().manual_seed(number))
            run.intervene(tt.Intervention.steer("calm", 1, vector))
            run.watch([2])
        for turn in range(turns):
            run.chat(
                "Hello" + "!" * (5 * number % 13 + turn),
                max_new_tokens=3 + (11 * number + 5 * turn) % 14,
                do_sample=not greedy,
                temperature=0.8,
            )
    return run.run_id
