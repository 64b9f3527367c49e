"""A fork that sends the later messages of its parent is interrupted and resumed."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tokentape.recorder import Envelope
from tokentape.recorder.events import TokenSampled
from tokentape.recorder.projections import join_rounds
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
SAMPLED = {"do_sample": True, "temperature": 0.9}


@pytest.mark.parametrize(("at_token", "turn"), [((), 2), (("--at-token", "2"), 1)])
def test_an_interrupted_fork_that_continues_is_resumed_with_the_messages_that_are_left(
    cli: Cli,
    recorded: tt.Recording,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    at_token: tuple[str, ...],
    turn: int,
) -> None:
    def stop(self: DatabaseStore, envelope: Envelope, *rest: Any, **given: Any) -> None:
        append(self, envelope, *rest, **given)
        event = envelope.event
        if isinstance(event, TokenSampled) and (event.turn, event.step) == (turn, 4):
            raise KeyboardInterrupt

    append = DatabaseStore.append
    fork = ("fork", recorded.run_id, "--at-turn", "1", *at_token, "--continue", "--store", url)
    with monkeypatch.context() as patched:
        patched.setattr(DatabaseStore, "append", stop)
        code, _, err = cli(*fork)
    assert code == 130, err

    child = tt.open_store(url).summaries()[-1].run_id
    code, _, err = cli("resume", child, "--store", url)

    assert code == 0, err
    resumed = join_rounds(tt.open_store(url).recording(child).turns())
    assert [(each.number, each.finished.text) for each in resumed if each.finished] == [
        (each.number, each.reply_text) for each in recorded.turns()
    ]
    for command in ("rebuild", "check", "verify", "retrace"):
        assert cli(command, child, "--store", url)[0] == 0
