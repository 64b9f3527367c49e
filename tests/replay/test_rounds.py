"""Replay of turns in which the model calls tools, which are recorded round by round."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import tokentape as tt
from tests.forced import ForcedReply, forced_reply
from tests.replay.made_family import applied
from tests.replay.made_talk import recorded
from tokentape.recorder.events import CacheDecided, Event, ToolCalled, TurnStarted
from tokentape.store import DatabaseStore

CALL = (
    'Let me look. <tool_call>\n{"name": "get_weight_statistics", "arguments": '
    '{"layer_name": "model.layers.0.input_layernorm.weight"}}\n</tool_call>'
)


class Opening(LogitsProcessor):
    """Forces the first words of a turn; the model generates the rest."""

    def __init__(self, forced: ForcedReply, last: int) -> None:
        self._forced, self._last = forced, last

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        forced = self._forced(input_ids, scores)
        return scores if int(forced[0].argmax()) == self._last else forced


def opening(lm: tt.LoadedModel, text: str) -> LogitsProcessorList:
    end = lm.tokenizer.eos_token_id
    return LogitsProcessorList([Opening(forced_reply(lm.tokenizer, [text]), end)])


@pytest.fixture
def called(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    """Record turn 1 with a tool call in its middle, and turn 2 without one."""
    with tt.Investigation(
        lm,
        store=store,
        name="parts",
        system_prompt="Be kind.",
        tools=tt.default_tools(lm),
        seed=3,
    ) as run:
        sampled = {"do_sample": True, "temperature": 0.9}
        first = run.chat("Look.", max_new_tokens=190, logits_processor=opening(lm, CALL), **sampled)
        run.chat("And?", max_new_tokens=12, **sampled)
    assert [part.stop_reason for part in first.rounds] == ["tool_call", "max_new_tokens"]
    assert len(first.token_ids) == 190
    return store.recording(run.run_id)


def test_a_turn_with_a_call_is_verified_round_by_round_and_reported_as_one(
    called: tt.Recording, lm: tt.LoadedModel
) -> None:
    report = tt.verify(called, lm, processors=lambda turn: opening(lm, CALL))

    assert report.verdict == tt.Verdict.VERIFIED
    assert [(turn.turn, turn.tokens) for turn in report.turns] == [(1, 190), (2, 12)]


def test_a_round_is_regenerated_up_to_its_pause_with_the_stream_that_it_had(
    called: tt.Recording, lm: tt.LoadedModel
) -> None:
    parts = [turn for turn in called.turns() if turn.number == 1]
    assert [part.first_step for part in parts] == [0, len(parts[0].tokens)]

    report = tt.regenerate(called, lm, turns=[2])

    assert report.verdict == tt.Verdict.EXACT


def test_rebuilding_gives_the_ids_that_each_round_read(called: tt.Recording) -> None:
    first, second, third = tt.rebuild(called).turns

    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
    assert second.prompt_ids[len(first.prompt_ids) :][: len(first.reply_ids)] == first.reply_ids
    assert "get_weight_statistics" in first.reply_text
    assert "l2_norm" in second.prompt_text[len(first.prompt_text) :]
    assert third.prompt_ids[: len(second.prompt_ids)] == second.prompt_ids


def test_a_call_belongs_to_the_turn_and_the_token_that_it_was_made_at(
    called: tt.Recording, store: DatabaseStore
) -> None:
    call = next(each.event for each in called.events() if isinstance(each.event, ToolCalled))
    first = called.turns()[0]

    assert (call.caller, call.turn, call.step) == ("model", 1, len(first.tokens))
    assert call.text.strip().startswith("<tool_call>")
    assert tt.tools_df(store)["turn"].tolist() == [1]
    rows = tt.turns_df(store)
    assert rows["first_step"].tolist() == [0, len(first.tokens), 0]
    assert rows["tool_results"].tolist() == [0, 1, 0]
    assert tt.runs_df(store)["turns"].tolist() == [2]


def test_a_changed_weight_is_found_after_the_call_too(
    called: tt.Recording, lm: tt.LoadedModel, altered: Callable[..., tt.LoadedModel]
) -> None:
    def change(model: Any) -> None:
        model.model.layers[2].mlp.down_proj.weight.mul_(1.5)

    report = tt.verify(
        called,
        altered(lm, change),
        processors=lambda turn: opening(lm, CALL),
        ignore=["weights"],
    )

    assert not report.passes
    assert report.first is not None
    steps = [each.step for each in report.divergences if each.turn == 1]
    assert steps == sorted(set(steps))
    assert max(steps) > len(called.turns()[0].tokens)


def test_two_recordings_with_calls_are_compared_turn_by_turn(
    called: tt.Recording, store: DatabaseStore
) -> None:
    found = tt.diff(called, called)

    assert [turn.turn for turn in found.turns] == [1, 2]
    assert found.same


def test_differences_in_a_later_round_are_differences_of_its_turn(called: tt.Recording) -> None:
    """A tool may have requested an intervention for the rest of the turn."""
    events = [each.event for each in called.events()]
    place = [at for at, each in enumerate(events) if isinstance(each, TurnStarted)][1]
    started = events[place]
    assert isinstance(started, TurnStarted)
    position = started.prompt_tokens - 1
    other_seed = replace(started, seed=started.seed + 1 if started.seed else 1)
    cleared = replace(
        next(each for each in events[place:] if isinstance(each, CacheDecided)), reason="other"
    )
    decided = next(at for at, each in enumerate(events) if at > place and each.turn == 1)
    changed: dict[str, tuple[int, list[Event]]] = {
        "inside_model": (place + 1, [started, applied(1, position)]),
        "sampling": (place + 1, [other_seed]),
        "cache": (decided + 1, [started, *events[place + 1 : decided], cleared]),
    }
    for name, (end, others) in changed.items():
        copy = recorded([*events[:place], *others, *events[end:]])
        first, second = tt.diff(called, copy).turns

        assert first.differing == (name,)
        assert second.differing == (("inside_model",) if name == "inside_model" else ())
    steered = recorded([*events[: place + 1], applied(1, position), *events[place + 1 :]])
    (only,) = steered.turns()[1].inside_model.as_json()["interventions"]
    assert only["acts_on"] == [(position, started.prompt_tokens + 190 - started.first_step)]


def test_each_round_has_its_own_seed(called: tt.Recording) -> None:
    started = [each.event for each in called.events() if isinstance(each.event, TurnStarted)]

    assert len({each.seed for each in started}) == 3
    assert [each.turn for each in started] == [1, 1, 2]
    assert started[1].sampling["max_new_tokens"] == 190 - started[1].first_step
