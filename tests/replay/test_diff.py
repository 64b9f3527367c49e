"""Comparison of two runs by turns and tokens."""

import dataclasses
from typing import Any

import pytest

import tokentape as tt
from tests.replay.four_turns import FOUR
from tests.replay.made_talk import Said, recorded, talk, talk_events
from tokentape.recorder.events import (
    HistoryPruned,
    MessageAdded,
    ToolCalled,
    TurnStarted,
)
from tokentape.replay import Diff
from tokentape.replay.reports.diff_report import headline, render


def changed(place: int, **changes: Any) -> tt.Recording:
    """Return a recording of the four turns with one of them changed."""
    turns = list(FOUR)
    turns[place - 1] = dataclasses.replace(turns[place - 1], **changes)
    return talk(*turns)


def differing(found: Diff) -> dict[int, tuple[str, ...]]:
    return {turn.turn: turn.differing for turn in found.turns if not turn.same}


def test_durations_are_no_difference() -> None:
    slower = [dataclasses.replace(said, duration_us=2_500) for said in FOUR]
    found = tt.diff(talk(*FOUR), talk(*slower))

    assert found.same
    assert headline(found) == "the same in all 4 turns, 19 tokens"
    assert {each.ratio for turn in found.turns for each in turn.timing} == {2.5, None}


def test_another_token_is_named_with_its_numbers() -> None:
    found = tt.diff(talk(*FOUR), changed(2, reply="yes it has."))
    divergent = found.first_divergent_turn

    assert divergent is not None
    assert divergent.turn == 2
    assert divergent.prompt is None
    assert divergent.reply is not None
    assert divergent.reply.step == 7
    assert divergent.reply.sampled.a is not None
    assert divergent.reply.sampled.b is not None
    assert divergent.reply.sampled.a.token_id == ord("i")
    assert divergent.reply.sampled.b.token_id == ord("h")
    assert divergent.reply.sampled.a.other_logprob is None
    assert divergent.reply.tokens == dataclasses.replace(divergent.reply.tokens, a=10, b=11)
    assert divergent.numbers is not None
    assert (divergent.numbers.compared, divergent.numbers.step) == (7, None)
    assert headline(found) == (
        "same prompts and replies up to turn 1; turn 2 diverges at token 7: ' is.' / ' has.'"
    )
    # The prompts of later turns contain another reply, and say so.
    assert [turn.prompt and turn.prompt.inherited for turn in found.turns] == [
        *(None, None),
        *(True, True),
    ]
    later = found.turns[2].prompt
    assert later is not None
    assert later.sources.a is not None
    assert (later.sources.a.role, later.sources.a.turn) == ("assistant", 2)
    assert found.turns[2].numbers is not None
    assert found.turns[2].numbers.compared == 0


@pytest.mark.parametrize(
    ("other", "turn", "line"),
    [
        (talk(*FOUR, system="Be cold. "), 1, "turn 1 reads another system prompt: ' kind.' / ' co"),
        (
            changed(3, asked="who? "),
            3,
            "same prompts and replies up to turn 2; turn 3 reads another user message: 'why?' / ",
        ),
        (
            changed(2, tool='{"mean": 0.7}'),
            2,
            "up to turn 1; turn 2 reads another result of call_2: ' 0.5}' / ' 0.7}'",
        ),
        (changed(2, tool=None), 2, "turn 2 reads another result of call_2: '{\"mean\":' / (end)"),
        (talk(*FOUR, Said()), 5, "same prompts and replies up to turn 4; only b has turn 5"),
        (talk(*FOUR[:2]), 3, "up to turn 2; only a has turn 3 and 1 more"),
        (changed(4, reply="so"), 4, "turn 4 diverges at token 2: '.' / (end)"),
        (changed(4, cut=True, reply="s"), 4, "turn 4 diverges at token 1: id 111 / (end)"),
    ],
)
def test_the_headline_names_the_first_divergence(other: tt.Recording, turn: int, line: str) -> None:
    found = tt.diff(talk(*FOUR), other)

    assert found.first_divergent_turn is not None
    assert found.first_divergent_turn.turn == turn
    assert line in headline(found)
    assert render(found).startswith(headline(found))


@pytest.mark.parametrize(
    ("other", "expected", "line"),
    [
        (
            changed(2, temperature=0.75),
            {2: ("sampling",)},
            "in all 4 turns; other sampling in turn 2",
        ),
        (changed(1, stop_reason="max_time"), {1: ("reply",)}, "another end in turn 1"),
        (changed(4, cut=True), {4: ("reply",)}, 'ended differently: status: "finished" / "failed'),
        (
            changed(3, logprobs=(-0.5, -0.75)),
            {3: ("numbers",)},
            "other numbers from turn 3, token 1 on, log-probabilities differ by 0.25 at most",
        ),
        (talk(*FOUR, seed=8), {}, "started differently: seed"),
        (talk(*FOUR, weights_sha256="v"), {}, "started differently: weights_sha256"),
        (talk(*FOUR, ended=False), {}, 'ended differently: status: "finished" / "running"'),
    ],
)
def test_other_differences_are_named(
    other: tt.Recording, expected: dict[int, tuple[str, ...]], line: str
) -> None:
    found = tt.diff(talk(*FOUR), other)

    assert not found.same
    assert found.first_divergent_turn is None
    assert differing(found) == expected
    assert line in headline(found)


def test_names_threads_and_versions_are_noted_and_do_not_count() -> None:
    other = talk(*FOUR, name="again", threads=4, model="./m", environment={"torch": "2.14"})
    found = tt.diff(talk(*FOUR), other)

    assert found.same
    assert [each.field for each in found.noted] == [
        *("environment.torch", "model", "name", "threads")
    ]
    assert found.noted[0].missing_in == "a"


def test_tool_calls_are_compared_field_by_field() -> None:
    events = talk_events(FOUR)
    for place, event in enumerate(events):
        if isinstance(event, ToolCalled):
            events[place] = dataclasses.replace(event, arguments={"at": [2, {"x": 2}], "y": None})
    found = tt.diff(talk(*FOUR), recorded(events))
    (use,) = found.turns[1].tools

    assert [(each.field, each.a, each.b, each.missing_in) for each in use.fields] == [
        ("arguments.at.1.x", 1, 2, ""),
        ("arguments.y", None, None, "a"),
    ]
    (use,) = tt.diff(talk(*FOUR), changed(2, tool='{"mean": 0.7}')).turns[1].tools
    first = use.fields[0]
    assert (first.field, first.a, first.b) == ("content.mean", 0.5, 0.7)


def test_events_after_the_last_turn_are_compared_too() -> None:
    called = ToolCalled(call_id="call_9", name="look", arguments={})
    events = [*talk_events(FOUR, ended=False), called]
    other = [*events[:-1], dataclasses.replace(called, name="glance")]
    alone = tt.diff(recorded(events), talk(*FOUR, ended=False))
    both = tt.diff(recorded(events), recorded(other))

    assert differing(alone) == {5: ("turn",)}
    assert headline(alone).endswith("up to turn 4; after it only a continues")
    assert differing(both) == {5: ("tools",)}
    assert not both.turns[-1].begun


def test_a_message_that_no_turn_read_is_compared_by_its_content() -> None:
    asked = MessageAdded(role="user", content="and?", text="", ids=())
    events = [*talk_events(FOUR, ended=False), asked]
    other = [*events[:-1], dataclasses.replace(asked, content="but?")]
    found = tt.diff(recorded(events), recorded(other))

    assert headline(found).endswith("turn 5 reads another user message: 'and?' / 'but?'")


def test_the_source_of_ids_is_known_after_a_pruned_history() -> None:
    def pruned(asked: str) -> tt.Recording:
        events = talk_events([Said(asked="one "), Said(asked=asked)])
        stream = len("Be kind. one :so.")
        start, end = len("Be kind. "), len("Be kind. one :so.")
        at = max(place for place, each in enumerate(events) if isinstance(each, MessageAdded))
        cut = HistoryPruned(
            turn=2,
            policy="turns",
            reason="context",
            removed_tokens=((start, end),),
            removed_chars=((start, end),),
            removed_messages=(1, 2),
            tokens_before=stream,
            tokens_after=start,
        )
        shorter = []
        for event in events[at:]:
            if isinstance(event, TurnStarted):
                kept = start + len(asked)
                event = dataclasses.replace(
                    event, prompt_tokens=kept + 1, kept_tokens=kept, kept_chars=kept
                )
                shorter.append(event)
                break
            shorter.append(event)
        return recorded([*events[:at], cut, *shorter])

    found = tt.diff(pruned("two "), pruned("tow "))
    prompt = found.turns[1].prompt

    assert prompt is not None
    assert prompt.index == len("Be kind. t")
    assert prompt.sources.a is not None
    assert (prompt.sources.a.role, prompt.sources.a.turn, prompt.sources.a.message) == (
        "user",
        2,
        3,
    )


def test_redacted_runs_are_compared_by_texts_and_numbers() -> None:
    def hide(text: str) -> str:
        return text.replace("kind", "…")

    hidden = recorded(talk_events(FOUR), redactor=hide)
    again = recorded(talk_events(FOUR), redactor=hide)
    other = [dataclasses.replace(FOUR[0], reply="no."), *FOUR[1:]]
    parted = tt.diff(hidden, recorded(talk_events(other), redactor=hide))
    louder = [dataclasses.replace(FOUR[0], logprobs=(-0.5, -0.75)), *FOUR[1:]]
    numbers = tt.diff(hidden, recorded(talk_events(louder), redactor=hide)).turns[0].numbers
    open_one = tt.diff(hidden, talk(*FOUR))

    assert numbers is not None
    assert (numbers.compared, numbers.step, numbers.difference_max) == (3, 1, 0.25)
    assert tt.diff(hidden, again).same
    assert headline(parted).startswith("turn 1 has another text: 'so.' / 'no.'")
    assert "a redactor removed ids" in render(parted)
    assert open_one.a.redacted
    assert not open_one.b.redacted
    assert not open_one.same
    assert open_one.turns[0].reply is None


def test_two_runs_without_turns_cannot_be_compared() -> None:
    with pytest.raises(tt.NothingToReplayError, match="nothing to compare"):
        tt.diff(talk(), talk())
    assert headline(tt.diff(talk(), talk(Said()))) == "only b has turn 1"


def test_a_run_with_a_turn_twice_is_refused() -> None:
    events = talk_events([Said(), Said()])
    again = [
        dataclasses.replace(each, turn=1) if getattr(each, "turn", None) == 2 else each
        for each in events
    ]

    with pytest.raises(tt.RecordingError, match="has turn 1 twice"):
        tt.diff(recorded(again), talk(*FOUR))


def test_nothing_that_was_recorded_reaches_a_terminal_raw() -> None:
    nasty = "\x1b[2J\u202e\x9b1m\n"
    ours = [Said(asked=f"{nasty} a", reply=f"{nasty}a", tool=f"{nasty} a")]
    theirs = [Said(asked=f"{nasty} b", reply=f"{nasty}b", tool=f"{nasty} b")]
    found = tt.diff(
        talk(*ours, name=nasty, settings={nasty: 1}), talk(*theirs, model=nasty, seed=9)
    )
    text = render(found)

    assert "\\x1b[2J" in text
    assert all(line.isprintable() for line in text.split("\n"))
