"""The flags of torch that change the last bits are read, set as recorded, and restored."""

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tokentape.generation.hooks import model_use
from tokentape.generation.numerics.as_recorded import numerics_as_recorded
from tokentape.generation.numerics.attention import cuda_device, repeatable_attention
from tokentape.generation.numerics.flags import FLAGS, WORKSPACE, read_flags
from tokentape.recorder.events import RunResumed
from tokentape.store import DatabaseStore

OTHERS = {
    "float32_matmul": ("medium", "high"),
    "mkldnn_conv": ("bf16", "tf32"),
    "mkldnn": ("off",),
    "mkldnn_deterministic": ("on",),
    "sdpa_backends": ("math", "flash efficient math", "none"),
    "sdpa_math_reduction": ("on",),
    "deterministic": ("warn", "on"),
    "sdpa_order": (
        " ".join(["efficient", "flash", *read_flags(cuda=True)["sdpa_order"].split()[2:]]),
    ),
    "fp16_reduction": ("off",),
    "bf16_reduction": ("off",),
    "fp16_accumulation": ("on",),
    "cudnn_enabled": ("off",),
    "cudnn_tf32": ("off",),
    "cudnn_deterministic": ("on",),
    "cudnn_benchmark": ("on",),
    WORKSPACE: (":4096:8",),
}
CUDA = torch.device("cuda")
if hasattr(torch._C, "_get_fp32_precision_getter"):
    OTHERS["float32_matmul"] += ("cuda tf32, mkldnn ieee", "cuda ieee, mkldnn bf16")
    OTHERS["fp16_reduction"] += ("off, no split",)


@pytest.fixture(autouse=True)
def _flags_are_left_alone() -> Iterator[None]:
    before = read_flags(cuda=True)
    yield
    assert read_flags(cuda=True) == before


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OTHERS.items() for value in values]
)
def test_each_flag_is_set_as_recorded_and_restored(name: str, value: str) -> None:
    now = read_flags(cuda=True)
    if name not in now:
        pytest.skip(f"torch {torch.__version__} has no {name}")
    assert now[name] != value, "the test must change the flag"

    with numerics_as_recorded(now | {name: value}) as failed:
        assert failed == ()
        assert read_flags(cuda=True) == now | {name: value}
        with numerics_as_recorded(now) as failed:
            assert failed == ()
            assert read_flags(cuda=True) == now
        assert read_flags(cuda=True) == now | {name: value}


def test_every_flag_that_can_be_set_here_has_a_test() -> None:
    assert set(OTHERS) | {"blas_library"} == {flag.name for flag in FLAGS}


def test_flags_are_restored_after_an_exception() -> None:
    with pytest.raises(KeyError), numerics_as_recorded({"deterministic": "on", "mkldnn": "off"}):
        raise KeyError


def test_a_recording_without_flags_changes_nothing() -> None:
    before = read_flags(cuda=True)
    with numerics_as_recorded({"torch": "2.6.0", "cuda": "", "gpu": ""}) as failed:
        assert failed == ()
        assert read_flags(cuda=True) == before


GARBAGE = st.one_of(
    st.none(), st.integers(), st.text(), st.lists(st.text()), st.sampled_from(["on", "off", "math"])
)


@given(st.dictionaries(st.sampled_from([flag.name for flag in FLAGS]) | st.text(), GARBAGE))
def test_garbage_sets_no_flag_and_names_it(environment: dict[str, object]) -> None:
    before, variables = read_flags(cuda=True), dict(os.environ)
    with numerics_as_recorded(environment) as failed:
        now = read_flags(cuda=True)
        for name in now:
            assert now[name] in (before[name], environment.get(name))
            is_set = name not in environment or now[name] == environment[name]
            assert (name not in failed) == is_set
        assert dict(os.environ) == variables


@pytest.mark.parametrize("value", [":999999:999", "x", "", ":4096:8\n", "/etc/passwd"])
def test_a_recording_sets_no_unknown_workspace(value: str) -> None:
    with numerics_as_recorded({WORKSPACE: value}) as failed:
        assert failed == (WORKSPACE,)
        assert WORKSPACE not in os.environ


def test_the_workspace_is_not_set_once_cuda_is_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with numerics_as_recorded({WORKSPACE: ":4096:8"}) as failed:
        assert failed == (WORKSPACE,)
        assert WORKSPACE not in os.environ


def test_an_unusual_workspace_of_the_user_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":32:4")
    with numerics_as_recorded({WORKSPACE: ":16:8"}):
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":32:4"
    monkeypatch.undo()


@pytest.mark.skipif(
    not hasattr(torch._C, "_get_fp32_precision_getter"), reason="torch has one interface only"
)
class TestBothInterfacesOfPrecision:
    def test_torch_reads_the_older_one_within_and_after(self) -> None:
        with numerics_as_recorded({"float32_matmul": "medium", "cudnn_tf32": "off"}):
            assert torch.get_float32_matmul_precision() == "medium"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32

    def test_what_follows_the_general_precision_follows_it_afterwards(self) -> None:
        general = torch.backends.fp32_precision
        with numerics_as_recorded({"float32_matmul": "high", "mkldnn_conv": "tf32"}):
            pass
        try:
            torch.backends.fp32_precision = "tf32"
            assert torch.backends.mkldnn.matmul.fp32_precision == "tf32"
            assert torch.backends.mkldnn.conv.fp32_precision == "tf32"
        finally:
            torch.backends.fp32_precision = general

    def test_precisions_that_contradict_each_other_are_read_set_and_restored(self) -> None:
        matmul = torch.backends.cuda.matmul
        try:
            matmul.fp32_precision = "tf32"
            with pytest.raises(RuntimeError):
                torch.get_float32_matmul_precision()
            assert read_flags(cuda=False)["float32_matmul"] == "cuda tf32, mkldnn ieee"
            with numerics_as_recorded({"float32_matmul": "highest"}) as failed:
                assert failed == ()
                assert matmul.fp32_precision == "none"
            assert matmul.fp32_precision == "tf32"
        finally:
            torch.set_float32_matmul_precision("highest")
            matmul.fp32_precision = "none"


class TestRepeatableAttention:
    def test_cudnn_is_off_on_cuda_and_on_again_afterwards(self) -> None:
        with repeatable_attention(CUDA):
            assert read_flags(cuda=True)["sdpa_backends"] == "flash efficient math"
            with repeatable_attention(CUDA):
                pass
            assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.cudnn_sdp_enabled()

    def test_nothing_changes_on_the_cpu(self) -> None:
        before = read_flags(cuda=True)
        with repeatable_attention(None), repeatable_attention(torch.device("cpu")):
            assert read_flags(cuda=True) == before

    def test_cudnn_stays_on_where_the_user_left_no_other(self) -> None:
        with numerics_as_recorded({"sdpa_backends": "cudnn"}), repeatable_attention(CUDA):
            assert torch.backends.cuda.cudnn_sdp_enabled()

    def test_it_stays_off_until_the_last_of_several_threads_ends(self) -> None:
        first_ended, second_began = threading.Event(), threading.Event()
        seen: list[bool] = []

        def second() -> None:
            with repeatable_attention(CUDA):
                second_began.set()
                first_ended.wait(10)
                seen.append(torch.backends.cuda.cudnn_sdp_enabled())

        thread = threading.Thread(target=second)
        with repeatable_attention(CUDA):
            thread.start()
            assert second_began.wait(10)
        first_ended.set()
        thread.join()

        assert seen == [False]
        assert torch.backends.cuda.cudnn_sdp_enabled()


class TestTurnsAndReplaysOnCuda:
    """No GPU is needed: the device is made up where the kernels are chosen."""

    @pytest.fixture
    def seen(self, lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Whether cuDNN's attention was on, in each forward of the model."""
        monkeypatch.setattr(model_use, "cuda_device", lambda model: CUDA)
        seen: list[bool] = []
        forward = lm.model.forward

        def watched(*arguments: Any, **keywords: Any) -> Any:
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())
            return forward(*arguments, **keywords)

        monkeypatch.setattr(lm.model, "forward", watched)
        return seen

    def test_no_forward_of_a_turn_or_a_replay_uses_cudnn(
        self, lm: tt.LoadedModel, store: DatabaseStore, seen: list[bool]
    ) -> None:
        with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
            run.chat("One?", max_new_tokens=3, do_sample=False)
        recording = store.recording(run.run_id)
        for replayed in (tt.verify, tt.regenerate, tt.calibrate):
            before = len(seen)
            replayed(recording, lm)
            assert len(seen) > before
        assert not any(seen)
        assert torch.backends.cuda.cudnn_sdp_enabled()

    def test_no_forward_of_the_second_way_in_uses_cudnn(
        self, lm: tt.LoadedModel, store: DatabaseStore, seen: list[bool]
    ) -> None:
        lm.model.generate(
            torch.tensor([[5, 6, 7]]),
            custom_generate=tt.decode,
            recorder=tt.Recorder(store),
            text_tokenizer=lm.tokenizer,
            max_new_tokens=3,
        )
        assert len(seen) >= 3
        assert not any(seen)

    def test_cudnn_is_on_again_after_a_forward_that_fails(
        self, lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch, seen: list[bool]
    ) -> None:
        monkeypatch.setattr(lm.model, "forward", lambda *given, **keywords: 1 / 0)
        generator = tt.ManualGenerator(lm.model, lm.tokenizer)
        with pytest.raises(ZeroDivisionError):
            generator.generate("One?", max_new_tokens=3)
        assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("device", "device_map", "found"),
    [
        ("cpu", None, None),
        ("cpu", {"": "cpu", "lm_head": "disk"}, None),
        ("cuda:1", None, "cuda:1"),
        ("cpu", {"embed": "cpu", "layers": "cuda:2"}, "cuda:2"),
        ("cpu", {"embed": "cpu", "layers": 3}, "cuda:3"),
    ],
)
def test_a_model_is_on_cuda_if_some_of_it_is(
    device: str,
    device_map: dict[str, object] | None,
    found: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = SimpleNamespace(device=torch.device(device), hf_device_map=device_map)

    assert cuda_device(model) == (None if found is None else torch.device(found))


class TestFlagsThatChangeDuringARun:
    CHANGED: ClassVar = {"sdpa_backends": "math", "mkldnn": "off", "deterministic": "warn"}

    @pytest.fixture
    def forwards(self, lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The flags and the number of threads in each forward of the model."""
        seen: list[Any] = []
        forward = lm.model.forward

        def watched(*arguments: Any, **keywords: Any) -> Any:
            seen.append((read_flags(cuda=False), torch.get_num_threads()))
            return forward(*arguments, **keywords)

        monkeypatch.setattr(lm.model, "forward", watched)
        return seen

    @pytest.fixture
    def other_threads(self) -> Iterator[int]:
        before = torch.get_num_threads()
        yield before + 1
        torch.set_num_threads(before)

    def test_turns_are_computed_with_those_that_are_recorded(
        self, lm: tt.LoadedModel, store: DatabaseStore, forwards: list[Any], other_threads: int
    ) -> None:
        with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
            run.chat("One?", max_new_tokens=2)
            torch.set_num_threads(other_threads)
            with numerics_as_recorded(self.CHANGED):
                run.chat("Two?", max_new_tokens=2)
                assert self.CHANGED.items() <= read_flags(cuda=False).items()
            assert torch.get_num_threads() == other_threads
        started = store.recording(run.run_id).started()

        assert all(threads == started.threads for _, threads in forwards)
        assert all(flags.items() <= started.environment.items() for flags, _ in forwards)

    def test_a_resumed_run_has_those_of_the_resuming_process(
        self, lm: tt.LoadedModel, store: DatabaseStore, forwards: list[Any], other_threads: int
    ) -> None:
        with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
            run.chat("One?", max_new_tokens=2)
        with numerics_as_recorded(self.CHANGED):
            resumed = tt.Investigation.resume(store, run.run_id, lm, threads=other_threads)
        forwards.clear()
        with resumed:
            resumed.chat("Two?", max_new_tokens=2)
        events = [each.event for each in store.recording(run.run_id).events()]
        (event,) = [each for each in events if isinstance(each, RunResumed)]

        assert event.threads == other_threads
        assert all(threads == event.threads for _, threads in forwards)
        assert all(flags.items() <= event.environment.items() for flags, _ in forwards)

    def test_they_count_from_the_first_turn_on(
        self, lm: tt.LoadedModel, store: DatabaseStore, forwards: list[Any]
    ) -> None:
        recorder = tt.Recorder(store)
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        with numerics_as_recorded(self.CHANGED):
            generator.generate("One?", max_new_tokens=2)
        generator.generate("Two?", max_new_tokens=2)

        assert (
            self.CHANGED.items() <= store.recording(recorder.run_id).started().environment.items()
        )
        assert all(self.CHANGED.items() <= flags.items() for flags, _ in forwards)

    def test_without_a_recorder_each_turn_has_those_of_its_time(
        self, lm: tt.LoadedModel, forwards: list[Any]
    ) -> None:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer)
        generator.generate("One?", max_new_tokens=2)
        forwards.clear()
        with numerics_as_recorded(self.CHANGED):
            generator.generate("Two?", max_new_tokens=2)

        assert forwards
        assert all(self.CHANGED.items() <= flags.items() for flags, _ in forwards)
