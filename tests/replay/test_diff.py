"""Two runs are compared by turns and tokens; the first difference that is named is the first."""

import dataclasses
import json
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from tests.replay.made_talk import Said, recorded, talk, talk_events
from tokentape.recorder.codec import encode_body, kind_of
from tokentape.recorder.events import (
    CacheCleared,
    Event,
    HistoryPruned,
    MessageAdded,
    ToolCalled,
    TurnStarted,
)
from tokentape.replay import Diff
from tokentape.replay.reports.diff_report import headline, render

FOUR = [Said(), Said(reply="yes it is.", tool='{"mean": 0.5}'), Said(seed=None), Said()]


def changed(place: int, **changes: Any) -> tt.Recording:
    """Four turns of which one is not the same."""
    turns = list(FOUR)
    turns[place - 1] = dataclasses.replace(turns[place - 1], **changes)
    return talk(*turns)


def differing(found: Diff) -> dict[int, tuple[str, ...]]:
    return {turn.turn: turn.differing for turn in found.turns if not turn.same}


def test_the_same_talk_is_the_same_however_long_it_took() -> None:
    slower = [dataclasses.replace(said, ms=2.5) for said in FOUR]
    found = tt.diff(talk(*FOUR), talk(*slower))

    assert found.same
    assert headline(found) == "the same in all 4 turns, 19 tokens"
    assert {each.ratio for turn in found.turns for each in turn.timing} == {2.5, None}


def test_another_token_is_named_with_its_numbers() -> None:
    found = tt.diff(talk(*FOUR), changed(2, reply="yes it has."))
    parting = found.parting

    assert parting is not None
    assert parting.turn == 2
    assert parting.prompt is None
    assert parting.reply is not None
    assert parting.reply.step == 7
    assert parting.reply.sampled.a is not None
    assert parting.reply.sampled.b is not None
    assert parting.reply.sampled.a.token_id == ord("i")
    assert parting.reply.sampled.b.token_id == ord("h")
    assert parting.reply.sampled.a.other_logprob is None
    assert parting.reply.tokens == dataclasses.replace(parting.reply.tokens, a=10, b=11)
    assert parting.numbers is not None
    assert (parting.numbers.compared, parting.numbers.step) == (7, None)
    assert headline(found) == (
        "same prompts and replies up to turn 1; turn 2 parts at token 7: ' is.' / ' has.'"
    )
    # What comes later stands behind another reply, and says so.
    assert [turn.prompt and turn.prompt.inherited for turn in found.turns] == [
        *(None, None),
        *(True, True),
    ]
    later = found.turns[2].prompt
    assert later is not None
    assert later.places.a is not None
    assert (later.places.a.role, later.places.a.turn) == ("assistant", 2)
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
        (changed(4, reply="so"), 4, "turn 4 parts at token 2: 'so.' / 'so'"),
        (changed(4, cut=True, reply="s"), 4, "turn 4 parts at token 1: id 111 / (end)"),
    ],
)
def test_the_first_line_says_where_they_part(other: tt.Recording, turn: int, line: str) -> None:
    found = tt.diff(talk(*FOUR), other)

    assert found.parting is not None
    assert found.parting.turn == turn
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
        (changed(4, cut=True), {4: ("reply",)}, 'ended otherwise: status: "finished" / "failed'),
        (
            changed(3, logprobs=(-0.5, -0.75)),
            {3: ("numbers",)},
            "other numbers from turn 3, token 1 on, log-probabilities off by 0.25 at most",
        ),
        (talk(*FOUR, seed=8), {}, "began otherwise: seed"),
        (talk(*FOUR, weights_sha256="v"), {}, "began otherwise: weights_sha256"),
        (talk(*FOUR, ended=False), {}, 'ended otherwise: status: "finished" / "running"'),
    ],
)
def test_what_differs_besides_is_named(
    other: tt.Recording, expected: dict[int, tuple[str, ...]], line: str
) -> None:
    found = tt.diff(talk(*FOUR), other)

    assert not found.same
    assert found.parting is None
    assert differing(found) == expected
    assert line in headline(found)


def test_names_threads_and_versions_are_noted_and_do_not_count() -> None:
    other = talk(*FOUR, name="again", threads=4, model="./m", environment={"torch": "2.14"})
    found = tt.diff(talk(*FOUR), other)

    assert found.same
    assert [each.field for each in found.circumstances] == [
        *("environment.torch", "model", "name", "threads")
    ]
    assert found.circumstances[0].lacking == "a"


def test_tool_calls_are_compared_field_by_field() -> None:
    events = talk_events(FOUR)
    for place, event in enumerate(events):
        if isinstance(event, ToolCalled):
            events[place] = dataclasses.replace(event, arguments={"at": [2, {"x": 2}], "y": None})
    found = tt.diff(talk(*FOUR), recorded(events))
    (use,) = found.turns[1].tools

    assert [(each.field, each.a, each.b, each.lacking) for each in use.fields] == [
        ("arguments.at.1.x", 1, 2, ""),
        ("arguments.y", None, None, "a"),
    ]
    (use,) = tt.diff(talk(*FOUR), changed(2, tool='{"mean": 0.7}')).turns[1].tools
    first = use.fields[0]
    assert (first.field, first.a, first.b) == ("content.mean", 0.5, 0.7)


def test_what_comes_behind_the_last_turn_is_compared_too() -> None:
    called = ToolCalled(call_id="call_9", name="look", arguments={})
    events = [*talk_events(FOUR, ended=False), called]
    other = [*events[:-1], dataclasses.replace(called, name="glance")]
    alone = tt.diff(recorded(events), talk(*FOUR, ended=False))
    both = tt.diff(recorded(events), recorded(other))

    assert differing(alone) == {5: ("turn",)}
    assert headline(alone).endswith("up to turn 4; behind it only a goes on")
    assert differing(both) == {5: ("tools",)}
    assert not both.turns[-1].begun


def test_a_message_that_no_turn_read_is_compared_by_its_content() -> None:
    asked = MessageAdded(role="user", content="and?", text="", ids=())
    events = [*talk_events(FOUR, ended=False), asked]
    other = [*events[:-1], dataclasses.replace(asked, content="but?")]
    found = tt.diff(recorded(events), recorded(other))

    assert headline(found).endswith("turn 5 reads another user message: 'and?' / 'but?'")


def test_whose_the_ids_are_is_known_behind_a_pruned_history() -> None:
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
    assert prompt.places.a is not None
    assert (prompt.places.a.role, prompt.places.a.turn, prompt.places.a.message) == ("user", 2, 3)


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
    assert "ids were withheld" in render(parted)
    assert open_one.a.withheld
    assert not open_one.b.withheld
    assert not open_one.same
    assert open_one.turns[0].reply is None


def test_no_turn_on_either_side_is_nothing_to_compare() -> None:
    with pytest.raises(tt.NothingToReplayError, match="nothing to compare"):
        tt.diff(talk(), talk())
    assert headline(tt.diff(talk(), talk(Said()))) == "only b has turn 1"


def test_a_turn_that_is_there_twice_is_refused() -> None:
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
        talk(*ours, name=nasty, behaviour={nasty: 1}), talk(*theirs, model=nasty, seed=9)
    )
    text = render(found)

    assert "\\x1b[2J" in text
    assert all(line.isprintable() for line in text.split("\n"))


said = st.builds(
    Said,
    asked=st.sampled_from(["a ", "b ", "ab "]),
    reply=st.text("xy", min_size=1, max_size=3),
    tool=st.sampled_from([None, None, "[1]", "[2]"]),
    logprobs=st.lists(st.sampled_from([-0.5, -0.25]), max_size=2).map(tuple),
    temperature=st.sampled_from([0.5, 0.5, 0.75]),
    seed=st.sampled_from([None, 3]),
    stop_reason=st.sampled_from(["eos", "eos", "max_time"]),
    ms=st.sampled_from([0.0, 1.0, 2.5]),
)
talks = st.builds(
    lambda turns, system, ended, cut: talk_events(
        [*turns[:-1], dataclasses.replace(turns[-1], cut=cut)], system=system, ended=ended
    ),
    st.lists(said, min_size=1, max_size=3),
    st.sampled_from(["Hi. ", "Hi. ", "Ho. "]),
    st.booleans(),
    st.booleans(),
)
SWAPPED = {"a": "b", "b": "a", "": ""}


def mirrored(value: Any) -> Any:
    """What `to_dict` gives, with the sides exchanged."""
    if isinstance(value, dict):
        return {
            SWAPPED.get(name, name): SWAPPED[each]
            if name in ("only_in", "lacking")
            else mirrored(each)
            for name, each in value.items()
            if name != "ratio"
        }
    if isinstance(value, list | tuple):
        return [mirrored(each) for each in value]
    return value


@settings(max_examples=150, deadline=None)
@given(talks, talks)
def test_a_comparison_the_other_way_round_is_its_mirror_image(
    events_a: list[Event], events_b: list[Event]
) -> None:
    a, b = recorded(events_a), recorded(events_b)

    assert tt.diff(a, a).same
    assert mirrored(tt.diff(a, b).to_dict()) == mirrored(mirrored(tt.diff(b, a).to_dict()))
    json.dumps(tt.diff(a, b).to_dict(), allow_nan=False)
    render(tt.diff(a, b))


def timeless(events: list[Event]) -> list[Any]:
    """What happened, as JSON without times and bytes of memory."""
    bodies = [(kind_of(each), json.loads(encode_body(each))) for each in events]
    for _, body in bodies:
        for name in ("duration_ms", "kv_bytes", "peak_bytes", "freed_bytes", "kept_bytes"):
            body.pop(name, None)
    return bodies


@settings(max_examples=200, deadline=None)
@given(talks, talks)
def test_the_first_difference_is_the_first_and_none_is_missed(
    events_a: list[Event], events_b: list[Event]
) -> None:
    a, b = recorded(events_a), recorded(events_b)
    found = tt.diff(a, b)

    assert found.same == (timeless(events_a) == timeless(events_b))
    pairs = list(zip(a.turns(), b.turns(), strict=False))
    for ours, theirs in pairs:
        turn = found.turns[ours.number - 1]
        agreeing = takewhile(
            lambda ids: ids[0] == ids[1], zip(ours.reply_ids, theirs.reply_ids, strict=False)
        )
        step = turn.reply.step if turn.reply is not None else None
        assert (step is None) == (ours.reply_ids == theirs.reply_ids)
        assert step is None or step == len(list(agreeing))
        index = turn.prompt.index if turn.prompt is not None else None
        assert (index is None) == (ours.prompt_ids == theirs.prompt_ids)
        if index is not None:
            assert ours.prompt_ids[:index] == theirs.prompt_ids[:index]
            assert ours.prompt_ids[index : index + 1] != theirs.prompt_ids[index : index + 1]
    unlike = [
        o.number for o, t in pairs if (o.prompt_ids, o.reply_ids) != (t.prompt_ids, t.reply_ids)
    ]
    if unlike:
        assert found.parting is not None
        assert found.parting.turn == unlike[0]


COSTS = {"duration_ms", "kv_bytes", "peak_bytes", "freed_bytes", "kept_bytes"}
CIRCUMSTANCES = {"name", "model", "threads", "environment"}


def other_values(value: Any) -> Iterator[Any]:
    if isinstance(value, bool) or value is None:
        yield 1
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 2)
    elif isinstance(value, str):
        yield from (f"{value}x", "disk", "partial")
    elif isinstance(value, tuple):
        yield from ((*value, *value[-1:]), value[:-1])
        for inner in value[-1:]:
            yield from ((*value[:-1], other) for other in other_values(inner))
    elif isinstance(value, dict):
        yield {**value, "more": 1}


FILED = {
    ("MessageAdded", "turn"),
    ("ToolReturned", "turn"),
    *(("ToolCalled", name) for name in ("turn", "step", "caller", "text")),
}


def test_any_field_of_any_event_that_is_another_is_a_difference() -> None:
    events = [*talk_events(FOUR[:2], ended=False), CacheCleared(reason="asked", freed_bytes=1)]
    original = recorded(events)
    tried = set()
    for place, event in enumerate(events):
        for field in dataclasses.fields(event):
            if (kind_of(event), field.name) in FILED:
                continue  # where it was said, not what
            for other in other_values(getattr(event, field.name)):
                try:
                    altered = dataclasses.replace(event, **{field.name: other})
                    if altered == event:
                        continue
                    copy = recorded([*events[:place], altered, *events[place + 1 :]])
                    found = tt.diff(original, copy)
                except (ValueError, TypeError, tt.TokentapeError):
                    continue  # no such event can be, or the run contradicts itself: said aloud
                kind = kind_of(event)
                noted = kind == "RunStarted" and field.name in CIRCUMSTANCES
                counts = field.name not in COSTS and not noted
                assert found.same is not counts, f"{kind}.{field.name} = {other!r}"
                tried.add((kind, field.name))

    assert len(tried) > 60
    assert {kind for kind, _ in tried} == {kind_of(event) for event in events}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, make_lm: Any) -> tuple[Path, dict[str, str]]:
    """Runs of a tiny model that differ in one thing each, in one database."""
    path = tmp_path_factory.mktemp("diffs") / "runs.db"
    lm = make_lm("llama")
    layer = "model.layers.1.mlp.up_proj.weight"
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})

    def run(
        store: Any,
        *,
        seed: int = 7,
        word: str = "kind",
        questions: tuple[str, ...] = ("What?", "Why?", "How?"),
        lm: tt.LoadedModel = lm,
        **settings: Any,
    ) -> str:
        with tt.Investigation(
            lm,
            store=store,
            name="t",
            system_prompt=f"Be {word}.",
            tools=tt.default_tools(lm),
            seed=seed,
        ) as investigation:
            for number, question in enumerate(questions):
                chosen = {"do_sample": True, "temperature": 0.8} | settings if number else {}
                calls = [call] if number == 1 else []
                investigation.chat(question, tool_calls=calls, max_new_tokens=4, **chosen)
        return investigation.run_id

    with tt.open_store(path) as store:
        ids = {
            "one": run(store),
            "again": run(store),
            "other seed": run(store, seed=8),
            "other temperature": run(store, temperature=3.0),
            "other word": run(store, questions=("What?", "Why?", "Who?")),
            "other system prompt": run(store, word="cold"),
            "no cache": run(store, use_cache=False),
            "a turn more": run(store, questions=("What?", "Why?", "How?", "So?")),
        }
    return path, ids


# The turn and the part in which each first differs from the first run; no turn where none parts.
EXPECTED: dict[str, tuple[int | None, str, str]] = {
    "other seed": (2, "sampling", "seed"),
    "other temperature": (2, "sampling", "temperature"),
    "other word": (3, "prompt", "user message: 'How?' / 'Who?'"),
    "other system prompt": (1, "prompt", "system prompt: ' kind.' / ' cold.'"),
    "no cache": (None, "cache", "cache decision in turns 2 and 3"),
    "a turn more": (4, "turn", "only b has turn 4"),
}


@pytest.mark.parametrize("other", EXPECTED)
def test_real_runs_part_where_they_were_made_to(
    real: tuple[Path, dict[str, str]], other: str
) -> None:
    path, ids = real
    turn, part, words = EXPECTED[other]
    with tt.open_store(path) as store:
        found = tt.diff(store.recording(ids["one"]), store.recording(ids[other]))

    assert (found.parting.turn if found.parting else None) == turn
    assert part in next(each for each in found.turns if not each.same).differing
    assert words in render(found)


def test_the_same_script_and_seed_are_the_same_run(real: tuple[Path, dict[str, str]]) -> None:
    path, ids = real
    with tt.open_store(path) as store:
        found = tt.diff(store.recording(ids["one"]), store.recording(ids["again"]))

    assert found.same
    assert found.a.run_id != found.b.run_id
