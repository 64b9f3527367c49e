"""A run that exceeds the context is pruned, or the prompt is rejected."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.recorder.events import HistoryPruned, MessageAdded, TurnStarted
from tokentape.store import DatabaseStore

TURNS = 12
CONTEXT = 1000


@pytest.fixture
def short_lm(lm: tt.LoadedModel) -> tt.LoadedModel:
    lm.model.config.max_position_embeddings = CONTEXT
    return lm


@pytest.fixture
def investigate(short_lm: tt.LoadedModel, store: DatabaseStore) -> Callable[..., tt.Recording]:
    """Run twelve turns with a tool's result each, in a context that is too short for all."""
    layer = next(iter(dict(short_lm.model.named_parameters())))
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})

    def run(**settings: Any) -> tt.Recording:
        with tt.Investigation(
            short_lm,
            store=store,
            name="long",
            system_prompt="Be kind and brief.",
            tools=tt.default_tools(short_lm),
            seed=7,
            **settings,
        ) as investigation:
            for number in range(TURNS):
                chosen = {"do_sample": number % 2 == 1, "temperature": 0.8}
                investigation.chat(f"{number}?", tool_calls=[call], max_new_tokens=8, **chosen)
        return store.recording(investigation.run_id)

    return run


@pytest.mark.parametrize("role", ["tool", "user"])
@pytest.mark.parametrize("history", ["exact", "template"])
@pytest.mark.parametrize("limit", ["prune_tool_results", "prune_turns"])
def test_a_pruned_run_is_rebuilt_verified_regenerated_and_sealed(
    investigate: Callable[..., tt.Recording],
    short_lm: tt.LoadedModel,
    store: DatabaseStore,
    tmp_path: Path,
    cli: Callable[..., tuple[int, str, str]],
    limit: str,
    history: str,
    role: str,
) -> None:
    recording = investigate(at_context_limit=limit, history=history, tool_result_role=role)
    rebuilt = tt.rebuild(recording)
    pruned = [turn for turn in rebuilt.turns if turn.pruned is not None]

    assert len(rebuilt.turns) == TURNS
    assert len(pruned) > 2
    for turn in rebuilt.turns:
        assert len(turn.prompt_ids) + 8 <= CONTEXT
        assert short_lm.tokenizer.decode(list(turn.prompt_ids)) == turn.prompt_text
        assert turn.prompt_text.startswith("<|im_start|>system\nBe kind and brief.<|im_end|>\n")
    assert f"user\n{TURNS - 1}?" in rebuilt.turns[-1].prompt_text
    # Each question is one or two digits and a question mark.
    kept = len(re.findall(r"user\n\d+\?<", rebuilt.turns[-1].prompt_text))
    assert kept == TURNS if limit == "prune_tool_results" else 1 < kept < TURNS
    report = tt.verify(recording, short_lm)
    assert (report.verdict.name, report.reason) == (
        "VERIFIED",
        "the sampler picks every recorded token, and log-probabilities agree",
    )
    assert tt.regenerate(recording, short_lm).verdict.name == "EXACT"

    tt.export_parquet(recording, store, tmp_path / "sealed")
    with tt.open_store(str(tmp_path / "sealed")) as sealed:
        copy = sealed.recording(recording.run_id)
        assert list(copy.events()) == list(recording.events())
        assert tt.rebuild(copy) == rebuilt
    frame = tt.events_df(store, recording.run_id)
    assert list(frame[frame["kind"] == "HistoryPruned"]["turn"]) == [t.number for t in pruned]


def test_show_says_what_was_pruned(
    tmp_path: Path, lm: tt.LoadedModel, cli: Callable[..., tuple[int, str, str]]
) -> None:
    lm.model.config.max_position_embeddings = 150
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with (
        tt.open_store(url) as opened,
        tt.Investigation(
            lm, store=opened, name="t", system_prompt="Be kind.", at_context_limit="prune_turns"
        ) as run,
    ):
        for _ in range(4):
            run.chat("Tell me more of it.", max_new_tokens=4, do_sample=False)
    code, out, _ = cli("show", "--store", url, "--turn", "4")
    code_json, out_json, _ = cli("show", "--store", url, "--json")

    assert (code, code_json) == (0, 0)
    assert "history pruned by turns:" in out
    assert '"removed_tokens"' in out_json


def test_a_prompt_that_cannot_be_pruned_enough_is_rejected_and_not_recorded(
    short_lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(
        short_lm, store=store, name="t", system_prompt="Be kind.", at_context_limit="prune_turns"
    ) as run:
        run.chat("Hi", max_new_tokens=4, do_sample=False)
        before = list(store.recording(run.run_id).events()), run.generator.conversation.ids
        with pytest.raises(tt.PromptError, match="prune_turns cannot remove enough"):
            run.chat("x" * CONTEXT, max_new_tokens=4)
        with pytest.raises(tt.PromptError, match="surrogate"):
            run.chat("\ud800", max_new_tokens=4)
        with pytest.raises(tt.ModelError):
            run.chat("y" * (CONTEXT - 50), max_new_tokens=4, temprature=1.0)

        assert list(store.recording(run.run_id).events()) == before[0]
        assert run.generator.conversation.ids == before[1]
        reply = run.chat("y" * (CONTEXT - 50), max_new_tokens=4, do_sample=False)
    kinds = [type(e.event) for e in store.recording(run.run_id).events() if e.seq >= len(before[0])]

    assert kinds[0] is HistoryPruned
    assert kinds[1:3] == [MessageAdded, TurnStarted]
    assert reply.cache.reused_tokens > 0
    assert tt.verify(store.recording(run.run_id), short_lm).passes


def test_nothing_is_pruned_by_default(short_lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with tt.Investigation(short_lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("y" * (CONTEXT // 2), max_new_tokens=4, do_sample=False)
        with pytest.raises(tt.PromptError, match="do not fit into"):
            run.chat("y" * (CONTEXT // 2), max_new_tokens=4)
    with pytest.raises(tt.PromptError, match="one of 'refuse', 'prune_tool_results'"):
        tt.Investigation(
            short_lm, store=store, name="t", system_prompt="Be kind.", at_context_limit="prune"
        )


def test_a_pruning_survives_an_interrupted_turn(
    short_lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def stop(token_id: int, logits: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with tt.Investigation(
        short_lm, store=store, name="t", system_prompt="Be kind.", at_context_limit="prune_turns"
    ) as run:
        run.chat("First?", max_new_tokens=4, do_sample=False)
        with pytest.raises(KeyboardInterrupt):
            run.chat("y" * (CONTEXT - 50), max_new_tokens=4, callback=stop)
        run.chat("Again?", max_new_tokens=4, do_sample=False)
    recording = store.recording(run.run_id)
    _, broken, again = recording.turns()

    assert broken.pruned is not None
    assert again.pruned is None
    assert "First?" not in again.prompt_text
    assert tt.verify(recording, short_lm).passes
