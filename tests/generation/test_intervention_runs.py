"""Interventions in runs that are interrupted, resumed and forked."""

import itertools
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, random_ids, tiny_model
from tests.generation.made_interventions import applied
from tests.interventions import KINDS, intervention, ranges_of
from tests.samplers import GREEDY
from tests.store.made_runs import append_all
from tokentape.generation.errors import ForkWarning
from tokentape.recorder import Recorder
from tokentape.recorder.events import (
    CacheCleared,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    RunStarted,
    TurnStarted,
)
from tokentape.recorder.projections import ActiveInterventions, RequestedInterventions
from tokentape.store import DatabaseStore

# The projection alone.


def shape(acting: ActiveInterventions) -> list[tuple[str, int, int | None, int | None]]:
    return [(each.name, each.start, each.end, each.tensor_start) for each in acting.ranges]


def test_active_ranges_move_with_the_ids() -> None:
    rows = intervention("patch", name="rows")
    acting = ActiveInterventions().applied(applied(rows, 10))
    acting = acting.removed(InterventionRemoved(turn=1, position=30, name="rows"))
    acting = acting.applied(applied(intervention("scale", name="on"), 25))
    pruned = acting.pruned([(0, 4), (15, 20)])

    assert shape(pruned) == [
        ("rows", 6, 11, -4),
        ("rows", 11, 21, -9),
        ("on", 16, None, None),
    ]
    assert shape(acting.rewritten(12)) == [("rows", 10, 12, 0), ("on", 12, None, None)]
    assert shape(acting.restarted(7)) == [("on", 7, None, None)]
    assert [(each.start, each.end) for each in acting.over(27)] == [(10, 27), (25, 27)]
    assert (
        ActiveInterventions().pruned([(0, 4)])
        == ActiveInterventions().rewritten(3)
        == ActiveInterventions()
    )


def test_a_turn_resumed_in_another_process_keeps_its_interventions(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Killed after a token and restored from the events, it records each event exactly once."""
    asked = intervention("steer", from_step=1)
    ids = random_ids(9, 1)

    def begin(recorder: Recorder | None) -> tt.ManualGenerator:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.intervene(asked)
        return generator

    with Recorder(store) as recorder:
        begin(recorder).generate(ids, max_new_tokens=6, **GREEDY)
    (whole,) = store.recording(recorder.run_id).turns()
    cut = recorder_of_beginning(store, recorder.run_id, tokens=2)
    turn = cut[0]
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.intervene(asked)
    generator.restore([turn], generator.conversation, RequestedInterventions(), store.blob)
    prompt = generator.conversation.own_prompt(ids)
    result = generator.resume_turn(turn, prompt, chosen_six(lm))

    assert turn.active == ActiveInterventions()
    assert result.token_ids == whole.reply_ids
    assert generator._engine.interventions.active == whole.active


def chosen_six(lm: tt.LoadedModel) -> Any:
    from tokentape.generation.engine.turn import turn_settings

    return turn_settings(lm.model, max_new_tokens=6, do_sample=False)


def recorder_of_beginning(store: DatabaseStore, run_id: str, tokens: int) -> list[Any]:
    """Return the turns of a run as if it were killed after so many tokens."""
    from tokentape.recorder.events import TokenSampled
    from tokentape.recorder.projections import iterate_turns

    envelopes = []
    for envelope in store.recording(run_id).events():
        envelopes.append(envelope)
        if isinstance(envelope.event, TokenSampled) and envelope.event.step == tokens - 1:
            break
    return list(iterate_turns(envelopes))


def killed(store: DatabaseStore, run_id: str, events: int) -> DatabaseStore:
    """Return a store with the first so many events of a run and all payloads."""
    rest = tt.open_store("sqlite://")
    assert isinstance(rest, DatabaseStore)
    envelopes = []
    for envelope in itertools.islice(store.recording(run_id).events(), events):
        event = envelope.event
        if isinstance(event, InterventionRequested) and event.tensor_sha256:
            rest.put_blob(event.tensor_sha256, store.blob(event.tensor_sha256))
        if isinstance(event, RunStarted):
            rest.put_blob(event.weights_sha256, store.blob(event.weights_sha256))
        envelopes.append(envelope)
    append_all(rest, envelopes)
    return rest


def test_a_steered_run_killed_anywhere_resumes_to_the_same_tokens(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """The requests before the second turn hold in the third without a new request."""

    def say(run: tt.Investigation, *turns: int) -> None:
        for turn in turns:
            run.chat(f"And {turn}?", max_new_tokens=4, do_sample=True, temperature=0.9)

    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=5) as run:
        run.intervene(intervention("steer", name="on"))
        run.intervene(intervention("scale", name="last", layer=1, positions="last"))
        run.intervene(intervention("ablate_zero", name="own", layer=1, from_step=1))
        say(run, 1)
        run.withdraw("own")
        run.intervene(intervention("steer", name="later", layer=2, turns=(3, None), seed=3))
        run.intervene(intervention("scale", name="anew", layer=2), clear_cache=True)
        say(run, 2, 3)
    recording = store.recording(run.run_id)
    events = [each.event for each in recording.events()]
    starts = [place for place, each in enumerate(events) if isinstance(each, TurnStarted)]
    assert isinstance(events[starts[1] + 1], InterventionApplied)
    cleared = next(place for place, each in enumerate(events) if isinstance(each, CacheCleared))
    for cut in range(cleared, starts[2] - 1):
        with killed(store, run.run_id, cut) as rest:
            with tt.Investigation.resume(rest, run.run_id, lm) as resumed:
                say(resumed, *range(resumed.generator.turn + 1, 4))
            again = rest.recording(run.run_id)
            for ours, theirs in zip(again.turns(), recording.turns(), strict=True):
                assert ours.reply_ids == theirs.reply_ids, cut
                assert ranges_of(ours) == ranges_of(theirs), cut
            if cut % 5 == 0:
                assert tt.verify(again, lm).verdict is tt.Verdict.VERIFIED


def test_a_fork_begins_with_the_interventions_active_at_its_start(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=5) as run:
        run.intervene(intervention("steer"))
        run.chat("One?", max_new_tokens=3, **GREEDY)
        run.withdraw("it")
        run.chat("Two?", max_new_tokens=3, **GREEDY)
    with pytest.warns(ForkWarning, match="withdrew the interventions 'it' right before turn 2"):
        fork = tt.Investigation.fork(store, run.run_id, lm, at_turn=2)
    with fork:
        fork.chat("Two?", max_new_tokens=3, **GREEDY)
    recording = store.recording(fork.run_id)
    first, second = recording.turns()

    assert ranges_of(second)[0][1:] == (first.interventions[0].start, len(second.prompt_ids) + 3)
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


def test_an_intervention_with_a_predicate_must_be_requested_again(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """A missing tensor is an error, too."""
    with Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.intervene(intervention("steer", name="asked", when=lambda state: True))
        generator.generate(random_ids(9, 1), max_new_tokens=3, **GREEDY)
    recording = store.recording(recorder.run_id)
    turns, asked = recording.turns(), RequestedInterventions.of(recording.events())
    other = tt.ManualGenerator(lm.model, lm.tokenizer)

    with pytest.raises(tt.ModelError, match="a predicate decides where intervention 'asked' acts"):
        other.restore(turns, other.conversation, asked, store.blob)
    other.intervene(intervention("steer", name="asked", when=lambda state: True))
    other.restore(turns, other.conversation, asked, store.blob)
    assert other._engine.interventions.active == turns[-1].active
    with pytest.raises(tt.ModelError, match="'asked' was not recorded"):
        tt.ManualGenerator(lm.model, lm.tokenizer).restore(turns, other.conversation, asked)


class Interventions(RuleBasedStateMachine):
    """After any requests in any order, a cold run with the recorded interventions agrees."""

    lm: ClassVar[tt.LoadedModel]

    def __init__(self) -> None:
        super().__init__()
        self.lm = MODELS.setdefault(
            "llama", tiny_model("llama", byte_tokenizer(), max_position_embeddings=150)
        )
        self.store = tt.open_store("sqlite://")
        self.run = tt.Investigation(
            self.lm,
            store=self.store,  # type: ignore[arg-type]
            name="any order",
            system_prompt="Hi.",
            at_context_limit="prune_turns",
        )
        self.run.__enter__()
        self.asked: list[str] = []
        self.count = 0
        self.turns = 0

    @rule(
        kind=st.sampled_from(KINDS),
        layer=st.integers(0, 2),
        positions=st.one_of(
            st.sampled_from(["all", "prompt", "generated", "last"]),
            st.tuples(st.integers(0, 90), st.integers(1, 60)).map(lambda p: (p[0], p[0] + p[1])),
        ),
        from_step=st.sampled_from([None, None, 0, 2]),
        clear=st.booleans(),
    )
    def intervene(
        self, kind: str, layer: int, positions: Any, from_step: int | None, clear: bool
    ) -> None:
        if positions in ("prompt", "last"):
            from_step = None
        # Names come back, with something else under them.
        name = f"n{self.count % 3}"
        self.count += 1
        if name in self.asked:
            return
        asked = intervention(
            kind, name=name, layer=layer, positions=positions, from_step=from_step, seed=self.count
        )
        self.run.intervene(asked, clear_cache=clear)
        self.asked.append(name)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), clear=st.booleans())
    def withdraw(self, which: int, clear: bool) -> None:
        name = self.asked.pop(which % len(self.asked))
        self.run.withdraw(name, clear_cache=clear)

    @precondition(lambda self: self.turns < 7)
    @rule(tokens=st.integers(1, 4))
    def chat(self, tokens: int) -> None:
        self.turns += 1
        self.run.chat("Hm?", max_new_tokens=tokens, **GREEDY)

    @precondition(lambda self: self.turns < 7)
    @rule()
    def ask_beside(self) -> None:
        """Generate from a prompt of its own after the system prompt."""
        self.turns += 1
        self.run.generator.generate("What?", max_new_tokens=2, **GREEDY)

    @rule()
    def clear(self) -> None:
        self.run.generator.clear_cache()

    def teardown(self) -> None:
        self.run.__exit__(None, None, None)
        recording = self.store.recording(self.run.run_id)
        if self.turns:
            report = tt.verify(recording, self.lm)

            assert report.verdict in (tt.Verdict.VERIFIED, tt.Verdict.NEAR_TIE), report.reason
            last = recording.turns()[-1].number
            assert tt.regenerate(recording, self.lm, turns=[last]).passes
            engine = self.run.generator._engine
            assert engine.interventions.active == recording.turns()[-1].active
        self.store.close()


MODELS: dict[str, tt.LoadedModel] = {}


TestInterventions = Interventions.TestCase
TestInterventions.settings = settings(
    max_examples=25,
    stateful_step_count=14,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_events_of_an_intervention_come_between_turn_start_and_cache_decision(
    run: tt.Investigation, store: DatabaseStore
) -> None:
    run.intervene(intervention("steer", positions="last"))
    run.chat("One?", max_new_tokens=2, **GREEDY)
    events = [each.event for each in store.recording(run.run_id).events()]
    kinds = [type(each).__name__ for each in events]
    start = next(i for i, each in enumerate(events) if isinstance(each, TurnStarted))

    assert kinds[start : start + 6] == [
        "TurnStarted",
        "InterventionApplied",
        "CacheDecided",
        "PrefillCompleted",
        "TokenSampled",
        "InterventionRemoved",
    ]
