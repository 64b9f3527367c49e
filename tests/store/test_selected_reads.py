"""Single turns are rebuilt from a part of a run, and equal those that the whole run gives."""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from tests.store.large_runs import import_conversation
from tests.store.random_talks import fork_of, record_talk
from tokentape.recorder import Envelope, Record
from tokentape.recorder.events import (
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import Turn
from tokentape.recorder.record import RecordFilter, SampledIds
from tokentape.recorder.selected_turns import SelectedEvents, read_turns
from tokentape.recorder.turn_overviews import read_overviews
from tokentape.replay import load_run
from tokentape.replay.reports.turn_page import tools_of, tools_of_round
from tokentape.store import DatabaseStore
from tokentape.store.run_follower import NewToken, RunFollower


def seams_of(turn: Turn, before: Iterable[Turn]) -> Iterator[tuple[int, int]]:
    """Compare whole prompts, as nothing that reads a part of a run can."""
    for earlier in before:
        ids, text = earlier.prompt_ids, earlier.prompt_text
        if turn.prompt_ids[: len(ids)] == ids and turn.prompt_text.startswith(text):
            yield len(ids), len(text)
            yield earlier.started.kept_tokens, earlier.started.kept_chars


def tools_by_round(
    number: int, envelopes: Iterable[Envelope]
) -> list[list[ToolCalled | ToolReturned]]:
    """Give each tool event to the round that began before it, or to the first one."""
    found: list[list[ToolCalled | ToolReturned]] = []
    before: list[ToolCalled | ToolReturned] = []
    for each in envelopes:
        if each.turn == number and isinstance(each.event, TurnStarted):
            found.append([] if found else before)
        elif each.turn == number and isinstance(each.event, ToolCalled | ToolReturned):
            (found[-1] if found else before).append(each.event)
    return found


def assert_parts_equal_the_whole(recording: tt.Recording) -> None:
    rounds = recording.turns()
    envelopes = list(recording.events())
    for number in dict.fromkeys(each.number for each in rounds):
        found = list(read_turns(recording, [number]))
        selected = SelectedEvents.read(recording, [number])
        events = selected.envelopes
        tools = [tools_of_round(each.turn, events) for each in selected.rebuilt()]

        assert [each.turn for each in found] == [e for e in rounds if e.number == number]
        for each in found:
            before = rounds[: rounds.index(each.turn)]
            assert list(each.seams()) == list(seams_of(each.turn, before))
        assert tools_of(number, events) == tools_of(number, envelopes)
        assert tools == tools_by_round(number, events)
    assert [each.turn for each in read_turns(recording, range(1, 99))] == rounds
    assert [
        (each.started, each.messages, each.cache, each.finished, each.generated_tokens)
        for each in read_overviews(recording)
    ] == [(e.started, e.messages, e.cache, e.finished, len(e.tokens)) for e in rounds]
    for first_turn in (1, 3):
        assert [each.inside_model for each in read_overviews(recording, first_turn=first_turn)] == [
            each.inside_model for each in rounds if each.number >= first_turn
        ]


@settings(max_examples=25)
@given(st.integers(0, 2**32).map(random.Random))
def test_any_turn_of_any_run_equals_the_same_turn_of_the_whole_run(
    random_: random.Random,
) -> None:
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        run_id = record_talk(store, random_)
        assert_parts_equal_the_whole(store.recording(run_id))
        fork_id = fork_of(store, run_id, random_)
        assert_parts_equal_the_whole(store.recording(fork_id))
        fork_of_fork = fork_of(store, fork_id, random_)
        assert_parts_equal_the_whole(store.recording(fork_of_fork))


def newest_turns(found: list[Envelope | NewToken], last: int) -> list[Envelope | NewToken]:
    newest = max((each.turn or 0 for each in found), default=0)
    return [each for each in found if not each.turn or each.turn > newest - last]


@settings(max_examples=15)
@given(st.integers(0, 2**32).map(random.Random), st.integers(1, 4))
def test_following_the_newest_turns_gives_the_end_of_what_the_whole_run_gives(
    random_: random.Random, last: int
) -> None:
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        recording = store.recording(record_talk(store, random_))
        whole = RunFollower(store, recording).poll()
        events = [e for e in recording.events() if not isinstance(e.event, TokenSampled)]

        assert [each for each in whole if isinstance(each, Envelope)] == events
        follower = RunFollower(store, recording, last_turns=last)
        assert follower.poll() == newest_turns(whole, last)
        assert follower.poll() == []


class Reads:
    """Counts the records and the ids of tokens that a recording reads from its store."""

    def __init__(self) -> None:
        self.events = self.tokens = self.ids = 0

    def of(self, found: tt.Recording) -> tt.Recording:
        """Return the recording; it fails if its whole run is read."""
        assert found.select is not None
        assert found.read_sampled_ids is not None
        select, read_ids = found.select, found.read_sampled_ids

        def read_whole() -> Iterator[Record]:
            raise AssertionError("the whole run is read")

        def counted(chosen: RecordFilter) -> Iterator[Record]:
            for record in select(chosen):
                if record.kind == TokenSampled.__name__:
                    self.tokens += 1
                else:
                    self.events += 1
                yield record

        def counted_ids(after_seq: int, last_seq: int | None) -> SampledIds:
            ids = read_ids(after_seq, last_seq)
            self.ids += len(ids.seqs)
            return ids

        return replace(found, read=read_whole, select=counted, read_sampled_ids=counted_ids)


TURNS, TOKENS, KEPT = 120, 15, 10


@pytest.fixture(params=["sqlite", "postgresql", "folder", "tape"])
def long_run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tt.Recording]:
    """A run of many turns, of which each prompt holds the last ten, in a store of each kind."""
    is_postgres = request.param == "postgresql"
    url = request.getfixturevalue("postgres_url") if is_postgres else str(tmp_path / "runs.db")
    with tt.open_store(url) as store:
        run_id = import_conversation(store, TURNS, TOKENS, keep_turns=KEPT)
        recording = store.recording(run_id)
        if request.param in ("sqlite", "postgresql"):
            yield recording
            return
        if request.param == "tape":
            where = tt.pack([recording], store, tmp_path / "run.tape")
        else:
            where = tmp_path / "sealed"
            tt.export_parquet(recording, store, where)
    with tt.open_store(where) as sealed:
        yield sealed.recording(run_id)


# Of each earlier turn: its message, pruning, start and end, and a tool call with its result.
EVENTS_A_TURN = 5
# All events of a turn but its tokens, and a few of the run.
WHOLE_TURN = 12


@pytest.mark.parametrize("turn", [2, 60, TURNS])
def test_a_turn_is_read_with_its_history_and_no_other_tokens(
    long_run: tt.Recording, turn: int
) -> None:
    reads = Reads()
    (found,) = tt.rebuild(reads.of(long_run), turns=[turn]).turns

    assert found == long_run.turns()[turn - 1]
    assert reads.tokens == TOKENS
    assert reads.events <= EVENTS_A_TURN * turn + 2 * WHOLE_TURN
    # Only the ids that the prompt still holds are read.
    assert reads.ids == TOKENS * min(turn - 1, KEPT - 1)


def test_the_table_of_turns_reads_no_token(long_run: tt.Recording) -> None:
    reads = Reads()

    assert len(read_overviews(reads.of(long_run))) == TURNS
    assert (reads.tokens, reads.ids) == (0, 0)


def test_the_newest_turns_are_read_from_the_end(long_run: tt.Recording) -> None:
    reads = Reads()
    with tt.open_store("sqlite://") as unused:
        assert isinstance(unused, DatabaseStore)
        found = RunFollower(unused, reads.of(long_run), last_turns=2).poll()

    assert {each.turn for each in found} == {None, TURNS - 1, TURNS}
    assert (reads.tokens, reads.ids) == (0, 0)
    assert reads.events <= 3 * WHOLE_TURN


@pytest.mark.parametrize("turns", [[7], [7, 8], [3, 90]])
def test_the_seals_of_single_turns_are_checked(long_run: tt.Recording, turns: list[int]) -> None:
    loaded = load_run(long_run, turns)

    assert loaded.seals is not None
    assert loaded.seals.ok
    assert loaded.seals.last_seal == next(
        each.seal
        for each in long_run.events()
        if isinstance(each.event, TurnFinished) and each.turn == turns[-1]
    )


def test_an_altered_token_breaks_the_seal_of_its_turn_only(long_run: tt.Recording) -> None:
    assert long_run.select is not None
    select = long_run.select

    def altered(chosen: RecordFilter) -> Iterator[Record]:
        for record in select(chosen):
            if record.turn == 7 and isinstance(record.body, Mapping):
                record = replace(record, body={**record.body, "logprob": -9.0})
            yield record

    forged = replace(long_run, select=altered)
    broken, sound = load_run(forged, [7]).seals, load_run(forged, [8]).seals

    assert broken is not None
    assert (broken.ok, broken.bad_turn) == (False, 7)
    assert sound is not None
    assert sound.ok
