"""The figures of the benchmarks that are not times, at toy size, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import benchmarks.__main__ as commands
import tokentape as tt
from benchmarks import decode, prefill
from benchmarks.conversation import ConversationFigures, ForwardVariant, measure_conversation
from benchmarks.forwards import Forwards, MeasuredForward, prefill_of, step_ms, tokens_of
from benchmarks.parity import Cell
from benchmarks.parity_table import tally
from benchmarks.prefill_memory import Prefill, Transient, measure_transient, turn_3
from benchmarks.restart import Begun, begin, measure_restart
from benchmarks.tables import score_sums
from benchmarks.texts import question_ids, system_prompt_ids

CPU = torch.device("cpu")


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(commands.app, arguments)


def cell(**changes: Any) -> Cell:
    made: dict[str, Any] = {
        "family": "llama",
        "dtype": "float32",
        "config": "greedy",
        "start": "reuse",
        "decision": "hit:extends",
        "reused_tokens": 48,
        "bitwise": True,
        "same_tokens_as_fresh": True,
    }
    return Cell(**made | changes)


class TestForwards:
    def test_every_token_that_goes_through_the_model_is_counted(self, lm: tt.LoadedModel) -> None:
        with Forwards(lm.model) as forwards:
            prompt = torch.tensor([[5, 6, 7, 8, 9]])
            lm.model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
            seen = forwards.take()

        assert [each.tokens for each in seen] == [5, 1, 1, 1]
        assert tokens_of(prefill_of(seen, 4)) == 5
        assert len(step_ms(seen, 4)) == 2
        assert forwards.take() == []

    def test_nothing_is_seen_once_it_is_left(self, lm: tt.LoadedModel) -> None:
        with Forwards(lm.model) as forwards:
            pass
        lm.model(torch.tensor([[5, 6]]))

        assert forwards.take() == []

    def test_a_step_lasts_from_one_decoding_forward_to_the_next(self) -> None:
        seen = [
            MeasuredForward(9, 0.0),
            MeasuredForward(1, 5.0),
            MeasuredForward(1, 5.5),
            MeasuredForward(1, 5.75),
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
        lengths, ways = prefill.measure_forwarded(system_tokens=60, turn_3_tokens=120, turns=4)

        assert lengths == [80, 100, 120, 140]
        assert [each.by_turn for each in ways] == [
            (80, 100, 120, 140),
            (20, 40, 60, 80),
            (20, 20, 20, 20),
        ]
        assert [each.before_turns for each in ways] == [0, 60, 60]
        assert [each.total for each in ways] == [440, 260, 140]
        # The events say what the hook saw.
        assert [each.recorded for each in ways] == [440, 260, 140]


class TestPrefillMemory:
    def test_the_plans_score_tensor_of_turn_3_has_all_keys(self) -> None:
        without, wrong, right = score_sums(6_287, 12_783, 32)

        assert "12,783 queries x 12,783 keys x 2 B = 10.46 GB" in without
        assert "6,496 queries x 6,496 keys x 2 B = 2.70 GB" in wrong
        assert "6,496 queries x 12,783 keys x 2 B = 5.31 GB" in right

    def test_turn_3_is_measured_without_a_cache_and_behind_what_is_cached(self) -> None:
        prefills = turn_3(system_tokens=6_287, prompt_tokens=12_783)

        assert {each.total_tokens for each in prefills} == {12_783}
        assert [each.held_tokens for each in prefills] == [0] * 3 + [6_287] * 3 + [10_618]

    def test_what_was_measured_with_fewer_heads_lies_on_a_line(self) -> None:
        few = Prefill(held_tokens=0, new_tokens=100, attention="eager")
        line = Transient(prefill=few, measured_bytes={2: 500, 4: 900})

        assert line.at_full_heads == 900 + 28 * 200
        assert "2" in line.how
        assert Transient(prefill=few, measured_bytes={32: 7}).at_full_heads == 7

    def test_chunks_take_less_than_all_scores_at_once(self) -> None:
        eager = Prefill(held_tokens=0, new_tokens=2_000, attention="eager", heads=4, head_dim=16)
        chunks = Prefill(
            held_tokens=0,
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
        eager = Prefill(held_tokens=500, new_tokens=500, attention="eager", heads=8)
        measured = measure_transient(eager, CPU, room_bytes=25_000_000)

        assert set(measured.measured_bytes) == {2, 4}
        assert measured.at_full_heads > measured.measured_bytes[4]


class TestDecode:
    def test_both_sides_say_the_same_and_are_timed_as_often(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        figures = list(decode.measure_decode(lm, tmp_path, contexts=(40,), new_tokens=6, rounds=2))
        decodings = [each for figure in figures for each in figure.decodings]

        assert [(each.context_tokens, each.sampler) for each in decodings] == [
            (40, "greedy"),
            (40, "sampled"),
        ]
        assert all(each.same_tokens for each in decodings)
        assert [len(each.ratios) for each in decodings] == [2] * 2
        assert all(figure.cost.record_alone_ms > 0 for figure in figures)


class TestConversation:
    def test_only_what_is_new_is_forwarded_as_with_a_cache_carried_by_hand(
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
        assert figures.carried.prefill_tokens == [90, 31, 31]
        assert figures.fresh.prefill_tokens == [90, 124]
        assert figures.same_tokens
        assert figures.same_tokens_as_fresh
        assert len(figures.ours.seconds) == 3

    def test_a_second_start_restores_the_system_prompt(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        first, second = (begin(tmp_path / "prefixes", lm, 60, 4) for _ in range(2))

        assert (first.source, first.computed_tokens) == ("", 60)
        assert (second.source, second.computed_tokens) == ("disk", 0)
        assert first.token_ids == second.token_ids

    @pytest.mark.slow
    def test_another_process_restores_it_too(self, tiny_folder: Path, tmp_path: Path) -> None:
        first, second = measure_restart(
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


class TestCommands:
    def test_alone_the_commands_are_listed(self, run: Callable[..., Result]) -> None:
        shown = run()

        assert shown.exit_code == 0
        for command in ("parity", "prefill", "decode", "conversation", "store", "replay", "faults"):
            assert command in shown.output

    def test_parity_counts_its_cells_and_says_what_it_ran_on(
        self, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        cells = [cell(), cell(config="top-k"), cell(start="disk", bitwise=None)]
        monkeypatch.setattr(commands, "run_matrix", lambda *chosen: cells)
        shown = run("parity", "--json", str(tmp_path / "parity.json"))

        assert shown.exit_code == 0
        assert shown.output.startswith("measured on ")
        assert "2/2 bits, 2/2 tokens" in shown.output
        assert "- bits, 1/1 tokens" in shown.output
        figures = json.loads((tmp_path / "parity.json").read_text())
        assert [each["passes"] for each in figures["parity"]] == [True] * 3
        assert figures["machine"]["torch"] == torch.__version__

    def test_a_cell_that_does_not_pass_is_named_and_exits_with_1(
        self, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commands, "run_matrix", lambda *chosen: [cell(bitwise=False)])
        shown = run("parity")

        assert shown.exit_code == 1
        assert "0/1 bits" in shown.output
        assert "does not pass: llama float32 reuse greedy" in shown.output

    def test_an_unknown_family_exits_with_2(self, run: Callable[..., Result]) -> None:
        assert run("parity", "--family", "nonsense").exit_code == 2

    def test_other_tokens_than_those_of_generate_exit_with_1(
        self, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, lm: tt.LoadedModel
    ) -> None:
        cost = decode.RecordingCost(
            step_ms=10.0, record_ms=0.1, record_alone_ms=0.1, measure_alone_ms=0.1
        )

        def measured(*given: Any, contexts: tuple[int, ...], **settings: Any) -> Any:
            for context in contexts:
                unlike = decode.Decoding(
                    context_tokens=context,
                    sampler="greedy",
                    our_ms=(10.0,),
                    their_ms=(12.0,),
                    same_tokens=False,
                )
                yield decode.DecodeFigures(decodings=(unlike,), cost=cost)

        monkeypatch.setattr(commands, "demo_model", lambda device: lm)
        monkeypatch.setattr(commands.decoding, "measure_decode", measured)
        shown = run("decode")

        assert shown.exit_code == 1
        assert "1.200 x" in shown.output
        assert "DIFFERENT" in shown.output

    @pytest.mark.parametrize(("said", "exit_code"), [([1, 2], 0), ([1, 3], 1)])
    def test_a_conversation_that_parts_exits_with_1(
        self,
        said: list[int],
        exit_code: int,
        run: Callable[..., Result],
        monkeypatch: pytest.MonkeyPatch,
        lm: tt.LoadedModel,
    ) -> None:
        def way(name: str, tokens: list[int]) -> ForwardVariant:
            return ForwardVariant(name, [90, 31], [2.0, 1.0], [tokens, tokens])

        figures = ConversationFigures(
            ours=way("ours", [1, 2]),
            carried=way("carried", said),
            fresh=ForwardVariant("fresh", [90], [3.0], [[1, 2]]),
            prompt_tokens=(90, 121),
        )
        begun = Begun(source="", computed_tokens=60, seconds=2.0, token_ids=[1])
        monkeypatch.setattr(commands, "demo_model", lambda device: lm)
        monkeypatch.setattr(commands.talk, "measure_conversation", lambda *a, **k: figures)
        monkeypatch.setattr(commands, "measure_restart", lambda *a, **k: (begun, begun))
        shown = run("conversation", "--turns", "2")

        assert shown.exit_code == exit_code
        assert "211 tokens, 1.7 times the 121 that are forwarded" in shown.output

    def test_without_a_gpu_cuda_says_so_in_one_line_and_exits_with_2(
        self, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        shown = run("cuda")

        assert shown.exit_code == 2
        assert shown.output == "benchmarks: torch finds no CUDA device here\n"


def test_a_tally_leaves_out_what_cannot_be_compared() -> None:
    counted = tally([cell(), cell(bitwise=None), cell(bitwise=False, same_tokens_as_fresh=False)])

    assert str(counted) == "1/2 bits, 2/3 tokens"
