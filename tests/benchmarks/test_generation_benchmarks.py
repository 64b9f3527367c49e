"""Figures of the decode, prefill, conversation and parity benchmarks, at toy size."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.generation import decode, prefill
from benchmarks.generation.conversation import (
    measure_conversation,
)
from benchmarks.generation.forward_timer import (
    ForwardTimer,
    TimedForward,
    prefill_of,
    step_ms,
    tokens_of,
)
from benchmarks.generation.prefill_memory import (
    Prefill,
    TransientMemory,
    measure_transient,
    turn_3_prefills,
)
from benchmarks.generation.prefix_restore import measure_prefix_restore, measure_start
from benchmarks.generation.tables import score_tensor_sizes
from benchmarks.prompts import question_ids, system_prompt_ids

CPU = torch.device("cpu")


class TestForwards:
    def test_every_token_that_goes_through_the_model_is_counted(self, lm: tt.LoadedModel) -> None:
        with ForwardTimer(lm.model) as forwards:
            prompt = torch.tensor([[5, 6, 7, 8, 9]])
            lm.model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
            seen = forwards.drain()

        assert [each.tokens for each in seen] == [5, 1, 1, 1]
        assert tokens_of(prefill_of(seen, 4)) == 5
        assert len(step_ms(seen, 4)) == 2
        assert forwards.drain() == []

    def test_nothing_is_seen_once_it_is_left(self, lm: tt.LoadedModel) -> None:
        with ForwardTimer(lm.model) as forwards:
            pass
        lm.model(torch.tensor([[5, 6]]))

        assert forwards.drain() == []

    def test_a_step_lasts_from_one_decoding_forward_to_the_next(self) -> None:
        seen = [
            TimedForward(9, 0.0),
            TimedForward(1, 5.0),
            TimedForward(1, 5.5),
            TimedForward(1, 5.75),
        ]

        assert step_ms(seen, 4) == [500.0, 250.0]


class TestPrefill:
    def test_the_prompts_grow_from_the_system_prompt_through_the_plans_turn_3(self) -> None:
        def length(turn: int) -> int:
            return prefill.prompt_tokens(turn, prefill.SYSTEM_TOKENS, prefill.TURN_3_TOKENS)

        assert length(3) == 12_783
        whole = length(20)
        assert sum(map(length, range(1, 21))) / whole > 10

    def test_the_whole_history_forwards_each_token_once(self) -> None:
        lengths, strategies = prefill.measure_forwarded(
            system_tokens=60, turn_3_tokens=120, turns=4
        )

        assert lengths == [80, 100, 120, 140]
        assert [each.by_turn for each in strategies] == [
            (80, 100, 120, 140),
            (20, 40, 60, 80),
            (20, 20, 20, 20),
        ]
        assert [each.before_turns for each in strategies] == [0, 60, 60]
        assert [each.total for each in strategies] == [440, 260, 140]
        # The events say what the hook saw.
        assert [each.recorded for each in strategies] == [440, 260, 140]


class TestPrefillMemory:
    def test_the_plans_score_tensor_of_turn_3_has_all_keys(self) -> None:
        without, wrong, right = score_tensor_sizes(6_287, 12_783, 32)

        assert "12,783 queries x 12,783 keys x 2 B = 10.46 GB" in without
        assert "6,496 queries x 6,496 keys x 2 B = 2.70 GB" in wrong
        assert "6,496 queries x 12,783 keys x 2 B = 5.31 GB" in right

    def test_turn_3_is_measured_without_a_cache_and_behind_what_is_cached(self) -> None:
        prefills = turn_3_prefills(system_tokens=6_287, prompt_tokens=12_783)

        assert {each.total_tokens for each in prefills} == {12_783}
        assert [each.cached_tokens for each in prefills] == [0] * 3 + [6_287] * 3 + [10_618]

    def test_what_was_measured_with_fewer_heads_lies_on_a_line(self) -> None:
        few = Prefill(cached_tokens=0, new_tokens=100, attention="eager")
        line = TransientMemory(prefill=few, measured_bytes={2: 500, 4: 900})

        assert line.at_full_heads == 900 + 28 * 200
        assert "2" in line.how
        assert TransientMemory(prefill=few, measured_bytes={32: 7}).at_full_heads == 7

    def test_chunks_take_less_than_all_scores_at_once(self) -> None:
        eager = Prefill(cached_tokens=0, new_tokens=2_000, attention="eager", heads=4, head_dim=16)
        chunks = Prefill(
            cached_tokens=0,
            new_tokens=2_000,
            attention="sdpa",
            chunk_tokens=64,
            heads=4,
            head_dim=16,
        )

        # A process of its own each: in this one, memory that older tests gave back hides a peak.
        taken = measure_transient(eager, CPU).measured_bytes[4]
        assert taken > eager.score_bytes
        assert measure_transient(chunks, CPU).measured_bytes[4] < taken / 4

    @pytest.mark.slow
    def test_what_does_not_fit_is_measured_with_two_smaller_numbers_of_heads(self) -> None:
        eager = Prefill(cached_tokens=500, new_tokens=500, attention="eager", heads=8)
        measured = measure_transient(eager, CPU, room_bytes=25_000_000)

        assert set(measured.measured_bytes) == {2, 4}
        assert measured.at_full_heads > measured.measured_bytes[4]


class TestDecode:
    def test_both_sides_say_the_same_and_are_timed_as_often(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        figures = list(decode.measure_decode(lm, tmp_path, contexts=(40,), new_tokens=6, rounds=2))
        comparisons = [each for figure in figures for each in figure.comparisons]

        assert [(each.context_tokens, each.sampler) for each in comparisons] == [
            (40, "greedy"),
            (40, "sampled"),
        ]
        assert all(each.same_tokens for each in comparisons)
        assert [len(each.ratios) for each in comparisons] == [2] * 2
        assert all(figure.cost.record_alone_ms > 0 for figure in figures)


class TestConversation:
    def test_only_what_is_new_is_forwarded_as_with_a_cache_reused_by_hand(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        figures = measure_conversation(
            lm,
            tmp_path,
            system_tokens=60,
            turns=3,
            question_tokens=30,
            new_tokens=4,
            fresh_turns=2,
        )

        assert figures.prompt_tokens == (90, 124, 158)
        # The token that was sampled last is forwarded with the next question.
        assert figures.ours.prefill_tokens == [90, 31, 31]
        assert figures.reused.prefill_tokens == [90, 31, 31]
        assert figures.fresh.prefill_tokens == [90, 124]
        assert figures.same_tokens
        assert figures.same_tokens_as_fresh
        assert len(figures.ours.seconds) == 3

    def test_a_second_start_restores_the_system_prompt(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        first, second = (measure_start(tmp_path / "prefixes", lm, 60, 4) for _ in range(2))

        assert (first.source, first.computed_tokens) == ("", 60)
        assert (second.source, second.computed_tokens) == ("disk", 0)
        assert first.token_ids == second.token_ids

    @pytest.mark.slow
    def test_another_process_restores_it_too(self, tiny_folder: Path, tmp_path: Path) -> None:
        first, second = measure_prefix_restore(
            tmp_path / "prefixes", model=str(tiny_folder), system_tokens=60, new_tokens=4
        )

        assert (first.source, second.source) == ("", "disk")
        assert first.token_ids == second.token_ids

    def test_prompts_have_exactly_the_tokens_that_are_asked_for(self, lm: tt.LoadedModel) -> None:
        assert len(system_prompt_ids(lm.tokenizer, 333)) == 333
        assert [len(question_ids(lm.tokenizer, turn, 55)) for turn in (1, 20)] == [55, 55]

    @pytest.mark.demo_model
    def test_the_demo_models_system_prompt_has_the_plans_length(self, demo_lm: Any) -> None:
        assert len(system_prompt_ids(demo_lm.tokenizer, 6_287)) == 6_287
        assert len(question_ids(demo_lm.tokenizer, 2, 55)) == 55
