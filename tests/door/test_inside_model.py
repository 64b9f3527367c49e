"""What was done inside the model is said by `show`, `tail`, `rebuild` and, first of all, `diff`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.interventions import intervention, record_with
from tests.replay.four_turns import FOUR
from tests.replay.made_family import applied
from tests.replay.made_talk import recorded, talk, talk_events
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    InterventionRemoved,
    TurnStarted,
)
from tokentape.recorder.turn_overviews import read_overviews
from tokentape.replay.reports.diff_report import headline, render
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]

RULE = "steer in model.layers.0, coefficient 2.5"


def with_inside(*interventions: Event, turn: int = 2, **changes: Any) -> tt.Recording:
    """Return the four turns with interventions in one of them, and changes of its events: `key` of
    its cache decision and `unreplayable` of its beginning."""
    events: list[Event] = []
    for event in talk_events(FOUR):
        if isinstance(event, TurnStarted) and event.turn == turn:
            event = replace(event, unreplayable=changes.get("unreplayable", ()))
            events += (event, *interventions)
            continue
        if isinstance(event, CacheDecided) and event.turn == turn:
            event = replace(event, key=changes.get("key", {}))
        events.append(event)
    return recorded(events)


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        ({}, {"unreplayable": ("Own",)}, 'unreplayable: (none) / ["Own"]'),
        ({"unreplayable": ("Mine",)}, {"unreplayable": ("Own",)}, 'unreplayable.0: "Mine" / "Own"'),
        ({}, {"key": {"hooks": "foreign"}}, 'hooks: (none) / "foreign"'),
        (
            {"key": {"adapters": "x 12"}},
            {"key": {"adapters": "y 34"}},
            'adapters: "x 12" / "y 34"',
        ),
    ],
)
def test_processors_hooks_and_adapters_are_differences_inside_the_model(
    a: dict[str, Any], b: dict[str, Any], line: str
) -> None:
    found = tt.diff(with_inside(**a), with_inside(**b))

    assert [turn.differing for turn in found.turns] == [(), ("inside_model",), (), ()]
    assert headline(found).startswith(
        f"inside the model in turn 2: {line}; same prompts and replies in all 4 turns"
    )
    assert f"turn 2\n  inside the model differs\n    {line}\n" in render(found)
    assert found.to_dict()["first_turn_changed_inside"] == 2


def test_an_intervention_of_one_run_is_named_with_its_rule() -> None:
    found = tt.diff(with_inside(applied(2, 16)), talk(*FOUR))
    sentence = f"intervention it only in a: {RULE}, positions all (from 16 on)"

    assert headline(found).startswith(f"inside the model in turn 2: {sentence}; same prompts")
    assert f"    {sentence}\n" in render(found)
    assert [turn.differing for turn in found.turns] == [(), *[("inside_model",)] * 3]
    assert tt.diff(with_inside(applied(2, 16)), with_inside(applied(2, 16))).same


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ([applied(2, 16, coefficient=3.0)], "intervention.it.coefficient: 2.5 / 3.0"),
        ([applied(2, 16, layers=("1",))], 'intervention.it.layers.0: "model.layers.0" / "1"'),
        ([applied(2, 18)], "intervention.it.acts_on.0.0: 16 / 18"),
        (
            [applied(2, 16), InterventionRemoved(turn=2, position=20, name="it")],
            "intervention.it.acts_on.0.1: null / 20",
        ),
    ],
)
def test_interventions_are_compared_field_by_field(other: list[Event], line: str) -> None:
    found = tt.diff(with_inside(applied(2, 16)), with_inside(*other))

    assert line in headline(found)


def test_positions_that_follow_from_another_prompt_are_no_difference_inside() -> None:
    longer = [replace(FOUR[0], asked="why then? "), *FOUR[1:]]
    events = talk_events(longer)
    begun = [place for place, each in enumerate(events) if isinstance(each, TurnStarted)]
    events.insert(begun[1] + 1, applied(2, 22))
    found = tt.diff(with_inside(applied(2, 16)), recorded(events))

    assert found.first_turn_changed_inside is None
    assert headline(found).startswith("turn 1 reads another user message")


def test_the_table_of_turns_marks_interventions_on_earlier_positions_alone() -> None:
    removed = InterventionRemoved(turn=2, position=20, name="it")
    recording = with_inside(
        applied(2, 16), removed, key={"adapters": "x, y (merged) 12"}, unreplayable=("Own",)
    )
    cells = [each.inside_model.brief() for each in read_overviews(recording)]
    rule = "it: steer 2.5 in model.layers.0"

    assert cells == [
        "",
        f"{rule}, adapters: x, y (merged), not replayable: Own",
        f"({rule})",
        f"({rule})",
    ]
    newest = read_overviews(recording, first_turn=3)
    assert [each.inside_model.brief() for each in newest] == cells[2:]
    assert [each.inside_model for each in recording.turns()] == [
        each.inside_model for each in read_overviews(recording)
    ]


def test_two_applications_of_one_rule_are_one_intervention_and_of_two_rules_two() -> None:
    again = with_inside(applied(2, 16), applied(2, 20), applied(2, 22, coefficient=4.0))
    (first, second) = again.turns()[1].inside_model.as_json()["interventions"]

    assert (first["coefficient"], first["acts_on"]) == (2.5, [(16, 22)])
    assert (second["coefficient"], second["acts_on"][0][0]) == (4.0, 22)


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory, make_lm: Any) -> tuple[str, str, str]:
    """A store with a plain run, and one whose second and third turns are steered; their ids."""
    path = tmp_path_factory.mktemp("steered") / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        lm = make_lm("llama")
        plain = record_with(lm, store, tokens=2)
        run = record_with(lm, store, intervention("steer", positions="generated"), tokens=2)
    return str(path), plain.run_id, run.run_id


def test_commands_name_the_interventions_of_a_run(steered: tuple[str, str, str], cli: Cli) -> None:
    path, plain, run = steered
    table = cli("show", run, "--store", path)[1]
    page = cli("show", run, "--turn", "2", "--store", path)[1]
    told = json.loads(cli("show", run, "--turn", "2", "--store", path, "--json")[1])
    (only,) = told["turns"][0]["inside_model"]["interventions"]
    start, end = only["acts_on"][0]

    assert table.count("it: steer 2.5 in model.layers.0") == 2
    assert "inside the model" not in cli("show", plain, "--store", path)[1]
    where = f"(positions generated), at positions {start}–{end - 1}\n"
    assert f"  intervention it: {RULE} {where}" in page
    assert f"  intervention it: {RULE} {where}" in cli("rebuild", run, "--store", path)[1]
    assert (only["kind"], only["layers"]) == ("steer", ["model.layers.0"])
    followed = cli("tail", run, "-n", "0", "--store", path)[1]
    assert f"intervention it: {RULE} (positions generated), requested\n" in followed
    assert f"intervention it: {RULE} (positions generated), from position {start}\n" in followed


def test_a_comparison_names_the_intervention_first(steered: tuple[str, str, str], cli: Cli) -> None:
    path, plain, run = steered
    code, out, _ = cli("diff", plain, run, "--store", path)
    told = json.loads(cli("diff", plain, run, "--store", path, "--json")[1])

    assert code == 1
    assert out.startswith(f"inside the model in turn 2: intervention it only in b: {RULE}")
    assert told["headline"] == out.splitlines()[0]
    assert told["first_turn_changed_inside"] == 2
    assert told["turns"][1]["differing"][0] == "inside_model"
    assert told["turns"][1]["inside_model"][0]["b"]["coefficient"] == 2.5


def test_a_name_of_an_intervention_commands_no_terminal(tmp_path: Path) -> None:
    nasty = "\x1b[2J\n\u202e"
    found = tt.diff(with_inside(applied(2, 16, name=nasty, layers=(nasty,))), talk(*FOUR))
    turn = with_inside(applied(2, 16, name=nasty)).turns()[1]

    assert all(line.isprintable() for line in render(found).split("\n"))
    assert all(line.isprintable() for line in turn.inside_model.lines())
