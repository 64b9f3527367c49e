"""`python -m benchmarks peers` and `batch`: rates, rounds, engines, and the driver of a batch."""

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from typer.testing import CliRunner

import benchmarks.__main__ as commands
import tokentape as tt
from benchmarks.peers import bandwidth, llama_cpp, measure, tokentape_engines
from benchmarks.peers import commands as peer_commands
from benchmarks.peers.measure import ALONE, CONTINUOUS, FLOAT32, OURS, PADDED, LlamaEngines
from benchmarks.peers.rounds import run_rounds
from benchmarks.peers.token_times import TokenTimes
from benchmarks.peers.transformers_engines import (
    forward_loop,
    generate_continuous,
    generate_padded,
)
from benchmarks.peers.workload import TOKENS_MAX, TOKENS_MIN, decode_tasks
from benchmarks.rivals.environment import RivalMissingError
from tokentape.generation.plans import load_plan

NO_LLAMA = LlamaEngines(engines={}, missing={FLOAT32: "no wheel"})


def times(*at_s: tuple[float, ...]) -> TokenTimes:
    return TokenTimes(began_s=0.0, ended_s=max(each[-1] for each in at_s), at_s=at_s)


class TestRates:
    def test_a_step_is_counted_while_every_sequence_decodes(self) -> None:
        early = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
        late = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
        both = times(early, late)

        assert both.decode_per_s == 2.0
        assert both.step_ms == 1000.0
        assert both.whole_per_s == pytest.approx(14 / 9)

    def test_without_such_a_time_there_is_no_step(self) -> None:
        apart = times((1.0, 2.0, 3.0, 4.0, 5.0), (6.0, 7.0, 8.0, 9.0, 10.0))

        assert apart.decode_per_s is None
        assert apart.step_ms is None


class TestRounds:
    def test_every_round_begins_with_another_engine(self) -> None:
        ran: list[str] = []

        def engine(name: str) -> TokenTimes:
            ran.append(name)
            return times((1.0, 2.0))

        measured = run_rounds({name: partial(engine, name) for name in "abc"}, 3)

        assert "".join(ran) == "abcbcacab"
        assert {name: len(each) for name, each in measured.times.items()} == dict.fromkeys("abc", 3)

    def test_an_engine_that_raises_is_named_and_not_run_again(self) -> None:
        tries: list[int] = []

        def broken() -> TokenTimes:
            tries.append(1)
            if len(tries) == 2:
                raise RivalMissingError("it died\nwith a long story")
            return times((1.0, 2.0))

        measured = run_rounds({"broken": broken, "sound": lambda: times((1.0, 2.0))}, 3)

        assert len(tries) == 2
        assert measured.missing == {"broken": "RivalMissingError: it died"}
        assert list(measured.times) == ["sound"]

    def test_an_interruption_is_no_reason(self) -> None:
        def interrupted() -> TokenTimes:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_rounds({"one": interrupted}, 1)


class TestEngines:
    def test_prompts_have_lengths_from_the_least_to_the_most_and_a_seed_each(
        self, lm: tt.LoadedModel
    ) -> None:
        tasks = decode_tasks(lm, 5)

        lengths = [len(each.ids) for each in tasks]
        assert lengths == sorted(lengths)
        # Of bytes the frame alone is longer than the shortest prompt.
        assert lengths[-1] == pytest.approx(TOKENS_MAX, abs=4)
        assert len({each.seed for each in tasks}) == len({each.ids for each in tasks}) == 5

    @pytest.mark.demo_model
    def test_prompts_of_the_demo_model_have_60_to_280_tokens(self, demo_lm: Any) -> None:
        lengths = [len(each.ids) for each in decode_tasks(demo_lm, 8)]

        assert min(lengths) == pytest.approx(TOKENS_MIN, abs=3)
        assert max(lengths) == pytest.approx(TOKENS_MAX, abs=3)

    def test_each_gives_every_sequence_all_its_tokens(self, lm: tt.LoadedModel) -> None:
        tasks = decode_tasks(lm, 3)
        for engine in (generate_padded, generate_continuous):
            measured = engine(lm, tasks, 6)

            assert [len(each) for each in measured.at_s] == [6] * 3, engine
            assert all(each == tuple(sorted(each)) for each in measured.at_s)
        assert len(forward_loop(lm, tasks[0].ids, 6).at_s[0]) == 6

    def test_the_bare_loop_gives_the_tokens_of_greedy_generate(
        self, lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prompt = list(range(10, 30))
        model: Any = lm.model
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=5, min_new_tokens=5, do_sample=False
        )
        seen: list[int] = []
        forward = model.forward

        def recorded(ids: torch.Tensor, **arguments: Any) -> Any:
            seen.extend(ids[0].tolist())
            return forward(ids, **arguments)

        monkeypatch.setattr(model, "forward", recorded)
        forward_loop(lm, prompt, 5)

        assert seen == expected[0, :-1].tolist()

    def test_continuous_batching_leaves_the_models_attention_as_it_was(
        self, lm: tt.LoadedModel
    ) -> None:
        before = lm.model.config._attn_implementation
        generate_continuous(lm, decode_tasks(lm, 2), 4)

        assert lm.model.config._attn_implementation == before

    def test_the_bandwidth_gives_a_step_for_the_bytes_of_the_weights(
        self, lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = bandwidth.weight_bytes(lm)
        monkeypatch.setattr(bandwidth, "bytes_per_s", lambda: size * 4.0)

        assert size == sum(each.nbytes for each in lm.model.parameters())
        assert bandwidth.weights_once(lm, 8).step_ms == pytest.approx(250.0)


class TestBatch:
    def test_jobs_run_at_once_and_are_recorded_each(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        tasks = decode_tasks(lm, 3)
        with tokentape_engines.decode_jobs(lm, tmp_path, tasks, 6) as jobs:
            together = tokentape_engines.run_together(lm, jobs)

        assert [len(each) for each in together.at_s] == [6] * 3
        with tt.open_store(tmp_path / "runs-0.db") as store:
            recordings = [store.recording(each.run_id) for each in store.summaries()]
            prompts = {tuple(each.turns()[0].prompt_ids) for each in recordings}
            assert all(tt.verify(each, lm).passes for each in recordings)
        # Other engines get the prompts that tokentape renders.
        assert prompts == {each.ids for each in tasks}

    def test_what_a_job_raises_ends_the_measurement(self, lm: tt.LoadedModel) -> None:
        def broken(stamp: Callable[[], None]) -> None:
            raise RuntimeError("no logits")

        with pytest.raises(RuntimeError, match="no logits"):
            tokentape_engines.run_together(lm, [broken])

    def test_jobs_wait_for_each_other_when_a_batch_makes_them(self, lm: tt.LoadedModel) -> None:
        barrier = threading.Barrier(4, timeout=30)

        def job(stamp: Callable[[], None]) -> None:
            for _ in range(6):
                barrier.wait()
                stamp()

        measured = tokentape_engines.run_together(lm, [job] * 4)

        assert measured.step_ms is not None

    def test_the_batch_is_measured_beside_its_peers(
        self, lm: tt.LoadedModel, tmp_path: Path
    ) -> None:
        measured = measure.measure_decode_at_once(
            lm, NO_LLAMA, tmp_path, sequences=2, new_tokens=6, rounds=2
        )

        assert {name: len(each) for name, each in measured.times.items()} == dict.fromkeys(
            (ALONE, PADDED, CONTINUOUS, OURS), 2
        )
        assert measured.missing == {FLOAT32: "no wheel"}

    @pytest.mark.slow
    @pytest.mark.demo_model
    def test_the_demo_runs_with_several_seeds_at_once(self, demo_lm: Any, tmp_path: Path) -> None:
        measured = measure.measure_plans_at_once(
            demo_lm, tmp_path, seeds=(1, 2), turns=1, new_tokens=4, rounds=1
        )

        assert measured.times[OURS][0].tokens == 8
        assert measured.times[ALONE][0].tokens == 4

    def test_a_plan_is_cut_to_its_first_turns(self) -> None:
        short = tokentape_engines.short_plan(load_plan("demo"), turns=3, new_tokens=5)

        assert len(short.turns()) == 3
        assert {each.settings["max_new_tokens"] for each in short.turns()} == {5}


class TestLlamaCpp:
    def test_a_file_is_written_again_as_float32_with_the_same_values(self, tmp_path: Path) -> None:
        values = numpy.linspace(-1, 1, 64, dtype=numpy.float32).reshape(2, 32)
        source = tmp_path / "small.Q8_0.gguf"
        made: Any = gguf.GGUFWriter(source, "llama")
        made.add_string("general.name", "small")
        made.add_array("tokenizer.ggml.tokens", ["a", "b"])
        kind = gguf.GGMLQuantizationType.Q8_0
        made.add_tensor("weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        made.write_header_to_file()
        made.write_kv_data_to_file()
        made.write_tensors_to_file()
        made.close()
        said: list[str] = []
        copied = llama_cpp.float32_copy(source, tmp_path / "cache", said.append)

        read: Any = gguf.GGUFReader(copied)
        (tensor,) = read.tensors
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert numpy.abs(tensor.data - values).max() < 0.01
        assert read.fields["general.name"].contents() == "small"
        assert read.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
        assert [each.name for each in copied.parent.iterdir()] == [copied.name]
        assert llama_cpp.float32_copy(source, tmp_path / "cache", said.append) == copied
        assert len(said) == 1

    def test_without_the_wheel_the_reason_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*given: Any) -> Path:
            raise RivalMissingError("no network")

        monkeypatch.setattr(measure, "float32_copy", lambda *given: tmp_path / "f32.gguf")
        monkeypatch.setattr(llama_cpp, "python_of", refuse)
        found = LlamaEngines.install(tmp_path, lambda line: None)

        assert found.engines == {}
        assert set(found.missing.values()) == {"no network"}


def test_the_commands_print_each_engine_and_write_its_figures(
    lm: tt.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_commands, "demo_model", lambda device: lm)
    monkeypatch.setattr(measure.LlamaEngines, "install", lambda *given: NO_LLAMA)
    monkeypatch.setattr(peer_commands, "demo_gguf", lambda: Path(__file__))
    monkeypatch.setattr(bandwidth, "bytes_per_s", lambda: 1e9)
    path = tmp_path / "figures.json"
    sizes = ("--rounds", "1", "--new-tokens", "8", "--json", str(path))
    shown = CliRunner().invoke(commands.app, ["peers", *sizes])

    assert shown.exit_code == 0, shown.output
    assert "bare forward loop" in shown.output
    assert "no wheel" in shown.output
    assert set(json.loads(path.read_text())["peers"]["engines"]) == {
        ALONE,
        measure.FRESH,
        measure.LOOP,
        measure.WEIGHTS,
    }
    shown = CliRunner().invoke(
        commands.app, ["batch", *sizes, "--sequences", "2", "--plan-turns", "0"]
    )
    assert shown.exit_code == 0, shown.output
    assert set(json.loads(path.read_text())["decode"]["2"]["engines"]) == {
        ALONE,
        PADDED,
        CONTINUOUS,
        OURS,
    }
