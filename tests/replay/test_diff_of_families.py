"""Comparison of runs of one family: a parent, its forks, forks of forks, and resumed runs."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.made_events import run_started
from tests.replay.four_turns import FOUR, said
from tests.replay.made_family import Member, fork, resumed, root
from tests.replay.made_talk import Said, recorded, talk, talk_events
from tests.store.made_families import record_family
from tokentape.recorder.envelope import number_turns
from tokentape.recorder.events import SystemPromptCached, ToolCalled, ToolReturned, TurnStarted
from tokentape.replay import Diff, load_run
from tokentape.replay.reports.diff_report import headline, render
from tokentape.store import DatabaseStore

OTHER = (Said(asked="where? ", tool="[1]"), Said(asked="when? "))


def differences(found: Diff) -> list[dict[str, object]]:
    return list(found.to_dict()["turns"])


def by_itself(member: Member) -> tt.Recording:
    """Return the conversation of a run of a family as a run without a parent."""
    return talk(*member.turns, system=member.system, ended=False)


def family(store: DatabaseStore) -> list[Member]:
    """Return a parent, two forks of it, a fork of a fork, a resumed run and a fork of that."""
    parent = root(store, FOUR)
    child = fork(store, parent, 2, OTHER)
    sibling = fork(store, parent, 3, OTHER)
    grandchild = fork(store, child, 3, [Said(asked="who? ")])
    early = fork(store, grandchild, 2, [Said(asked="how? ")])
    again = resumed(store, FOUR, 1)
    return [parent, child, sibling, grandchild, early, again, fork(store, again, 3, OTHER)]


def test_every_two_runs_of_a_family_compare_as_if_they_were_recorded_by_themselves(
    store: DatabaseStore,
) -> None:
    members = family(store)
    for a in members:
        assert tt.diff(a.recording, a.recording).same
        for b in members:
            found = tt.diff(a.recording, b.recording)

            assert differences(found) == differences(tt.diff(by_itself(a), by_itself(b)))
            assert (found.started, found.ended) == ((), ())


forks = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 9), st.lists(said, min_size=1, max_size=2)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(said, min_size=1, max_size=3), st.integers(0, 2), forks)
def test_a_fork_of_any_run_first_differs_where_its_conversation_does(
    store: DatabaseStore,
    turns: list[Said],
    after_tokens: int,
    forked: list[tuple[int, int, list[Said]]],
) -> None:
    members = [root(store, turns), resumed(store, turns, after_tokens)]
    for at_turn, parent, own in forked:
        of = members[parent % len(members)]
        members.append(fork(store, of, min(at_turn, len(of.turns) + 1), own))
    a, b = members[-2:]
    there, back = tt.diff(a.recording, b.recording), tt.diff(b.recording, a.recording)
    pairs = list(zip(a.turns, b.turns, strict=False))
    shared = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))

    assert tt.diff(b.recording, b.recording).same
    assert all(turn.same for turn in there.turns[:shared])
    assert there.same == back.same
    assert [each.differing for each in there.turns] == [each.differing for each in back.turns]
    assert differences(there) == differences(tt.diff(by_itself(a), by_itself(b)))


def test_the_turns_of_shared_events_are_those_of_the_run_that_recorded_them(
    store: DatabaseStore,
) -> None:
    for member in family(store):
        numbered = list(number_turns(member.recording.events()))

        assert [turn for _, turn in numbered] == [each.turn for each, _ in numbered]
        begun = [turn for each, turn in numbered if isinstance(each.event, TurnStarted)]
        assert begun == list(range(1, len(member.turns) + 1))


def test_tool_calls_of_a_fork_are_loaded_with_their_turns(store: DatabaseStore) -> None:
    parent = root(store, [OTHER[0], Said(), Said()])
    child = fork(store, parent, 3, [OTHER[0]])
    calls = (ToolCalled, ToolReturned)
    for turns in (None, [1, 3]):
        events = load_run(child.recording, turns).tool_events()

        assert [turn for turn, event in events if isinstance(event, calls)] == [1, 1, 3, 3]


def test_a_resumed_run_is_the_same_as_one_that_was_never_killed(store: DatabaseStore) -> None:
    found = tt.diff(root(store, FOUR).recording, resumed(store, FOUR, 1).recording)

    assert found.same, render(found)


def test_runs_of_two_processes_are_the_same() -> None:
    def of_process(pid: int, host: str) -> tt.Recording:
        process = {"host": host, "pid": pid, "started": pid, "boot": f"b{pid}", "namespace": ""}
        return recorded([run_started(process=process), *talk_events(FOUR)[1:]])

    assert tt.diff(of_process(1, "here"), of_process(2, "here")).same
    assert not tt.diff(of_process(1, "here"), of_process(2, "here")).noted
    elsewhere = tt.diff(of_process(1, "here"), of_process(2, "there"))
    assert elsewhere.same
    assert [each.field for each in elsewhere.noted] == ["process.host"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A family of a tiny model: a live store, a sealed copy of it, and a tape; and its runs."""
    folder = tmp_path_factory.mktemp("family")
    with tt.open_store(folder / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        lm = tiny_model("llama", byte_tokenizer())
        parent, *others = record_family(lm, store)
        tools = tt.default_tools(lm)
        with tt.Investigation.fork(
            store, parent, lm, at_turn=2, at_token=2, token="Z", tools=tools
        ) as at_token:
            pass
        run_ids = [parent, *others, at_token.run_id]
        for run_id in run_ids:
            tt.export_parquet(store.recording(run_id), store, folder / "sealed")
        tt.pack([store.recording(each) for each in run_ids], store, folder / "one.tape")
    return folder, list(run_ids)


@pytest.mark.parametrize("where", ["runs.db", "sealed", "one.tape"])
def test_real_families_compare_right_in_every_kind_of_store(
    real: tuple[Path, list[str]], where: str
) -> None:
    folder, run_ids = real
    with tt.open_store(folder / where) as store:
        parent, child, grandchild, at_token = map(store.recording, run_ids)
        first, second = tt.diff(parent, child), tt.diff(child, grandchild)

        assert headline(first).startswith("inside the model in turn 2: ")
        assert (
            "same prompts and replies up to turn 1; turn 2 reads another user message: 'Two?' / 'Or"
        ) in headline(first)
        assert headline(second).startswith("inside the model in turn 3: ")
        assert (
            "same prompts and replies up to turn 2; turn 3 reads another user message: ' three?' / "
        ) in headline(second)
        assert first.turns[0].same
        assert first.started == second.started == ()
        text = render(first)
        assert "turn 2\n" in text
        assert "'Or two?'" in text
        assert tt.diff(parent, parent).same
        forced, text = tt.diff(parent, at_token), render(tt.diff(at_token, parent))
        assert headline(forced).startswith(
            "same prompts and replies up to turn 1; turn 2 diverges at token 2, chosen in b: "
        )
        assert forced.turns[1].prompt is None
        assert f"forked from run {parent.run_id} at turn 2, token 2\n" in text
        assert text.count(", chosen by the experimenter") == 1
        assert (
            text.splitlines()[0]
            .partition("turn 2 ")[2]
            .startswith("diverges at token 2, chosen in a")
        )


def test_a_fork_says_what_it_was_forked_from(store: DatabaseStore) -> None:
    parent, child = family(store)[:2]
    text = render(tt.diff(parent.recording, child.recording))

    assert f"forked from run {parent.recording.run_id} at turn 2" in text


def test_a_system_prompt_of_a_shared_turn_is_filed_under_its_turn(store: DatabaseStore) -> None:
    child = family(store)[1].recording
    turns = [
        turn
        for each, turn in number_turns(child.events())
        if isinstance(each.event, SystemPromptCached)
    ]

    assert turns == [1]
