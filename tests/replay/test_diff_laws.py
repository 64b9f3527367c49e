"""Laws of comparing two runs: symmetry, the first difference, no field missed."""

import dataclasses
import json
from collections.abc import Iterator
from itertools import takewhile, zip_longest
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from tests.replay.four_turns import FOUR, said
from tests.replay.made_talk import Said, recorded, talk_events
from tokentape.recorder.codec import encode_body, kind_of
from tokentape.recorder.events import (
    ActivationObserved,
    CacheCleared,
    Event,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    TokensSpelled,
    TurnFinished,
    TurnStarted,
)
from tokentape.replay.reports.diff_report import headline, render
from tokentape.replay.reports.diff_texts import first_words, text_lines
from tokentape.replay.run_diff.turn_diff import compare_texts

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
    """Return the result of `to_dict` with the sides exchanged."""
    if isinstance(value, dict):
        return {
            SWAPPED.get(name, name): SWAPPED[each]
            if name in ("only_in", "missing_in")
            else mirrored(each)
            for name, each in value.items()
            if name != "ratio"
        }
    if isinstance(value, list | tuple):
        return [mirrored(each) for each in value]
    return value


@settings(max_examples=150)
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
    """Return the events as JSON, without durations and bytes of memory."""
    bodies = [(kind_of(each), json.loads(encode_body(each))) for each in events]
    for _, body in bodies:
        for name in ("duration_us", "kv_bytes", "peak_bytes", "freed_bytes", "kept_bytes"):
            body.pop(name, None)
    return bodies


@settings(max_examples=200)
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
        assert found.first_divergent_turn is not None
        assert found.first_divergent_turn.turn == unlike[0]


# Long words, wide characters and escapes are cut; combining marks are escaped in a row.
words = st.text(st.sampled_from("ab \n'\\é漢\u202e\u0301\u0000"), max_size=30)


@settings(max_examples=500)
@given(st.sampled_from(["", "one two", "x" * 70, "漢" * 25, "\u202e" * 25]), words, words)
def test_two_texts_are_shown_from_where_they_differ_and_differ_as_shown(
    common: str, a: str, b: str
) -> None:
    a, b = common + a, common + b
    found = compare_texts(a, b)

    assert (found is None) == (a == b)
    if found is None:
        return
    assert found.a[:1] != found.b[:1]
    for side, shown in ((a, found.a), (b, found.b)):
        assert side[: found.index].endswith(found.before)
        assert side[found.index :].startswith(shown)
    shown_a, shown_b = first_words(found).split(" / ")
    assert shown_a != shown_b
    *_, line_a, line_b = text_lines(found)
    assert line_a.removeprefix("    a") != line_b.removeprefix("    b")


@settings(max_examples=100)
@given(st.lists(st.text("ab ", max_size=3), min_size=2, max_size=4), st.data())
def test_a_headline_names_the_two_tokens_that_differ(texts: list[str], data: Any) -> None:
    ids = st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=4)
    replies = data.draw(ids), data.draw(ids)
    a, b = (_spelled(reply, texts) for reply in replies)
    unlike = next((pair for pair in zip_longest(*replies) if pair[0] != pair[1]), None)

    if unlike is None:
        return
    *_, shown = headline(tt.diff(a, b)).partition(": ")
    sides = shown.split(" / ")
    assert sides[0] != sides[1]
    for side, token_id in zip(sides, unlike, strict=True):
        if token_id is None:
            assert side == "(end)"
        elif texts[token_id]:
            assert side.startswith(f"'{texts[token_id]}'")
        else:
            assert side == f"id {token_id}"


def _spelled(reply: list[int], texts: list[str]) -> tt.Recording:
    """Return a run of one turn that samples these ids and records the text of each."""
    spelled = TokensSpelled(turn=1, texts={str(index): text for index, text in enumerate(texts)})
    events: list[Event] = []
    for each in talk_events([Said(reply="".join(map(chr, reply)))]):
        if isinstance(each, TurnFinished):
            each = dataclasses.replace(each, text="".join(texts[index] for index in reply))
            events.append(spelled)
        events.append(each)
    return recorded(events)


COSTS = {"duration_us", "traceback", "kv_bytes", "peak_bytes", "freed_bytes", "kept_bytes"}


CIRCUMSTANCES = {
    *("name", "model", "threads", "environment", "process", "warnings", "tool_sources"),
}


def inside_model(turn: int) -> list[Event]:
    """Return one event of each kind that concerns the inside of the model."""
    described: Any = {
        "name": "it", "kind": "steer", "layers": ("0",), "coefficient": 2.0, "dimensions": (3,),
        "tensor_sha256": "", "tensor_start": None, "positions": "all", "schedule": {}, "source": {},
    }  # fmt: skip
    return [
        InterventionRequested(clear_cache=False, turn=turn, **described | {"name": "asked"}),
        InterventionWithdrawn(name="asked", clear_cache=False, turn=turn),
        InterventionApplied(turn=turn, position=4, **described),
        InterventionRemoved(turn=turn, position=9, name="it"),
        ActivationObserved(
            turn=turn, source="prefill", start=0, end=4,  # type: ignore[arg-type]
            positions_covered=2, statistics={"0": {"norm": 1.5}},
        ),
    ]  # fmt: skip


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
    ("InterventionRequested", "turn"),
    ("InterventionWithdrawn", "turn"),
    *(("ToolCalled", name) for name in ("turn", "step", "caller", "text")),
}


def test_any_field_of_any_event_that_is_another_is_a_difference() -> None:
    events = [*talk_events(FOUR[:2], ended=False), CacheCleared(reason="asked", freed_bytes=1)]
    begun = [place for place, each in enumerate(events) if isinstance(each, TurnStarted)]
    events[begun[1] + 1 : begun[1] + 1] = inside_model(2)
    described: Any = {name: {"a": 1} for name in ("config", "module_state", "model_code")}
    events[0] = dataclasses.replace(events[0], model_class="a.Class", **described)
    original = recorded(events)
    tried = set()
    for place, event in enumerate(events):
        for field in dataclasses.fields(event):
            if (kind_of(event), field.name) in FILED:
                continue  # the place of an event, not its content
            for other in other_values(getattr(event, field.name)):
                try:
                    altered = dataclasses.replace(event, **{field.name: other})
                    if altered == event:
                        continue
                    copy = recorded([*events[:place], altered, *events[place + 1 :]])
                    found = tt.diff(original, copy)
                except (ValueError, TypeError, tt.TokentapeError):
                    continue  # an invalid event, or a run that contradicts itself: an error
                kind = kind_of(event)
                noted = kind == "RunStarted" and field.name in CIRCUMSTANCES
                counts = field.name not in COSTS and not noted
                assert found.same is not counts, f"{kind}.{field.name} = {other!r}"
                tried.add((kind, field.name))

    assert len(tried) > 60
    assert {kind for kind, _ in tried} == {kind_of(event) for event in events}
