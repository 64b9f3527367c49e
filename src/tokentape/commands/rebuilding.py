"""The command `rebuild`: print a conversation as its events have it."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import tokentape as tt
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    StoreOption,
    TurnOption,
    find_recording,
    locate_run,
    open_stored,
    turn_json,
)
from tokentape.recorder.projections import join_continued
from tokentape.replay import load_run
from tokentape.screen import out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.recorder.events import RunStarted
    from tokentape.replay import Rebuilt

_SUM_DIGITS = 12
"""As many digits of a sha256 tell two models apart."""


def rebuild(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    turn: TurnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the conversation from events alone; with --json, with all ids and texts."""
    run, store = locate_run(run, store)
    opened = open_stored(store)
    recording = find_recording(opened, run)
    loaded = load_run(recording, turn or None)
    rebuilt = tt.rebuild(loaded, turns=turn or None)
    if as_json:
        output.print_json(
            {
                "run_id": rebuilt.run_id,
                "status": rebuilt.status,
                "status_text": rebuilt.status_text,
                "messages": [asdict(message) for message in rebuilt.messages],
                "turns": [turn_json(each) for each in rebuilt.turns],
            }
        )
        return
    from tokentape.replay.reports.terminal import render_turn
    from tokentape.store import status_text_of

    if not turn:
        _print_origin(loaded.started, rebuilt)
    for each in join_continued(rebuilt.turns):
        out.text(f"{render_turn(each)}\n")
    if not turn and rebuilt.status != "finished":
        out.line(f"status of the run: {status_text_of(opened, rebuilt.run_id)}")


def _print_origin(started: "RunStarted", rebuilt: "Rebuilt") -> None:
    """Print the model of a run with the sums of its files, and its system prompts."""
    sums = {
        "weights": started.weights_sha256,
        "tokenizer": started.tokenizer_sha256,
        "template": started.template_sha256,
    }
    named = ", ".join(f"{name} {each[:_SUM_DIGITS]}" for name, each in sums.items() if each)
    out.line(f"model {started.model}: {named}")
    for message in rebuilt.messages:
        if message.role == "system":
            out.text(f"  system: {message.content}\n")
