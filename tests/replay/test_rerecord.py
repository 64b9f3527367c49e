"""`rerecord` generates a run again with another model, from the recorded inputs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import tokentape as tt
from tests.interventions import SAMPLED, intervention, ranges_of, record_with
from tokentape.recorder.events import RunStarted, ToolReturned, TurnStarted
from tokentape.replay.rerecord import rerecord
from tokentape.store import DatabaseStore

Altered = Callable[[tt.LoadedModel, Callable[[Any], None]], tt.LoadedModel]


@pytest.fixture
def target() -> Iterator[DatabaseStore]:
    with tt.open_store("sqlite://") as opened:
        yield opened


def events_of(recording: tt.Recording, kind: type) -> list[Any]:
    return [each.event for each in recording.events() if isinstance(each.event, kind)]


def louder(model: Any) -> None:
    model.lm_head.weight.mul_(1.5)


def test_the_same_model_says_the_same(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore, record: Callable[..., Any]
) -> None:
    recording = record(lm, store, tokens=5)
    run_id = rerecord(recording, lm, target)
    again = target.recording(run_id)

    assert run_id != recording.run_id
    assert again.conversation() == recording.conversation()
    for now, then in zip(again.turns(), recording.turns(), strict=True):
        assert (now.prompt_ids, now.reply_ids) == (then.prompt_ids, then.reply_ids)
        assert now.started == then.started
        assert now.cache == then.cache
    assert events_of(again, RunStarted) == events_of(recording, RunStarted)
    assert events_of(again, ToolReturned) == events_of(recording, ToolReturned)
    assert tt.check(target, run_id).ok


def test_another_model_says_something_else_to_the_same_and_is_verified(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    target: DatabaseStore,
    record: Callable[..., Any],
    altered: Altered,
) -> None:
    recording, other = record(lm, store, tokens=5), altered(lm, louder)
    again = target.recording(rerecord(recording, other, target))

    assert tt.verify(recording, other).verdict is tt.Verdict.INCOMPARABLE
    assert tt.verify(again, other).verdict is tt.Verdict.VERIFIED
    assert [turn.reply_ids for turn in again.turns()] != [
        turn.reply_ids for turn in recording.turns()
    ]
    asked = [each for each in again.conversation() if each["role"] != "assistant"]
    assert asked == [each for each in recording.conversation() if each["role"] != "assistant"]
    seeds = [event.seed for event in events_of(again, TurnStarted)]
    assert seeds == [event.seed for event in events_of(recording, TurnStarted)]


def test_a_plain_generator_is_asked_with_the_same_ids_and_texts(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore
) -> None:
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(
            lm.model, lm.tokenizer, recorder, name="plain", top_logprobs=2, prefill_chunk_tokens=5
        )
        generator.generate([5, 6, 7, 8], max_new_tokens=4, do_sample=True, top_p=0.8, seed=3)
        generator.cache_system_prompt("Be kind.")
        generator.generate("Hello", max_new_tokens=4, use_cache=False)
        generator.clear_cache("to see what happens")
        generator.generate(list(range(3, 30)), max_new_tokens=4)
    recording = store.recording(recorder.run_id)
    again = target.recording(rerecord(recording, lm, target))

    for now, then in zip(again.turns(), recording.turns(), strict=True):
        assert (now.started, now.cache) == (then.started, then.cache)
        assert (now.prompt_ids, now.reply_ids) == (then.prompt_ids, then.reply_ids)
    assert [each.event.version for each in again.events()] == [
        each.event.version for each in recording.events()
    ]
    (now,), (then,) = events_of(again, RunStarted), events_of(recording, RunStarted)
    assert (now.name, now.seed, now.settings) == (then.name, then.seed, then.settings)


def test_a_recorded_call_of_generate_is_made_again(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore
) -> None:
    prompt = torch.tensor([[5, 6, 7, 8]])
    with tt.Recorder(store) as recorder:
        lm.model.generate(
            prompt,
            max_new_tokens=5,
            do_sample=False,
            custom_generate=tt.decode,
            recorder=recorder,
            text_tokenizer=lm.tokenizer,
        )
    recording = store.recording(recorder.run_id)
    again = target.recording(rerecord(recording, lm, target))

    assert again.turns()[0].reply_ids == recording.turns()[0].reply_ids


@pytest.mark.parametrize(
    "settings",
    [{"history": "template"}, {"at_context_limit": "prune_turns"}],
    ids=["a history that is rendered again", "a history that is pruned"],
)
def test_the_kind_of_history_stays(
    settings: dict[str, Any],
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    target: DatabaseStore,
) -> None:
    lm = make_lm("llama", max_position_embeddings=128)
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind.", seed=7, **settings
    ) as run:
        for _ in range(2 if "history" in settings else 4):
            run.chat("And what is it now?", max_new_tokens=4)
    recording = store.recording(run.run_id)
    again = target.recording(rerecord(recording, lm, target))

    assert events_of(again, RunStarted) == events_of(recording, RunStarted)
    assert [turn.prompt_ids for turn in again.turns()] == [
        turn.prompt_ids for turn in recording.turns()
    ]
    assert [turn.pruned for turn in again.turns()] == [turn.pruned for turn in recording.turns()]
    assert ("history" in settings) or any(turn.pruned for turn in again.turns())


def test_a_last_turn_that_was_cut_off_is_generated_whole(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore
) -> None:
    def stop(token_id: int, logits: object) -> None:
        raise KeyboardInterrupt

    run = tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7)
    with pytest.raises(KeyboardInterrupt), run:
        run.chat("Hello?", max_new_tokens=4)
        run.chat("And?", max_new_tokens=4, callback=stop)
    again = target.recording(rerecord(store.recording(run.run_id), lm, target))

    assert [len(turn.tokens) for turn in again.turns()] == [4, 4]
    assert tt.verify(again, lm).passes


def test_runs_that_events_do_not_describe_are_refused_before_anything_is_recorded(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore, record: Callable[..., Any]
) -> None:
    own = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.generate("Hello", max_new_tokens=3)
        generator.generate("Hello", max_new_tokens=3, logits_processor=own)
    with tt.Investigation(
        lm, store=store, name="r", system_prompt="Be kind.", redactor=lambda text: "x"
    ) as redacted:
        redacted.chat("Hello", max_new_tokens=3)
    with tt.Recorder(store) as empty:
        tt.ManualGenerator(lm.model, lm.tokenizer, empty).start_run()
    refused = {
        recorder.run_id: "turn 2 was generated with RepetitionPenaltyLogitsProcessor",
        redacted.run_id: "was redacted",
        empty.run_id: "has no turn to record again",
    }
    bare = replace(record(lm, store, tokens=5), read_blob=None)

    for run_id, why in refused.items():
        with pytest.raises(tt.ReplayError, match=why):
            rerecord(store.recording(run_id), lm, target)
    with pytest.raises(tt.ReplayError, match="blobs cannot be read"):
        rerecord(bare, lm, target)
    assert target.summaries() == []


def test_interventions_are_requested_again(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        run.intervene(intervention("steer", positions="generated", turns=(1, 2)))
        run.chat("What is it?", max_new_tokens=4, **SAMPLED)
        run.intervene(intervention("patch", name="rows", layer=1), clear_cache=True)
        run.chat("And now?", max_new_tokens=4, **SAMPLED)
        run.withdraw("rows", clear_cache=True)
        run.chat("Why?", max_new_tokens=4, **SAMPLED)
    recording = store.recording(run.run_id)
    again = target.recording(rerecord(recording, lm, target))

    def asked(of: tt.Recording) -> list[str]:
        kinds = [each.kind for each in of.records()]
        return [kind for kind in kinds if "Intervention" in kind or kind == "CacheCleared"]

    assert len(asked(recording)) == len(asked(again)) > 6
    assert asked(again) == asked(recording)
    for ours, theirs in zip(again.turns(), recording.turns(), strict=True):
        assert ours.reply_ids == theirs.reply_ids
        assert ranges_of(ours) == ranges_of(theirs)
    assert tt.verify(again, lm).verdict is tt.Verdict.VERIFIED
    with pytest.raises(tt.ReplayError, match="tensor of intervention 'it' cannot be read"):
        rerecord(replace(recording, read_blob=None), lm, target)
    assert len(target.summaries()) == 1


def test_a_predicate_is_not_guessed(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore
) -> None:
    recording = record_with(lm, store, intervention("steer", when=lambda state: True))

    with pytest.raises(tt.ReplayError, match="a predicate decides where intervention 'it' acts"):
        rerecord(recording, lm, target)
    assert target.summaries() == []


def test_a_branch_that_was_switched_to_is_not_guessed(
    lm: tt.LoadedModel, store: DatabaseStore, target: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        run.chat("Hello?", max_new_tokens=3)
        branch = run.generator.fork()
        run.chat("And?", max_new_tokens=3)
        run.generator.switch(branch)
        run.chat("Or?", max_new_tokens=3)

    with pytest.raises(tt.ReplayError, match="turn 3 continues another branch"):
        rerecord(store.recording(run.run_id), lm, target)


def test_a_run_that_today_s_model_refuses_is_recorded_as_failed(
    lm: tt.LoadedModel,
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    target: DatabaseStore,
    record: Callable[..., Any],
) -> None:
    small = make_lm("llama", max_position_embeddings=64)
    with pytest.raises(tt.PromptError, match="context"):
        rerecord(record(lm, store, tokens=5), small, target)

    assert [each.status for each in target.summaries()] == ["failed"]
